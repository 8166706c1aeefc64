# SPDX-License-Identifier: Apache-2.0
"""Weights as matrix products read them."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from onnxprune.ir.graph import captured, read_weights
from onnxprune.types import Array


def read_directly(model: ModelProto) -> ModelProto:
    """The model with weights stored as its matrix products read them; itself if none is transposed for a product.

    PyTorch's exporters write a Linear layer on inputs of rank 3 as Transpose -> MatMul. The stored tensor gets the name that
    the transposed one has in the graph.
    """
    readers: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        for name in (*node.input, *captured(node)):
            readers.setdefault(name, []).append(node)
    weights, outputs = read_weights(model), {v.name for v in model.graph.output}
    found = [
        node
        for node in model.graph.node
        if node.op_type == "Transpose" and node.domain in ("", "ai.onnx") and node.input[0] in weights
        if len(weights[node.input[0]].shape) == 2 and len(readers[node.input[0]]) == 1 and node.output[0] not in outputs
        if all(_is_product(reader, node.output[0]) for reader in readers.get(node.output[0], []))
    ]
    if not found:
        return model
    stored = ModelProto()
    stored.CopyFrom(model)
    gone = {node.input[0] for node in found} | {node.output[0] for node in found}
    turned = [_turned(node, weights[node.input[0]].array) for node in found]
    nodes = [n for n in model.graph.node if n.output[0] not in gone or (n.op_type not in ("Transpose", "Constant"))]
    for field, kept in (
        ("node", nodes),
        ("initializer", [*(t for t in model.graph.initializer if t.name not in gone), *turned]),
        ("input", [v for v in model.graph.input if v.name not in gone]),
        ("value_info", [v for v in model.graph.value_info if v.name not in gone]),
    ):
        del getattr(stored.graph, field)[:]
        getattr(stored.graph, field).extend(kept)
    return stored


def _is_product(node: NodeProto, name: str) -> bool:
    return node.op_type == "MatMul" and node.input[1] == name and node.input[0] != name


def _turned(node: NodeProto, weight: Array) -> TensorProto:
    order = next((list(a.ints) for a in node.attribute if a.name == "perm"), [1, 0])
    return numpy_helper.from_array(np.ascontiguousarray(weight.transpose(order)), node.output[0])
