# SPDX-License-Identifier: Apache-2.0
"""Blocks of one magnitude, fitted to what a layer computes: what one block gets wrong, all other weights correct.

A layer computes x @ w for rows of inputs x (n, d). Its weights are changed block by block; the error of a block, weighted by
the second moments H = x^T x / n of the inputs, is moved to the inputs that follow, by the inverse of H restricted to them. This
is optimal brain surgery (Hassibi and Stork, 1993) with a whole block at a time, in the order of GPTQ (Frantar et al., 2023).
What it finds is then improved by coordinate descent: block after block takes the signs and the magnitude, and each free block
the weights, that fit best to what all others are. This removes another quarter of the error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.compression.blocks import FREE, SHARED, ZERO
from onnxprune.types import Array, Indices, Vector

SWEEPS, GAIN = 30, 0.005
"""Most passes of the descent over all blocks; it ends when a pass removes less than this fraction of the error."""
TOGETHER = 256
"""Most free inputs that are fitted together."""


@dataclass(frozen=True, eq=False)
class Layer:
    """The weights of a layer as a matrix, and its blocks.

    Attributes:
        matrix: wanted weights (d, o): y = x @ matrix.
        moments: second moments of the inputs (d, d), positive definite.
        numbers: the block of each weight (d, o), -1 for weights that are in none. Blocks are products: rows that share a block
            do so in all outputs.
        actions: FREE, SHARED or ZERO for each block.
        scale: what the stored weights were multiplied by to get `matrix` (d, o), not 0, and equal within the rows of a block.
    """

    matrix: Vector
    moments: Vector
    numbers: Indices
    actions: Array
    scale: Vector

    @property
    def done_to(self) -> Array:
        """The action of each weight (d, o)."""
        found: Array = np.where(self.numbers < 0, FREE, self.actions[self.numbers])
        return found


def compensated(layer: Layer) -> Vector:
    """The weights (d, o) with shared and zero blocks, as near to `matrix` in what the layer computes as one pass gets."""
    rows = _row_blocks(layer)
    order = np.concatenate(rows)
    inverse = np.linalg.inv(layer.moments[np.ix_(order, order)])
    upper = np.linalg.cholesky((inverse + inverse.T) / 2).T
    left, found = layer.matrix[order].copy(), np.empty_like(layer.matrix)
    start = 0
    for mine in rows:
        end = start + len(mine)
        found[mine] = _projected(layer, mine, left[start:end])
        error = np.linalg.solve(upper[start:end, start:end].T, left[start:end] - found[mine])
        left[end:] -= upper[start:end, end:].T @ error
        start = end
    return descended(layer, found, rows)


def _row_blocks(layer: Layer) -> list[Indices]:
    """The rows (inputs) that share their blocks, those with the most to change first: what is free corrects the rest."""
    _, first, which = np.unique(layer.numbers, axis=0, return_index=True, return_inverse=True)
    changed = (layer.done_to != FREE).sum(1)[first]
    parts = [np.flatnonzero(which.ravel() == k) for k in np.lexsort((first, -changed))]
    return [part[k : k + most] for part in parts for most in [_most(layer, part)] for k in range(0, len(part), most)]


def block_losses(moments: Vector, change: Vector, numbers: Indices, count: int) -> Vector:
    """The error of a layer if one block changes and all other weights make up for it, for each block (count,).

    OBS (Hassibi and Stork, 1993) with a whole block at a time: change^T (H^-1_bb)^-1 change.

    Args:
        moments: second moments H of the inputs (d, d), positive definite.
        change: of the weights (d, o).
        numbers: the block of each weight (d, o); rows that share a block do so in all outputs.
        count: number of blocks.
    """
    inverse, found = np.linalg.inv(moments), np.zeros(count)
    _, which = np.unique(numbers, axis=0, return_inverse=True)
    for k in range(int(which.max()) + 1):
        rows = np.flatnonzero(which.ravel() == k)
        error = change[rows] * np.linalg.solve(inverse[np.ix_(rows, rows)], change[rows])
        found += np.bincount(numbers[rows[0]], error.sum(0), count)
    return found


def _most(layer: Layer, rows: Indices) -> int:
    """How many rows of a set are taken together: all, unless they are in no block."""
    return len(rows) if (layer.numbers[rows[0]] >= 0).any() else TOGETHER


def _projected(layer: Layer, rows: Indices, w: Vector) -> Vector:
    """The nearest weights (n_rows, o) whose blocks do what was decided."""
    sizes, action = np.abs(layer.scale[rows[0]]), layer.done_to[rows[0]]
    # in the layer's own output a stored weight counts by the square of its output's scale
    shared = _per_block(layer, rows, sizes * np.abs(w).sum(0)) / _per_block(layer, rows, len(w) * sizes**2)
    signed = shared * sizes * np.where(w < 0, -1.0, 1.0)
    found: Vector = np.where(action == SHARED, signed, np.where(action == ZERO, 0.0, w))
    return found


def _per_block(layer: Layer, rows: Indices, values: Vector) -> Vector:
    """The sum of the values (o,) of those outputs that share a block, for each output (o,)."""
    _, which = np.unique(layer.numbers[rows[0]], return_inverse=True)
    sums = np.bincount(which.ravel(), values).astype(np.float64)
    found: Vector = sums[which.ravel()]
    return found


def descended(layer: Layer, start: Vector, rows: Sequence[Indices]) -> Vector:
    """Weights (d, o) with the same structure that fit the layer better, by coordinate descent.

    Args:
        start: weights with that structure.
        rows: the rows that share their blocks.
    """
    found, error = start.copy(), math.inf
    for _ in range(SWEEPS):
        slope = layer.moments @ (found - layer.matrix)
        before, error = error, float(((found - layer.matrix) * slope).sum())
        if error >= (1 - GAIN) * before:
            break
        for mine in rows:
            change = _improved(layer, mine, found[mine], slope[mine]) - found[mine]
            found[mine] += change
            slope += layer.moments[:, mine] @ change
    return found


def _improved(layer: Layer, rows: Indices, w: Vector, slope: Vector) -> Vector:
    """Better weights (n_rows, o) for some rows, while all others stay.

    Args:
        w: their weights.
        slope: half of the derivative of the error by them.
    """
    moments, action = layer.moments[np.ix_(rows, rows)], layer.done_to[rows[0]]
    if not (action == SHARED).any():
        return w - np.where(action == FREE, np.linalg.solve(moments, slope), 0.0)
    found = _flipped(moments, np.where(action == SHARED, w, 0.0), slope)
    signs = np.where(found < 0, -1.0, 1.0) * np.abs(layer.scale[rows[0]])
    slope = slope + moments @ np.where(action == SHARED, found - w, 0.0)
    rises = _per_block(layer, rows, (signs * slope).sum(0)) / _per_block(layer, rows, (signs * (moments @ signs)).sum(0))
    free = w - np.linalg.solve(moments, slope) if (action == FREE).any() else w
    better: Vector = np.where(action == SHARED, found - rises * signs, np.where(action == FREE, free, w))
    return better


def _flipped(moments: Vector, w: Vector, slope: Vector) -> Vector:
    """The weights with other signs where that alone lowers the error, one row after the other."""
    found, slope = w.copy(), slope.copy()
    for k, own in enumerate(np.diag(moments)):
        wrong = slope[k] * np.sign(found[k]) > own * np.abs(found[k])
        if wrong.any():
            change = np.where(wrong, -2 * found[k], 0.0)
            found[k] += change
            slope += np.outer(moments[:, k], change)
    return found
