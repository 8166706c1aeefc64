# SPDX-License-Identifier: Apache-2.0
"""Samples to recover with, and others to judge on: the user's, or synthetic ones."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from onnx import ModelProto

from onnxprune.cost.size import cost
from onnxprune.data.load import load_data
from onnxprune.data.samples import Data
from onnxprune.errors import DataError, TrainingError
from onnxprune.ir.files import Loaded
from onnxprune.options import Options
from onnxprune.types import Advance, Progress

if TYPE_CHECKING:
    from onnxprune.data.synthetic.synthesize import Refinement

HELD_OUT, MAX_HELD_OUT = 0.2, 1000
MIN_MADE, MAX_MADE = 16, 256
WORK = 2.5e12
"""Budget of multiply-accumulates for generating inputs: about a minute on two cores."""


@dataclass(frozen=True)
class Samples:
    """Samples for recovery.

    Attributes:
        fit: samples to fit on.
        held_out: samples to judge on; none of them is in `fit`.
        genuine: whether they are the user's own, not synthetic.
        source: their description in the report.
        notes: sentences for the report.
        fitted: whether anything is fitted to them; if not, `fit` and `held_out` are the same samples.
    """

    fit: Data = field(repr=False)
    held_out: Data = field(repr=False)
    genuine: bool
    source: str
    notes: tuple[str, ...] = ()
    fitted: bool = True


Maker = Callable[[Loaded, Options, Progress], Samples]
"""Generates samples for a model if the user has no inputs; raises `DataError` if it cannot."""


def given(data: Data, name: str, seed: int, fitted: bool = True) -> Samples:
    """The user's samples: a fifth of them is held out, or all of them if nothing is fitted."""
    if not fitted:
        return Samples(data, data, True, name, data.notes, False)
    count = min(max(1, round(HELD_OUT * len(data))), MAX_HELD_OUT)
    fit, held_out = data.split(count, seed)
    genuine = name not in ("random", "synthetic")
    if len(held_out):
        return Samples(fit, held_out, genuine, name, data.notes)
    note = "there is only a single sample, so it is used both for fitting and for judging"
    return Samples(data, data, genuine, name, (note, *data.notes))


def synthetic_samples(loaded: Loaded, options: Options, progress: Progress) -> Samples:
    """Synthetic inputs, as many as the budget `WORK` allows: a `Maker`.

    Raises:
        DataError: an input is of a kind that cannot be synthesised.
    """
    shapes, seed = options.data.input_shape, options.data.seed
    count = int(np.clip(WORK / max(cost(loaded.model, shapes, loaded.size).macs, 1), MIN_MADE, MAX_MADE))
    data = load_data(
        "synthetic",
        loaded.model,
        samples=count,
        seed=seed,
        shapes=shapes,
        refine=refinement(),
        progress=lambda done: progress("inputs", done),
    )
    note = "no --data: the weights were fitted to synthetic inputs; typical inputs preserve more accuracy"
    return Samples(*data.split(HELD_OUT, seed), False, "synthetic", (note, *data.notes))


def provide(loaded: Loaded, options: Options, data: Data | None, make: Maker, progress: Progress) -> Samples | None:
    """Samples to recover with and to judge on: the user's, else synthetic ones if recovery is requested."""
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
    """Gradient descent on synthetic inputs; None if PyTorch is not installed."""
    return _descend if importlib.util.find_spec("torch") else None


def _descend(model: ModelProto, data: Data, steps: int, progress: Advance) -> Data:
    """Refine by `training.inversion`, if `torch` is really PyTorch and not just something of that name."""
    try:
        from onnxprune.training.inversion import invert
    except (TrainingError, ImportError, AttributeError, OSError):
        return data
    return invert(model, data, steps, progress)
