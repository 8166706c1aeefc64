# SPDX-License-Identifier: Apache-2.0
"""Fused activations, sums and element-wise products."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from onnxprune.ir.decompositions.chain import MICROSOFT, Chain, Results, same

PARAMETERS = {"LeakyRelu": ("alpha",), "HardSigmoid": ("alpha", "beta"), "ThresholdedRelu": ("alpha",), "Elu": ("alpha",)}


def activated(c: Chain, x: str, op: str, params: list[float]) -> str:
    """`x` after an activation; `x` itself if `op` is empty."""
    if op == "Clip":
        return str(c("Clip", x, *(c.constant(v, np.float32) for v in params)))
    named: dict[str, Any] = dict(zip(PARAMETERS.get(op, ()), params, strict=False))
    return str(c(op, x, **named)) if op else x


def bias_gelu(c: Chain) -> Results:
    """Gelu of a sum."""
    return (c("Gelu", c.sum_of(c[0], c[1])),)


def fast_gelu(c: Chain) -> Results:
    """Gelu of a sum, with the tanh approximation."""
    return (c("Gelu", c.sum_of(c[0], c[1]), approximate="tanh"),)


def quick_gelu(c: Chain) -> Results:
    """x * sigmoid(alpha x)."""
    return (c("Swish", c[0], alpha=c.attribute("alpha", 1.702)),)


def scaled_silu(c: Chain) -> Results:
    """Swish of a scaled input."""
    return (c("Swish", c("Mul", c[0], c[1] or c.constant(c.attribute("alpha", 1.0), np.float32))),)


def gated_add(c: Chain) -> Results:
    """X + Y * gate."""
    return None if c[3] else (c("Add", c[0], c("Mul", c[1], c[2])),)


CHAINS: Mapping[str, Callable[[Chain], Results]] = {
    f"{MICROSOFT}.Gelu": same("Gelu"),
    f"{MICROSOFT}.BiasGelu": bias_gelu,
    f"{MICROSOFT}.FastGelu": fast_gelu,
    f"{MICROSOFT}.QuickGelu": quick_gelu,
    f"{MICROSOFT}.ScaledSiLU": scaled_silu,
    f"{MICROSOFT}.GatedAdd": gated_add,
}
