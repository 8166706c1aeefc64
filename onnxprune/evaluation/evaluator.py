# SPDX-License-Identifier: Apache-2.0
"""How close candidates are to the original, on samples that they were not fitted to."""

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

`outputs`: output name -> array, first axis = samples. `truth`: the labels of the same samples if there are labels, else their
feeds (input name -> array). It is called with all samples of one shape at once, in parts if their outputs take more than `PART`
bytes; the results are averaged, weighted by the number of samples.
"""
PART = 2**28
# A few dozen samples measure fidelity to the original precisely, but not accuracy: on n samples its standard error is
# sqrt(p (1 - p) / n), and candidates are often closer to each other than that. So labels decide only if there are enough for
# an error below half a percentage point. A metric always decides, because the user has chosen it.
CERTAIN = 0.005
TIE = 1e-3
FED = 2**22
"""Maximum number of input values in a batch (which has at least 1 and at most 64 samples)."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """A comparison of a candidate with the original.

    Attributes:
        error: ||y - y0|| / ||y0||, where y0 is the original's output; mean over floating-point outputs.
        cosine: cosine similarity of y and y0; mean over the same outputs.
        agreement: fraction of samples (of positions, for text and segmentation) whose best class is the original's; None if
            the first output is not class scores.
        accuracy: value of the metric; without one, the fraction of labels predicted correctly, in [0, 1]; None without either.
        loss: what candidates are compared by, lower is better. It follows accuracy if there is a metric or there are enough
            labels; otherwise it is the divergence from the original's outputs (in nats for class scores, else error^2).
        samples: number of samples compared.
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
        before: the judgement of the original itself: error 0, and its accuracy if there are labels or a metric.

    Raises:
        DataError: no samples are held out, or the original cannot run on them.
    """

    def __init__(self, original: ModelProto, held_out: Data, metric: Metric | None = None, seed: int = 0) -> None:
        if not len(held_out):
            raise DataError("no samples are held out for evaluation; provide at least two samples")
        self._data, self._metric, self._seed = held_out, metric, seed
        self._axis = class_axis(next(iter(_first(original, held_out).values())), held_out.labels)
        self._old = [self._rows(outputs) for outputs, _ in run(original, held_out)]
        self.before = self.judge(original)

    def judge(self, model: ModelProto) -> Judgement:
        """Compare a candidate with the original.

        Raises:
            DataError: the candidate or the metric fails on these samples.
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
    p = min(max(accuracy, 0.02), 0.98)  # a perfect score on a few samples is not certain
    return math.sqrt(p * (1 - p) / samples) < CERTAIN


class Truth:
    """Collects outputs and scores them by a metric or by labels."""

    def __init__(self, labels: Array | None, metric: Metric | None) -> None:
        self._labels, self._metric, self._at = labels, metric, 0
        self._pending: list[tuple[Outputs, Feeds, Array | None]] = []
        self._sums = np.zeros(2)

    def see(self, outputs: Outputs, feeds: Feeds) -> None:
        """Add one batch."""
        size = count(feeds)
        labels = None if self._labels is None else self._labels[self._at : self._at + size]
        self._at += size
        if self._metric:
            if self._pending and not _fits(self._pending, outputs, feeds):
                self._score()
            self._pending.append((outputs, feeds, labels))
        elif labels is not None:
            self._sums += count_correct(next(iter(outputs.values())), labels)

    def accuracy(self) -> float | None:
        """The fraction of labels predicted correctly, or the mean of the metric; None without either."""
        if self._pending:
            self._score()
        return float(self._sums[0] / self._sums[1]) if self._sums[1] else None

    def _score(self) -> None:
        assert self._metric
        outputs, feeds = _joined([p[0] for p in self._pending]), _joined([p[1] for p in self._pending])
        labels = None if self._labels is None else np.concatenate([p[2] for p in self._pending])
        self._pending.clear()
        try:
            value = float(self._metric(outputs, feeds if labels is None else labels))
        except (Exception, SystemExit) as e:  # whatever the user's function raises
            raise DataError(f"--metric: the function raised {type(e).__name__}: {_first_line(e)}") from e
        if not math.isfinite(value):
            raise DataError(f"--metric: the function returned {value}, expected a finite number, higher is better")
        self._sums += np.array([value, 1]) * count(feeds)


def _fits(pending: Sequence[tuple[Outputs, Feeds, Any]], outputs: Outputs, feeds: Feeds) -> bool:
    """Whether a batch has the same shapes as the pending ones, and there is room for it."""
    first, size = pending[0], sum(y.nbytes for p in pending for y in p[0].values())
    pairs = zip((*first[0].values(), *first[1].values()), (*outputs.values(), *feeds.values()), strict=True)
    return size < PART and all(np.shape(a)[1:] == np.shape(b)[1:] and np.ndim(b) for a, b in pairs)


def _joined(parts: Sequence[Outputs]) -> Outputs:
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


def count_correct(output: Array, labels: Array) -> tuple[int, int]:
    """Number of labels that an output predicts correctly, and number of labels; (0, 0) if they are not comparable.

    Labels that are not a class (often 255 or -100: "ignore this pixel") do not count.
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
    """Fraction of labels predicted correctly, in [0, 1], or the value of a metric; None without labels or class scores."""
    if data.labels is None and metric is None:
        return None
    truth = Truth(data.labels, metric)
    for outputs, feeds in run(model, data):
        truth.see(outputs, feeds)
    return truth.accuracy()


def run(model: ModelProto, data: Data, batch: int | None = None) -> Iterator[tuple[Outputs, Feeds]]:
    """A model's outputs for all samples, batch by batch, with their feeds; samples are on the first axis, even if the model
    has no such axis.

    Raises:
        DataError: onnxruntime cannot run the model on these samples.
    """
    names = [v.name for v in model.graph.output]
    with runnable(model) as source:
        try:
            opened = session(source, threads=0)
            for feeds in data.batches(batch or _usual_batch(data)):
                outputs = dict(zip(names, map(np.asarray, opened.run(None, feeds)), strict=True))
                yield (outputs, feeds) if not data.stacked else (_as_one(outputs), _as_one(feeds))
        except Exception as e:  # such as types or sizes that the model does not accept
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
