# SPDX-License-Identifier: Apache-2.0
"""Normalisations and softmax."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from onnxprune.ir.semantics import softmax_axes
from onnxprune.training.converter.call import Call, Op


def along(function: Callable[[Tensor, int], Tensor]) -> Op:
    """Softmax and related operators; before opset 13, all axes from the given one on are flattened."""

    def run(call: Call, x: Tensor) -> Tensor:
        axes = softmax_axes(call, x.dim())
        if len(axes) == 1:
            return function(x, axes.start)
        return function(x.flatten(axes.start), axes.start).reshape(x.shape)

    return run


def hardmax(x: Tensor, axis: int) -> Tensor:
    """One at the first maximum, zero elsewhere."""
    return torch.zeros_like(x).scatter(axis, x.argmax(axis, keepdim=True), 1.0)


def lp_normalization(call: Call, x: Tensor) -> Tensor:
    """LpNormalization; a vector of zeros stays zero."""
    norm = torch.linalg.vector_norm(x, call.attribute("p", 2), call.attribute("axis", -1), True)
    return x / torch.where(norm == 0, torch.ones_like(norm), norm)


def layer_norm(call: Call, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Any:
    """LayerNormalization and RMSNormalization; scale and bias may broadcast."""
    axis, epsilon = call.attribute("axis", -1) % x.dim(), call.attribute("epsilon", 1e-5)
    shape = list(x.shape[axis:])
    root = call.op != "LayerNormalization"
    exact = list(scale.shape) == shape and (bias is None or list(bias.shape) == shape)
    if exact and root:
        found = F.rms_norm(x, shape, scale, epsilon)
    elif exact:
        found = F.layer_norm(x, shape, scale, bias, epsilon)
    else:
        found = (F.rms_norm(x, shape, None, epsilon) if root else F.layer_norm(x, shape, None, None, epsilon)) * scale
        found = found if bias is None else found + bias
    if call.used == 1:
        return found
    axes = tuple(range(axis, x.dim()))
    variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
    return found, mean, torch.rsqrt(variance + epsilon)


def batch_norm(
    call: Call, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, momentum: float | None = None
) -> Any:
    """BatchNormalization with running statistics; with `momentum`, batch statistics are used, which update the running ones."""
    epsilon = call.attribute("epsilon", 1e-5)
    if not call.attribute("training_mode", 0):
        if mean.requires_grad or variance.requires_grad:  # computed from weights, not stored statistics
            shape = (-1, *[1] * (x.dim() - 2))
            scale, bias, mean, variance = (p.reshape(shape) for p in (scale, bias, mean, variance))
            return (x - mean) * torch.rsqrt(variance + epsilon) * scale + bias
        updates = momentum is not None
        return torch.batch_norm(x, scale, bias, mean, variance, updates, momentum or 0.0, epsilon, False)
    found = torch.batch_norm(x, scale, bias, None, None, True, 0.0, epsilon, False)
    if call.used == 1:
        return found
    axes, old = [k for k in range(x.dim()) if k != 1], call.attribute("momentum", 0.9)
    now = torch.var_mean(x, axes, correction=0)
    return found, mean * old + now[1] * (1 - old), variance * old + now[0] * (1 - old)


def group_norm(call: Call, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """GroupNormalization; before opset 21, scale and bias are per group."""
    groups = call.attribute("num_groups", x.shape[1])
    if len(scale) != x.shape[1]:
        scale, bias = (p.repeat_interleave(x.shape[1] // groups) for p in (scale, bias))
    return torch.group_norm(x, groups, scale, bias, call.attribute("epsilon", 1e-5))


def local_response(call: Call, x: Tensor) -> Tensor:
    """LRN: squares are summed over a window of channels, which starts floor((size - 1) / 2) channels before."""
    size = call.attribute("size")
    squares = F.pad((x * x).movedim(1, -1), [(size - 1) // 2, size // 2]).unfold(-1, size, 1).sum(-1).movedim(-1, 1)
    return x / torch.pow(
        call.attribute("bias", 1.0) + call.attribute("alpha", 1e-4) / size * squares, call.attribute("beta", 0.75)
    )


OPS: Mapping[str, Op] = {
    "Softmax": along(torch.softmax),
    "LogSoftmax": along(torch.log_softmax),
    "Hardmax": along(hardmax),
    "BatchNormalization": batch_norm,
    "LpNormalization": lp_normalization,
    "LayerNormalization": layer_norm,
    "RMSNormalization": layer_norm,
    "InstanceNormalization": lambda call, x, w, b: torch.group_norm(x, x.shape[1], w, b, call.attribute("epsilon", 1e-5)),
    "GroupNormalization": group_norm,
    "LRN": local_response,
}
