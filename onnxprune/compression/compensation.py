# SPDX-License-Identifier: Apache-2.0
"""Blocks of one magnitude, fitted to what a layer computes: what one block gets wrong, all other weights correct.

A layer computes x @ w for rows of inputs x (n, d). Its weights are changed block by block; the error of a block, weighted by
the second moments H = x^T x / n of the inputs, is moved to the inputs that follow, by the inverse of H restricted to them. This
is optimal brain surgery (Hassibi and Stork, 1993) with a whole block at a time, in the order of GPTQ (Frantar et al., 2023).
What it finds is then improved by coordinate descent: block after block takes the codes and the magnitude, and each free block
the weights, that fit best to what all others are. This removes another quarter of the error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.compression.blocks import FREE, SHARED, ZERO
from onnxprune.compression.division import best_steps, coarser_shares, codes_of, exact_shares
from onnxprune.types import Array, Indices, Vector

SWEEPS, GAIN = 30, 0.005
"""Most passes of the descent over all blocks; it ends when a pass removes less than this fraction of the error."""
TOGETHER = 256
"""Most free inputs that are fitted together."""
CODED = 3
"""Beside FREE, SHARED and ZERO: the weights of a free block are multiples of a step."""


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
        levels: the largest code of a free block; 0: its weights are any numbers.
    """

    matrix: Vector
    moments: Vector
    numbers: Indices
    actions: Array
    scale: Vector
    levels: int = 0

    @property
    def done_to(self) -> Array:
        """The action of each weight (d, o)."""
        actions = np.where((self.actions == FREE) & (self.levels > 0), CODED, self.actions)
        found: Array = np.where(self.numbers < 0, FREE, actions[self.numbers])
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
    found = np.where(action == SHARED, signed, np.where(action == ZERO, 0.0, w))
    if (action == CODED).any():
        units = sizes * _steps(layer, rows, w, (*exact_shares(layer.levels), *coarser_shares(layer.levels)))
        found = np.where(action == CODED, codes_of(w, np.broadcast_to(units, w.shape), layer.levels) * units, found)
    return found


def _steps(layer: Layer, rows: Indices, w: Vector, shares: Sequence[float]) -> Vector:
    """The best step of the block of each output (o,), for stored weights; of outputs that have one."""
    sizes = np.broadcast_to(np.abs(layer.scale[rows[0]]), w.shape)
    _, which = np.unique(layer.numbers[rows[0]], return_inverse=True)
    numbers = np.broadcast_to(which.ravel(), w.shape).ravel()
    steps = best_steps((w / sizes).ravel(), numbers, len(which), layer.levels, shares, sizes.ravel())
    found: Vector = steps[which.ravel()]
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
    steps = [_magnitudes(layer, mine, start[mine]) for mine in rows]
    for _ in range(SWEEPS):
        slope = layer.moments @ (found - layer.matrix)
        before, error = error, float(((found - layer.matrix) * slope).sum())
        if error >= (1 - GAIN) * before:
            break
        for k, mine in enumerate(rows):
            better, steps[k] = _improved(layer, mine, found[mine], slope[mine], steps[k])
            slope += layer.moments[:, mine] @ (better - found[mine])
            found[mine] = better
    return found


def _magnitudes(layer: Layer, rows: Indices, w: Vector) -> Vector:
    """What the stored weights of each output (o,) are multiples of; 0 of those that are free or zero."""
    action = layer.done_to[rows[0]]
    found = np.where(action == SHARED, np.abs(w[0] / layer.scale[rows[0]]), 0.0)
    if (action == CODED).any():
        found = np.where(action == CODED, _steps(layer, rows, w, exact_shares(layer.levels)), found)
    return found


def _improved(layer: Layer, rows: Indices, w: Vector, slope: Vector, steps: Vector) -> tuple[Vector, Vector]:
    """Better weights (n_rows, o) for some rows, while all others stay; and what they are multiples of now.

    Args:
        w: their weights.
        slope: half of the derivative of the error by them.
        steps: what the stored weights of each output (o,) are multiples of.
    """
    moments, action = layer.moments[np.ix_(rows, rows)], layer.done_to[rows[0]]
    in_steps = (action == SHARED) | (action == CODED)
    if not in_steps.any():
        return w - np.where(action == FREE, np.linalg.solve(moments, slope), 0.0), steps
    sizes = np.abs(layer.scale[rows[0]])
    codes = _recoded(moments, np.where(in_steps, w, 0.0), slope, steps * sizes, np.where(action == CODED, layer.levels, 0))
    slope = slope + moments @ np.where(in_steps, codes * steps * sizes - w, 0.0)
    along = codes * sizes
    bends = _per_block(layer, rows, (along * (moments @ along)).sum(0))
    rises = _per_block(layer, rows, (along * slope).sum(0)) / np.where(bends > 0, bends, 1.0)
    free = w - np.linalg.solve(moments, slope) if (action == FREE).any() else w
    better: Vector = np.where(in_steps, along * (steps - rises), np.where(action == FREE, free, w))
    return better, np.abs(steps - rises)


def _recoded(moments: Vector, w: Vector, slope: Vector, units: Vector, levels: Indices) -> Vector:
    """Codes (n_rows, o) with which the error is less, one row after the other.

    Args:
        w: weights that are codes times units.
        units: of each output (o,).
        levels: the largest code of each output (o,); 0: codes are -1 and 1.
    """
    left, found = slope.copy(), np.empty_like(w)
    for k, own in enumerate(np.diag(moments)):
        wanted = w[k] - left[k] / own
        signs = np.where(wanted < 0, -1.0, 1.0)
        found[k] = np.where(levels > 0, codes_of(wanted, units, levels), signs) if levels.any() else signs
        change = found[k] * units - w[k]
        if change.any():
            left += np.outer(moments[:, k], change)
    return found
