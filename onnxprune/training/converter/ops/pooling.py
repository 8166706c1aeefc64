# SPDX-License-Identifier: Apache-2.0
"""Pooling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from onnxprune.training.converter.call import Call, Op
from onnxprune.training.converter.ops.convolution import padded, window

MAXIMA: Mapping[int, Any] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
MEANS: Mapping[int, Any] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def overhang(
    call: Call, sizes: Sequence[int], kernel: Sequence[int], before: Sequence[int], behind: Sequence[int]
) -> list[int]:
    """How far the last windows extend beyond the padding with `ceil_mode`; a window must start before the end padding."""
    strides, dilations = call.numbers("strides", [1] * len(sizes)), call.numbers("dilations", [1] * len(sizes))
    found = []
    for n, k, s, d, a, b in zip(sizes, kernel, strides, dilations, before, behind, strict=True):
        span = (k - 1) * d + 1
        last = -(-(n + a + b - span) // s) if call.attribute("ceil_mode", 0) else (n + a + b - span) // s
        last -= last * s >= n + a
        found.append(max(last * s + span - (n + a + b), 0))
    return found


def max_pool(call: Call, x: Tensor) -> Any:
    """MaxPool; indices, if used, refer to the flattened tensor."""
    kernel, ceil = call.attribute("kernel_shape"), bool(call.attribute("ceil_mode", 0))
    strides, dilations, before, behind = window(call, x.shape[2:], kernel)
    even = before == behind and all(2 * n <= k for n, k in zip(before, kernel, strict=True))
    if not x.is_floating_point() or call.attribute("storage_order", 0) or (call.used > 1 and not even):
        return NotImplemented
    if not even:
        more = overhang(call, x.shape[2:], kernel, before, behind)
        x = padded(x, before, [n + m for n, m in zip(behind, more, strict=True)], float("-inf"))
        before, ceil = [0] * len(before), False
    found = MAXIMA[len(kernel)](x, kernel, strides, before, dilations, ceil, call.used > 1)
    if call.used == 1:
        return found
    planes = torch.arange(x.shape[0] * x.shape[1], device=x.device) * x[0, 0].numel()
    return found[0], found[1] + planes.reshape(*x.shape[:2], *[1] * len(kernel))


def average_pool(call: Call, x: Tensor) -> Any:
    """AveragePool, with the padding counted or not."""
    kernel, counted = call.attribute("kernel_shape"), bool(call.attribute("count_include_pad", 0))
    strides, dilations, before, behind = window(call, x.shape[2:], kernel)
    pool = MEANS[len(kernel)]
    if any(d > 1 for d in dilations):
        return NotImplemented
    if before == behind and all(2 * n <= k for n, k in zip(before, kernel, strict=True)):
        return pool(x, kernel, strides, before, bool(call.attribute("ceil_mode", 0)), counted)
    more, none = overhang(call, x.shape[2:], kernel, before, behind), [0] * len(kernel)
    share = padded(padded(torch.ones_like(x[:1, :1]), before, behind, float(counted)), none, more)
    return pool(padded(padded(x, before, behind), none, more), kernel, strides) / pool(share, kernel, strides)


def lp_pool(call: Call, x: Tensor) -> Any:
    """LpPool."""
    kernel = call.attribute("kernel_shape")
    strides, dilations, before, behind = window(call, x.shape[2:], kernel)
    if any(d > 1 for d in dilations) or call.attribute("ceil_mode", 0):
        return NotImplemented
    x = padded(x, before, behind)
    for axis, (k, s) in enumerate(zip(kernel, strides, strict=True), 2):
        x = x.unfold(axis, k, s)
    return torch.linalg.vector_norm(x, call.attribute("p", 2), dim=tuple(range(-len(kernel), 0)))


def spatial(x: Tensor) -> tuple[int, ...]:
    """All axes but batch and channels."""
    return tuple(range(2, x.dim()))


OPS: Mapping[str, Op] = {
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "LpPool": lp_pool,
    "GlobalAveragePool": lambda call, x: x.mean(spatial(x), keepdim=True),
    "GlobalMaxPool": lambda call, x: x.amax(spatial(x), keepdim=True),
    "GlobalLpPool": lambda call, x: torch.linalg.vector_norm(x, call.attribute("p", 2), dim=spatial(x), keepdim=True),
}
