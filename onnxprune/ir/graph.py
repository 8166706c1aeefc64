# SPDX-License-Identifier: Apache-2.0
"""A frozen view of an ONNX graph: nodes, weights, and what is known about every tensor.

The model is never changed. Sizes that the file leaves open are filled in by *cases*: the graph is read once for each of two
choices of its dynamic sizes, and whatever differs between the two is dynamic.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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
    """One node of the main graph.

    Attributes:
        index: position in the file, which is a topological order.
        op: operator with its domain, e.g. ``Conv`` or ``com.microsoft.Gelu``.
        opset: version of the operator's domain that the model imports.
        implicit: tensors of the main graph that the bodies of If, Loop and Scan capture.
        fused: the fused operator in the file, if this node is one of its parts.
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

    def part(self, proto: NodeProto) -> Node:
        """A node that this fused node stands for."""
        name, opset = self.name or self.outputs[0], onnx.defs.onnx_opset_version()
        return Node(self.index, proto.op_type, opset, name, tuple(proto.input), tuple(proto.output), (), proto, self.op)

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
        return f"{self.fused or self.op} '{self.name or self.outputs[0]}'"


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
        nodes: nodes of the main graph in file order.
        weights: stored tensors by name.
        facts: what is known about each tensor; every tensor of the main graph has an entry.
        inputs: names of the inputs that a caller must feed.
        outputs: names of the graph outputs.
        fed: input name -> shape, for inputs whose open sizes the user has given.
        parts: index of a fused node -> the nodes that it stands for.
    """

    model: ModelProto = field(repr=False)
    nodes: tuple[Node, ...] = field(repr=False)
    weights: Mapping[str, Weight] = field(repr=False)
    facts: Mapping[str, Facts] = field(repr=False)
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    fed: Mapping[str, Sequence[int]] = field(default_factory=dict)
    parts: Mapping[int, tuple[Node, ...]] = field(default_factory=dict, repr=False)

    @cached_property
    def elementary(self) -> tuple[Node, ...]:
        """All nodes, with each fused node replaced by its parts."""
        return tuple(part for node in self.nodes for part in self.parts_of(node))

    def parts_of(self, node: Node) -> tuple[Node, ...]:
        """The nodes that a fused node stands for; the node itself if it is not fused."""
        return self.parts.get(node.index, (node,))

    @cached_property
    def consumers(self) -> Mapping[str, tuple[tuple[Node, int], ...]]:
        """Tensor name -> (node, input position) of each use in the main graph, with fused nodes replaced by their parts."""
        found: dict[str, list[tuple[Node, int]]] = {}
        for node in self.elementary:
            for k, name in enumerate(node.inputs):
                if name:
                    found.setdefault(name, []).append((node, k))
        return {name: tuple(uses) for name, uses in found.items()}

    @cached_property
    def captured(self) -> frozenset[str]:
        """Tensors of the main graph that the bodies of If, Loop and Scan capture."""
        return frozenset(name for node in self.nodes for name in node.implicit)

    @cached_property
    def read(self) -> frozenset[str]:
        """Tensors in use: read by a node of the main graph or by a body in it, or an output of the model."""
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

    def sources_of(self, name: str) -> set[str]:
        """All tensors that `name` is computed from, including itself."""
        found, queue = {name}, [name]
        while queue:
            maker = self.makers.get(queue.pop())
            above = (*maker.inputs, *maker.implicit) if maker is not None else ()
            queue += [n for n in above if n and n not in found]
            found.update(above)
        return found

    def shape(self, name: str) -> tuple[int | None, ...] | None:
        """Sizes of a tensor, None for those that are dynamic; None for an unknown rank or an absent input."""
        facts = self.facts.get(name)
        return facts.shape if facts else None


def opsets(model: ModelProto) -> dict[str, int]:
    """Domain -> version, with the default domain under the empty string."""
    return {("" if o.domain == "ai.onnx" else o.domain): o.version for o in model.opset_import}


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
        own = {v.name for v in body.input} | {t.name for t in body.initializer}
        own |= {name for n in body.node for name in n.output}
        used = [name for n in body.node for name in (*n.input, *captured(n))]
        used += [v.name for v in body.output]
        yield from (name for name in dict.fromkeys(used) if name and name not in own)


def read_nodes(model: ModelProto) -> tuple[Node, ...]:
    """The nodes of the main graph as frozen values."""
    versions = opsets(model)
    nodes = []
    for k, n in enumerate(model.graph.node):
        domain = "" if n.domain == "ai.onnx" else n.domain
        op = f"{domain}.{n.op_type}" if domain else n.op_type
        implicit = tuple(captured(n))
        nodes.append(Node(k, op, versions.get(domain, 1), n.name, tuple(n.input), tuple(n.output), implicit, n))
    return tuple(nodes)


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
    """Initializers and Constant nodes by name, in file order."""
    found = {t.name: Weight(t.name, t) for t in model.graph.initializer}
    for n in model.graph.node:
        tensor = constant_tensor(n)
        if tensor is not None:
            found[n.output[0]] = Weight(n.output[0], tensor)
    return found


def free_inputs(model: ModelProto) -> Sequence[onnx.ValueInfoProto]:
    """Graph inputs without an initializer as their default."""
    stored = {t.name for t in model.graph.initializer} | {t.values.name for t in model.graph.sparse_initializer}
    return [v for v in model.graph.input if v.name not in stored]
