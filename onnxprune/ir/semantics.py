# SPDX-License-Identifier: Apache-2.0
"""What operators work on: which axes, which statistics, which weights.

Rules, fix-ups, recovery and the converter to PyTorch all use these definitions, so that each is written once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from onnxprune.ir.graph import Node


class Operator(Protocol):
    """A node of a graph, or a call that the converter makes."""

    @property
    def op(self) -> str:
        """The operator with its domain."""

    @property
    def opset(self) -> int:
        """The version of its domain."""

    def attribute(self, name: str, default: Any = None) -> Any:
        """The value of one attribute."""


PRODUCERS = frozenset("Conv ConvTranspose Einsum GRU Gemm LSTM MatMul RNN com.microsoft.MatMulNBits".split())
"""Operators whose weights produce channels: criteria score the rows of these weights."""

BY_CHANNEL = frozenset(
    """
    Relu LeakyRelu PRelu Clip Sigmoid HardSigmoid HardSwish Tanh Elu Selu Celu Softplus Softsign Mish Gelu Swish Erf Exp Sqrt
    Pow Abs Neg Identity Cast Dropout Add Sub Mul Div Min Max Sum Concat GlobalAveragePool AveragePool BatchNormalization
    """.split()
)
"""Operators that run channel by channel and keep the layout [sample, channel, positions]: means pass through them."""


def uses_batch_statistics(node: Node) -> bool:
    """Whether a BatchNormalization uses the statistics of its input, as it does when it standardises weights."""
    return bool(node.attribute("training_mode", 0)) or len([o for o in node.outputs if o]) > 1


def softmax_axes(operator: Operator, rank: int) -> range:
    """The axes over which Softmax, LogSoftmax and Hardmax normalise together: before opset 13, `axis` (default 1) and all after
    it; since then, one axis."""
    new = operator.opset >= 13
    axis = operator.attribute("axis", -1 if new else 1) % max(rank, 1)
    return range(axis, axis + 1 if new else rank)


def mean_variance_axes(operator: Operator, rank: int) -> set[int]:
    """The axes over which MeanVarianceNormalization normalises."""
    return {a % rank for a in operator.attribute("axes", [0, 2, 3])}


def reduced_axes(operator: Operator, rank: int, given: Sequence[int] | None) -> set[int]:
    """The axes that a reduction removes; `given` is the value of its second input, if it has one."""
    axes = operator.attribute("axes") if given is None else given
    if not axes:
        return set() if operator.attribute("noop_with_empty_axes", 0) else set(range(rank))
    return {a % rank for a in axes}


def may_pad(operator: Operator) -> bool:
    """Whether some results of a sliding operator may see less than a full window, or what is not in its operand.

    A transposed convolution always does: its outermost results see only a part of the kernel.
    """
    crops = operator.attribute("coordinate_transformation_mode", b"") in (b"tf_crop_and_resize", "tf_crop_and_resize")
    automatic = operator.attribute("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID", "NOTSET", "VALID")
    pads = any(operator.attribute("pads") or ()) or bool(operator.attribute("ceil_mode", 0))
    return operator.op == "ConvTranspose" or crops or automatic or pads
