# SPDX-License-Identifier: Apache-2.0
"""Operators that the table does not have: onnxruntime computes them, and no gradient passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import GraphProto, NodeProto, helper

from onnxprune.types import Array


def run_model(graph: GraphProto, opsets: Mapping[str, int], feeds: Mapping[str, Array]) -> list[Any]:
    """The outputs of a small graph in onnxruntime."""
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid(d, v) for d, v in opsets.items()], ir_version=10)
    return list(_session(model.SerializeToString(deterministic=True)).run(None, dict(feeds)))


@lru_cache(1024)
def _session(model: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run_node(
    node: NodeProto,
    names: Sequence[str],
    opsets: Mapping[str, int],
    operands: Mapping[str, Array],
    constants: Mapping[str, Array],
) -> list[Any]:
    """The outputs of one node, given the arrays of its inputs and of what its bodies take from outside.

    Args:
        node: the node.
        names: its outputs that are wanted.
        opsets: domain -> version.
        operands: name -> array of what the node reads.
        constants: the same for what does not change from run to run; some kernels want that to be stored.
    """
    graph = GraphProto(name="one")
    graph.node.append(node)
    for name, x in operands.items():
        kind = onnx.helper.np_dtype_to_tensor_dtype(x.dtype)
        graph.input.append(helper.make_tensor_value_info(name, kind, [None] * x.ndim))
    graph.initializer.extend(onnx.numpy_helper.from_array(x, name) for name, x in constants.items())
    graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    return run_model(graph, opsets, operands)


def half_as_float(array: Array) -> Array:
    """Half precision as float32, everything else as it is."""
    return array.astype(np.float32) if array.dtype.name in ("float16", "bfloat16") else array
