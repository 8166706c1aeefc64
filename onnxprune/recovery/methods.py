# SPDX-License-Identifier: Apache-2.0
"""Ways to recover a cut model, tried on the same inputs and judged by others: the best is kept, and none of them is hidden."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from onnx import ModelProto

from onnxprune.analysis.coupling import Coupled
from onnxprune.data.samples import Data
from onnxprune.errors import PruneError
from onnxprune.evaluation.evaluator import Evaluator, Judgement
from onnxprune.recovery.batch_norm import reestimate
from onnxprune.recovery.bias import absorb
from onnxprune.recovery.editor import Fitted
from onnxprune.recovery.reconstruct import FitSettings, reconstruct
from onnxprune.types import Feeds, Mask, Progress, silent

EXAMINED = 0.1
"""Of the samples to fit on, those that choose the best moment of training."""
DISTILL_SECONDS = 600.0
BATCH_VALUES = 2**22
"""Input values in one batch, at most (and one sample at least, 64 at most)."""


@dataclass(frozen=True)
class Task:
    """A cut model and what may be used to recover it.

    Attributes:
        coupled, dropped: the analysis of the original, and the labels (n_labels,) that were removed.
        pruned: the model without them, its kept weights unchanged.
        start: the model that fits begin with; `pruned`, or what earlier rounds made of it.
        fit: samples to fit on; None where there is no input at all.
        held_out: samples to judge by, none of which is in `fit`.
        genuine: whether the samples are the user's, and not made up.
        seconds: how long training may take; None: no training in `auto`.
        seed: for whatever is chosen at random.
    """

    coupled: Coupled = field(repr=False)
    dropped: Mask = field(repr=False)
    pruned: ModelProto = field(repr=False)
    start: ModelProto = field(repr=False)
    fit: Data
    held_out: Data
    genuine: bool = True
    seconds: float | None = None
    seed: int = 0

    @property
    def original(self) -> ModelProto:
        """The model before the cut."""
        return self.coupled.graph.model

    def batches(self) -> list[Feeds]:
        """The samples to fit on, in batches that fit into memory."""
        return batches_of(self.fit)


def batches_of(data: Data) -> list[Feeds]:
    """All samples in batches of a bounded size; four at least where there are as many samples, so that folds can be made."""
    largest = max(sum(x[0].size for x in chunk.values()) for chunk in data.chunks)
    return list(data.batches(int(np.clip(min(BATCH_VALUES // max(largest, 1), len(data) // 4), 1, 64))))


@dataclass(frozen=True)
class Attempt:
    """One way that was tried.

    Attributes:
        name: the method.
        judgement: how the result does on held-out samples; None where it failed.
        seconds: how long it took.
        why: why it failed; empty where it did not.
    """

    name: str
    judgement: Judgement | None
    seconds: float
    why: str = ""


@dataclass(frozen=True)
class Recovery:
    """What became of a cut model.

    Attributes:
        model: the recovered model.
        added: names of stored tensors that it has beyond those of the cut model.
        method: what made it.
        before: the original on the held-out samples.
        attempts: all that was tried, `none` first.
    """

    model: ModelProto = field(repr=False)
    added: frozenset[str] = field(repr=False)
    method: str
    before: Judgement
    attempts: tuple[Attempt, ...]

    def of(self, name: str) -> Judgement | None:
        """How a method did; None where it was not tried or failed."""
        return next((a.judgement for a in self.attempts if a.name == name), None)


Method = Callable[[Task, Progress], Fitted]
"""One way to recover: (task, progress) -> the model, and what was added to it."""


def by_bias(task: Task, progress: Progress) -> Fitted:
    """Means of removed channels go into biases: measured where there are real samples, else from BatchNormalization."""
    batches = task.batches() if task.genuine else ()
    return absorb(task.coupled, task.dropped, task.pruned, batches, task.seed)


def by_statistics(task: Task, progress: Progress) -> Fitted:
    """Statistics of normalisation measured anew."""
    return reestimate(task.coupled, task.dropped, task.pruned, task.batches(), lambda done: progress("re-estimate", done))


def by_least_squares(task: Task, progress: Progress) -> Fitted:
    """Layers fitted to the original's."""
    knobs, told = FitSettings(seed=task.seed), lambda done: progress("reconstruct", done)
    return reconstruct(task.coupled, task.dropped, task.start, task.batches(), knobs, told)


def by_distillation(task: Task, progress: Progress, **knobs: Any) -> Fitted:
    """Layers fitted to the original's, then the whole network trained to follow it (`knobs`: of `training.distillation`)."""
    from onnxprune.training.distillation import trainer
    from onnxprune.training.distillation.distill import distill

    # the best moment of training is chosen by samples of its own: those that judge the result stay unseen
    train, examined = task.fit.split(EXAMINED, task.seed)
    student = by_least_squares(replace(task, fit=train), progress)
    trained = distill(
        task.original,
        student.model,
        train,
        examined if len(examined) else train,
        kept_positions(task.coupled, task.dropped),
        seconds=task.seconds or DISTILL_SECONDS,
        seed=task.seed,
        progress=lambda stage, done: progress("distill", done),
        knobs=trainer.TrainingSettings(**knobs),
    )
    return replace(student, model=trained.model)


def kept_positions(coupled: Coupled, dropped: Mask) -> dict[str, tuple[Mask | None, ...]]:
    """For each tensor of the original which positions of each axis are kept; None for an axis that is whole."""
    return {
        name: tuple(None if x is None else ~dropped[x] for x in flow.axes)
        for name, flow in coupled.flows.items()
        if name in coupled.graph.producers
    }


WAYS: Mapping[str, tuple[tuple[str, Method], ...]] = MappingProxyType(
    {
        "none": (),
        "bias": (("bias", by_bias),),
        "reconstruct": (("reconstruct", by_least_squares),),
        "distill": (("reconstruct", by_least_squares), ("distill", by_distillation)),
        "auto": (("bias", by_bias), ("re-estimate", by_statistics), ("reconstruct", by_least_squares)),
    }
)
"""What is tried for each value of --recover. `auto` distils too where the user gave inputs and time for it."""


@dataclass(frozen=True)
class _Result:
    """An attempt, and the model that it made."""

    attempt: Attempt
    fitted: Fitted

    @property
    def loss(self) -> float:
        """What candidates are compared by, lower is better."""
        judgement = self.attempt.judgement
        return judgement.loss if judgement is not None else float("inf")


def recover(task: Task, wish: str, judge: Evaluator, progress: Progress = silent) -> Recovery:
    """Try what `wish` names, judge it beside `none`, and keep the best; a method asked for by name is kept where it works.

    Args:
        wish: one of `onnxprune.recovery.METHODS`.
        judge: judges on `task.held_out`.
        progress: told what is tried, and how far it is.
    """
    ways = list(WAYS[wish])
    if wish == "auto" and task.genuine and task.seconds is not None:
        ways.append(("distill", by_distillation))
    results = [_Result(Attempt("none", judge.judge(task.pruned), 0.0), Fitted(task.pruned))]
    results += [_attempt(name, way, task, judge, progress) for name, way in ways]
    tried = [r for r in results if r.attempt.judgement is not None]
    named = [r for r in tried if r.attempt.name == wish]
    best = named[-1] if named and wish != "auto" else min(tried, key=lambda r: r.loss)
    attempts = tuple(r.attempt for r in results)
    return Recovery(best.fitted.model, best.fitted.added, best.attempt.name, judge.before, attempts)


def _attempt(name: str, way: Method, task: Task, judge: Evaluator, progress: Progress) -> _Result:
    start = time.perf_counter()
    try:
        fitted = way(task, progress)
        return _Result(Attempt(name, judge.judge(fitted.model), time.perf_counter() - start), fitted)
    except (PruneError, np.linalg.LinAlgError, MemoryError) as e:
        return _Result(Attempt(name, None, time.perf_counter() - start, str(e)), Fitted(task.pruned))
