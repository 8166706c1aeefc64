# SPDX-License-Identifier: Apache-2.0
"""Samples to recover with, and others to judge on: the user's, or made-up ones."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from onnx import ModelProto

from onnxprune.data.images import like_images
from onnxprune.data.load import load_data
from onnxprune.data.samples import Data, MadeUp
from onnxprune.effort import Effort
from onnxprune.errors import DataError, OptionError, TrainingError
from onnxprune.ir.files import Loaded
from onnxprune.options import Options
from onnxprune.types import Advance, Progress, Shapes

if TYPE_CHECKING:
    from onnxprune.data.synthetic.synthesize import Refinement

HELD_OUT, MAX_HELD_OUT = 0.2, 1000
FEWEST = 8
"""Minimum number of samples to fit on and to judge on, however slow the model is (or all, if there are fewer)."""
RUNS_OF_JUDGING, RUNS_OF_FITTING = 6, 5
"""Approximate number of runs of the original that judging and fitting take per sample; one shows whether it answers."""
MAKING, JUDGING, FITTING = 0.6, 0.15, 0.6
"""Fractions of the time that is left, for making inputs, running candidates on held-out ones, and running layers."""
BORDER = 0.3
"""Largest mismatch of made-up inputs to the BatchNorm statistics at which weights fitted to them were closer to the original on
real inputs than the cut alone. Measured: `tools/border.py`, docs/synthetic.md."""
ENOUGH = 0.5
"""Fraction of the linear layers that BatchNorm must follow, so that its statistics describe the model."""


@dataclass(frozen=True)
class Samples:
    """Samples for recovery.

    Attributes:
        fit: samples to fit on.
        held_out: samples to judge on; none of them is in `fit`.
        source: their description in the report.
        notes: sentences for the report.
        fitted: whether anything is fitted to them; if not, `fit` and `held_out` are the same samples.
    """

    fit: Data = field(repr=False)
    held_out: Data = field(repr=False)
    source: str
    notes: tuple[str, ...] = ()
    fitted: bool = True

    @property
    def made(self) -> MadeUp | None:
        """What made-up samples are like; None for the user's own."""
        return self.fit.made

    @property
    def trusted(self) -> bool:
        """Whether weights may be fitted to the samples: the user's, or made-up ones that fit the BatchNorm statistics well."""
        made = self.made
        return made is None or (made.mismatch is not None and made.mismatch < BORDER)


Maker = Callable[[Loaded, Options, Effort, Progress], Samples]
"""Makes samples for a model if the user has no inputs; raises `DataError` if it cannot."""


def given(data: Data, model: ModelProto, options: Options, effort: Effort) -> Samples:
    """The user's samples, as many as there is time for: a fifth of them is held out, or all of them if nothing is fitted.

    Raises:
        DataError: the original does not run on them, or answers none of them with numbers.
    """
    return _with_answers(_chosen(data, model, options, effort), model)


def _with_answers(samples: Samples, model: ModelProto) -> Samples:
    """The samples on which the original answers with numbers; a note says how many are left out."""
    from onnxprune.evaluation.answers import answered  # on demand, for a quick start

    if samples.fit is samples.held_out:
        (some,), note = answered(model, samples.fit)
        return replace(samples, fit=some, held_out=some, notes=(*note, *samples.notes))
    (fit, held_out), note = answered(model, samples.fit, samples.held_out)
    if not (len(fit) and len(held_out)):
        note = (*note, "those that remain are used both for fitting and for judging")
        fit = held_out = fit if len(fit) else held_out
    return replace(samples, fit=fit, held_out=held_out, notes=(*note, *samples.notes))


def _chosen(data: Data, model: ModelProto, options: Options, effort: Effort) -> Samples:
    """The user's samples, to fit on and to judge on."""
    name, seed = options.data.source, options.data.seed
    each = seconds_per_sample(model, data)
    judging = effort.within(JUDGING)
    if options.recovery.recover == "none" and not options.calibrated:
        count = effort.amount("samples to judge on", RUNS_OF_JUDGING * each, FEWEST, len(data))
        some = data.take(count, seed)
        return Samples(some, some, name, _notes(data, count, 0), False)
    wanted = min(max(1, round(HELD_OUT * len(data))), MAX_HELD_OUT)
    fit, held_out = data.split(wanted, seed)
    if not len(held_out):
        note = "there is only a single sample, so it is used both for fitting and for judging"
        return Samples(data, data, name, (note, *data.notes))
    judged = judging.amount("samples to judge on", RUNS_OF_JUDGING * each, min(FEWEST, len(held_out)), len(held_out))
    count = effort.within(FITTING).amount("samples to fit to", RUNS_OF_FITTING * each, min(FEWEST, len(fit)), len(fit))
    notes = _notes(data, judged + count, len(held_out) + len(fit))
    return Samples(fit.take(count, seed), held_out.take(judged, seed), name, notes)


def _notes(data: Data, used: int, total: int) -> tuple[str, ...]:
    if used >= (total or len(data)):
        return data.notes
    return (f"{used:,} of {len(data):,} samples are used: there is no time for more (--time-budget)", *data.notes)


def seconds_per_sample(model: ModelProto, data: Data) -> float:
    """Seconds that the model takes per sample on this machine."""
    from onnxprune.evaluation.evaluator import run

    few = data.take(4)
    times = [0.0, 0.0]
    for k in range(2):  # the first run also prepares the session
        start = time.perf_counter()
        for _ in run(model, few):
            pass
        times[k] = (time.perf_counter() - start) / len(few)
    return min(times)


def made_up(loaded: Loaded, options: Options, effort: Effort, progress: Progress) -> Samples:
    """Inputs that fit the model's BatchNorm statistics, as many as there is time for: a `Maker`.

    Raises:
        DataError: an input is of a kind that cannot be made up.
    """
    seed = options.data.seed
    data = load_data(
        "synthetic",
        loaded.model,
        preprocess=options.data.preprocess,
        seed=seed,
        shapes=options.data.input_shape,
        refine=refinement(),
        effort=effort.within(MAKING),
        progress=lambda done: progress("inputs", done),
    )
    return _with_answers(Samples(*data.split(HELD_OUT, seed), "made-up inputs"), loaded.model)


def provide(
    loaded: Loaded, options: Options, data: Data | None, make: Maker, effort: Effort, progress: Progress
) -> Samples | None:
    """Samples to recover with and to judge on: the user's, else made-up ones if weights may be fitted to them.

    Raises:
        DataError: an input cannot be made up, and a method was asked for that fits weights to inputs.
    """
    if data is not None:
        return given(data, loaded.model, options, effort)
    method = options.recovery.recover
    if method in ("none", "bias") or not describes(loaded.model):
        return None
    try:
        return make(loaded, options, effort, progress)
    except DataError:
        if method == "auto":
            return None
        raise


def check_inputs(model: ModelProto, options: Options) -> None:
    """Reject a request to fit weights to made-up inputs, if nothing shows whether they resemble real ones.

    Raises:
        OptionError: there is no data, the model has no BatchNorm statistics, and the options ask for a fit.
        DataError: `preprocess` does not fit the model's input.
    """
    made = options.data.data is None or options.data.data == "synthetic"
    if made and options.data.preprocess:
        like_images(model, options.data.preprocess)
    method, rounds = options.recovery.recover, options.recovery.rounds
    unifies = options.unification.on and method != "none"
    if made and (method in ("reconstruct", "distill") or rounds > 1 or unifies) and not describes(model):
        what = f"--rounds {rounds}" if rounds > 1 else "unification" if unifies else f"--recover {method}"
        raise OptionError(
            f"{what}: needs inputs to fit to, and no BatchNorm statistics in this model show whether made-up ones resemble "
            "real ones; give a few dozen typical inputs with --data" + (", or take --recover none" if unifies else "")
        )


def describes(model: ModelProto) -> bool:
    """Whether the BatchNorm statistics of a model describe it: BatchNorm follows enough of its linear layers."""
    from onnxprune.data.synthetic.statistics import norm_layers  # on demand, for a quick start

    linear = sum(node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul") for node in model.graph.node)
    return len(norm_layers(model)) >= max(ENOUGH * linear, 1)


def sizes_of(data: Data) -> Mapping[str, tuple[int, ...]]:
    """The shape of one input of the most frequent size, by name; a single number has none."""
    chunk = max(data.chunks, key=lambda c: len(next(iter(c.values()))))
    shapes = {n: x.shape[1:] if n in data.stacked else (data.unit, *x.shape[1:]) for n, x in chunk.items()}
    return {n: shape for n, shape in shapes.items() if shape}


def sizes_with(data: Data, given: Shapes) -> Mapping[str, tuple[int, ...]]:
    """The shape of one input by name: as the user gives them, if for all inputs, or else those of the samples."""
    found = sizes_of(data)
    stated = all(n in given and min(given[n], default=1) > 0 for n in found)
    return {n: tuple(given[n]) for n in found} if stated else found


def check_sizes(data: Data, given: Shapes) -> None:
    """Check that sizes given by the user are those of the samples, if these have but one; the first axis may differ.

    Raises:
        OptionError: they are not.
    """
    if data.made is not None or len(data.chunks) > 1:
        return
    for name, found in sizes_of(data).items():
        sizes = tuple(given.get(name, found))
        first = 0 if name in data.stacked else 1
        pairs = zip(sizes[first:], found[first:], strict=False)
        if len(sizes) != len(found) or any(a > 0 and a != b for a, b in pairs):
            got, have = ("x".join(map(str, shape)) for shape in (sizes, found))
            raise OptionError(f"--input-shape: got {got} for '{name}', but the samples of --data have {have}; leave it out")


def refinement() -> Refinement | None:
    """Gradient descent on synthetic inputs; None if PyTorch is not installed."""
    return _descend if importlib.util.find_spec("torch") else None


def _descend(model: ModelProto, data: Data, effort: Effort, progress: Advance) -> Data:
    """Refine by `training.inversion`, if `torch` is really PyTorch and not just something of that name."""
    try:
        from onnxprune.training.inversion import invert
    except (TrainingError, ImportError, AttributeError, OSError):
        return data
    return invert(model, data, effort, progress)
