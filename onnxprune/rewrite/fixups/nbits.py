# SPDX-License-Identifier: Apache-2.0
"""Sizes stored by MatMulNBits, and the scales and zero points packed next to its weight."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnxprune.ir.quantization import MATMUL_NBITS, SCALES, WEIGHT, ZERO_POINTS, repacked, unpacked
from onnxprune.rewrite.patch import Fixup, Patch
from onnxprune.types import Array, Mask


def matmul_nbits(patch: Patch) -> None:
    """Update the numbers of input and output channels, and cut packed scales and zero points."""
    shape = patch.cutting.graph.facts[patch.node.inputs[WEIGHT]].cases[0].shape or ()
    rows, blocks = (_all_if_none(patch.mask(WEIGHT, k), shape[k]) for k in (0, 1))
    columns = patch.mask(0, len(patch.cutting.masks(patch.node.inputs[0])) - 1)
    patch.set_attribute("N", int(rows.sum()))
    if columns is not None:
        patch.set_attribute("K", int(columns.sum()))
    scales = patch.cutting.graph.weights.get(patch.node.inputs[SCALES])
    if scales is not None and len(scales.shape) == 1:
        _replace(patch, SCALES, scales.array.reshape(shape[:2])[rows][:, blocks].ravel())
    points = patch.cutting.graph.weights.get(patch.node.inputs[ZERO_POINTS]) if patch.has(ZERO_POINTS) else None
    if points is not None and not points.is_float:
        bits = patch.node.attribute("bits", 4)
        kept = unpacked(points.array.reshape(shape[0], -1), bits, shape[1])[rows][:, blocks]
        packed = repacked(kept, bits)
        _replace(patch, ZERO_POINTS, packed.ravel() if len(points.shape) == 1 else packed)


def _all_if_none(mask: Mask | None, size: int) -> Mask:
    return np.ones(size, bool) if mask is None else mask


def _replace(patch: Patch, operand: int, value: Array) -> None:
    old = patch.cutting.graph.weights[patch.node.inputs[operand]].array
    if not np.array_equal(old, value):
        patch.put(operand, patch.constant(patch.node.inputs[operand], value))


FIXUPS: Mapping[str, Fixup] = {MATMUL_NBITS: matmul_nbits}
