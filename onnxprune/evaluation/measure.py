# SPDX-License-Identifier: Apache-2.0
"""`lost`: how much of what an output tells about its input a changed model loses.

0 if the model answers as the original does, 1 if it does no better than a constant, the original's average answer. So an error
is compared with what the output *varies* over inputs, not with its size, which is often that of a constant (the coordinates of
a detector's grid, a class that nearly always wins).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxprune.data.classes import are_logarithms, are_probabilities, best_class, softmax
from onnxprune.types import Array

MOST = 2**24
"""Maximum number of values stored per part, over all samples; of larger ones, random positions are stored."""
STILL = 1e-6
"""An output that varies by less than this fraction of its size does not vary."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Sums over positions that score classes; `+` joins batches.

    Attributes:
        places, same: number of positions, and of those whose best class is the original's.
        best: how often each class is the original's best.
    """

    places: int
    same: int
    best: Counter[int] = field(repr=False)

    def __add__(self, other: Agreement) -> Agreement:
        """The sums over both batches."""
        return Agreement(self.places + other.places, self.same + other.same, self.best + other.best)

    @property
    def share(self) -> float:
        """Fraction of positions whose best class is the original's."""
        return self.same / self.places

    @property
    def commonest(self) -> float:
        """Fraction of positions with the commonest class: what a constant answer would reach."""
        return max(self.best.values()) / self.places


class Yardstick:
    """A part's values in the original on all samples, and how much they vary over them.

    Attributes:
        varies: whether it varies at all; if not, its size is the yardstick.

    Args:
        batches: the part in the original, one array (samples, positions, classes) per batch.
        scores: whether it scores classes; if not, there is 1 class.
    """

    def __init__(self, batches: Sequence[Array], scores: bool = False) -> None:
        self.is_integer = any(x.dtype.kind not in "f" for x in batches)
        self.scores = scores and not self.is_integer
        self._form = _form_of(batches) if self.scores else _as_given
        self.batches = tuple(self._form(x) for x in batches)
        by_shape: dict[tuple[int, ...], list[Array]] = {}
        for x in self.batches:
            by_shape.setdefault(x.shape[1:], []).append(x)
        found = [self._variation(np.concatenate(xs)) for xs in by_shape.values()]
        self.varies = any(found)
        self.variation = sum(found) if self.varies else sum(self.distance(np.zeros_like(x), x) for x in self.batches)

    def _variation(self, x: Array) -> float:
        """How far samples of one shape are from their average, in the unit of `distance`."""
        if self.is_integer:
            x = x.reshape(len(x), -1)
            usual = np.apply_along_axis(lambda c: np.unique(c, return_counts=True)[1].max(), 0, x) if len(x) else np.zeros(0)
            return float((len(x) - usual).sum())
        x = _finite(x)
        centre = x.mean(0, keepdims=True) if len(x) > 1 else x.mean(1, keepdims=True)
        found = self.distance(np.broadcast_to(centre, x.shape), x)
        size = self.distance(np.zeros_like(x), x)
        if found <= STILL**2 * size:
            return 0.0
        # the average is that of the same samples, so that distances from it are too small by (n - 1) / n
        found *= len(x) / (len(x) - 1 or 1)
        if self.scores:  # where one class nearly always wins, certainty of it is a better constant than the average
            winner = np.eye(x.shape[2])[centre.argmax(2)]
            found = min(found, self.distance(np.broadcast_to(winner, x.shape), x))
        return found

    def compare(self, batch: int, new: Array) -> float:
        """Summed distance of one batch (samples, positions, classes) from that of the original."""
        return self.distance(*same_shape(self.batches[batch], self._form(new)))

    def agreement(self, batch: int, new: Array) -> Agreement:
        """How often the best class of one batch is that of the original; integers are classes themselves."""
        return agreement_between(*same_shape(self.batches[batch], new))

    def distance(self, old: Array, new: Array) -> float:
        """Summed distance of one batch (samples, positions, classes) from another; infinite if `new` is not finite.

        Class probabilities are compared by their total variation distance, half the sum of absolute differences, which is
        bounded: one confident mistake does not outweigh many right answers. Integers are equal or not; else squares.
        """
        if self.is_integer:
            return float((old != new).sum())
        known = np.isfinite(old)  # what is not finite in the original is not compared
        gap = np.where(known, new, 0).astype(np.float64) - np.where(known, old, 0)
        found = float(np.abs(gap).sum() / 2 if self.scores else np.square(gap).sum())
        return found if math.isfinite(found) else math.inf

    def lost(self, distance: float) -> float:
        """A summed distance over all batches as a fraction of the variation."""
        if not distance:
            return 0.0
        share = distance / self.variation if self.variation else math.inf
        return share if self.is_integer or self.scores else math.sqrt(share)


def _as_given(x: Array) -> Array:
    return x


def _form_of(batches: Sequence[Array]) -> Callable[[Array], Array]:
    """What makes probabilities of scores, whatever form the original's have."""
    if all(map(are_probabilities, batches)):
        return _as_given
    return np.exp if all(map(are_logarithms, batches)) else softmax


def _finite(x: Array) -> Array:
    return np.nan_to_num(x.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)


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


def agreement_between(old: Array, new: Array) -> Agreement:
    """How often the best class of two arrays (samples, positions, classes) is the same; integers are classes themselves."""
    a, b = (best_class(x, 2) if x.dtype.kind == "f" else x for x in (old, new))
    same = (a == b) & (a >= 0) if old.dtype.kind == "f" else a == b
    return Agreement(a.size, int(same.sum()), Counter(a.ravel().tolist()))


def same_shape(a: Array, b: Array) -> tuple[Array, Array]:
    """Both arrays, padded with zeros to the larger sizes: a detector may find fewer objects."""
    if a.shape == b.shape:
        return a, b
    shape = np.maximum(a.shape, b.shape)
    padded = [np.pad(x, [(0, int(n - m)) for n, m in zip(shape, x.shape, strict=True)]) for x in (a, b)]
    return padded[0], padded[1]
