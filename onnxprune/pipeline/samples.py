# SPDX-License-Identifier: Apache-2.0
"""Samples to recover with, and others to judge by: the user's, or made up."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from onnx import ModelProto

from onnxprune.cost.size import cost
from onnxprune.data.load import load_data
from onnxprune.data.samples import Data
from onnxprune.data.synthetic.synthesize import Refinement
from onnxprune.errors import DataError, TrainingError
from onnxprune.ir.files import Loaded
from onnxprune.options import Options
from onnxprune.types import Advance, Progress

HELD_OUT, MOST_HELD_OUT = 0.2, 1000
FEWEST_MADE, MOST_MADE = 16, 256
WORK = 2.5e12
"""Multiply-accumulates that made-up inputs may cost: about a minute on two cores."""


@dataclass(frozen=True)
class Samples:
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


Maker = Callable[[Loaded, Options, Progress], Samples]
"""Makes up samples for a model of which the user has no inputs; raises `DataError` where it cannot."""


def given(data: Data, name: str, seed: int, fitted: bool = True) -> Samples:
    """A user's samples: a fifth of them held out, or all of them where nothing is fitted."""
    if not fitted:
        return Samples(data, data, True, name, data.notes, False)
    wish = min(max(1, round(HELD_OUT * len(data))), MOST_HELD_OUT)
    fit, held_out = data.split(wish, seed)
    genuine = name not in ("random", "synthetic")
    if len(held_out):
        return Samples(fit, held_out, genuine, name, data.notes)
    note = "there is a single sample, so what was fitted to is also what was judged by"
    return Samples(data, data, genuine, name, (note, *data.notes))


def made_up(loaded: Loaded, options: Options, progress: Progress) -> Samples:
    """Synthetic inputs, as many as may be afforded: a `Maker`.

    Raises:
        DataError: an input is of a kind that nothing can be made up for.
    """
    shapes, seed = options.data.input_shape, options.data.seed
    count = int(np.clip(WORK / max(cost(loaded.model, shapes, loaded.size).macs, 1), FEWEST_MADE, MOST_MADE))
    data = load_data(
        "synthetic",
        loaded.model,
        samples=count,
        seed=seed,
        shapes=shapes,
        refine=refinement(),
        progress=lambda done: progress("inputs", done),
    )
    note = "no --data: the weights were fitted to synthetic inputs; with typical inputs more accuracy is kept"
    return Samples(*data.split(HELD_OUT, seed), False, "synthetic", (note, *data.notes))


def provide(loaded: Loaded, options: Options, data: Data | None, make: Maker, progress: Progress) -> Samples | None:
    """Samples to recover and to judge with: the user's, else made-up ones where something is to be recovered."""
    recovery = options.recovery
    if data is not None:
        fitted = recovery.recover != "none" or options.calibrated
        return given(data, options.data.source, options.data.seed, fitted)
    if recovery.recover == "none":
        return None
    try:
        return make(loaded, options, progress)
    except DataError:
        if recovery.recover == "auto" and recovery.rounds == 1:
            return None
        raise


def refinement() -> Refinement | None:
    """Gradient descent on synthetic inputs; None where PyTorch is not installed."""
    return _descend if importlib.util.find_spec("torch") else None


def _descend(model: ModelProto, data: Data, steps: int, progress: Advance) -> Data:
    """By `training.inversion`, if PyTorch is really there and not only something of its name."""
    try:
        from onnxprune.training.inversion import invert
    except (TrainingError, ImportError, AttributeError, OSError):
        return data
    return invert(model, data, steps, progress)
