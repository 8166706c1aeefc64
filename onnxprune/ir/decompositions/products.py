# SPDX-License-Identifier: Apache-2.0
"""Matrix products fused with the operators before or after them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from onnxprune.ir.decompositions.chain import MICROSOFT, Chain, Results
from onnxprune.ir.decompositions.elementwise import activated


def fused_gemm(c: Chain) -> Results:
    """Gemm followed by an activation."""
    names = ("activation", "activation_alpha", "activation_beta", "activation_gamma")
    params = [c.attribute(name) for name in names[1:] if c.attribute(name) is not None]
    return (activated(c, c("Gemm", c[0], c[1], c[2], **c.own(*names)), c.attribute("activation", b"").decode(), params),)


def fused_matmul(c: Chain) -> Results:
    """MatMul with each side optionally transposed first, and a factor."""
    a, b = (_transposed(c, k, side) for k, side in enumerate("AB"))
    y = c("MatMul", a, b)
    alpha = c.attribute("alpha", 1.0)
    return (y if alpha == 1.0 else c("Mul", y, c.constant(alpha, np.float32)),)


def _transposed(c: Chain, k: int, side: str) -> str:
    """transBatchA moves the first axis of A to just before the last; transA then swaps the last two."""
    batch, rows = c.attribute(f"transBatch{side}", 0), c.attribute(f"trans{side}", 0)
    if not batch and not rows:
        return c[k]
    order = list(range(c.rank(k)))
    if batch and len(order) > 2:
        order = [*order[1:-1], 0, order[-1]]
    if rows and len(order) > 1:
        order = [*order[:-2], order[-1], order[-2]]
    return str(c("Transpose", c[k], perm=order))


CHAINS: Mapping[str, Callable[[Chain], Results]] = {
    f"{MICROSOFT}.FusedGemm": fused_gemm,
    f"{MICROSOFT}.FusedMatMul": fused_matmul,
    f"{MICROSOFT}.TransposeMatMul": fused_matmul,
}
MASKABLE = frozenset({f"{MICROSOFT}.FusedMatMul"})
