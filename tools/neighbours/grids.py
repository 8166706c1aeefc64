# SPDX-License-Identifier: Apache-2.0
"""Weights as integer codes times a scale, rounded to nearest, or with the error made up for as `onnxprune unify` does.

A scale is shared by the weights of a block, which lies in one output. The compensation is GPTQ's (Frantar et al., 2023): one
row of a layer's weights after the other is rounded, and its error, weighted by the second moments of the inputs, is moved to
the rows that follow. Then comes coordinate descent on codes and scales, so that both sides of the comparison have the same
means.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from onnxprune.calibration.sums import LinearSum
from onnxprune.compression.blocks import Blocks
from onnxprune.compression.division import HALF_BITS, of_bits
from onnxprune.recovery.editor import Editor
from onnxprune.recovery.reconstruct import Constrained
from onnxprune.recovery.unification import ridged
from onnxprune.types import Array, Indices, Vector

FACTORS = np.linspace(0.3, 1, 29)
"""Scales that are tried, as shares of the one that reaches the largest weight."""
SWEEPS, GAIN = 30, 0.005
"""As in `compression.compensation`."""
TINY = float(np.finfo(np.float16).tiny)


@dataclass(frozen=True, eq=False)
class Coded:
    """A weight as codes and a scale for each block.

    Attributes:
        blocks: weights that share a scale.
        codes: in the shape of the weight.
        scales: (count,), in float16 if that keeps their precision.
    """

    blocks: Blocks
    codes: Array
    scales: Array

    @classmethod
    def of(cls, blocks: Blocks, w: Array, sizes: Array, most: int) -> Coded:
        """The nearest codes of up to `most`, given a scale for each weight that is the same in a block."""
        scales = np.zeros(blocks.count)
        scales[blocks.numbers.ravel()] = sizes.ravel()
        used = scales[scales > 0]
        half = not used.size or (used.min() >= TINY and used.max() <= np.finfo(np.float16).max)
        return cls(blocks, _codes(w, sizes, most), scales.astype(np.float16 if half else np.float32))

    @property
    def values(self) -> Array:
        """The weight that is stored."""
        return self.codes * self.scales[self.blocks.numbers].astype(np.float32)


def _codes(w: Array, sizes: Array, most: float = math.inf) -> Array:
    found: Array = np.clip(np.rint(w / np.where(sizes > 0, sizes, 1)), -most, most) * (sizes > 0)
    return found


def best_sizes(w: Array, numbers: Indices, most: int) -> Array:
    """The scale of each weight with which rounding to codes of up to `most` has the least squared error in its block."""
    flat, count = numbers.ravel(), int(numbers.max()) + 1
    largest = np.zeros(count)
    np.maximum.at(largest, flat, np.abs(w).ravel())
    best, least = np.zeros(count), np.full(count, np.inf)
    for factor in FACTORS:
        sizes = largest * factor / most
        near = _codes(w, sizes[numbers], most) * sizes[numbers]
        error = np.bincount(flat, np.square(w - near).ravel(), count)
        best, least = np.where(error < least, sizes, best), np.minimum(error, least)
    found: Array = best[numbers]
    return found


def nearest(w: Array, blocks: Blocks, most: int) -> Coded:
    """Rounded to nearest, with the best scale of each block."""
    return Coded.of(blocks, w, best_sizes(w.astype(np.float64), blocks.numbers, most), most)


@dataclass(frozen=True, eq=False)
class Layer:
    """The weights of a layer as a matrix.

    Attributes:
        matrix: wanted weights (d, o): y = x @ matrix.
        moments: second moments of the inputs (d, d), positive definite.
        numbers: the block of each weight (d, o), -1 for rows that stay free.
        most: the largest code.
    """

    matrix: Vector
    moments: Vector
    numbers: Indices
    most: int


def compensated(layer: Layer) -> tuple[Vector, Vector]:
    """Weights (d, o) on their grids, near to `matrix` in what the layer computes; and their scales (d, o)."""
    coded = layer.numbers[:, 0] >= 0
    sizes = np.zeros_like(layer.matrix)
    sizes[coded] = best_sizes(layer.matrix[coded], layer.numbers[coded], layer.most)
    found = _passed(layer, coded, sizes)
    return _descended(layer, coded, found, sizes)


def _passed(layer: Layer, coded: Array, sizes: Vector) -> Vector:
    """One pass: rows of large inputs first, those without a grid last."""
    order = np.lexsort((-np.diag(layer.moments), ~coded))
    inverse = np.linalg.inv(layer.moments[np.ix_(order, order)])
    upper = np.linalg.cholesky((inverse + inverse.T) / 2).T
    left, found = layer.matrix[order].copy(), np.empty_like(layer.matrix)
    for k, row in enumerate(order):
        found[row] = _codes(left[k], sizes[row], layer.most) * sizes[row] if coded[row] else left[k]
        left[k + 1 :] -= np.outer(upper[k, k + 1 :], (left[k] - found[row]) / upper[k, k])
    return found


def _descended(layer: Layer, coded: Array, found: Vector, sizes: Vector) -> tuple[Vector, Vector]:
    rows, free = list(_sets(layer.numbers, coded)), np.flatnonzero(~coded)
    error, sizes = math.inf, sizes.copy()
    for _ in range(SWEEPS):
        slope = layer.moments @ (found - layer.matrix)
        before, error = error, float(((found - layer.matrix) * slope).sum())
        if error >= (1 - GAIN) * before:
            break
        for k in np.flatnonzero(coded):
            change = _codes(found[k] - slope[k] / layer.moments[k, k], sizes[k], layer.most) * sizes[k] - found[k]
            found[k] += change
            slope += np.outer(layer.moments[:, k], change)
        for mine in rows:
            codes = _codes(found[mine], sizes[mine])
            inner = layer.moments[np.ix_(mine, mine)]
            curve = (codes * (inner @ codes)).sum(0)
            sizes[mine] -= np.divide((codes * slope[mine]).sum(0), curve, out=np.zeros_like(curve), where=curve > 0)
            codes, sizes[mine] = codes * np.sign(sizes[mine]), np.abs(sizes[mine])
            change = codes * sizes[mine] - found[mine]
            found[mine] += change
            slope += layer.moments[:, mine] @ change
        if len(free):
            found[free] -= np.linalg.solve(layer.moments[np.ix_(free, free)], slope[free])
    return found, sizes


def _sets(numbers: Indices, coded: Array) -> Iterator[Indices]:
    """Rows that share their scales."""
    _, which = np.unique(numbers, axis=0, return_inverse=True)
    for k in range(int(which.max()) + 1):
        mine = np.flatnonzero(which.ravel() == k)
        if coded[mine[0]]:
            yield mine


def on_grids(
    layer: Constrained, grids: Mapping[str, Blocks], most: int, found: dict[str, Coded], bits: int = HALF_BITS
) -> Vector:
    """The weights of a layer as codes, and scales of so many bits, which are also put into `found`: a `Constrain`."""
    numbers = _numbers(layer.site, layer.editor, grids)
    if not (numbers >= 0).any():
        return layer.matrix
    parts = zip(layer.matrix, layer.moments, numbers, strict=True)
    fits = [compensated(Layer(w, ridged(h), n, most)) for w, h, n in parts]
    matrix, sizes = (np.stack([fit[k] for fit in fits]) / layer.scales for k in (0, 1))
    start, whole = 0, matrix.copy()
    for linear in (term.linear for term in layer.site.terms):
        shape = layer.editor.weights[linear.weight].shape
        end = start + linear.matrix(np.broadcast_to(np.float32(0), shape)).shape[1]
        if linear.weight in grids:
            w, own = (linear.stored(x[:, start:end], shape) for x in (matrix, np.abs(sizes)))
            coded = found[linear.weight] = Coded.of(grids[linear.weight], w, of_bits(own, bits), most)
            whole[:, start:end] = linear.matrix(coded.values)
        start = end
    return whole * layer.scales


def _numbers(site: LinearSum, editor: Editor, grids: Mapping[str, Blocks]) -> Indices:
    """The block of each weight of a site (groups, d, o), -1 for those without a grid."""
    parts, before = [], 0
    for name, linear in ((t.linear.weight, t.linear) for t in site.terms):
        blocks = grids.get(name)
        own = np.full(editor.weights[name].shape, -1) if blocks is None else blocks.numbers + before
        before += blocks.count if blocks else 0
        parts.append(linear.matrix(own))
    return np.concatenate(parts, 1)
