# SPDX-License-Identifier: Apache-2.0
"""A frozen view of an ONNX graph: nodes, weights, and what is known about every tensor.

The model is never changed. Sizes that the file leaves open are filled in by *cases*: the graph is read once for each of two
choices of its dynamic sizes, and whatever differs between the two is dynamic.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from onnxprune.ir.tensors import array_of, copy_without
from onnxprune.types import Array

PACKED = {TensorProto.INT4, TensorProto.UINT4}
FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16}


@dataclass(frozen=True, slots=True)
class Node:
    """One node of the main graph or of a body.

    Attributes:
        index: position among the nodes of a `Graph`, which is a topological order.
        op: operator with its domain, e.g. ``Conv`` or ``com.microsoft.Gelu``.
        opset: version of the operator's domain that the model imports.
        implicit: further tensors that the node reads through its bodies: what they return, or all that they capture.
        fused: the fused operator in the file, if this node is one of its parts.
        body: the body that it stands in (index into `Graph.bodies`); 0 = the main graph.
        place: its position in the main graph or in its body.
        runs: the bodies around it, each named by a tensor that stands for how often it runs: its only size.
    """

    index: int
    op: str
    opset: int
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    implicit: tuple[str, ...]
    proto: NodeProto
    fused: str = ""
    body: int = 0
    place: int = -1
    runs: tuple[str, ...] = ()

    def part(self, proto: NodeProto) -> Node:
        """A node that this fused node stands for."""
        ends, opset = (tuple(proto.input), tuple(proto.output)), onnx.defs.onnx_opset_version()
        part = Node(self.index, proto.op_type, opset, self.title, *ends, (), proto, self.op)
        return replace(part, body=self.body, place=self.place, runs=self.runs)

    @property
    def result(self) -> str:
        """The first output that is not omitted."""
        return next((o for o in self.outputs if o), "")

    @property
    def title(self) -> str:
        """The name, or else the first output."""
        return self.name or self.result

    @property
    def attributes(self) -> dict[str, Any]:
        """Attribute values by name (bytes, numbers, lists, protos)."""
        return {a.name: onnx.helper.get_attribute_value(a) for a in self.proto.attribute}

    def attribute(self, name: str, default: Any = None) -> Any:
        """The value of one attribute, or `default` if the file omits it."""
        for a in self.proto.attribute:
            if a.name == name:
                return onnx.helper.get_attribute_value(a)
        return default

    def limit(self, name: str, default: int) -> int:
        """A number that the decomposition of a fused operator attached to this part, or `default`."""
        return next((int(p.value) for p in self.proto.metadata_props if p.key == name), default)

    def __str__(self) -> str:
        """Operator and name, as messages and reports show a node."""
        return f"{self.fused or self.op} '{self.title}'"


@dataclass(frozen=True, eq=False, slots=True)
class Body:
    """A graph of the model: the main graph, or a body of an If, Loop or Scan node (`bodies.py`).

    Attributes:
        prefix: what the names of its tensors begin with in the analysis and in plans, e.g. ``NODE/then_branch/``.
        proto: the graph in the file.
        names: local names that differ from those of the analysis -> the latter, for all tensors that it can read.
        parent: the body that its owner stands in.
        attribute: the attribute of the owner that holds it, e.g. ``then_branch``.
        owner: index of the node that it belongs to; -1 for the main graph.
        first: index of its first node; if it has none, of the next one.
    """

    prefix: str
    proto: GraphProto = field(repr=False)
    names: Mapping[str, str] = field(repr=False)
    parent: int = 0
    attribute: str = ""
    owner: int = -1
    first: int = 0

    def named(self, name: str) -> str:
        """The name that a tensor of the body has in the analysis."""
        return self.names.get(name, name)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Its inputs, as the analysis names them."""
        return tuple(self.named(v.name) for v in self.proto.input)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Its outputs, as the analysis names them."""
        return tuple(self.named(v.name) for v in self.proto.output)


@dataclass(frozen=True, slots=True)
class Weight:
    """A tensor stored in the file: an initializer, or the value of a Constant node (named by the node's output)."""

    name: str
    tensor: TensorProto = field(repr=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""
        return tuple(self.tensor.dims)

    @property
    def is_float(self) -> bool:
        """Whether the values are floating-point numbers of 16 bits or more."""
        return self.tensor.data_type in FLOATS

    @property
    def array(self) -> Array:
        """The values, read from the file's bytes on each access (no copy is kept)."""
        return array_of(self.tensor)


@dataclass(frozen=True, slots=True)
class Fact:
    """What is known about a tensor for one choice of the dynamic sizes.

    Attributes:
        dtype: element type as a `TensorProto` number; 0 = unknown.
        shape: sizes; None = the rank is unknown, -1 = one size is unknown.
        value: the values, kept only for sizes, indices and other small constants.
    """

    dtype: int = 0
    shape: tuple[int, ...] | None = None
    value: Array | None = None


UNKNOWN = Fact()


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts of one tensor: a `Fact` for each choice of the dynamic sizes."""

    cases: tuple[Fact, ...]

    @property
    def shape(self) -> tuple[int | None, ...] | None:
        """Sizes, None for those that are dynamic or unknown; None for an unknown rank."""
        shapes = [c.shape for c in self.cases]
        first = shapes[0]
        if first is None or any(s is None or len(s) != len(first) for s in shapes):
            return None
        return tuple(s[0] if len(set(s)) == 1 and s[0] >= 0 else None for s in zip(*shapes, strict=True))

    @property
    def value(self) -> Array | None:
        """The values if they do not depend on the dynamic sizes, else None."""
        first = self.cases[0].value
        if first is None:
            return None
        same = all(c.value is not None and np.array_equal(c.value, first) for c in self.cases[1:])
        return first if same else None


@dataclass(frozen=True)
class Graph:
    """A model as the analysis sees it.

    Attributes:
        model: the ONNX model; read only.
        nodes: all nodes in file order, those of a body before the node that it belongs to.
        weights: stored tensors by name.
        facts: what is known about each tensor; every tensor has an entry.
        inputs: names of the inputs that a caller must feed.
        outputs: names of the graph outputs.
        fed: input name -> shape, for inputs whose open sizes the user has given.
        parts: index of a fused node -> the nodes that it stands for.
        bodies: the main graph and all bodies that the analysis looks into, in the order of their first nodes.
        copies: copy of a shared constant -> the constant (`sharing`); None before any are made.
    """

    model: ModelProto = field(repr=False)
    nodes: tuple[Node, ...] = field(repr=False)
    weights: Mapping[str, Weight] = field(repr=False)
    facts: Mapping[str, Facts] = field(repr=False)
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    fed: Mapping[str, Sequence[int]] = field(default_factory=dict)
    parts: Mapping[int, tuple[Node, ...]] = field(default_factory=dict, repr=False)
    copies: Mapping[str, str] | None = field(default=None, repr=False)
    bodies: tuple[Body, ...] = field(default=(), repr=False)

    def origin(self, weight: str) -> str:
        """The name that the file has for a stored tensor."""
        return (self.copies or {}).get(weight, weight)

    @cached_property
    def elementary(self) -> tuple[Node, ...]:
        """All nodes, with each fused node replaced by its parts."""
        return tuple(part for node in self.nodes for part in self.parts_of(node))

    def parts_of(self, node: Node) -> tuple[Node, ...]:
        """The nodes that a fused node stands for; the node itself if it is not fused."""
        return self.parts.get(node.index, (node,))

    @cached_property
    def consumers(self) -> Mapping[str, tuple[tuple[Node, int], ...]]:
        """Tensor name -> (node, input position) of each use, with fused nodes replaced by their parts."""
        found: dict[str, list[tuple[Node, int]]] = {}
        for node in self.elementary:
            for k, name in enumerate(node.inputs):
                if name:
                    found.setdefault(name, []).append((node, k))
        return {name: tuple(uses) for name, uses in found.items()}

    @cached_property
    def captured(self) -> frozenset[str]:
        """Tensors that nodes read through their bodies."""
        return frozenset(name for node in self.nodes for name in node.implicit)

    @cached_property
    def read(self) -> frozenset[str]:
        """Tensors in use: read by a node, returned by a body, or an output of the model."""
        # the parts of a fused node need not read all of its inputs
        by_nodes = (name for node in self.nodes for name in node.inputs if name)
        return self.captured.union(self.consumers, self.outputs, by_nodes)

    @cached_property
    def producers(self) -> Mapping[str, Node]:
        """Tensor name -> the node that computes it."""
        return {name: node for node in self.nodes for name in node.outputs if name}

    @cached_property
    def makers(self) -> Mapping[str, Node]:
        """Tensor name -> the node that computes it, with fused nodes replaced by their parts."""
        return {name: node for node in self.elementary for name in node.outputs if name}

    @cached_property
    def owners(self) -> Mapping[str, Node]:
        """Input of a body -> the Loop or Scan node that feeds it."""
        return {name: self.nodes[body.owner] for body in self.bodies[1:] for name in body.inputs}

    @cached_property
    def stored_in_bodies(self) -> frozenset[str]:
        """The weights that bodies store."""
        return frozenset(name for body in self.bodies[1:] for name in stored_in(body.proto, body))

    def sources_of(self, name: str) -> set[str]:
        """All tensors that `name` is computed from, including itself."""
        found, queue = {name}, [name]
        while queue:
            tensor = queue.pop()
            maker = self.makers.get(tensor) or self.owners.get(tensor)
            above = (*maker.inputs, *maker.implicit) if maker is not None else ()
            queue += [n for n in above if n and n not in found]
            found.update(above)
        return found

    def shape(self, name: str) -> tuple[int | None, ...] | None:
        """Sizes of a tensor, None for those that are dynamic; None for an unknown rank or an absent input."""
        facts = self.facts.get(name)
        return facts.shape if facts else None


def opsets(model: ModelProto) -> dict[str, int]:
    """Domain -> version, with the default domain under the empty string, even if that is also stated as `ai.onnx`.

    Names that are not text in UTF-8 are left out: no node can be of such a domain.
    """
    stated = {o.domain: o.version for o in model.opset_import if isinstance(o.domain, str)}
    other = stated.pop("ai.onnx", None)
    return stated if other is None else {"": other, **stated}


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """The bodies of If, Loop, Scan and the like."""
    for a in node.attribute:
        if a.type == AttributeProto.GRAPH:
            yield a.g
        elif a.type == AttributeProto.GRAPHS:
            yield from a.graphs


def all_nodes(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """The nodes and those of their bodies."""
    for node in nodes:
        yield node
        for body in subgraphs(node):
            yield from all_nodes(body.node)


def with_nodes(model: ModelProto, nodes: Iterable[NodeProto]) -> ModelProto:
    """A copy of a model with other nodes in its main graph."""
    copy = ModelProto()
    copy_without(model, copy, {"graph"})
    copy_without(model.graph, copy.graph, {"node"})
    copy.graph.node.extend(nodes)
    return copy


def captured(node: NodeProto) -> Iterator[str]:
    """Names that the bodies of `node` capture from outside."""
    for body in subgraphs(node):
        own = defined(body)
        used = [name for n in body.node for name in (*n.input, *captured(n))]
        used += [v.name for v in body.output]
        yield from (name for name in dict.fromkeys(used) if name and name not in own)


def defined(graph: GraphProto) -> set[str]:
    """Names of the tensors that a graph is fed, stores or computes."""
    stored = {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    return stored.union((v.name for v in graph.input), (name for n in graph.node for name in n.output if name))


def operator_of(node: NodeProto) -> str:
    """The operator with its domain, as rules name it."""
    domain = domain_of(node)
    return f"{domain}.{node.op_type}" if domain else str(node.op_type)


def domain_of(node: NodeProto) -> str:
    """The domain of an operator; empty for ONNX's own."""
    return "" if node.domain == "ai.onnx" else str(node.domain)


def read_nodes(model: ModelProto) -> tuple[Node, ...]:
    """The nodes of the main graph as frozen values; a node with bodies reads all that they capture."""
    versions = opsets(model)
    return tuple(replace(read_node(n, k, versions), place=k) for k, n in enumerate(model.graph.node))


def read_node(proto: NodeProto, index: int, versions: Mapping[str, int]) -> Node:
    """One node as a frozen value."""
    ends = tuple(proto.input), tuple(proto.output), tuple(captured(proto))
    return Node(index, operator_of(proto), versions.get(domain_of(proto), 1), proto.name, *ends, proto)


def constant_tensor(node: NodeProto) -> TensorProto | None:
    """The tensor of a Constant node that stores one (`value`), else None."""
    if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
        for a in node.attribute:
            if a.name == "value":
                tensor: TensorProto = a.t
                return tensor
    return None


def with_values(tensor: TensorProto, array: Array) -> TensorProto:
    """A stored tensor with new values; name, type and doc string are kept."""
    new = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=array.shape, doc_string=tensor.doc_string)
    if tensor.data_type in PACKED:  # several values per byte
        new.raw_data = onnx.numpy_helper.from_array(np.ascontiguousarray(array)).raw_data
    else:
        new.raw_data = np.ascontiguousarray(array).tobytes()
    return new


def read_weights(model: ModelProto) -> dict[str, Weight]:
    """Initializers and Constant nodes of the main graph by name, in file order."""
    return stored_in(model.graph)


def stored_in(graph: GraphProto, body: Body | None = None) -> dict[str, Weight]:
    """Initializers and Constant nodes of one graph by the names that they have in the analysis."""
    found = [(t.name, t) for t in graph.initializer]
    found += [(n.output[0], tensor) for n in graph.node if (tensor := constant_tensor(n)) is not None]
    names = {name: body.named(name) if body else name for name, _ in found}
    return {names[name]: Weight(names[name], tensor) for name, tensor in found}


def free_inputs(model: ModelProto) -> Sequence[onnx.ValueInfoProto]:
    """Graph inputs without an initializer as their default."""
    stored = {t.name for t in model.graph.initializer} | {t.values.name for t in model.graph.sparse_initializer}
    return [v for v in model.graph.input if v.name not in stored]
