# SPDX-License-Identifier: Apache-2.0
"""What real inputs say about a network: its metric, and how far its outputs are from the original's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ocr_words
from numpy.typing import NDArray

from onnxprune.ort import session

Array = NDArray[Any]
Metric = Callable[[Array, Array], float]
"""(first output, truth) -> a number, higher is better. `truth` is the label, or the original's output where there is none."""


def accuracy(found: Array, truth: Array) -> float:
    """Fraction of samples whose best class is the label."""
    return float((found.reshape(len(found), -1).argmax(1) == truth).mean())


def same(found: Array, original: Array) -> float:
    """Fraction of samples with the original's best class."""
    return accuracy(found, original.reshape(len(original), -1).argmax(1))


def overlap(a: Array, b: Array) -> float:
    """F1 of two masks."""
    return float(2 * (a & b).sum() / max((a.sum() + b.sum()), 1))


def mask(found: Array, original: Array, border: float = 0.3) -> float:
    """F1 of what lies above a border, against what the original puts there."""
    return overlap(found > border, original > border)


def characters(found: Array, truth: Array) -> float:
    """Characters read right (CTC)."""
    return ocr_words.characters({"y": found}, truth)


def _intersection_over_union(a: Array, b: Array) -> Array:
    """Of boxes (n, 4) and (m, 4) given by centre and size: (n, m)."""
    low = np.maximum((a[:, :2] - a[:, 2:] / 2)[:, None], (b[:, :2] - b[:, 2:] / 2)[None])
    high = np.minimum((a[:, :2] + a[:, 2:] / 2)[:, None], (b[:, :2] + b[:, 2:] / 2)[None])
    common = np.clip(high - low, 0, None).prod(-1)
    return np.asarray(common / (a[:, 2:].prod(-1)[:, None] + b[:, 2:].prod(-1)[None] - common + 1e-9))


def decoded(found: Array, border: float = 0.4) -> Array:
    """(4 + classes, places) -> rows of class and box, best first, without boxes that cover a better one."""
    kinds, best = found[4:].argmax(0), found[4:].max(0)
    order = [k for k in np.argsort(-best) if best[k] > border]
    boxes, kept = found[:4].T, list[int]()
    for k in order:
        if not kept or _intersection_over_union(boxes[[k]], boxes[kept]).max() < 0.5:
            kept.append(int(k))
    return np.concatenate([kinds[kept, None], boxes[kept]], 1) if kept else np.zeros((0, 5))


def boxes(found: Array, truth: Array) -> float:
    """F1 of boxes: right if the class is right and intersection over union is at least 0.5."""
    right = claimed = there = 0
    for rows, real in ((decoded(f), t[t[:, 0] >= 0]) for f, t in zip(found, truth, strict=True)):
        claimed, there, taken = claimed + len(rows), there + len(real), set[int]()
        for row in rows:
            fits = _intersection_over_union(row[None, 1:], real[:, 1:])[0] * (real[:, 0] == row[0])
            k = int(fits.argmax()) if len(fits) else -1
            if k >= 0 and fits[k] >= 0.5 and k not in taken:
                taken.add(k)
                right += 1
    return 2 * right / max(claimed + there, 1)


METRICS: Mapping[str, Metric] = {"accuracy": accuracy, "same": same, "map": mask, "characters": characters, "boxes": boxes}


@dataclass(frozen=True)
class Held:
    """Held-out inputs, one array per input with samples first, and labels if there are any."""

    feeds: Mapping[str, Array]
    truth: Array | None

    @classmethod
    def read(cls, path: Path) -> Held:
        """From an .npz file; the labels are its entry `label`."""
        found = dict(np.load(path))
        truth = found.pop("label", None)
        return cls(found, truth)


def outputs(model: Path, held: Held, batch: int = 50) -> list[Array]:
    """All outputs of a model on held-out inputs; a sample at a time where an input is a single number per sample."""
    opened = session(model.read_bytes(), 2)
    ranks = {i.name: len(i.shape) for i in opened.get_inputs()}
    stacked = any(held.feeds[n].ndim != rank for n, rank in ranks.items())
    size, rows = 1 if stacked else batch, list[list[Array]]()
    for k in range(0, len(next(iter(held.feeds.values()))), size):
        part = k if stacked else slice(k, k + size)
        rows.append(opened.run(None, {n: np.asarray(held.feeds[n][part]) for n in ranks}))
    return [np.stack(x) if stacked else np.concatenate(x) for x in zip(*rows, strict=True)]


def varying_error(found: Array, original: Array) -> float:
    """Root mean square of the difference, relative to how much the original varies over samples around its mean."""
    varies = ((original - original.mean(0)) ** 2).sum()
    return float(np.sqrt(((found - original) ** 2).sum() / max(float(varies), 1e-12)))


def worst_error(found: Sequence[Array], original: Sequence[Array], parts: Sequence[tuple[int, int]]) -> float:
    """The largest error of the varying part over all outputs, and over the parts of the first one."""
    pairs = [(found[0][:, a:b], original[0][:, a:b]) for a, b in parts] or [(found[0], original[0])]
    pairs += zip(found[1:], original[1:], strict=True)
    return max(varying_error(np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in pairs)


def _as_boxes(original: Array) -> Array:
    """The boxes that the original finds, as truth, padded to the most of any image."""
    rows = [decoded(f) for f in original]
    truth = np.full((len(rows), max(1, *map(len, rows)), 5), -1.0)
    for k, row in enumerate(rows):
        truth[k, : len(row)] = row
    return truth


def _as_text(original: Array) -> Array:
    """The characters that the original reads, as labels."""
    rows = [ocr_words.read(s) for s in original]
    truth = np.zeros((len(rows), max(1, *map(len, rows))), np.int64)
    for k, row in enumerate(rows):
        truth[k, : len(row)] = row
    return truth


AGREEMENTS: Mapping[str, Metric] = {
    "accuracy": same,
    "same": same,
    "map": mask,
    "characters": lambda found, original: characters(found, _as_text(original)),
    "boxes": lambda found, original: boxes(found, _as_boxes(original)),
}
"""The metric with the original's outputs as truth."""


@dataclass(frozen=True)
class Truth:
    """What real inputs say about a cut.

    Attributes:
        error: of the varying part of the outputs, the worst output or part.
        agreement: with the original.
        metric, original: of the cut and of the original, against labels where there are any.
    """

    error: float
    agreement: float
    metric: float
    original: float


class Judge:
    """Judges cuts of one network; the original runs once."""

    def __init__(self, metric: str, model: Path, held: Held, parts: Sequence[tuple[int, int]]) -> None:
        self._metric, self._held, self._parts = metric, held, parts
        self._original = outputs(model, held)

    def _value(self, found: Array) -> float:
        if self._held.truth is None:
            return AGREEMENTS[self._metric](found, self._original[0])
        return METRICS[self._metric](found, self._held.truth)

    def judge(self, model: Path) -> Truth:
        """Run a cut on the held-out inputs."""
        found, first = outputs(model, self._held), self._original[0]
        agreement = AGREEMENTS[self._metric](found[0], first)
        return Truth(worst_error(found, self._original, self._parts), agreement, self._value(found[0]), self._value(first))
