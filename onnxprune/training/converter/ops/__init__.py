# SPDX-License-Identifier: Apache-2.0
"""What each operator computes, in PyTorch: one table. Every entry is tested against onnxruntime."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from onnxprune.training.converter.call import Op
from onnxprune.training.converter.ops import attention, movement, pooling, products, recurrent, resizing
from onnxprune.training.converter.ops import elementwise as pointwise
from onnxprune.training.converter.ops import reduction as reductions

__all__ = ["NUMBERS", "OPS", "PERHAPS_NUMBERS", "SETTINGS"]

PARTS = (pointwise, products, pooling, reductions, movement, resizing, recurrent, attention)


def _table() -> Iterator[tuple[str, Op]]:
    seen: set[str] = set()
    for part in PARTS:
        twice = seen & part.OPS.keys()
        if twice:
            raise ValueError(f"defined twice: {sorted(twice)}")
        seen |= part.OPS.keys()
        yield from part.OPS.items()


OPS: Mapping[str, Op] = dict(_table())

REDUCES = [op for op in OPS if op.startswith("Reduce")]
NUMBERS: Mapping[str, frozenset[int]] = {
    **{op: frozenset({1}) for op in ("Reshape", "Split", "Squeeze", "Unsqueeze", "Expand", "Tile", "TopK", "CumSum", "OneHot")},
    **{op: frozenset({1}) for op in ("Trilu", *REDUCES)},
    **{op: frozenset({1, 2, 3, 4}) for op in ("Slice", "Resize", "Upsample", "Pad")},
    "Clip": frozenset({1, 2}),
    "Range": frozenset({0, 1, 2}),
    "ConstantOfShape": frozenset({0}),
}
"""Operands that are read as numbers: operator -> positions."""

PERHAPS_NUMBERS: Mapping[str, frozenset[int]] = {"Gather": frozenset({1}), "Pow": frozenset({1})}
"""Operands that are read as numbers where they do not depend on data."""

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
"""Operands that set how an operator works, and are no weights to train: operator -> positions."""
