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

from onnxprune.analysis.couple import Coupled
from onnxprune.data import Data
from onnxprune.errors import PruneError
from onnxprune.evaluation.evaluator import Judge, Judgement
from onnxprune.pipeline.samples import Supply
from onnxprune.recovery.batch_norm import reestimate
from onnxprune.recovery.bias import absorb
from onnxprune.recovery.reconstruct import Knobs, reconstruct
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
        method: what made it.
        before: the original on the held-out samples.
        attempts: all that was tried, `none` first.
        fitted, judged: how many samples were fitted to, and judged by.
        source: where they came from.
        notes: what the reader should know of them.
    """

    model: ModelProto = field(repr=False)
    method: str
    before: Judgement
    attempts: tuple[Attempt, ...]
    fitted: int
    judged: int
    source: str
    notes: tuple[str, ...] = ()

    def of(self, name: str) -> Judgement | None:
        """How a method did; None where it was not tried or failed."""
        return next((a.judgement for a in self.attempts if a.name == name), None)


Method = Callable[[Task, Progress], ModelProto]


def by_bias(task: Task, watch: Progress) -> ModelProto:
    """Means of removed channels go into biases: measured where there are real samples, else from BatchNormalization."""
    batches = task.batches() if task.genuine else ()
    return absorb(task.coupled, task.dropped, task.pruned, batches, task.seed)


def by_statistics(task: Task, watch: Progress) -> ModelProto:
    """Statistics of normalisation measured anew."""
    return reestimate(task.coupled, task.dropped, task.pruned, task.batches(), lambda done: watch("re-estimate", done))


def by_least_squares(task: Task, watch: Progress) -> ModelProto:
    """Layers fitted to the original's."""
    knobs, told = Knobs(seed=task.seed), lambda done: watch("reconstruct", done)
    return reconstruct(task.coupled, task.dropped, task.start, task.batches(), knobs, told)


def by_distillation(task: Task, watch: Progress, **knobs: Any) -> ModelProto:
    """Layers fitted to the original's, then the whole network trained to follow it (`knobs`: of `training.course.Knobs`)."""
    from onnxprune.training.distillation import trainer as course
    from onnxprune.training.distillation.distill import distill

    # the best moment of training is chosen by samples of its own: those that judge the result stay unseen
    train, examined = task.fit.split(EXAMINED, task.seed)
    student = by_least_squares(replace(task, fit=train), watch)
    return distill(
        task.original,
        student,
        train,
        examined if len(examined) else train,
        kept_positions(task.coupled, task.dropped),
        seconds=task.seconds or DISTILL_SECONDS,
        seed=task.seed,
        progress=lambda stage, done: watch("distill", done),
        knobs=course.Knobs(**knobs),
    ).model


def kept_positions(coupled: Coupled, dropped: Mask) -> dict[str, tuple[Mask | None, ...]]:
    """For each tensor of the original which positions of each axis are left; None for an axis that is whole."""
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


def recover(task: Task, wish: str, judge: Judge, supply: Supply, watch: Progress = silent) -> Recovery:
    """Try what `wish` names, judge it beside `none`, and keep the best; a method asked for by name is kept where it works.

    Args:
        wish: one of `onnxprune.recovery.METHODS`.
        judge: judges on `task.held_out`.
        supply: where the samples come from, for the report.
    """
    ways = list(WAYS[wish])
    if wish == "auto" and task.genuine and task.seconds is not None:
        ways.append(("distill", by_distillation))
    results = [(Attempt("none", judge.judge(task.pruned), 0.0), task.pruned)]
    for name, way in ways:
        results.append(_attempt(name, way, task, judge, watch))
    tried = [r for r in results if r[0].judgement is not None]
    named = [r for r in tried if r[0].name == wish]
    best, model = named[-1] if named and wish != "auto" else min(tried, key=_loss)
    attempts = tuple(a for a, _ in results)
    return Recovery(
        model,
        best.name,
        judge.before,
        attempts,
        len(supply.fit) * supply.fitted,
        len(supply.held_out),
        supply.source,
        supply.notes,
    )


def _loss(result: tuple[Attempt, ModelProto]) -> float:
    judgement = result[0].judgement
    return judgement.loss if judgement is not None else float("inf")


def _attempt(name: str, way: Method, task: Task, judge: Judge, watch: Progress) -> tuple[Attempt, ModelProto]:
    start = time.perf_counter()
    try:
        model = way(task, watch)
        return Attempt(name, judge.judge(model), time.perf_counter() - start), model
    except (PruneError, np.linalg.LinAlgError, MemoryError) as e:
        return Attempt(name, None, time.perf_counter() - start, str(e)), task.pruned
