# SPDX-License-Identifier: Apache-2.0
"""Inputs to recover with, and others to judge by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from onnx import ModelProto

from onnxprune.data import Data

HELD_OUT, MOST_HELD_OUT = 0.2, 1000
FEWEST_MADE, MOST_MADE = 16, 256
WORK = 2.5e12
"""Multiply-accumulates that made-up inputs may cost: about a minute on two cores."""


@dataclass(frozen=True)
class Supply:
    """Inputs.

    Attributes:
        fit: to fit on.
        held_out: to judge by; none of them is in `fit`.
        genuine: whether they are the user's, and not made up.
        source: what they are, for the report.
        notes: sentences for the report.
        fitted: whether anything is fitted to them; otherwise both are the same samples.
    """

    fit: Data = field(repr=False)
    held_out: Data = field(repr=False)
    genuine: bool
    source: str
    notes: tuple[str, ...] = ()
    fitted: bool = True


def given(data: Data, name: str, seed: int, fitted: bool = True) -> Supply:
    """A user's samples: a fifth of them held out, or all of them where nothing is fitted."""
    if not fitted:
        return Supply(data, data, True, name, data.notes, False)
    wish = min(max(1, round(HELD_OUT * len(data))), MOST_HELD_OUT)
    fit, held_out = data.split(wish, seed)
    genuine = name not in ("random", "synthetic")
    if len(held_out):
        return Supply(fit, held_out, genuine, name, data.notes)
    note = "there is a single sample, so what was fitted to is also what was judged by"
    return Supply(data, data, genuine, name, (note, *data.notes))


def made(model: ModelProto, make: Callable[[int], Data], macs: int, seed: int) -> Supply:
    """Made-up samples, as many as may be afforded."""
    count = int(np.clip(WORK / max(macs, 1), FEWEST_MADE, MOST_MADE))
    data = make(count)
    note = "no --data: the weights were fitted to synthetic inputs; with typical inputs more accuracy is kept"
    return Supply(*data.split(HELD_OUT, seed), False, "synthetic", (note, *data.notes))
