# SPDX-License-Identifier: Apache-2.0
"""Whole networks put into the branches of an If."""

from __future__ import annotations

import onnx
from onnx import GraphProto, ModelProto, TensorProto, helper


def in_both_branches(net: ModelProto) -> ModelProto:
    """A model that computes the same with either branch of an If; each has its own weights, under the same names."""
    new = ModelProto()
    new.CopyFrom(net)
    graph, stored = new.graph, {t.name for t in net.graph.initializer} | {t.values.name for t in net.graph.sparse_initializer}
    for field in ("node", "initializer", "sparse_initializer", "value_info", "input"):
        graph.ClearField(field)
    graph.input.extend(v for v in net.graph.input if v.name not in stored)
    graph.input.append(helper.make_tensor_value_info("which", TensorProto.BOOL, []))
    for value in graph.output:
        value.name = f"{value.name} of either"
    ends = [v.name for v in graph.output]
    same = branch(net.graph)
    graph.node.append(helper.make_node("If", ["which"], ends, name="either", then_branch=same, else_branch=same))
    onnx.checker.check_model(new)
    return new


def branch(graph: GraphProto) -> GraphProto:
    """A graph as a body that captures its inputs; outputs that no node makes pass through an Identity."""
    body = GraphProto()
    body.CopyFrom(graph)
    body.ClearField("input")
    made = {name for n in graph.node for name in n.output}
    for value in body.output:
        if value.name not in made:
            body.node.append(helper.make_node("Identity", [value.name], [f"{value.name} again"]))
            value.name = f"{value.name} again"
    return body
