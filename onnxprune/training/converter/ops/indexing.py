# SPDX-License-Identifier: Apache-2.0
"""Operators that pick or place elements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from onnxprune.training.converter.call import Call, Op
from onnxprune.types import Array


def gather_elements(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    """GatherElements."""
    axis = call.attribute("axis", 0)
    return torch.gather(x, axis, torch.where(indices < 0, indices + x.shape[axis], indices).long())


def gather_nd(call: Call, x: Tensor, indices: Tensor) -> Any:
    """GatherND without batch axes."""
    return NotImplemented if call.attribute("batch_dims", 0) else x[tuple(indices.long().unbind(-1))]


def scatter_nd(call: Call, x: Tensor, indices: Tensor, updates: Tensor) -> Any:
    """ScatterND that replaces or adds."""
    how = call.text("reduction", "none")
    return x.index_put(tuple(indices.long().unbind(-1)), updates, how == "add") if how in ("none", "add") else NotImplemented


def scatter_elements(call: Call, x: Tensor, indices: Tensor, updates: Tensor) -> Any:
    """ScatterElements that replaces or adds."""
    axis, how = call.attribute("axis", 0), call.text("reduction", "none")
    indices = torch.where(indices < 0, indices + x.shape[axis], indices).long()
    if how == "none":
        return x.scatter(axis, indices, updates)
    return x.scatter_add(axis, indices, updates) if how == "add" else NotImplemented


def one_hot(call: Call, indices: Tensor, depth: Array, values: Tensor) -> Tensor:
    """OneHot."""
    n, axis = int(depth.item()), call.attribute("axis", -1)
    axis = axis + indices.dim() + 1 if axis < 0 else axis
    places = torch.arange(n, device=indices.device).reshape([-1 if k == axis else 1 for k in range(indices.dim() + 1)])
    indices = indices.long().unsqueeze(axis)
    return torch.where(torch.where(indices < 0, indices + n, indices) == places, values[1], values[0])


def triangle(call: Call, x: Tensor, k: Array | None = None) -> Tensor:
    """Trilu."""
    return (torch.triu if call.attribute("upper", 1) else torch.tril)(x, 0 if k is None else int(k.item()))


OPS: Mapping[str, Op] = {
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "ScatterND": scatter_nd,
    "ScatterElements": scatter_elements,
    "OneHot": one_hot,
    "Trilu": triangle,
}
