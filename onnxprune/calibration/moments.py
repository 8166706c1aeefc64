# SPDX-License-Identifier: Apache-2.0
"""Normal equations of least squares, accumulated batch by batch, and their solution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.types import Array, Vector

RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Candidates for the ridge, in units of the mean diagonal of the inputs' covariance."""
VALUES = 2**22
"""Input values that are laid out at a time."""
LARGE = 1536
"""Number of inputs from which on only one ridge is tried."""
ROUNDING = 1e-7
"""Squared errors that differ by less than this, relative to the squared targets, are equal but for rounding."""
JUDGED = 64
"""Number of outputs that ridges are compared on."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over rows of inputs x (groups, n, d) and targets y (groups, n, o).

    Attributes:
        n: number of rows.
        x, y: sums (groups, d), (groups, o).
        xx, xy: sums of products (groups, d, d), (groups, d, o).
        yy: sums of squares (groups, o).
    """

    n: int
    x: Vector
    y: Vector
    xx: Vector
    xy: Vector
    yy: Vector

    @classmethod
    def of(cls, x: Array, y: Array) -> Moments:
        """The moments of some rows."""
        tally = Tally()
        tally.add(x, y)
        return tally.moments()

    def __add__(self, other: Moments) -> Moments:
        """The moments of all rows of both."""
        return Moments(
            self.n + other.n, self.x + other.x, self.y + other.y, self.xx + other.xx, self.xy + other.xy, self.yy + other.yy
        )


class Tally:
    """Moments that grow batch by batch, in place: products in the precision of the rows, their sums in double.

    For very many inputs the sums are in single precision, too, to save memory.
    """

    def __init__(self) -> None:
        self.n = 0
        self._sums: tuple[Vector, ...] = ()
        self._waiting: list[tuple[Array, Array]] = []

    def add(self, x: Array, y: Array) -> None:
        """Add rows of inputs (groups, n, d) and targets (groups, n, o)."""
        self.n += x.shape[1]
        self._waiting.append((x, y))
        # adding a product to the sums costs as much as half a row for each input: a few rows at a time would take much longer
        if sum(len(a[0]) for a, _ in self._waiting) >= x.shape[2]:
            self._settle()

    def _settle(self) -> None:
        x, y = (np.concatenate(parts, 1) if len(parts) > 1 else parts[0] for parts in zip(*self._waiting, strict=True))
        self._waiting.clear()
        xt = np.swapaxes(x, 1, 2)
        squares = np.square(y, dtype=np.float64).sum(1)
        parts: tuple[Array, ...] = (x.sum(1, dtype=np.float64), y.sum(1, dtype=np.float64), xt @ x, xt @ y, squares)
        if not self._sums:
            kinds = [np.float32 if p.ndim == 3 and p.shape[1] > LARGE else np.float64 for p in parts]
            self._sums = tuple(np.zeros(p.shape, kind) for p, kind in zip(parts, kinds, strict=True))
        for total, part in zip(self._sums, parts, strict=True):
            total += part

    def moments(self) -> Moments:
        """The moments so far; at least one batch was added."""
        if self._waiting:
            self._settle()
        return Moments(self.n, *self._sums)


@dataclass(frozen=True, eq=False)
class Solution:
    """A linear fit: y is approximately x @ matrix + offset.

    Attributes:
        matrix: (groups, d, o).
        offset: (groups, o).
    """

    matrix: Vector
    offset: Vector


def solve(m: Moments, start: Vector, ridge: float, fixed_offset: Vector | None = None) -> Solution:
    """Ridge regression towards `start` (groups, d, o), with a free offset unless one is given.

    Args:
        ridge: weight of the penalty, in units of the mean diagonal of the inputs' covariance.
    """
    mean_x, mean_y = m.x / m.n, m.y / m.n
    xx = m.xx.copy()
    if fixed_offset is None:
        for g in range(len(xx)):
            xx[g] -= np.outer(m.n * mean_x[g], mean_x[g])
        xy = m.xy - m.n * mean_x[:, :, None] * mean_y[:, None, :]
    else:
        xy = m.xy - m.x[:, :, None] * fixed_offset[:, None, :]
    wanted = xy - xx @ start
    diagonal = np.einsum("gdd->gd", xx)
    diagonal += (ridge * diagonal.mean(1) + 1e-12 * m.n)[:, None]
    matrix = start + np.linalg.solve(xx, wanted)
    if fixed_offset is not None:
        return Solution(matrix, fixed_offset)
    return Solution(matrix, mean_y - np.einsum("gd,gdo->go", mean_x, matrix))


def squared_error(m: Moments, s: Solution) -> Vector:
    """Sum over rows of (y - x @ matrix - offset)^2, per output (groups, o)."""
    fit: Vector = np.einsum("gdo,gdo->go", s.matrix, m.xx @ s.matrix) + m.n * s.offset**2
    fit += 2 * s.offset * np.einsum("gd,gdo->go", m.x, s.matrix)
    cross = np.einsum("gdo,gdo->go", s.matrix, m.xy) + s.offset * m.y
    error: Vector = np.maximum(fit - 2 * cross + m.yy, 0.0)
    return error


def fitted(
    folds: Sequence[Moments], start: Vector, fixed_offset: Vector | None = None, ridges: Sequence[float] = RIDGES
) -> Solution:
    """Ridge regression on all folds.

    The ridge is the one that, fitted to the first fold, predicts the other folds best (in this direction only: neighbouring
    ridges differ little); of those that do so equally well, the largest, which stays nearest to `start`. For very many inputs,
    where each solution takes long, it is the second one. Rows of one sample resemble each other, so even many of them do not
    tell what other samples need.
    """
    total = sum(folds[1:], folds[0])
    if len(folds) < 2 or len(ridges) == 1:
        return solve(total, start, ridges[0], fixed_offset)
    if total.xx.shape[1] > LARGE:
        return solve(total, start, ridges[1], fixed_offset)
    some = slice(None, None, -(-start.shape[2] // JUDGED) or 1)
    offset = None if fixed_offset is None else fixed_offset[:, some]
    first, others = _only(folds[0], some), _only(sum(folds[2:], folds[1]), some)
    errors = [float(squared_error(others, solve(first, start[:, :, some], ridge, offset)).sum()) for ridge in ridges]
    known = {ridge: error for ridge, error in zip(ridges, errors, strict=True) if math.isfinite(error)}
    good = min(known.values(), default=math.inf) + ROUNDING * float(others.yy.sum())
    best = max((ridge for ridge, error in known.items() if error <= good), default=max(ridges))
    return solve(total, start, best, fixed_offset)


def _only(m: Moments, outputs: slice) -> Moments:
    """The moments of some outputs."""
    return Moments(m.n, m.x, m.y[:, outputs], m.xx, m.xy[:, :, outputs], m.yy[:, outputs])
