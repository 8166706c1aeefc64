# SPDX-License-Identifier: Apache-2.0
"""Methods to recover a cut model, fitted to the same samples and judged on others: the best is kept, and all are reported."""

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

CHECKPOINT_FRACTION = 0.1
"""Fraction of the fitting samples that is set aside to choose the best checkpoint of training."""
DISTILL_SECONDS = 600.0
BATCH_VALUES = 2**22
"""Maximum number of input values per batch; a batch has at least 1 and at most 64 samples."""


@dataclass(frozen=True)
class Task:
    """A cut model and what may be used to recover it.

    Attributes:
        coupled, dropped: the analysis of the original, and the labels (n_labels,) that were removed.
        pruned: the model without them, its kept weights unchanged.
        start: the starting point of fits: `pruned`, or the result of earlier rounds.
        fit: samples to fit on.
        held_out: samples to judge on, none of them in `fit`.
        genuine: whether the samples are the user's own, not synthetic.
        seconds: time limit for training; None: `auto` does not train.
        seed: seed for all random choices.
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
    """All samples in batches of bounded size; at least four if there are enough samples, so that folds can be formed."""
    largest = max(sum(x[0].size for x in chunk.values()) for chunk in data.chunks)
    return list(data.batches(int(np.clip(min(BATCH_VALUES // max(largest, 1), len(data) // 4), 1, 64))))


@dataclass(frozen=True)
class Attempt:
    """One method that was tried.

    Attributes:
        name: the method.
        judgement: how the result performs on held-out samples; None if the method failed.
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
        before: the original on the held-out samples.
        attempts: all methods that were tried, `none` first.
    """

    model: ModelProto = field(repr=False)
    added: frozenset[str] = field(repr=False)
    method: str
    before: Judgement
    attempts: tuple[Attempt, ...]

    def of(self, name: str) -> Judgement | None:
        """How a method performed; None if it was not tried or failed."""
        return next((a.judgement for a in self.attempts if a.name == name), None)


Method = Callable[[Task, Progress], Fitted]
"""A recovery method: (task, progress) -> the model, and the tensors added to it."""


def by_bias(task: Task, progress: Progress) -> Fitted:
    """Add the means of removed channels to biases: measured on genuine samples, else derived from BatchNormalization."""
    batches = task.batches() if task.genuine else ()
    return absorb(task.coupled, task.dropped, task.pruned, batches, task.seed)


def by_statistics(task: Task, progress: Progress) -> Fitted:
    """Re-estimate the normalisation statistics."""
    return reestimate(task.coupled, task.dropped, task.pruned, task.batches(), lambda done: progress("re-estimate", done))


def by_least_squares(task: Task, progress: Progress) -> Fitted:
    """Fit the layers to those of the original."""
    settings, advance = FitSettings(seed=task.seed), lambda done: progress("reconstruct", done)
    return reconstruct(task.coupled, task.dropped, task.start, task.batches(), settings, advance)


def by_distillation(task: Task, progress: Progress, **knobs: Any) -> Fitted:
    """Fit the layers, then train the whole network to follow the original (`knobs`: fields of `TrainingSettings`)."""
    from onnxprune.training.distillation import trainer
    from onnxprune.training.distillation.distill import distill

    # the best checkpoint is chosen on separate samples, so that those that judge the result remain unseen
    train, examined = task.fit.split(CHECKPOINT_FRACTION, task.seed)
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
    """For each tensor of the original, the mask of kept positions on each axis; None for an axis that never shrinks."""
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
"""The methods tried for each value of --recover. `auto` also distils if the user provides inputs and a time budget."""


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


def recover(task: Task, method: str, judge: Evaluator, progress: Progress = silent) -> Recovery:
    """Try the methods that `method` names beside `none`, and keep the best; a method requested by name is kept if it works.

    Args:
        method: one of `onnxprune.recovery.METHODS`.
        judge: judges on `task.held_out`.
        progress: called with the method being tried and the fraction done.
    """
    ways = list(WAYS[method])
    if method == "auto" and task.genuine and task.seconds is not None:
        ways.append(("distill", by_distillation))
    results = [_Result(Attempt("none", judge.judge(task.pruned), 0.0), Fitted(task.pruned))]
    results += [_attempt(name, way, task, judge, progress) for name, way in ways]
    tried = [r for r in results if r.attempt.judgement is not None]
    named = [r for r in tried if r.attempt.name == method]
    best = named[-1] if named and method != "auto" else min(tried, key=lambda r: r.loss)
    attempts = tuple(r.attempt for r in results)
    return Recovery(best.fitted.model, best.fitted.added, best.attempt.name, judge.before, attempts)


def _attempt(name: str, way: Method, task: Task, judge: Evaluator, progress: Progress) -> _Result:
    start = time.perf_counter()
    try:
        fitted = way(task, progress)
        return _Result(Attempt(name, judge.judge(fitted.model), time.perf_counter() - start), fitted)
    except (PruneError, np.linalg.LinAlgError, MemoryError) as e:
        why = e.message if isinstance(e, PruneError) else str(e)
        return _Result(Attempt(name, None, time.perf_counter() - start, why), Fitted(task.pruned))
