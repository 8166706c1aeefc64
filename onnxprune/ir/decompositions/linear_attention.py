# SPDX-License-Identifier: Apache-2.0
"""onnxruntime's LinearAttention and its gates."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from onnxprune.ir.decompositions.chain import MICROSOFT, Chain, Results


def attention_gate(c: Chain) -> Results:
    """Decay and beta for LinearAttention."""
    decay = c("Mul", c[2], c("Softplus", c("Add", c[0], c[1])))
    return (decay, c("Sigmoid", c[3]) if c[3] else "")


def linear_attention(c: Chain) -> Results:
    """ONNX's LinearAttention."""
    return tuple(c("LinearAttention", *(c[k] for k in range(6)), outputs=2, **c.own("state_window", "chunk_size")))


CHAINS: Mapping[str, Callable[[Chain], Results]] = {
    f"{MICROSOFT}.LinearAttention": linear_attention,
    f"{MICROSOFT}.LinearAttentionGate": attention_gate,
}
