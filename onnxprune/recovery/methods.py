# SPDX-License-Identifier: Apache-2.0
"""Methods to recover a cut model, fitted to the same samples and judged on others: the best is kept, and all are reported."""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from onnx import ModelProto

from onnxprune.analysis.coupling import Coupled
from onnxprune.compression.division import Division
from onnxprune.data.batching import batched
from onnxprune.data.samples import Data
from onnxprune.effort import Effort
from onnxprune.errors import DataError, PruneError
from onnxprune.evaluation.evaluator import Evaluator, Judgement
from onnxprune.recovery.bias import absorb
from onnxprune.recovery.editor import Fitted
from onnxprune.recovery.reconstruct import FitSettings, reconstruct
from onnxprune.types import Feeds, Mask, Progress, silent

CHECKPOINT_FRACTION = 0.1
"""Fraction of the fitting samples that is set aside to choose the best checkpoint of training."""
STUDENT = 0.4
"""Fraction of the time of a training for the fit that it starts from."""
FITTING = 0.8
"""Fraction of the time that is left for a fit; the rest is for judging."""


@dataclass(frozen=True)
class Task:
    """A cut model and what may be used to recover it.

    Attributes:
        coupled, dropped: the analysis of the original, and the labels (n_labels,) that were removed.
        pruned: the model without them, its kept weights unchanged.
        fit: samples to fit on; None: there are none that may be fitted to.
        effort: the time that there is.
        seed: seed for all random choices.
    """

    coupled: Coupled = field(repr=False)
    dropped: Mask = field(repr=False)
    pruned: ModelProto = field(repr=False)
    fit: Data | None
    effort: Effort = field(default_factory=Effort)
    seed: int = 0

    @property
    def original(self) -> ModelProto:
        """The model before the cut."""
        return self.coupled.graph.model

    @property
    def genuine(self) -> bool:
        """Whether the samples are the user's own, not made up."""
        return self.fit is not None and self.fit.made is None

    def samples(self) -> Data:
        """The samples to fit on.

        Raises:
            DataError: there are none.
        """
        if self.fit is None:
            raise DataError("there are no inputs to fit to; give some with --data")
        return self.fit

    def batches(self) -> list[Feeds]:
        """The samples to fit on, in batches that fit into memory."""
        return batched(self.samples(), self.original)


@dataclass(frozen=True)
class Attempt:
    """One method that was tried.

    Attributes:
        name: the method.
        judgement: how the result performs on held-out samples; None if the method failed, or if there are none.
        seconds: how long it took.
        why: why it failed; empty if it did not.
    """

    name: str
    judgement: Judgement | None
    seconds: float
    why: str = ""


@dataclass(frozen=True)
class Recovery:
    """The result of recovering a cut model.

    Attributes:
        model: the recovered model.
        added: names of stored tensors that it has and the cut model lacks.
        method: the method that produced it.
        before: the original on the held-out samples; None if there are none.
        attempts: all methods that were tried, `none` first.
        by_accuracy: whether they were compared by their accuracy, not by what they lost.
        varies: whether the original's outputs vary over the held-out samples, so that something can be judged on them.
    """

    model: ModelProto = field(repr=False)
    added: frozenset[str] = field(repr=False)
    method: str
    before: Judgement | None
    attempts: tuple[Attempt, ...]
    by_accuracy: bool = False
    varies: bool = True

    @property
    def chosen(self) -> Judgement | None:
        """How the kept method performed; None if nothing was judged."""
        return self.of(self.method)

    def of(self, name: str) -> Judgement | None:
        """How a method performed; None if it was not tried or failed."""
        return next((a.judgement for a in self.attempts if a.name == name), None)


Method = Callable[[Task, Progress], Fitted]
"""A recovery method: (task, progress) -> the model, and the tensors added to it."""


def by_bias(task: Task, progress: Progress) -> Fitted:
    """Add the means of removed channels to biases: measured on genuine samples, else derived from BatchNormalization."""
    batches = task.batches() if task.genuine else ()
    return absorb(task.coupled, task.dropped, task.pruned, batches, task.seed)


def by_least_squares(task: Task, progress: Progress) -> Fitted:
    """Fit the layers to those of the original, as many rows of them as there is time for."""
    effort, advance = task.effort, lambda done: progress("reconstruct", done)
    before = effort.all_known("reconstruct: ")
    left = FITTING * effort.clock.left
    settings = FitSettings(seed=task.seed, seconds=None if math.isinf(left) else left)
    settings = settings.repeating(before) if before else settings
    fitted = reconstruct(task.coupled, task.dropped, task.pruned, task.batches(), settings, advance)
    for name, number in fitted.work.items():
        effort.record(f"reconstruct: {name}", number)
    return fitted


def by_distillation(
    task: Task,
    progress: Progress,
    fit: Method = by_least_squares,
    divisions: Mapping[str, Division] | None = None,
    **knobs: Any,
) -> Fitted:
    """Fit the layers, then train the whole network to follow the original.

    Args:
        fit: makes the network that is trained.
        divisions: blocks of its weights that are held, by the name of the weight.
        knobs: fields of `TrainingSettings`.
    """
    from onnxprune.training.distillation import trainer
    from onnxprune.training.distillation.distill import distill

    # the best checkpoint is chosen on separate samples, so that those that judge the result remain unseen
    train, examined = task.samples().split(CHECKPOINT_FRACTION, task.seed)
    fits = task.effort.within(STUDENT, "distill, ")
    student = fit(replace(task, fit=train, effort=fits), progress)
    trained = distill(
        task.original,
        student.model,
        train,
        examined if len(examined) else train,
        kept_positions(task.coupled, task.dropped),
        effort=task.effort,
        seed=task.seed,
        progress=lambda stage, done: progress("distill", done),
        knobs=trainer.TrainingSettings(**knobs),
        divisions=divisions,
    )
    return replace(student, model=trained.model)


def kept_positions(coupled: Coupled, dropped: Mask) -> dict[str, tuple[Mask | None, ...]]:
    """For each tensor of the original, the mask of kept positions on each axis; None for an axis that never shrinks."""
    return {
        name: tuple(None if x is None else ~dropped[x] for x in flow.axes)
        for name, flow in coupled.flows.items()
        if name in coupled.graph.producers
    }


Ways = Mapping[str, tuple[tuple[str, Method], ...]]
WAYS: Ways = MappingProxyType(
    {
        "none": (),
        "bias": (("bias", by_bias),),
        "reconstruct": (("reconstruct", by_least_squares),),
        "distill": (("reconstruct", by_least_squares), ("distill", by_distillation)),
        "auto": (("bias", by_bias), ("reconstruct", by_least_squares), ("distill", by_distillation)),
    }
)
"""The methods tried for each value of --recover."""
MADE_UP_LOST = 0.7
"""A fit to made-up inputs that loses more than this on others of them is not kept: on real inputs such fits did harm
(docs/synthetic.md)."""
TRAINING_SECONDS = 30.0
"""Time that must be left for `auto` to distil."""


@dataclass(frozen=True)
class _Result:
    """An attempt, and the model that it produced."""

    attempt: Attempt
    fitted: Fitted

    @property
    def loss(self) -> float:
        """The value that candidates are compared by; lower is better."""
        judgement = self.attempt.judgement
        return judgement.loss if judgement is not None else float("inf")


def recover(task: Task, method: str, judge: Evaluator | None, progress: Progress = silent, ways: Ways = WAYS) -> Recovery:
    """Try the methods that `method` names beside `none`, and keep the best.

    A method requested by name is kept if it works, whatever it does to the outputs, except that training is undone if the
    result is not better than that of the fit which it started from. Without held-out samples, nothing is judged.

    Args:
        method: a name in `ways`.
        judge: judges on held-out samples; None: there are none.
        progress: called with the method being tried and the fraction done.
        ways: the methods tried for each name.
    """
    results = [_Result(Attempt("none", judge.judge(task.pruned) if judge else None, 0.0), Fitted(task.pruned))]
    for name, way in ways[method]:
        if _is_possible(name, method, task):
            results.append(_attempt(name, way, task, judge, progress))
    tried = [r for r in results if not r.attempt.why]
    named = [name for name, _ in ways[method]]
    if judge is None:
        best = tried[-1]
    elif method == "auto":
        best = min((r for r in tried if r.attempt.name == "none" or _holds(r, task)), key=lambda r: r.loss)
    else:
        best = min((r for r in tried if r.attempt.name in named), key=lambda r: r.loss, default=results[0])
    attempts = tuple(r.attempt for r in results)
    before = judge.before if judge else None
    varies, by_accuracy = (judge.varies, judge.by_accuracy) if judge else (True, False)
    return Recovery(best.fitted.model, best.fitted.added, best.attempt.name, before, attempts, by_accuracy, varies)


def _holds(result: _Result, task: Task) -> bool:
    """Whether a result may be kept: one that was fitted to made-up inputs must reproduce the original on others of them."""
    judgement = result.attempt.judgement
    return task.genuine or (judgement is not None and judgement.lost <= MADE_UP_LOST)


def _is_possible(name: str, method: str, task: Task) -> bool:
    """Whether `auto` has the samples and the time for a method; one asked for by name is always tried.

    Biases corrected in closed form, without samples, made half of the measured networks worse (docs/synthetic.md).
    """
    if method != "auto":
        return True
    if name == "bias":
        return task.genuine
    if name == "distill":
        repeats, known = task.effort.repeated is not None, task.effort.known("training steps")
        lasts = known is not None if repeats else task.effort.clock.left >= TRAINING_SECONDS
        return task.genuine and lasts and importlib.util.find_spec("torch") is not None
    return task.fit is not None


def _attempt(name: str, way: Method, task: Task, judge: Evaluator | None, progress: Progress) -> _Result:
    start = time.perf_counter()
    try:
        fitted = way(task, progress)
        judgement = judge.judge(fitted.model) if judge else None
        return _Result(Attempt(name, judgement, time.perf_counter() - start), fitted)
    except (PruneError, np.linalg.LinAlgError, MemoryError) as e:
        why = e.message if isinstance(e, PruneError) else str(e)
        return _Result(Attempt(name, None, time.perf_counter() - start, why or type(e).__name__), Fitted(task.pruned))
