# SPDX-License-Identifier: Apache-2.0
"""Matrix products."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from onnxprune.training.converter.call import Call, Op


def gemm(call: Call, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    """Gemm."""
    a = a.t() if call.attribute("transA", 0) else a
    b = b.t() if call.attribute("transB", 0) else b
    alpha, beta = call.attribute("alpha", 1.0), call.attribute("beta", 1.0)
    return a @ b * alpha if c is None else torch.addmm(c, a, b, beta=beta, alpha=alpha)


def fused_matmul(call: Call, a: Tensor, b: Tensor) -> Any:
    """com.microsoft.FusedMatMul: product of optionally transposed matrices, times a factor."""
    if call.attribute("transBatchA", 0) or call.attribute("transBatchB", 0):
        return NotImplemented
    a = a.transpose(-1, -2) if call.attribute("transA", 0) and a.dim() > 1 else a
    b = b.transpose(-1, -2) if call.attribute("transB", 0) and b.dim() > 1 else b
    return torch.matmul(a, b) * call.attribute("alpha", 1.0)


OPS: Mapping[str, Op] = {
    "Gemm": gemm,
    "MatMul": lambda call, a, b: torch.matmul(a, b),
    "com.microsoft.FusedMatMul": fused_matmul,
    "Einsum": lambda call, *operands: torch.einsum(call.text("equation", ""), *operands),
}
