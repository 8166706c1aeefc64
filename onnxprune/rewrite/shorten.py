# SPDX-License-Identifier: Apache-2.0
"""Residual branches that go altogether: what is added to a tensor is left out, so that the tensor passes on as it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import ModelProto, NodeProto

from onnxprune.errors import PlanError
from onnxprune.ir.bodies import rename
from onnxprune.ir.graph import Graph, Node, captured

Ends = tuple[str, str]
"""The tensor that skips a branch, and the sum."""


@dataclass(frozen=True, slots=True)
class Branch:
    """What an Add adds to a tensor that has skipped it.

    Attributes:
        skip: the tensor that passes by, from which alone the branch is computed.
        total: the sum.
        last: the tensor that is added.
        nodes: the places of the nodes of the branch in the main graph, without the Add.
    """

    skip: str
    total: str
    last: str
    nodes: tuple[int, ...]

    @property
    def ends(self) -> Ends:
        """What names it in plans, and in a copy of the model with other weights."""
        return self.skip, self.total


def branches(graph: Graph) -> Iterator[Branch]:
    """The branches of a graph that could go: shapes fit, and nothing else reads what is inside.

    A branch contains at least one product; an inner branch of another one counts by itself.
    """
    nodes = [n for n in graph.nodes if n.body == 0]
    outputs, readers = set(graph.outputs), dict[str, list[Node]]()
    for node in nodes:
        for name in {*node.inputs, *node.implicit}:
            readers.setdefault(name, []).append(node)
    for node in nodes:
        if node.op != "Add" or len(node.inputs) != 2 or node.inputs[0] == node.inputs[1]:
            continue
        for skip, last in (node.inputs, node.inputs[::-1]):
            found = _between(graph, readers, outputs, skip, last, node)
            if found is not None:
                yield found


def _between(
    graph: Graph, readers: dict[str, list[Node]], outputs: set[str], skip: str, last: str, total: Node
) -> Branch | None:
    """The branch from one tensor to another, if all of it can go."""
    shapes = [graph.shape(name) for name in (skip, last, total.outputs[0])]
    if skip not in graph.producers and skip not in graph.inputs:
        return None
    if shapes[0] is None or shapes[0] != shapes[2] or skip in graph.weights:
        return None
    inside, waiting = dict[int, Node](), [last]
    while waiting:
        name = waiting.pop()
        if name == skip or not name or name in graph.weights:
            continue
        maker = graph.producers.get(name)
        if maker is None or maker.body != 0:
            return None  # an input of the model, or of a body
        if maker.index not in inside:
            inside[maker.index] = maker
            waiting += [*maker.inputs, *maker.implicit]
    made = {name for node in inside.values() for name in node.outputs if name}
    alone = all(
        name not in outputs and all(r.index in inside or (r is total and name == last) for r in readers.get(name, ()))
        for name in made
    )
    works = any(node.op in ("Conv", "MatMul", "Gemm") for node in inside.values())
    reads = any(skip in node.inputs for node in inside.values())
    if not (alone and works and reads) or last not in made:
        return None
    return Branch(skip, total.outputs[0], last, tuple(sorted(node.place for node in inside.values())))


def muted(model: ModelProto, gone: Sequence[Branch]) -> ModelProto:
    """The model with these branches multiplied by zero: what `shortened` must compute."""
    found = ModelProto()
    found.CopyFrom(model)
    ends = {branch.total: branch for branch in gone}
    nodes = list[NodeProto]()
    for k, node in enumerate(model.graph.node):
        branch = ends.get(node.output[0]) if node.output and node.op_type == "Add" else None
        if branch is None:
            nodes.append(node)
            continue
        kind = onnx.helper.tensor_dtype_to_np_dtype(_type_of(model, branch.last))
        zero, silent = f"nothing of {k}", f"{branch.last} times nothing"
        found.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((), kind), zero))
        nodes += [onnx.helper.make_node("Mul", [branch.last, zero], [silent]), _with_input(node, branch.last, silent)]
    del found.graph.node[:]
    found.graph.node.extend(nodes)
    return found


def _type_of(model: ModelProto, name: str) -> int:
    """The type of a tensor: that of the inferred graph, or of the first floating-point weight."""
    inferred = onnx.shape_inference.infer_shapes(model)
    for value in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output):
        if value.name == name and value.type.tensor_type.elem_type:
            return int(value.type.tensor_type.elem_type)
    return onnx.TensorProto.FLOAT


def _with_input(node: NodeProto, old: str, new: str) -> NodeProto:
    copy = NodeProto()
    copy.CopyFrom(node)
    copy.input[:] = [new if name == old else name for name in node.input]
    return copy


def shortened(model: ModelProto, pairs: Sequence[Ends], graph: Graph) -> ModelProto:
    """The model without the branches from one tensor to a sum of it, given as (tensor, sum).

    Args:
        graph: the model, as the analysis reads it.

    Raises:
        PlanError: there is no such branch.
    """
    known = {b.ends: b for b in branches(graph)}
    for skip, total in pairs:
        if (skip, total) not in known:
            raise PlanError(f"the plan removes what is added to '{skip}' in '{total}', but this model has no such branch")
    gone = [known[pair] for pair in pairs]
    instead = _followed({b.total: b.skip for b in gone})
    away = {place for b in gone for place in b.nodes}
    found = ModelProto()
    found.CopyFrom(model)
    del found.graph.node[:]
    outputs = {v.name for v in model.graph.output}
    for place, node in enumerate(model.graph.node):
        total = node.output[0] if node.output else ""
        if place in away or (total in instead and total not in outputs):
            continue
        if total in instead:
            found.graph.node.append(onnx.helper.make_node("Identity", [instead[total]], [total]))
            continue
        copy = found.graph.node.add()
        copy.CopyFrom(node)
        rename(copy, {k: v for k, v in instead.items() if k not in node.output})
    used = {name for node in found.graph.node for name in (*node.input, *captured(node))} | outputs
    kept = [t for t in found.graph.initializer if t.name in used]
    del found.graph.initializer[:]
    found.graph.initializer.extend(kept)
    inputs = [v for v in found.graph.input if v.name in used or v.name not in {t.name for t in model.graph.initializer}]
    del found.graph.input[:]
    found.graph.input.extend(inputs)
    gone_names = {name for place in away for name in model.graph.node[place].output} | instead.keys() - outputs
    infos = [v for v in found.graph.value_info if v.name not in gone_names]
    del found.graph.value_info[:]
    found.graph.value_info.extend(infos)
    return found


def _followed(instead: dict[str, str]) -> dict[str, str]:
    """Names that stand for others, which may stand for others in turn."""
    found = dict[str, str]()
    for name in instead:
        other = instead[name]
        while other in instead:
            other = instead[other]
        found[name] = other
    return found
