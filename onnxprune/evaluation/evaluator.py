# SPDX-License-Identifier: Apache-2.0
"""How close candidates are to the original, on samples that they were not fitted to."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from onnx import ModelProto

from onnxprune.data.batching import batch_size
from onnxprune.data.classes import best_class, class_axis
from onnxprune.data.samples import Data, count
from onnxprune.data.user_code import at_home, raised
from onnxprune.errors import DataError, first_line
from onnxprune.evaluation.measure import Agreement, Yardstick, rows_of
from onnxprune.evaluation.parts import Part, parts_of
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
SHOWN = 32
"""Number of samples that show whether an output scores classes."""
FED = 2**22
"""Maximum number of input values in a batch (which has at least 1 and at most 64 samples)."""


RUINED = 0.8
"""A model that loses this much of an output's variation has lost the original's answers. Measured: docs/judging.md."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """A comparison of a candidate with the original.

    Attributes:
        lost: how much of what the original's outputs tell about their inputs is lost, of the part of the outputs that loses
            most: 0 if it answers as the original does, 1 if it does no better than a constant (see `evaluation.measure`).
        part: name of that part; empty if there is only one.
        agreement: fraction of samples (of positions, for text) whose best class is the original's; None if no output is known
            to score classes.
        commonest: share of the class that the original chooses most often: what a constant answer would agree on.
        accuracy: value of the metric; without one, the fraction of labels predicted correctly, in [0, 1]; None without either.
        loss: what candidates are compared by, lower is better: `lost`, or 1 - accuracy if there is a metric or there are
            enough labels, and `lost` between equals.
        samples: number of samples compared.
    """

    lost: float
    part: str
    agreement: float | None
    commonest: float | None
    accuracy: float | None
    loss: float
    samples: int

    @property
    def ruined(self) -> bool:
        """Whether the original's answers are lost."""
        return not self.lost < RUINED


class Evaluator:
    """Compares candidates with the original on held-out samples. The original's outputs are computed once.

    Attributes:
        before: the judgement of the original itself: nothing is lost, and its accuracy if there are labels or a metric.
        varies: whether the original's outputs vary over the samples; if not, nothing can be judged on them.
        by_accuracy: whether candidates are compared by their accuracy, not by `lost`.

    Raises:
        DataError: no samples are held out, or the original cannot run on them.
    """

    def __init__(
        self, original: ModelProto, held_out: Data, metric: Metric | None = None, seed: int = 0, threads: int = 0
    ) -> None:
        if not len(held_out):
            raise DataError("no samples are held out for evaluation; provide at least two samples")
        self._data, self._metric, self._seed, self._threads = held_out, metric, seed, threads
        self._batch = batch_size(held_out, original)
        self._parts, self._axes = _parts(original, held_out, self._batch)
        old = [self._rows(outputs) for outputs, _ in run(original, held_out, self._batch)]
        pairs = zip(zip(*old, strict=True), self._axes, strict=True)
        self._yardsticks = [Yardstick(batches, axis is not None) for batches, axis in pairs]
        self.varies = any(y.varies for y in self._yardsticks)
        self.by_accuracy = False
        self.before = self.judge(original)
        accuracy = self.before.accuracy
        self.by_accuracy = accuracy is not None and (metric is not None or _certain(accuracy, len(held_out)))

    def judge(self, model: ModelProto) -> Judgement:
        """Compare a candidate with the original.

        Raises:
            DataError: the candidate or the metric fails on these samples.
        """
        truth, agreement = Truth(self._data.labels, self._metric), None
        distances = [0.0] * len(self._parts)
        scores = (k for k, axis in enumerate(self._axes) if axis is not None or self._yardsticks[k].is_integer)
        scored = next(scores, None)
        for b, (outputs, feeds) in enumerate(run(model, self._data, self._batch, self._threads)):
            for k, new in enumerate(self._rows(outputs)):
                distances[k] += self._yardsticks[k].compare(b, new)
                if k == scored:
                    found = self._yardsticks[k].agreement(b, new)
                    agreement = found if agreement is None else agreement + found
            truth.see(outputs, feeds)
        return self._judgement(distances, agreement, truth.accuracy())

    def _rows(self, outputs: Outputs) -> list[Array]:
        pairs = zip(self._parts, self._axes, strict=True)
        return [rows_of(part.of(outputs), axis, len(self._data), self._seed) for part, axis in pairs]

    def _judgement(self, distances: Sequence[float], agreement: Agreement | None, accuracy: float | None) -> Judgement:
        varying = [k for k, y in enumerate(self._yardsticks) if y.varies] or list(range(len(distances)))
        lost = {k: self._yardsticks[k].lost(distances[k]) for k in varying}
        worst = max(lost, key=lambda k: lost[k])
        loss = lost[worst]
        if accuracy is not None and self.by_accuracy:
            loss = 1 - accuracy + TIE * min(loss, 1.0)
        return Judgement(
            lost[worst],
            self._parts[worst].name if len(self._parts) > 1 else "",
            agreement.share if agreement else None,
            agreement.commonest if agreement else None,
            accuracy,
            loss,
            len(self._data),
        )


def _parts(original: ModelProto, data: Data, batch: int) -> tuple[tuple[Part, ...], tuple[int | None, ...]]:
    """The parts of the outputs, and for each the axis of its classes; the labels tell that of the first output."""
    outputs = next(iter(run(original, data.take(SHOWN), batch)))[0]
    parts = parts_of(original, next(data.take(1).batches(1)))
    if data.stacked:  # the outputs of a model without a sample axis get one
        parts = tuple(replace(p, axis=None if p.axis is None else p.axis + 1) for p in parts)
    first = next(iter(outputs))
    axes = (
        class_axis(p.of(outputs), data.labels if p.output == first and p.axis is None else None, raw=p.axis is None)
        for p in parts
    )
    return parts, tuple(axes)


def _certain(accuracy: float, samples: int) -> bool:
    p = min(max(accuracy, 0.02), 0.98)  # a perfect score on a few samples is not certain
    return math.sqrt(p * (1 - p) / samples) < CERTAIN


class Truth:
    """Collects outputs and scores them by a metric or by labels."""

    def __init__(self, labels: Array | None, metric: Metric | None) -> None:
        self._labels, self._metric, self._at = labels, metric, 0
        self._pending: list[tuple[Outputs, Feeds, Array | None]] = []
        self._sums, self._comparable = np.zeros(2), True

    def see(self, outputs: Outputs, feeds: Feeds) -> None:
        """Add one batch."""
        size = count(feeds)
        labels = None if self._labels is None else self._labels[self._at : self._at + size]
        self._at += size
        if self._metric:
            if self._pending and not _fits(self._pending, outputs, feeds):
                self._score()
            self._pending.append((outputs, feeds, labels))
        elif labels is not None and self._comparable:
            found = count_correct(next(iter(outputs.values())), labels)
            # of texts of many lengths, some have by chance as many positions as labels
            self._comparable = found is not None
            self._sums += found or 0

    def accuracy(self) -> float | None:
        """The fraction of labels predicted correctly, or the mean of the metric; None without either, or if labels are not
        comparable with the output in every batch."""
        if self._pending:
            self._score()
        return float(self._sums[0] / self._sums[1]) if self._sums[1] and self._comparable else None

    def _score(self) -> None:
        assert self._metric
        outputs, feeds = _joined([p[0] for p in self._pending]), _joined([p[1] for p in self._pending])
        labels = None if self._labels is None else np.concatenate([p[2] for p in self._pending])
        self._pending.clear()
        # read-only: what a metric changed in place would be different samples for the next candidate
        truth = {name: _read_only(x) for name, x in feeds.items()} if labels is None else _read_only(labels)
        self._sums += np.array([_measured(self._metric, outputs, truth), 1]) * count(feeds)


def _read_only(x: Array) -> Array:
    view = x.view()
    view.flags.writeable = False
    return view


def _measured(metric: Metric, outputs: Outputs, truth: Any) -> float:
    """What a metric says.

    Raises:
        DataError: it raises anything (or calls `sys.exit`), or does not return a finite number.
    """
    try:
        with at_home():
            found: Any = metric(outputs, truth)
    except KeyboardInterrupt:
        raise
    except BaseException as e:
        raise DataError(f"--metric: the function raised {raised(e)}") from e
    try:
        value = math.nan if isinstance(found, str | bytes) else float(found)
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if not math.isfinite(value):
        got = "nan" if isinstance(found, float) and math.isnan(found) else reprlib.repr(found)
        raise DataError(f"--metric: the function returned {got}, expected a finite number, higher is better")
    return value


def _fits(pending: Sequence[tuple[Outputs, Feeds, Any]], outputs: Outputs, feeds: Feeds) -> bool:
    """Whether a batch has the same shapes as the pending ones, and there is room for it."""
    first, size = pending[0], sum(y.nbytes for p in pending for y in p[0].values())
    pairs = zip((*first[0].values(), *first[1].values()), (*outputs.values(), *feeds.values()), strict=True)
    return size < PART and all(np.shape(a)[1:] == np.shape(b)[1:] and np.ndim(b) for a, b in pairs)


def _joined(parts: Sequence[Outputs]) -> Outputs:
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


def count_correct(output: Array, labels: Array) -> tuple[int, int] | None:
    """Number of labels that an output predicts correctly, and number of labels; None if they are not comparable.

    Labels that are not a class (often 255 or -100: "ignore this pixel") do not count.
    """
    if labels.dtype.kind not in "iu":
        return None
    axis = class_axis(output, labels)
    found = output if axis is None and output.dtype.kind in "iu" else best_class(output, axis) if axis is not None else None
    if found is None or found.size != labels.size:
        return None
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


def run(model: ModelProto, data: Data, batch: int | None = None, threads: int = 0) -> Iterator[tuple[Outputs, Feeds]]:
    """A model's outputs for all samples, batch by batch, with their feeds; samples are on the first axis, even if the model
    has no such axis.

    Args:
        threads: threads inside an operator; 0: one per core.

    Raises:
        DataError: onnxruntime cannot run the model on these samples.
    """
    names = [v.name for v in model.graph.output]
    with runnable(model) as source:
        try:
            opened = session(source, threads=threads)
            for feeds in data.batches(batch or _usual_batch(data)):
                outputs = dict(zip(names, map(np.asarray, opened.run(None, feeds)), strict=True))
                yield (outputs, feeds) if not data.stacked else (_as_one(outputs), _as_one(feeds))
        except Exception as e:  # such as types or sizes that the model does not accept
            raise DataError(f"--data: the model does not run on these inputs: {first_line(e)}") from e


def _as_one(values: Feeds) -> Feeds:
    return {name: x[None] for name, x in values.items()}


def _usual_batch(data: Data) -> int:
    largest = max(sum(x[0].size for x in chunk.values()) for chunk in data.chunks)
    return int(np.clip(FED // max(largest, 1), 1, 64))
