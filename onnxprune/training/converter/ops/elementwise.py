# SPDX-License-Identifier: Apache-2.0
"""Elementwise operators, with numpy broadcasting."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto
from torch import Tensor
from torch.nn import functional as F

from onnxprune.training.converter.call import Call, Op, plain
from onnxprune.types import Array

HALVES = {TensorProto.FLOAT16: torch.float16, TensorProto.BFLOAT16: torch.bfloat16}
"""Types that are computed in float32; only a Cast to them rounds."""
WIDER = {np.dtype(np.uint16): np.int32, np.dtype(np.uint32): np.int64, np.dtype(np.uint64): np.int64}
"""Types that PyTorch has but barely supports, and what replaces them."""


def to_torch(array: Array) -> Tensor:
    """An array as a tensor, with half precision as float32 and large unsigned integers as signed ones."""
    if array.dtype.kind == "V" or array.dtype.name in ("float16", "bfloat16"):
        array = array.astype(np.float32)
    array = array.astype(WIDER.get(array.dtype, array.dtype))
    return torch.from_numpy(np.array(array, order="C"))  # a writable copy


def half_as_float(array: Array) -> Array:
    """Half precision as float32, everything else unchanged."""
    return array.astype(np.float32) if array.dtype.name in ("float16", "bfloat16") else array


def cast(call: Call, x: Tensor) -> Any:
    """Cast; to half precision it rounds, but returns float32."""
    to = call.attribute("to")
    if to in HALVES:
        return x.to(HALVES[to]).float()
    try:
        return x.to(to_torch(np.zeros(0, onnx.helper.tensor_dtype_to_np_dtype(to))).dtype)
    except TypeError:  # strings and the like
        return NotImplemented


def clip(call: Call, x: Tensor, low: Any = None, high: Any = None) -> Tensor:
    """Clip with bounds as attributes (before opset 11) or as inputs."""
    low = call.attribute("min") if low is None else low.item()
    high = call.attribute("max") if high is None else high.item()
    return x if low is None and high is None else torch.clamp(x, low, high)


def divide(call: Call, a: Tensor, b: Tensor) -> Tensor:
    """Div; quotients of integers are truncated."""
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def power(call: Call, base: Tensor, exponent: Any) -> Tensor:
    """Pow; the result has the type of the base."""
    if isinstance(exponent, np.ndarray):
        exponent = exponent.item() if exponent.size == 1 and exponent.ndim <= base.dim() else to_torch(exponent).to(base.device)
    return torch.pow(base, exponent).to(base.dtype)


def prelu(call: Call, x: Tensor, slope: Tensor) -> Tensor:
    """PRelu; the slope broadcasts."""
    return torch.where(x < 0, slope * x, x)


def gelu(call: Call, x: Tensor) -> Tensor:
    """Gelu, exact or approximated by tanh."""
    return F.gelu(x, approximate=call.text("approximate", "none"))


def infinite(call: Call, x: Tensor) -> Tensor:
    """IsInf, for both signs or one of them."""
    up, down = call.attribute("detect_positive", 1), call.attribute("detect_negative", 1)
    return (torch.isposinf(x) & bool(up)) | (torch.isneginf(x) & bool(down))


def shrink(call: Call, x: Tensor) -> Tensor:
    """Shrink."""
    bias, limit = call.attribute("bias", 0.0), call.attribute("lambd", 0.5)
    return torch.where(x < -limit, x + bias, torch.where(x > limit, x - bias, torch.zeros_like(x)))


def selu(call: Call, x: Tensor) -> Tensor:
    """Selu with any constants."""
    alpha, gamma = call.attribute("alpha", 1.6732632423543772), call.attribute("gamma", 1.0507009873554805)
    return torch.where(x > 0, gamma * x, gamma * alpha * torch.expm1(x.clamp(max=0)))


def shift(call: Call, a: Tensor, b: Tensor) -> Tensor:
    """BitShift."""
    return a << b if call.text("direction", "LEFT") == "LEFT" else a >> b


def dropout(call: Call, x: Tensor, *_: Any) -> Any:
    """Dropout at inference: nothing is dropped."""
    return x if call.used == 1 else (x, torch.ones_like(x, dtype=torch.bool))


def folded(function: Callable[[Any, Any], Any]) -> Op:
    """A binary operator, applied to any number of operands."""
    return lambda call, *operands: reduce(function, operands)


def mean(call: Call, *operands: Tensor) -> Tensor:
    """The mean of any number of operands."""
    return reduce(torch.add, operands) / len(operands)


def swish(call: Call, x: Tensor) -> Tensor:
    """Swish with a factor."""
    return x * torch.sigmoid(call.attribute("alpha", 1.0) * x)


PLAIN: Mapping[str, Callable[..., Any]] = {
    "Abs": torch.abs, "Acos": torch.acos, "Acosh": torch.acosh, "Asin": torch.asin, "Asinh": torch.asinh, "Atan": torch.atan,
    "Atanh": torch.atanh, "Ceil": torch.ceil, "Cos": torch.cos, "Cosh": torch.cosh, "Erf": torch.erf, "Exp": torch.exp,
    "Floor": torch.floor, "Identity": lambda x: x, "Log": torch.log, "Mish": F.mish, "Neg": torch.neg,
    "Reciprocal": torch.reciprocal, "Relu": torch.relu, "Round": torch.round, "Sigmoid": torch.sigmoid, "Sign": torch.sign,
    "Sin": torch.sin, "Sinh": torch.sinh, "Softplus": F.softplus, "Softsign": F.softsign, "Sqrt": torch.sqrt, "Tan": torch.tan,
    "Tanh": torch.tanh, "HardSwish": F.hardswish, "Not": torch.logical_not, "IsNaN": torch.isnan,
    "BitwiseNot": torch.bitwise_not, "Add": torch.add, "Sub": torch.sub, "Mul": torch.mul, "Equal": torch.eq,
    "Greater": torch.gt, "GreaterOrEqual": torch.ge, "Less": torch.lt, "LessOrEqual": torch.le, "And": torch.logical_and,
    "Or": torch.logical_or, "Xor": torch.logical_xor, "Where": torch.where, "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or, "BitwiseXor": torch.bitwise_xor, "CastLike": lambda x, like: x.to(like.dtype),
}  # fmt: skip

OPS: Mapping[str, Op] = {
    **{op: plain(function) for op, function in PLAIN.items()},
    "Cast": cast,
    "Clip": clip,
    "Div": divide,
    "Pow": power,
    "Mod": lambda call, a, b: torch.fmod(a, b) if call.attribute("fmod", 0) else torch.remainder(a, b),
    "PRelu": prelu,
    "Gelu": gelu,
    "Swish": swish,
    "IsInf": infinite,
    "Celu": lambda call, x: F.celu(x, call.attribute("alpha", 1.0)),
    "Elu": lambda call, x: F.elu(x, call.attribute("alpha", 1.0)),
    "HardSigmoid": lambda call, x: torch.clamp(call.attribute("alpha", 0.2) * x + call.attribute("beta", 0.5), 0, 1),
    "LeakyRelu": lambda call, x: F.leaky_relu(x, call.attribute("alpha", 0.01)),
    "Selu": selu,
    "Shrink": shrink,
    "ThresholdedRelu": lambda call, x: torch.where(x > call.attribute("alpha", 1.0), x, torch.zeros_like(x)),
    "Dropout": dropout,
    "Max": folded(torch.maximum),
    "Min": folded(torch.minimum),
    "Sum": folded(torch.add),
    "Mean": mean,
    "BitShift": shift,
}
