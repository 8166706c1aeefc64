# SPDX-License-Identifier: Apache-2.0
"""Operators that treat channels as another one does, whatever else they do."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from onnxprune.ir.decompositions.chain import MICROSOFT, Chain, Results, same


def deform_conv(c: Chain) -> Results:
    """A convolution that reads its input at places of its own; with several groups of places, blocks of channels differ."""
    if c.attribute("offset_group", 1) > 1:
        return None
    return (c("Conv", c[0], c[1], c[3], **c.own("offset_group")),)


def scaled_silu(c: Chain) -> Results:
    """Swish of a multiple."""
    return (c("Swish", c("Mul", c[0], c[1] or c.constant(c.attribute("alpha", 1.0), np.float32))),)


def gated_add(c: Chain) -> Results:
    """X + Y * gate."""
    return None if c[3] else (c("Add", c[0], c("Mul", c[1], c[2])),)


def attention_gate(c: Chain) -> Results:
    """Decay and beta for LinearAttention."""
    decay = c("Mul", c[2], c("Softplus", c("Add", c[0], c[1])))
    return (decay, c("Sigmoid", c[3]) if c[3] else "")


def linear_attention(c: Chain) -> Results:
    """ONNX's LinearAttention."""
    return tuple(c("LinearAttention", *(c[k] for k in range(6)), outputs=2, **c.own("state_window", "chunk_size")))


def conv_with_state(c: Chain) -> Results:
    """ONNX's CausalConvWithState, where channels are the second axis and nothing else is asked."""
    extras = [a.name for a in c.node.attribute if a.name != "activation" and (a.name, a.i) != ("ndim", 1)]
    if extras or len(c.node.output) > 2:
        return None
    return tuple(c("CausalConvWithState", *(c[k] for k in range(4)), outputs=2, **c.own("ndim")))


def nhwc_max_pool(c: Chain) -> Results:
    """MaxPool with channels last."""
    return (c.channels_last(0, c("MaxPool", c.channels_first(0, c[0]), **c.own())),)


KIN: Mapping[str, Callable[[Chain], Results]] = {
    "DeformConv": deform_conv,
    f"{MICROSOFT}.CausalConvWithState": conv_with_state,
    f"{MICROSOFT}.GatedAdd": gated_add,
    f"{MICROSOFT}.GatherND": same("GatherND"),
    f"{MICROSOFT}.GridSample": same("GridSample"),
    f"{MICROSOFT}.LinearAttention": linear_attention,
    f"{MICROSOFT}.LinearAttentionGate": attention_gate,
    f"{MICROSOFT}.NhwcMaxPool": nhwc_max_pool,
    f"{MICROSOFT}.ScaledSiLU": scaled_silu,
    f"{MICROSOFT}.Trilu": same("Trilu"),
}
