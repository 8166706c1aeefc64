# SPDX-License-Identifier: Apache-2.0
"""Operators that only move elements, or create them from sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from onnxprune.training.converter.call import Call, Op
from onnxprune.training.converter.ops.elementwise import to_torch
from onnxprune.types import Array


def axes_of(call: Call, given: Array | None, rank: int) -> list[int] | None:
    """Axes from an attribute or an input, made non-negative; None if not given."""
    axes = call.attribute("axes") if given is None else given.ravel().tolist()
    return None if axes is None else [int(a) % rank for a in axes]


def split(call: Call, x: Tensor, given: Array | None = None) -> Any:
    """Split by sizes, or into equal parts; the last may be smaller."""
    axis, sizes = call.attribute("axis", 0), call.attribute("split") if given is None else given.tolist()
    if sizes is None:
        parts = call.attribute("num_outputs") or call.outputs
        step = -(-x.shape[axis] // parts)
        sizes = [step] * (x.shape[axis] // step) + ([x.shape[axis] % step] if x.shape[axis] % step else [])
    return torch.split(x, list(sizes), axis)


def slices(call: Call, x: Tensor, *given: Array | None) -> Tensor:
    """Slice with any steps."""
    names = ("starts", "ends", "axes", "steps")
    operands = (*given, None, None, None, None)[:4]
    starts, ends, axes, steps = [
        call.attribute(n) if x is None else x.ravel().tolist() for n, x in zip(names, operands, strict=True)
    ]
    for k, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis, step = (k if axes is None else int(axes[k])) % x.dim(), 1 if steps is None else int(steps[k])
        size = x.shape[axis]
        stop = None if step < 0 and end < -size else int(end)
        if step > 0:
            x = x[(slice(None),) * axis + (slice(int(start), stop, step),)]
        else:
            x = x.index_select(axis, torch.tensor(range(size)[int(start) : stop : step], dtype=torch.long, device=x.device))
    return x


def gather(call: Call, x: Tensor, indices: Any) -> Tensor:
    """Gather; indices known in advance are an array."""
    axis = call.attribute("axis", 0) % x.dim()
    size = x.shape[axis]
    if isinstance(indices, np.ndarray):
        indices = np.where(indices < 0, indices + size, indices)
        if not indices.ndim:
            return x.select(axis, int(indices))
        indices = torch.from_numpy(indices.astype(np.int64)).to(x.device)
    else:
        indices = torch.where(indices < 0, indices + size, indices).long()
    shape = (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
    return x.index_select(axis, indices.reshape(-1)).reshape(shape)


def reshape(call: Call, x: Tensor, shape: Array) -> Tensor:
    """Reshape; 0 keeps a size unless `allowzero`."""
    zero = call.attribute("allowzero", 0)
    return x.reshape([x.shape[k] if n == 0 and not zero else int(n) for k, n in enumerate(shape.tolist())])


def flatten(call: Call, x: Tensor) -> Tensor:
    """Flatten to two axes."""
    axis = call.attribute("axis", 1)
    axis = axis + x.dim() if axis < 0 else axis
    return x.reshape(int(np.prod(x.shape[:axis])), -1)


def squeeze(call: Call, x: Tensor, given: Array | None = None) -> Tensor:
    """Squeeze."""
    axes = axes_of(call, given, x.dim())
    return x.squeeze() if axes is None else x.squeeze(tuple(axes))


def unsqueeze(call: Call, x: Tensor, given: Array | None = None) -> Tensor:
    """Unsqueeze; axes refer to the result."""
    wanted = call.attribute("axes") if given is None else given.ravel().tolist()
    for axis in sorted(a % (x.dim() + len(wanted)) for a in wanted):
        x = x.unsqueeze(axis)
    return x


def expand(call: Call, x: Tensor, shape: Array) -> Tensor:
    """Expand; a size of 1 keeps the tensor's own."""
    return x.expand(np.broadcast_shapes(tuple(x.shape), tuple(shape.tolist())))


def pad(call: Call, x: Tensor, pads: Array | None = None, value: Any = None, given: Array | None = None) -> Any:
    """Pad with a constant, by reflection, with the edge values, or by wrapping around."""
    amounts = call.attribute("pads") if pads is None else pads.tolist()
    constant = call.attribute("value", 0.0) if value is None else value.item()
    axes = axes_of(call, given, x.dim()) or list(range(x.dim()))
    pairs = {axis: (int(amounts[k]), int(amounts[k + len(axes)])) for k, axis in enumerate(axes)}
    mode = call.text("mode", "constant")
    if mode == "constant":
        return F.pad(x, [n for k in reversed(range(x.dim())) for n in pairs.get(k, (0, 0))], value=constant)
    for axis, (before, behind) in pairs.items():
        if before or behind:
            where = np.pad(np.arange(x.shape[axis]), [(max(before, 0), max(behind, 0))], mode)  # type: ignore[call-overload]
            where = where[max(-before, 0) : len(where) - max(-behind, 0)]
            x = x.index_select(axis, torch.from_numpy(where).to(x.device))
    return x


def depth_to_space(call: Call, x: Tensor) -> Tensor:
    """DepthToSpace in either mode."""
    (n, c, h, w), b = x.shape, call.attribute("blocksize")
    if call.text("mode", "DCR") == "DCR":
        x = x.reshape(n, b, b, c // b**2, h, w).permute(0, 3, 4, 1, 5, 2)
    else:
        x = x.reshape(n, c // b**2, b, b, h, w).permute(0, 1, 4, 2, 5, 3)
    return x.reshape(n, c // b**2, h * b, w * b)


def space_to_depth(call: Call, x: Tensor) -> Tensor:
    """SpaceToDepth."""
    (n, c, h, w), b = x.shape, call.attribute("blocksize")
    return x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4).reshape(n, c * b**2, h // b, w // b)


def constant_of_shape(call: Call, shape: Array) -> Tensor:
    """ConstantOfShape."""
    import onnx

    value = call.attribute("value")
    fill = np.zeros(1, np.float32) if value is None else onnx.numpy_helper.to_array(value)
    return to_torch(np.full(shape.tolist(), fill.ravel()[0]))


def between(call: Call, start: Array, limit: Array, delta: Array) -> Tensor:
    """Range."""
    bounds: list[Any] = [start.item(), limit.item(), delta.item()]
    return to_torch(np.arange(*bounds, dtype=start.dtype))


def shape(call: Call, x: Tensor) -> Tensor:
    """Shape, or a part of it."""
    return torch.tensor(x.shape[call.attribute("start", 0) : call.attribute("end")], dtype=torch.long)


def transpose(call: Call, x: Tensor) -> Tensor:
    """Transpose; without `perm` the axes are reversed."""
    return x.permute(call.numbers("perm", range(x.dim())[::-1]))


OPS: Mapping[str, Op] = {
    "Concat": lambda call, *operands: torch.cat(operands, call.attribute("axis")),
    "Split": split,
    "Slice": slices,
    "Gather": gather,
    "Reshape": reshape,
    "Flatten": flatten,
    "Transpose": transpose,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
    "Expand": expand,
    "Tile": lambda call, x, repeats: x.repeat(repeats.tolist()),
    "Pad": pad,
    "DepthToSpace": depth_to_space,
    "SpaceToDepth": space_to_depth,
    "ConstantOfShape": constant_of_shape,
    "Range": between,
    "Shape": shape,
    "Size": lambda call, x: torch.tensor(x.numel()),
}
