# SPDX-License-Identifier: Apache-2.0
"""Operators that onnxruntime's quantizer writes: they work on integers, each with a scale and a zero point.

Such an operator is the floating-point operator between a DequantizeLinear for every operand and a QuantizeLinear.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from onnx import TensorProto

from onnxprune.ir.decompositions.chain import MICROSOFT, Chain, Results, same


def read(c: Chain, k: int, axis: int = 0) -> str:
    """Operand `k`, dequantized; its scale and zero point are the next two operands."""
    return str(c("DequantizeLinear", c[k], c[k + 1], c[k + 2], axis=axis))


def written(c: Chain, x: str, k: int) -> str:
    """`x`, quantized; operand `k` is the scale, the next one the zero point."""
    return str(c("QuantizeLinear", x, c[k], c[k + 1]))


def bias(c: Chain, k: int, scales: tuple[int, int]) -> str:
    """A dequantized bias; its scale is the product of the scales of data and weight."""
    if not c[k]:
        return ""
    return str(c("DequantizeLinear", c[k], c("Mul", c[scales[0]], c[scales[1]]), axis=0))


def qlinear_conv(c: Chain) -> Results:
    """Convolution; with `channels_last`, channels are the last axis of the data."""
    x, w, b = read(c, 0), read(c, 3), bias(c, 8, (1, 4))
    last = c.attribute("channels_last", 0)
    y = c("Conv", c.channels_first(0, x) if last else x, w, b, **c.own("channels_last"))
    return (written(c, c.channels_last(0, y) if last else y, 6),)


def qlinear_matmul(c: Chain) -> Results:
    """MatMul; scales are per tensor, per row of the left side, or per column of the right side."""
    if c.rank(1) > 1 or c.rank(4) > 1:
        return None
    return (written(c, c("MatMul", read(c, 0, -2), read(c, 3, -1)), 6),)


def conv_integer(c: Chain) -> Results:
    """Convolution of integers without scales; the result is also integer."""
    one = c.constant(1.0, np.float32)
    x, w = c("DequantizeLinear", c[0], one, c[2]), c("DequantizeLinear", c[1], one, c[3], axis=0)
    return (c("Cast", c("Conv", x, w, **c.own()), to=TensorProto.INT32),)


def matmul_integer(c: Chain) -> Results:
    """MatMul of integers without scales; the result is also integer."""
    one = c.constant(1.0, np.float32)
    a, b = c("DequantizeLinear", c[0], one, c[2], axis=-2), c("DequantizeLinear", c[1], one, c[3], axis=-1)
    return (c("Cast", c("MatMul", a, b), to=TensorProto.INT32),)


def qgemm(c: Chain) -> Results:
    """Gemm; the result is integer if its scale is given."""
    b = read(c, 3, 0 if c.attribute("transB", 0) else 1)
    y = c("Gemm", read(c, 0), b, bias(c, 6, (1, 4)), **c.own())
    return (written(c, y, 7) if c[7] else y,)


def matmul_integer_to_float(c: Chain) -> Results:
    """MatMul of integers, plus a floating-point bias."""
    a = c("DequantizeLinear", c[0], c[2], c[4], axis=-2)
    b = c("DequantizeLinear", c[1], c[3], c[5], axis=-1)
    return (c.sum_of(c("MatMul", a, b), c[6]),)


def dynamic_quantize_matmul(c: Chain) -> Results:
    """MatMul of floating-point data, which is quantized first, with an integer weight."""
    q, scale, point = c("DynamicQuantizeLinear", c[0], outputs=3)
    b = c("DequantizeLinear", c[1], c[2], c[3], axis=-1)
    return (c.sum_of(c("MatMul", c("DequantizeLinear", q, scale, point), b), c[4]),)


def on_two(op: str) -> Callable[[Chain], Results]:
    """An element-wise operator on two operands."""
    return lambda c: (written(c, c(op, read(c, 0), read(c, 3)), 6),)


def on_one(op: str, *without: str) -> Callable[[Chain], Results]:
    """An operator on one operand, with the same attributes."""
    return lambda c: (written(c, c(op, read(c, 0), **c.own(*without)), 3),)


def pool(op: str) -> Callable[[Chain], Results]:
    """A pooling operator; channels may be the last axis."""

    def chain(c: Chain) -> Results:
        x, last = read(c, 0), c.attribute("channels_last", 0)
        y = c(op, c.channels_first(0, x) if last else x, **c.own("channels_last"))
        return (written(c, c.channels_last(0, y) if last else y, 3),)

    return chain


def qlinear_softmax(c: Chain) -> Results:
    """Softmax over one axis; before opset 13, over that axis and all after it."""
    axis = c.attribute("axis", -1)
    if c.attribute("opset", 13) < 13 and axis % c.rank(0) != c.rank(0) - 1:
        return None
    return (written(c, c("Softmax", read(c, 0), axis=axis), 3),)


def qlinear_concat(c: Chain) -> Results:
    """Concatenation of tensors with different scales."""
    parts: list[Any] = [read(c, k) for k in range(2, len(c.node.input), 3)]
    return (written(c, c("Concat", *parts, **c.own()), 0),)


def qlinear_where(c: Chain) -> Results:
    """Where; the condition is not quantized."""
    return (written(c, c("Where", c[0], read(c, 1), read(c, 4)), 7),)


CHAINS: Mapping[str, Callable[[Chain], Results]] = {
    "ConvInteger": conv_integer,
    "MatMulInteger": matmul_integer,
    "QLinearConv": qlinear_conv,
    "QLinearMatMul": qlinear_matmul,
    f"{MICROSOFT}.QLinearConv": qlinear_conv,
    f"{MICROSOFT}.QGemm": qgemm,
    f"{MICROSOFT}.MatMulIntegerToFloat": matmul_integer_to_float,
    f"{MICROSOFT}.DynamicQuantizeMatMul": dynamic_quantize_matmul,
    f"{MICROSOFT}.QLinearAdd": on_two("Add"),
    f"{MICROSOFT}.QLinearMul": on_two("Mul"),
    f"{MICROSOFT}.QLinearSigmoid": on_one("Sigmoid"),
    f"{MICROSOFT}.QLinearLeakyRelu": on_one("LeakyRelu"),
    f"{MICROSOFT}.QLinearSoftmax": qlinear_softmax,
    f"{MICROSOFT}.QLinearAveragePool": pool("AveragePool"),
    f"{MICROSOFT}.QLinearGlobalAveragePool": pool("GlobalAveragePool"),
    f"{MICROSOFT}.QLinearConcat": qlinear_concat,
    f"{MICROSOFT}.QLinearWhere": qlinear_where,
    f"{MICROSOFT}.QuantizeLinear": same("QuantizeLinear"),
    f"{MICROSOFT}.DequantizeLinear": same("DequantizeLinear"),
}
MASKABLE = frozenset(
    {
        "ConvInteger",
        "MatMulInteger",
        f"{MICROSOFT}.DequantizeLinear",
        f"{MICROSOFT}.DynamicQuantizeMatMul",
        f"{MICROSOFT}.MatMulIntegerToFloat",
    }
)
MASKABLE_INTEGERS = MASKABLE | {"QLinearConv", "QLinearMatMul", f"{MICROSOFT}.QLinearConv", f"{MICROSOFT}.QGemm"}
"""Operators that read integers as weights, which are masked with the integers that mean zero."""
