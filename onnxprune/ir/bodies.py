# SPDX-License-Identifier: Apache-2.0
"""Bodies of If, Loop and Scan: the networks in them are analysed and cut together with the main graph.

The analysis sees one flat list of nodes. The nodes of a body stand before the node that it belongs to, and the tensors of a
body have names of their own: `NODE/then_branch/NAME`. Tensors that a body captures keep their names, so channels flow into it.
What a body is fed has no channels, and what it returns keeps them. The nodes are put back into their bodies when the file is
written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto

from onnxprune.ir.graph import (
    Body,
    Fact,
    Node,
    Weight,
    defined,
    domain_of,
    opsets,
    read_node,
    stored_in,
    subgraphs,
)
from onnxprune.ir.tensors import copy_without

OPENED = {"If": 1, "Loop": 1, "Scan": 9}
"""Operators whose bodies are analysed, and the first opset for which this holds."""


@dataclass(frozen=True, eq=False)
class Flat:
    """All nodes of a model in one list.

    Attributes:
        nodes: in topological order.
        weights: stored tensors by name.
        bodies: the main graph and the bodies, in the order of their first nodes.
        sparse: sparse stored tensors by name.
    """

    nodes: tuple[Node, ...]
    weights: Mapping[str, Weight]
    bodies: tuple[Body, ...]
    sparse: Mapping[str, Fact]


def flatten(model: ModelProto) -> Flat:
    """All nodes of a model, those of a body before the node that it belongs to."""
    reader = _Reader(model)
    reader.read(0)
    bodies = tuple(reader.bodies)
    weights = {name: w for body in bodies for name, w in stored_in(body.proto, body).items()}
    sparse = {
        b.named(t.values.name): Fact(t.values.data_type, tuple(t.dims)) for b in bodies for t in b.proto.sparse_initializer
    }
    return Flat(tuple(reader.nodes), weights, bodies, sparse)


def all_weights(model: ModelProto) -> Mapping[str, Weight]:
    """Stored tensors of the main graph and of its bodies by name."""
    return flatten(model).weights


def is_opened(node: NodeProto, versions: Mapping[str, int]) -> bool:
    """Whether the bodies of a node are analysed."""
    since = OPENED.get(node.op_type)
    return since is not None and not domain_of(node) and versions.get("", 1) >= since


class _Reader:
    def __init__(self, model: ModelProto) -> None:
        self.versions = opsets(model)
        self.nodes: list[Node] = []
        self.bodies = [Body("", model.graph, {})]
        self.runs: list[tuple[str, ...]] = [()]
        self.taken = defined(model.graph)

    def read(self, index: int) -> None:
        """Append the nodes of a body, each after those of its own bodies."""
        body, names = self.bodies[index], self.bodies[index].names
        for place, node in enumerate(body.proto.node):
            opened = is_opened(node, self.versions)
            inner = (
                [self._open(index, node, place, a) for a in node.attribute if a.type == AttributeProto.GRAPH] if opened else []
            )
            for k in inner:
                self.bodies[k] = replace(self.bodies[k], first=len(self.nodes))
                self.read(k)
            for k in inner:
                self.bodies[k] = replace(self.bodies[k], owner=len(self.nodes))
            proto = _closed(node, names, [self.bodies[k] for k in inner]) if opened else renamed(node, names)
            if names and node.name:
                proto.name = body.prefix + node.name
            plain = read_node(proto, len(self.nodes), self.versions)
            self.nodes.append(replace(plain, body=index, place=place, runs=self.runs[index]))

    def _open(self, parent: int, node: NodeProto, place: int, attribute: AttributeProto) -> int:
        """Add a body."""
        own = defined(attribute.g)
        prefix = f"{self.bodies[parent].prefix}{node.name or f'#{place}'}/{attribute.name}/"
        while any(prefix + name in self.taken for name in own) or any(b.prefix == prefix for b in self.bodies):
            prefix = f"{prefix[:-1]}_/"
        self.taken |= {prefix + name for name in own}
        names = {**self.bodies[parent].names, **{name: prefix + name for name in own}}
        self.bodies.append(Body(prefix, attribute.g, names, parent, attribute.name))
        self.runs.append((*self.runs[parent], prefix))
        return len(self.bodies) - 1


def renamed(node: NodeProto, names: Mapping[str, str]) -> NodeProto:
    """A copy of a node that reads and makes tensors under other names; the node itself if no name differs."""
    if not names:
        return node
    new = NodeProto()
    new.CopyFrom(node)
    rename(new, names)
    return new


def rename(node: NodeProto, names: Mapping[str, str]) -> None:
    """Let a node read and make tensors under other names, also in its bodies."""
    for ends in (node.input, node.output):
        for k, name in enumerate(ends):
            ends[k] = names.get(name, name)
    for graph in subgraphs(node):
        own = defined(graph)
        outside = {old: new for old, new in names.items() if old not in own}
        for inner in graph.node:
            rename(inner, outside)
        for value in graph.output:
            value.name = outside.get(value.name, value.name)


def _closed(node: NodeProto, names: Mapping[str, str], bodies: Sequence[Body]) -> NodeProto:
    """A node whose bodies consist of what they return."""
    new = NodeProto()
    copy_without(node, new, {"attribute", "input", "output"})
    new.input.extend(names.get(n, n) for n in node.input)
    new.output.extend(names.get(n, n) for n in node.output)
    rest = iter(bodies)
    for a in node.attribute:
        if a.type != AttributeProto.GRAPH:
            new.attribute.add().CopyFrom(a)
            continue
        body = next(rest)
        stub = new.attribute.add(name=a.name, type=AttributeProto.GRAPH).g
        stub.name = body.prefix
        for value, name in zip(body.proto.output, body.outputs, strict=True):
            stub.output.add().CopyFrom(value)
            stub.output[-1].name = name
    return new


def put_back(
    bodies: Sequence[Body], nodes: Iterable[tuple[NodeProto, int]], finish: Callable[[GraphProto, Body], None]
) -> list[NodeProto]:
    """The nodes of the main graph, with all others back in their bodies under their local names.

    Args:
        bodies: the main graph and the bodies.
        nodes: flat nodes with the body that each belongs to, in topological order.
        finish: called with each new body, which has all nodes but no initializers.
    """
    inside: list[list[NodeProto]] = [[] for _ in bodies]
    by_prefix = {body.prefix: k for k, body in enumerate(bodies) if k}
    local = [{new: old for old, new in body.names.items()} for body in bodies]
    for node, k in nodes:
        if not k and not any(a.type == AttributeProto.GRAPH for a in node.attribute):
            inside[k].append(node)
            continue
        new = NodeProto()
        new.CopyFrom(node)
        rename(new, local[k])
        if k and new.name.startswith(bodies[k].prefix):
            new.name = new.name.removeprefix(bodies[k].prefix)
        for a in new.attribute:
            inner = by_prefix.get(a.g.name) if a.type == AttributeProto.GRAPH else None
            if inner is not None:
                _restore(a.g, bodies[inner], inside[inner], finish)
                if not new.name and (name := _name_of_owner(bodies[inner], bodies[k], len(inside[k]))):
                    new.name = name
        inside[k].append(new)
    return inside[0]


def _restore(graph: GraphProto, body: Body, nodes: Sequence[NodeProto], finish: Callable[[GraphProto, Body], None]) -> None:
    graph.Clear()
    copy_without(body.proto, graph, {"node", "initializer"})
    graph.node.extend(nodes)
    finish(graph, body)


def _name_of_owner(body: Body, around: Body, place: int) -> str:
    """The name of a node without one: none, unless its weights would be named differently now that its position has changed."""
    old = body.prefix.removeprefix(around.prefix).removesuffix(f"/{body.attribute}/")
    return "" if old == f"#{place}" else old


def body_graphs(model: ModelProto) -> Iterator[tuple[GraphProto, Body]]:
    """Every graph of a model that the analysis looks into, with its names."""
    yield from ((body.proto, body) for body in flatten(model).bodies)
