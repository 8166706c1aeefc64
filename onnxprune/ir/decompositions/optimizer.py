# SPDX-License-Identifier: Apache-2.0
"""What onnxruntime's optimizer fuses: products with their activations, sums with their normalisations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from onnxprune.ir.decompositions.chain import MICROSOFT, Chain, Results, same


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
    batch, rows = c.attribute(f"transBatch{side}", 0), c.attribute(f"trans{side}", 0)
    if not batch and not rows:
        return c[k]
    order = list(range(c.rank(k)))
    if batch and len(order) > 2:
        order = [*order[1:-1], 0, order[-1]]
    if rows and len(order) > 1:
        order = [*order[:-2], order[-1], order[-2]]
    return str(c("Transpose", c[k], perm=order))


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


OPTIMIZED: Mapping[str, Callable[[Chain], Results]] = {
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
    "SimplifiedLayerNormalization": rms_norm,
}
