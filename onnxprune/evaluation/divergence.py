# SPDX-License-Identifier: Apache-2.0
"""Divergence of one array of outputs from another, as sums that add up over batches."""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass

import numpy as np

from onnxprune.data.classes import are_probabilities
from onnxprune.types import Array

MOST = 2**26
"""Maximum number of values stored per output, over all samples; of larger outputs, random positions are stored."""
FAINT = 1e-7


@dataclass(frozen=True, slots=True)
class Divergence:
    """Sums over the compared values; `+` joins batches.

    Attributes:
        apart, old, new, both: sums of (y - y0)^2, y0^2, y^2 and y y0.
        places, same: number of positions with class scores, and of those whose best class is the same in both.
        nats: sum over positions of the Kullback-Leibler divergence of y's class probabilities from y0's.
        divergent: number of positions that `nats` sums over.
    """

    apart: float = 0.0
    old: float = 0.0
    new: float = 0.0
    both: float = 0.0
    places: float = 0.0
    same: float = 0.0
    nats: float = 0.0
    divergent: float = 0.0

    def __add__(self, other: Divergence) -> Divergence:
        """The sums over both batches."""
        return Divergence(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    def error(self) -> float:
        """||y - y0|| / ||y0||; 0 if both are zero, infinite if y is not finite."""
        if not self.apart:
            return 0.0
        return math.sqrt(self.apart / self.old) if self.old and math.isfinite(self.apart) else math.inf

    @property
    def cosine(self) -> float:
        """Cosine similarity of y and y0; 1 if both are zero."""
        if not self.apart:
            return 1.0
        norm = math.sqrt(self.old) * math.sqrt(self.new) if math.isfinite(self.new) else 0.0
        return self.both / norm if norm else 0.0

    @property
    def agreement(self) -> float | None:
        """Fraction of positions with the same best class; None without class scores."""
        return self.same / self.places if self.places else None

    @property
    def divergence(self) -> float:
        """Mean Kullback-Leibler divergence in nats for class scores, the squared relative error for other outputs."""
        return self.nats / self.divergent if self.divergent else self.error**2


def rows_of(output: Array, axis: int | None, samples: int, seed: int = 0) -> Array:
    """An output as (samples, positions, classes), with 1 class if there is no class axis; at most `MOST` values in total.

    Args:
        output: (batch, ...), one batch.
        axis: the class axis, or None.
        samples: number of samples over all batches.
        seed: selects the positions of an output that is too large; they are the same for every batch of that shape.
    """
    if not output.ndim:
        return output.reshape(1, 1, 1)
    last = output[..., None] if axis is None else np.moveaxis(output, axis, -1)
    rows = last.reshape(len(output), -1, last.shape[-1])
    room = max(1, MOST // (max(samples, 1) * rows.shape[2]))
    if rows.shape[1] <= room:
        return rows
    return rows[:, np.sort(np.random.default_rng([seed, rows.shape[1]]).choice(rows.shape[1], room, replace=False))]


def divergence_between(old: Array, new: Array, scores: bool) -> Divergence:
    """Divergence of `new` from `old`, both (samples, positions, classes).

    Values that are not finite in the original are not compared. Integers count as right or wrong. Arrays of different sizes
    (a detector may find fewer objects) are padded with zeros.
    """
    a, b = _same_shape(old, new)
    if a.dtype.kind in "iub":
        hits = float((a == b).sum())
        return Divergence(a.size - hits, a.size, hits, hits, a.size, hits)
    a, b = a.astype(np.float64), b.astype(np.float64)
    b = np.where(np.isfinite(a), b, 0)
    a = np.where(np.isfinite(a), a, 0)
    with np.errstate(all="ignore"):
        squares = Divergence(*(float(x.sum()) for x in ((a - b) ** 2, a * a, b * b, a * b)))
        if not scores:
            return squares
        places = a.shape[0] * a.shape[1]
        nats, divergent = _nats(a, b, places)
        same = float((a.argmax(2) == b.argmax(2)).sum())
        return squares + Divergence(places=places, same=same, nats=nats, divergent=divergent)


def _nats(a: Array, b: Array, places: int) -> tuple[float, float]:
    """Summed Kullback-Leibler divergence and number of positions; 0 and 0 if the scores are not those of a single choice."""
    if are_probabilities(a):
        p, q = np.log(np.maximum(a, FAINT)), np.log(np.maximum(b, FAINT))
    elif a.shape[1] == 1 and not (a.min() >= 0 and a.max() <= 1):  # else independent scores per class, or boxes
        p, q = _log_softmax(a), _log_softmax(b)
    else:
        return 0.0, 0.0
    return float((np.exp(p) * (p - q)).sum()), places


def _log_softmax(x: Array) -> Array:
    x = x - x.max(-1, keepdims=True)
    return np.asarray(x - np.log(np.exp(x).sum(-1, keepdims=True)))


def _same_shape(a: Array, b: Array) -> tuple[Array, Array]:
    if a.shape == b.shape:
        return a, b
    shape = np.maximum(a.shape, b.shape)
    padded = [np.pad(x, [(0, int(n - m)) for n, m in zip(shape, x.shape, strict=True)]) for x in (a, b)]
    return padded[0], padded[1]
