# SPDX-License-Identifier: Apache-2.0
"""What every operator does with channels, in one table: operator -> rule. An operator without a rule pins its inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from onnxprune.analysis.rules.attention import attention, rotary
from onnxprune.analysis.rules.axes import (
    REDUCTIONS,
    arg_extreme,
    cumprod,
    cumsum,
    observe,
    reduction,
    resize,
    top_k,
)
from onnxprune.analysis.rules.convolution import convolution, sliding
from onnxprune.analysis.rules.elementwise import BROADCAST, UNARY, cast_like, dropout, elementwise
from onnxprune.analysis.rules.indexing import PICKING, SAMPLING
from onnxprune.analysis.rules.linear_attention import linear_attention
from onnxprune.analysis.rules.movement import MOVES, constant_of_shape, expand, gather, movement
from onnxprune.analysis.rules.nbits import MATMUL_NBITS, matmul_nbits
from onnxprune.analysis.rules.normalization import (
    batch_norm,
    group_norm,
    instance_norm,
    layer_norm,
    lp_norm,
    mean_variance,
    neighbours,
    softmax,
)
from onnxprune.analysis.rules.quantization import PAIR, dynamic, linear
from onnxprune.analysis.rules.recurrent import GATES, recurrent
from onnxprune.analysis.rules.signatures import SIGNATURES, by_signature
from onnxprune.analysis.rules.site import Rule

__all__ = ["RULES", "SOURCES"]


def _table(*parts: tuple[Iterable[str], Rule]) -> Mapping[str, Rule]:
    """Join the parts; an operator that is named twice is a mistake."""
    table: dict[str, Rule] = {}
    for names, rule in parts:
        for name in names:
            if name in table:
                raise ValueError(f"two rules for {name}")
            table[name] = rule
    return table


BY_FUNCTION: Mapping[str, Rule] = {
    "Attention": attention,
    "Conv": sliding,
    "ConvTranspose": convolution,
    "CastLike": cast_like,
    "Gather": gather,
    "Expand": expand,
    "ConstantOfShape": constant_of_shape,
    "Softmax": softmax,
    "LogSoftmax": softmax,
    "Hardmax": softmax,
    "BatchNormalization": batch_norm,
    "GroupNormalization": group_norm,
    "LayerNormalization": layer_norm,
    "RMSNormalization": layer_norm,
    "InstanceNormalization": instance_norm,
    "LRN": neighbours,
    "LinearAttention": linear_attention,
    "LpNormalization": lp_norm,
    "MeanVarianceNormalization": mean_variance,
    "CumProd": cumprod,
    "CumSum": cumsum,
    "Dropout": dropout,
    "DynamicQuantizeLinear": dynamic,
    "ArgMax": arg_extreme,
    "ArgMin": arg_extreme,
    "TopK": top_k,
    "ReduceLogSum": reduction,
    "ReduceLogSumExp": reduction,
    "Resize": resize,
    MATMUL_NBITS: matmul_nbits,
    "RotaryEmbedding": rotary,
    "Upsample": resize,
    "Shape": observe,
    "Size": observe,
}

SOURCES = frozenset({"Expand", "ConstantOfShape"})
"""Operators that make positions of their own, so that their rule runs even where no input has channels."""

RULES: Mapping[str, Rule] = _table(
    *(((op,), by_signature(signature)) for op, signature in SIGNATURES.items() if op not in BY_FUNCTION),
    *(((op,), by_signature(signature)) for op, signature in SAMPLING.items()),
    *(((op,), rule) for op, rule in PICKING.items()),
    (UNARY | BROADCAST, elementwise),
    (MOVES - BY_FUNCTION.keys(), movement),
    (REDUCTIONS, reduction),
    (GATES, recurrent),
    (PAIR, linear),
    *(((op,), rule) for op, rule in BY_FUNCTION.items()),
)
