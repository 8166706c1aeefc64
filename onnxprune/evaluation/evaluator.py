# SPDX-License-Identifier: Apache-2.0
"""How much of the original a candidate still is, on samples that it was not fitted to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import ModelProto

from onnxprune.data.classes import class_axis
from onnxprune.data.samples import Data, count
from onnxprune.errors import DataError
from onnxprune.evaluation.divergence import Divergence, divergence_between, rows_of
from onnxprune.ir.files import runnable
from onnxprune.ort import session
from onnxprune.types import Array, Feeds, Outputs

Metric = Callable[[Outputs, Any], float]
"""`metric(outputs, truth) -> float`, higher is better.

`outputs`: output name -> array, first axis = samples. `truth`: the labels of the same samples where there are labels, else
their feeds (input name -> array). It is called with all samples of one shape together, in parts where their outputs take more
than `PART` bytes; the mean of its results counts, weighted by samples.
"""
PART = 2**28
# Fidelity to the original is measured finely by a few dozen samples; accuracy is not: on n samples its standard error is
# sqrt(p (1 - p) / n), and candidates often lie closer together than that. So labels decide only where they are many enough
# that this is below half a point; a metric decides always, for its giver said that it is what counts.
CERTAIN = 0.005
TIE = 1e-3
FED = 2**22
"""Input values in one batch, at most (and one sample at least, 64 at most)."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """A candidate beside the original.

    Attributes:
        error: ||y - y0|| / ||y0|| of an output, y0 being the original's; the mean over floating-point outputs.
        cosine: of y and y0; the mean over such outputs.
        agreement: share of samples (of positions, for text and segmentation) whose best class is the original's; None where
            the first output is no score for each class.
        accuracy: what the metric says; without one, the share of labels that are met, in [0, 1]; None without either.
        loss: what candidates are compared by, lower is better. It follows accuracy where a metric is given or labels are
            many; else it is the divergence from the original's outputs (of class scores in nats, else error^2).
        samples: how many samples were looked at.
    """

    error: float
    cosine: float
    agreement: float | None
    accuracy: float | None
    loss: float
    samples: int


class Evaluator:
    """Compares candidates with the original on held-out samples. The original's outputs are computed once.

    Attributes:
        before: the original itself: no error, and its accuracy where there are labels or a metric.

    Raises:
        DataError: nothing is held out, or the original does not run on it.
    """

    def __init__(self, original: ModelProto, held_out: Data, metric: Metric | None = None, seed: int = 0) -> None:
        if not len(held_out):
            raise DataError("nothing is held out to judge by; give at least two samples")
        self._data, self._metric, self._seed = held_out, metric, seed
        self._axis = class_axis(next(iter(_first(original, held_out).values())), held_out.labels)
        self._old = [self._rows(outputs) for outputs, _ in run(original, held_out)]
        self.before = self.judge(original)

    def judge(self, model: ModelProto) -> Judgement:
        """How far a candidate is from the original.

        Raises:
            DataError: the candidate, or the metric, fails on these samples.
        """
        truth = Truth(self._data.labels, self._metric)
        gaps = [Divergence()] * len(self._old[0])
        for (outputs, feeds), old in zip(run(model, self._data), self._old, strict=True):
            pairs = enumerate(zip(old, self._rows(outputs), strict=True))
            gaps = [gaps[k] + divergence_between(a, b, k == 0 and self._axis is not None) for k, (a, b) in pairs]
            truth.see(outputs, feeds)
        return self._judgement(gaps, truth.accuracy())

    def _rows(self, outputs: Outputs) -> list[Array]:
        axes = [self._axis, *[None] * (len(outputs) - 1)]
        return [rows_of(y, axis, len(self._data), self._seed) for y, axis in zip(outputs.values(), axes, strict=True)]

    def _judgement(self, gaps: Sequence[Divergence], accuracy: float | None) -> Judgement:
        floats = [g for g, y in zip(gaps, self._old[0], strict=True) if y.dtype.kind == "f"] or gaps
        error, cosine, loss = (float(np.mean([getattr(g, name) for g in floats])) for name in ("error", "cosine", "divergence"))
        if accuracy is not None and (self._metric or _certain(accuracy, len(self._data))):
            loss = 1 - accuracy + TIE * min(loss, 1.0)
        return Judgement(error, cosine, gaps[0].agreement, accuracy, math.inf if math.isnan(loss) else loss, len(self._data))


def _certain(accuracy: float, samples: int) -> bool:
    p = min(max(accuracy, 0.02), 0.98)  # one that is right on all of a few samples is not certain
    return math.sqrt(p * (1 - p) / samples) < CERTAIN


class Truth:
    """Gathers outputs, and asks what is right: a metric or labels."""

    def __init__(self, labels: Array | None, metric: Metric | None) -> None:
        self._labels, self._metric, self._at = labels, metric, 0
        self._waiting: list[tuple[Outputs, Feeds, Array | None]] = []
        self._sums = np.zeros(2)

    def see(self, outputs: Outputs, feeds: Feeds) -> None:
        """Take in one batch."""
        size = count(feeds)
        labels = None if self._labels is None else self._labels[self._at : self._at + size]
        self._at += size
        if self._metric:
            if self._waiting and not _joins(self._waiting, outputs, feeds):
                self._ask()
            self._waiting.append((outputs, feeds, labels))
        elif labels is not None:
            self._sums += met(next(iter(outputs.values())), labels)

    def accuracy(self) -> float | None:
        """The share of labels met, or the metric's mean; None where nobody said what is right."""
        if self._waiting:
            self._ask()
        return float(self._sums[0] / self._sums[1]) if self._sums[1] else None

    def _ask(self) -> None:
        assert self._metric
        outputs, feeds = _joined([w[0] for w in self._waiting]), _joined([w[1] for w in self._waiting])
        labels = None if self._labels is None else np.concatenate([w[2] for w in self._waiting])
        self._waiting.clear()
        try:
            value = float(self._metric(outputs, feeds if labels is None else labels))
        except Exception as e:  # whatever the user's function raises
            raise DataError(f"--metric: the function fails: {type(e).__name__}: {_first_line(e)}") from e
        if not math.isfinite(value):
            raise DataError(f"--metric: the function returned {value}, expected a finite number, higher is better")
        self._sums += np.array([value, 1]) * count(feeds)


def _joins(waiting: Sequence[tuple[Outputs, Feeds, Any]], outputs: Outputs, feeds: Feeds) -> bool:
    """Whether a batch has the shapes of those that wait, and there is room for it."""
    first, size = waiting[0], sum(y.nbytes for w in waiting for y in w[0].values())
    pairs = zip((*first[0].values(), *first[1].values()), (*outputs.values(), *feeds.values()), strict=True)
    return size < PART and all(np.shape(a)[1:] == np.shape(b)[1:] and np.ndim(b) for a, b in pairs)


def _joined(parts: Sequence[Outputs]) -> Outputs:
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


def met(output: Array, labels: Array) -> tuple[int, int]:
    """How many labels an output meets, and how many there are; (0, 0) where they are not comparable.

    Labels that name no class (often 255 or -100: "ignore this pixel") are left out.
    """
    if labels.dtype.kind not in "iu":
        return 0, 0
    axis = class_axis(output, labels)
    found = output if axis is None and output.dtype.kind in "iu" else output.argmax(axis) if axis is not None else None
    if found is None or found.size != labels.size:
        return 0, 0
    classes = output.shape[axis] if axis is not None else labels.max() + 1
    named = (labels >= 0) & (labels < classes)
    return int((found.reshape(labels.shape) == labels)[named].sum()), int(named.sum())


def accuracy(model: ModelProto, data: Data, metric: Metric | None = None) -> float | None:
    """Share of labels that a model meets, in [0, 1], or what a metric says; None without labels or class scores."""
    if data.labels is None and metric is None:
        return None
    truth = Truth(data.labels, metric)
    for outputs, feeds in run(model, data):
        truth.see(outputs, feeds)
    return truth.accuracy()


def run(model: ModelProto, data: Data, batch: int | None = None) -> Iterator[tuple[Outputs, Feeds]]:
    """A model's outputs for all samples, batch by batch, with what was fed; samples are the first axis, also where the model
    has no such axis.

    Raises:
        DataError: onnxruntime does not run the model on these samples.
    """
    names = [v.name for v in model.graph.output]
    with runnable(model) as source:
        try:
            opened = session(source, threads=0)
            for feeds in data.batches(batch or _usual_batch(data)):
                outputs = dict(zip(names, map(np.asarray, opened.run(None, feeds)), strict=True))
                yield (outputs, feeds) if not data.stacked else (_as_one(outputs), _as_one(feeds))
        except Exception as e:  # types or sizes that the model does not take
            raise DataError(f"--data: the model does not run on these inputs: {_first_line(e)}") from e


def _as_one(values: Feeds) -> Feeds:
    return {name: x[None] for name, x in values.items()}


def _first(model: ModelProto, data: Data) -> Outputs:
    return next(iter(run(model, data.take(1))))[0]


def _usual_batch(data: Data) -> int:
    largest = max(sum(x[0].size for x in chunk.values()) for chunk in data.chunks)
    return int(np.clip(FED // max(largest, 1), 1, 64))


def _first_line(e: BaseException) -> str:
    return (str(e).splitlines() or [""])[0][:200]
