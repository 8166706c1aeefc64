# SPDX-License-Identifier: Apache-2.0
"""Resize and Upsample: along each axis, resizing is a matrix product; the matrix is the operator's result for the identity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
import torch
from onnx import NodeProto, TensorProto, helper
from torch import Tensor

from onnxprune.ort import run_model
from onnxprune.training.converter.call import Call, Op

KEPT = ("mode", "coordinate_transformation_mode", "nearest_mode", "cubic_coeff_a", "exclude_outside", "antialias")


def resize(call: Call, x: Tensor, *given: Any) -> Any:
    """Resize by scales or to sizes, one axis at a time."""
    if call.text("coordinate_transformation_mode", "") == "tf_crop_and_resize" or not x.is_floating_point():
        return NotImplemented
    if call.text("keep_aspect_ratio_policy", "stretch") != "stretch":
        return NotImplemented
    _, scales, sizes = (None, *given, None)[:3] if call.opset < 11 or call.op == "Upsample" else (*given, None, None, None)[:3]
    wanted = sizes if sizes is not None and sizes.size else scales
    attributes = tuple((k, v) for k, v in sorted(call.attributes.items()) if k in KEPT)
    for axis, value in zip(call.attribute("axes", range(x.dim())), wanted.tolist(), strict=True):
        if value != (x.shape[axis] if wanted is sizes else 1.0):
            x = _along(x, axis % x.dim(), matrix(call.op, call.opset, attributes, x.shape[axis], value, wanted is sizes))
    return x


@lru_cache(256)
def matrix(op: str, opset: int, attributes: Sequence[tuple[str, Any]], size: int, value: float, is_size: bool) -> Tensor:
    """The (size, new size) matrix of a resized axis: rows of the identity, resized by onnxruntime."""
    if is_size:
        name, wanted = "sizes", np.array([1, 1, size, value], np.int64)
    else:
        name, wanted = "scales", np.array([1, 1, 1, value], np.float32)
    old = op == "Upsample" or opset < 11
    inputs = ["x", name] if old else ["x", "none", "none", name] if is_size else ["x", "none", name]
    node: NodeProto = helper.make_node(op, inputs, ["y"], **dict(attributes))
    graph = helper.make_graph(
        [node],
        "resize",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, size, size])],
        [helper.make_empty_tensor_value_info("y")],
        [onnx.numpy_helper.from_array(wanted, name), onnx.numpy_helper.from_array(np.zeros(0, np.float32), "none")],
    )
    [found] = run_model(graph, {"": opset}, {"x": np.eye(size, dtype=np.float32)[None, None]})
    with torch.inference_mode(False):
        return torch.from_numpy(found[0, 0].copy())


def _along(x: Tensor, axis: int, weights: Tensor) -> Tensor:
    """Multiply one axis (size,) of a tensor by a (size, new size) matrix; if it only repeats positions, repeat them instead."""
    size, new = weights.shape
    if new % size == 0 and torch.equal(weights, torch.eye(size).repeat_interleave(new // size, 1)):
        return x.repeat_interleave(new // size, axis)
    return (x.movedim(axis, -1) @ weights.to(x)).movedim(-1, axis)


OPS: Mapping[str, Op] = {"Resize": resize, "Upsample": resize}
