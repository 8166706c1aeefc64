# SPDX-License-Identifier: Apache-2.0
"""The PyTorch implementation of each operator, in one table. Every entry is tested against onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping

from onnxprune.training.converter.call import Op
from onnxprune.training.converter.ops import (
    attention,
    convolution,
    elementwise,
    indexing,
    movement,
    normalization,
    pooling,
    products,
    recurrent,
    reduction,
    resizing,
)
from onnxprune.types import joined

__all__ = ["NUMBERS", "OPS", "PERHAPS_NUMBERS", "SETTINGS"]

OPS: Mapping[str, Op] = joined(
    attention.OPS,
    convolution.OPS,
    elementwise.OPS,
    indexing.OPS,
    movement.OPS,
    normalization.OPS,
    pooling.OPS,
    products.OPS,
    recurrent.OPS,
    reduction.OPS,
    resizing.OPS,
)

REDUCES = [op for op in OPS if op.startswith("Reduce")]
NUMBERS: Mapping[str, frozenset[int]] = {
    **{op: frozenset({1}) for op in ("Reshape", "Split", "Squeeze", "Unsqueeze", "Expand", "Tile", "TopK", "CumSum", "OneHot")},
    **{op: frozenset({1}) for op in ("Trilu", *REDUCES)},
    **{op: frozenset({1, 2, 3, 4}) for op in ("Slice", "Resize", "Upsample", "Pad")},
    "Clip": frozenset({1, 2}),
    "Range": frozenset({0, 1, 2}),
    "ConstantOfShape": frozenset({0}),
}
"""Operands that are passed as numpy arrays: operator -> positions."""

PERHAPS_NUMBERS: Mapping[str, frozenset[int]] = {"Gather": frozenset({1}), "Pow": frozenset({1})}
"""Operands that are passed as numpy arrays if they do not depend on data."""

SETTINGS: Mapping[str, frozenset[int]] = {
    **NUMBERS,
    "Pow": frozenset({1}),
    "BatchNormalization": frozenset({3, 4}),
    "Where": frozenset({0}),
    "OneHot": frozenset({1, 2}),
    "Dropout": frozenset({1, 2}),
    "QuantizeLinear": frozenset({0, 1, 2}),
    "DequantizeLinear": frozenset({0, 1, 2}),
    **{
        op: frozenset({0, 1}) for op in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Mod", "And", "Or", "Xor")
    },
}
"""Operands that configure an operator and are not trainable weights: operator -> positions."""
