# SPDX-License-Identifier: Apache-2.0
"""Fused operators: the ONNX operators that one node of onnxruntime's optimizer or quantizer stands for.

The analysis looks at these parts; the node itself stays in the file. So a fused operator needs no rule of its own: what is
known of its parts (shapes, values, ties) holds for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto

MICROSOFT = "com.microsoft"


@dataclass(frozen=True, slots=True)
class Chain:
    """The parts of one node, as they are put down.

    Attributes:
        node: the fused node.
        shape: the shape of one of its inputs, if it is known.
        parts: nodes of the newest opset, in topological order.
    """

    node: NodeProto
    shape: Callable[[str], tuple[int, ...] | None]
    parts: list[NodeProto] = field(default_factory=list)

    def __getitem__(self, k: int) -> str:
        """The name of input `k`; empty for one that is left out."""
        return self.node.input[k] if k < len(self.node.input) else ""

    def __call__(self, op: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes: Any) -> Any:
        """Add a part; returns the name of its output, or of each of its outputs."""
        stem = f"{self.node.output[0] or self.node.name} ({op} {len(self.parts)}"
        names = [f"{stem}.{k})" for k in range(outputs)]
        given = {k: v for k, v in attributes.items() if v is not None}
        self.parts.append(onnx.helper.make_node(op, inputs, names, domain=domain, **given))
        return names[0] if outputs == 1 else names

    def attribute(self, name: str, default: Any = None) -> Any:
        """The value of an attribute of the fused node."""
        for a in self.node.attribute:
            if a.name == name:
                return onnx.helper.get_attribute_value(a)
        return default

    def own(self, *without: str) -> dict[str, Any]:
        """All attributes of the fused node but some."""
        return {a.name: onnx.helper.get_attribute_value(a) for a in self.node.attribute if a.name not in without}

    def constant(self, value: Any, kind: Any = np.int64) -> str:
        """A stored tensor."""
        return str(self("Constant", value=onnx.numpy_helper.from_array(np.array(value, kind))))

    def sum_of(self, *terms: str) -> str:
        """The sum of those tensors that are given."""
        first, *others = [t for t in terms if t]
        for other in others:
            first = self("Add", first, other)
        return first

    def rank(self, k: int) -> int:
        """The rank of input `k`; 0 where it is unknown."""
        return len(self.shape(self[k]) or ())


Results = tuple[str, ...] | None
"""The names that stand for the node's outputs, "" for one that the parts do not tell; None where they tell nothing."""


def fused_conv(c: Chain) -> Results:
    """A convolution, the branch that is added to it, an activation."""
    y = c("Conv", c[0], c[1], c[2], **c.own("activation", "activation_params"))
    params = c.attribute("activation_params", [])
    return (_activated(c, c.sum_of(y, c[3]), c.attribute("activation", b"").decode(), params),)


def fused_gemm(c: Chain) -> Results:
    """Gemm and an activation."""
    names = ("activation", "activation_alpha", "activation_beta", "activation_gamma")
    params = [c.attribute(name) for name in names[1:] if c.attribute(name) is not None]
    return (_activated(c, c("Gemm", c[0], c[1], c[2], **c.own(*names)), c.attribute("activation", b"").decode(), params),)


PARAMETERS = {"LeakyRelu": ("alpha",), "HardSigmoid": ("alpha", "beta"), "ThresholdedRelu": ("alpha",), "Elu": ("alpha",)}


def _activated(c: Chain, x: str, op: str, params: list[float]) -> str:
    if op == "Clip":
        return str(c("Clip", x, *(c.constant(v, np.float32) for v in params)))
    named: dict[str, Any] = dict(zip(PARAMETERS.get(op, ()), params, strict=False))
    return str(c(op, x, **named)) if op else x


def fused_matmul(c: Chain) -> Results:
    """MatMul with either side transposed first, and a factor."""
    a, b = (_turned(c, k, side) for k, side in enumerate("AB"))
    y = c("MatMul", a, b)
    alpha = c.attribute("alpha", 1.0)
    return (y if alpha == 1.0 else c("Mul", y, c.constant(alpha, np.float32)),)


def _turned(c: Chain, k: int, side: str) -> str:
    """transBatchA moves the first axis of A behind the others but the last; transA then swaps the last two."""
    rank = c.rank(k)
    order = list(range(rank))
    if c.attribute(f"transBatch{side}", 0) and rank > 2:
        order = [*order[1:-1], 0, order[-1]]
    if c.attribute(f"trans{side}", 0) and rank > 1:
        order = [*order[:-2], order[-1], order[-2]]
    return c[k] if order == sorted(order) else str(c("Transpose", c[k], perm=order))


def bias_gelu(c: Chain) -> Results:
    """Gelu of a sum."""
    return (c("Gelu", c.sum_of(c[0], c[1])),)


def fast_gelu(c: Chain) -> Results:
    """Gelu by tanh, of a sum."""
    return (c("Gelu", c.sum_of(c[0], c[1]), approximate="tanh"),)


def quick_gelu(c: Chain) -> Results:
    """x * sigmoid(alpha x)."""
    return (c("Swish", c[0], alpha=c.attribute("alpha", 1.702)),)


def skip_layer_norm(c: Chain) -> Results:
    """Input, skip and bias are added, and normalised with scale and shift; the fourth output is the sum."""
    total = c.sum_of(c[0], c[1], c[4])
    y = c("LayerNormalization", total, c[2], c[3], epsilon=c.attribute("epsilon", 1e-12))
    return (y, "", "", total)


def skip_rms_norm(c: Chain) -> Results:
    """The same with the root mean square."""
    total = c.sum_of(c[0], c[1], c[3])
    return (c("RMSNormalization", total, c[2], epsilon=c.attribute("epsilon", 1e-12)), "", "", total)


def rms_norm(c: Chain) -> Results:
    """onnxruntime's older name of RMSNormalization."""
    return (c("RMSNormalization", c[0], c[1], **c.own("stash_type")), "")


def scaled_silu(c: Chain) -> Results:
    """Swish of a multiple."""
    return (c("Swish", c("Mul", c[0], c[1] or c.constant(c.attribute("alpha", 1.0), np.float32))),)


def gated_add(c: Chain) -> Results:
    """X + Y * gate."""
    return None if c[3] else (c("Add", c[0], c("Mul", c[1], c[2])),)


def same(op: str) -> Callable[[Chain], Results]:
    """The operator of ONNX with the same inputs and attributes."""

    def chain(c: Chain) -> Results:
        results = c(op, *c.node.input, outputs=len(c.node.output), **c.own())
        return (results,) if isinstance(results, str) else tuple(results)

    return chain


CHAINS: Mapping[str, Callable[[Chain], Results]] = {
    f"{MICROSOFT}.FusedConv": fused_conv,
    f"{MICROSOFT}.FusedGemm": fused_gemm,
    f"{MICROSOFT}.FusedMatMul": fused_matmul,
    f"{MICROSOFT}.TransposeMatMul": fused_matmul,
    f"{MICROSOFT}.Gelu": same("Gelu"),
    f"{MICROSOFT}.BiasGelu": bias_gelu,
    f"{MICROSOFT}.FastGelu": fast_gelu,
    f"{MICROSOFT}.QuickGelu": quick_gelu,
    f"{MICROSOFT}.SkipLayerNormalization": skip_layer_norm,
    f"{MICROSOFT}.SkipSimplifiedLayerNormalization": skip_rms_norm,
    f"{MICROSOFT}.ScaledSiLU": scaled_silu,
    f"{MICROSOFT}.GatedAdd": gated_add,
    "SimplifiedLayerNormalization": rms_norm,
}


def key(node: NodeProto) -> str:
    """Operator with its domain, the way rules are named."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    return f"{domain}.{node.op_type}" if domain else str(node.op_type)


def parts_of(node: NodeProto, shape: Callable[[str], tuple[int, ...] | None]) -> list[NodeProto]:
    """The nodes that a fused node stands for; none where it stands for itself."""
    if key(node) not in CHAINS:
        return []
    chain = Chain(node, shape)
    results = CHAINS[key(node)](chain)
    if results is None:
        return []
    for name, result in zip(node.output, results, strict=False):
        if name and result:
            _rename(chain, result, name)
    return chain.parts


def _rename(chain: Chain, old: str, new: str) -> None:
    """Let the parts call a result by the name of the node's output."""
    for part in chain.parts:
        for names in (part.input, part.output):
            for k, name in enumerate(names):
                if name == old:
                    names[k] = new
