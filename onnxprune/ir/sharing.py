# SPDX-License-Identifier: Apache-2.0
"""Constants that nodes share although they have nothing else in common: ones and zeros that exporters merge into one tensor.

For the analysis each node gets a copy of its own, so that it does not tie the channels of all others. Copies that are still
equal after a cut become one stored tensor again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto

from onnxprune.ir.bodies import flatten, put_back
from onnxprune.ir.facts import skeleton
from onnxprune.ir.graph import Graph, Node, Weight, constant_tensor, read_weights
from onnxprune.ir.quantization import ZERO_POINT, is_quantized
from onnxprune.ir.tensors import array_of

MOST = 1 << 16
"""Larger tensors are not copied."""


def own_copies(graph: Graph, apart: Collection[str] = ()) -> Graph:
    """The graph with a copy of each uniform constant for each of its users.

    A constant is uniform if all positions of its longest axis hold the same values: whichever are kept, the result is the
    same, so nothing is lost if nodes keep different ones. Any other tensor that nodes share stays one: a layer that is used
    twice keeps the same channels in both places. Bodies read the constant itself.

    Args:
        apart: constants that stay shared.
    """
    if graph.copies is not None:
        return graph
    users = {name: list(dict.fromkeys(n.index for n, _ in uses if not n.body)) for name, uses in graph.consumers.items()}
    elsewhere = read_itself(graph).union(v.name for v in graph.model.graph.input)
    renames: dict[int, dict[str, str]] = {}
    copies: dict[str, str] = {}
    for name, weight in graph.weights.items():
        mine = users.get(name, [])
        shared = len(mine) + (name in elsewhere) > 1 and name not in apart
        if mine and shared and _can_be_copied(graph, weight):
            for index in mine:
                copy = _unused(f"{name}_of_{graph.nodes[index].title}", graph.facts.keys() | copies.keys())
                renames.setdefault(index, {})[name] = copy
                copies[copy] = name
    return _renamed(graph, renames, copies) if copies else replace(graph, copies={})


def read_itself(graph: Graph) -> frozenset[str]:
    """Tensors that are outputs, or that bodies read: if others read copies, these keep all their channels."""
    inside = (name for name, uses in graph.consumers.items() if any(n.body for n, _ in uses))
    return graph.captured.union(graph.outputs, inside)


def _can_be_copied(graph: Graph, weight: Weight) -> bool:
    """Whether a stored tensor is small, holds numbers of channels, and is uniform along its longest axis."""
    size, users = int(np.prod(weight.shape)), graph.consumers[weight.name]
    if not 1 < size <= MOST or any(v.name == weight.name for v in graph.model.graph.input):
        return False
    points = is_quantized(weight.tensor.data_type, users) and all(k == ZERO_POINT for _, k in users)
    if not weight.is_float and not points:
        return False
    array = weight.array
    axis = int(np.argmax(array.shape))
    return bool((array == array.take([0], axis)).all())


def _unused(stem: str, taken: Collection[str]) -> str:
    name, n = stem, 1
    while name in taken:
        name, n = f"{stem}_{n}", n + 1
    return name


def _renamed(graph: Graph, renames: Mapping[int, Mapping[str, str]], copies: Mapping[str, str]) -> Graph:
    """The graph whose nodes read the copies; the constants themselves stay in the model."""
    model = skeleton(graph.model)
    nodes: list[Node] = []
    for node in graph.nodes:
        proto = NodeProto()
        proto.CopyFrom(node.proto)
        _rename(proto, renames.get(node.index, {}))
        nodes.append(replace(node, inputs=tuple(proto.input), proto=proto))
    flat = [(node.proto, node.body) for node in nodes]
    model.graph.node.extend(put_back(graph.bodies, flat, lambda g, body: g.initializer.extend(body.proto.initializer)))
    model.graph.initializer.extend(graph.model.graph.initializer)
    weights = dict(graph.weights)
    for copy, name in copies.items():
        tensor = model.graph.initializer.add()
        tensor.CopyFrom(graph.weights[name].tensor)
        tensor.name = copy
        weights[copy] = Weight(copy, tensor)
    parts = {k: tuple(_part(p, renames.get(k, {})) for p in some) for k, some in graph.parts.items()}
    facts = {**graph.facts, **{copy: graph.facts[name] for copy, name in copies.items()}}
    found = replace(graph, model=model, nodes=tuple(nodes), weights=weights, facts=facts, parts=parts, copies=copies)
    return replace(found, bodies=flatten(model).bodies)


def _rename(proto: NodeProto, names: Mapping[str, str]) -> None:
    for k, name in enumerate(proto.input):
        proto.input[k] = names.get(name, name)


def _part(part: Node, names: Mapping[str, str]) -> Node:
    proto = NodeProto()
    proto.CopyFrom(part.proto)
    _rename(proto, names)
    return replace(part, inputs=tuple(proto.input), proto=proto)


def shared_again(model: ModelProto, cut: ModelProto, graph: Graph) -> ModelProto:
    """A model that reads copies, with one stored tensor for all that are equal.

    A constant that a cut leaves unchanged has its old name, and no other tensor has it.

    Args:
        model: the cut model, or the same with other values of weights.
        cut: the cut model, whose copies tell what may be one tensor.
        graph: what was analysed.
    """
    if not graph.copies:
        return model
    stored, after = read_weights(cut), read_weights(model)
    held = {*graph.copies.values()} & read_itself(graph)
    names: dict[str, str] = {}
    leader: dict[tuple[str, bytes], str] = {}
    for copy, name in graph.copies.items():
        if copy in stored and copy in after:
            before, value = _content(graph.weights[name].tensor), _content(after[copy].tensor)
            first = leader.setdefault((name, _content(stored[copy].tensor)), copy)
            old_name = _content(stored[first].tensor) == before and (name not in held or value == before)
            same = value == _content(after[first].tensor)
            names[copy] = copy if not same else name if old_name else first
    return _with_names(model, names, {*graph.copies.values()} - held, held)


def _content(tensor: TensorProto) -> bytes:
    return f"{tensor.data_type} {list(tensor.dims)} ".encode() + array_of(tensor).tobytes()


def _with_names(model: ModelProto, names: Mapping[str, str], unread: Collection[str], held: Collection[str]) -> ModelProto:
    """The model in which each copy has a new name, possibly one for several.

    Args:
        unread: constants of which only copies are read.
        held: constants that are read themselves.
    """
    found, done = skeleton(model), set(held)
    for node in model.graph.node:
        if constant_tensor(node) is None or node.output[0] not in unread:
            proto = found.graph.node.add()
            proto.CopyFrom(node)
            _rename(proto, names)
    for tensor in model.graph.initializer:
        name = names.get(tensor.name, tensor.name)
        if tensor.name not in unread and (tensor.name not in names or name not in done):
            new = found.graph.initializer.add()
            new.CopyFrom(tensor)
            new.name = name
            done.add(name)
    return found
