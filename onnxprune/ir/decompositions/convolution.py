# SPDX-License-Identifier: Apache-2.0
"""Convolutions fused with the operators after them, and variants that read their input differently."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from onnxprune.ir.decompositions.chain import MICROSOFT, Chain, Results
from onnxprune.ir.decompositions.elementwise import activated


def fused_conv(c: Chain) -> Results:
    """A convolution, plus a branch that is added to it, then an activation."""
    y = c("Conv", c[0], c[1], c[2], **c.own("activation", "activation_params"))
    params = c.attribute("activation_params", [])
    return (activated(c, c.sum_of(y, c[3]), c.attribute("activation", b"").decode(), params),)


def deform_conv(c: Chain) -> Results:
    """A convolution that reads its input at given offsets; with several offset groups, each block of channels has its own."""
    y = c("Conv", c[0], c[1], c[3], **c.own("offset_group"))
    c.parts[-1].metadata_props.add(key="blocks", value=str(c.attribute("offset_group", 1)))
    return (y,)


def conv_with_state(c: Chain) -> Results:
    """ONNX's CausalConvWithState, if channels are the second axis and no other option is set."""
    extras = [a.name for a in c.node.attribute if a.name != "activation" and (a.name, a.i) != ("ndim", 1)]
    if extras or len(c.node.output) > 2:
        return None
    return tuple(c("CausalConvWithState", *(c[k] for k in range(4)), outputs=2, **c.own("ndim")))


def nhwc_max_pool(c: Chain) -> Results:
    """MaxPool with channels last."""
    return (c.channels_last(0, c("MaxPool", c.channels_first(0, c[0]), **c.own())),)


CHAINS: Mapping[str, Callable[[Chain], Results]] = {
    "DeformConv": deform_conv,
    f"{MICROSOFT}.FusedConv": fused_conv,
    f"{MICROSOFT}.CausalConvWithState": conv_with_state,
    f"{MICROSOFT}.NhwcMaxPool": nhwc_max_pool,
}
MASKABLE = frozenset({f"{MICROSOFT}.FusedConv"})
