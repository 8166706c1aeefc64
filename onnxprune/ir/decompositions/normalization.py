# SPDX-License-Identifier: Apache-2.0
"""Sums fused with normalisations."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from onnxprune.ir.decompositions.chain import MICROSOFT, Chain, Results


def skip_layer_norm(c: Chain) -> Results:
    """LayerNormalization, with scale and shift, of input + skip + bias; the fourth output is the sum."""
    total = c.sum_of(c[0], c[1], c[4])
    y = c("LayerNormalization", total, c[2], c[3], epsilon=c.attribute("epsilon", 1e-12))
    return (y, "", "", total)


def skip_rms_norm(c: Chain) -> Results:
    """RMSNormalization, with scale, of input + skip + bias; the fourth output is the sum."""
    total = c.sum_of(c[0], c[1], c[3])
    return (c("RMSNormalization", total, c[2], epsilon=c.attribute("epsilon", 1e-12)), "", "", total)


def rms_norm(c: Chain) -> Results:
    """onnxruntime's older name for RMSNormalization."""
    return (c("RMSNormalization", c[0], c[1], **c.own("stash_type")), "")


CHAINS: Mapping[str, Callable[[Chain], Results]] = {
    f"{MICROSOFT}.SkipLayerNormalization": skip_layer_norm,
    f"{MICROSOFT}.SkipSimplifiedLayerNormalization": skip_rms_norm,
    "SimplifiedLayerNormalization": rms_norm,
}
