# SPDX-License-Identifier: Apache-2.0
"""Sums, means and extrema along axes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from onnxprune.ir.semantics import reduced_axes
from onnxprune.training.converter.call import Call, Op

Reduction = Callable[[Tensor, tuple[int, ...], bool], Tensor]


def product(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    """Product along several axes."""
    for axis in sorted((a % x.dim() for a in axes), reverse=True):
        x = torch.prod(x, axis, keepdim=keep)
    return x


REDUCTIONS: Mapping[str, Reduction] = {
    "ReduceSum": torch.sum,
    "ReduceMean": torch.mean,
    "ReduceMax": torch.amax,
    "ReduceMin": torch.amin,
    "ReduceProd": product,
    "ReduceL1": lambda x, axes, keep: x.abs().sum(axes, keep),
    "ReduceL2": lambda x, axes, keep: torch.linalg.vector_norm(x, 2, axes, keep),
    "ReduceSumSquare": lambda x, axes, keep: (x * x).sum(axes, keep),
    "ReduceLogSum": lambda x, axes, keep: x.sum(axes, keep).log(),
    "ReduceLogSumExp": torch.logsumexp,
}


def reduction(function: Reduction) -> Op:
    """Axes come from an attribute or an input; without them, all axes are reduced, or none."""

    def run(call: Call, x: Tensor, given: Any = None) -> Any:
        axes = sorted(reduced_axes(call, max(x.dim(), 1), None if given is None else given.tolist()))
        if not axes:
            # no axis is reduced, but each element is still squared, or its logarithm taken
            found = function(x.unsqueeze(-1), (-1,), False)
        else:
            found = function(x, tuple(axes), bool(call.attribute("keepdims", 1))) if x.dim() else x
        return found.to(x.dtype)

    return run


def arg_extreme(call: Call, x: Tensor) -> Any:
    """ArgMax and ArgMin: the first or the last position of the extremum."""
    axis, find = int(call.attribute("axis", 0)), torch.argmax if call.op == "ArgMax" else torch.argmin
    if call.attribute("select_last_index", 0):
        return x.shape[axis] - 1 - find(x.flip(axis), axis, keepdim=bool(call.attribute("keepdims", 1)))
    return find(x, axis, keepdim=bool(call.attribute("keepdims", 1)))


def top_k(call: Call, x: Tensor, k: Any) -> tuple[Tensor, Tensor]:
    """TopK."""
    found = torch.topk(
        x, int(k.item()), call.attribute("axis", -1), bool(call.attribute("largest", 1)), bool(call.attribute("sorted", 1))
    )
    return found[0], found[1]


def cumsum(call: Call, x: Tensor, axis: Any) -> Tensor:
    """CumSum, reversed or exclusive of the element itself."""
    k = int(axis.item())
    x = x.flip(k) if call.attribute("reverse", 0) else x
    total = x.cumsum(k).to(x.dtype)
    total = total - x if call.attribute("exclusive", 0) else total
    return total.flip(k) if call.attribute("reverse", 0) else total


OPS: Mapping[str, Op] = {
    **{op: reduction(function) for op, function in REDUCTIONS.items()},
    "ArgMax": arg_extreme,
    "ArgMin": arg_extreme,
    "TopK": top_k,
    "CumSum": cumsum,
}
