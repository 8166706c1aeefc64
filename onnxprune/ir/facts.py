# SPDX-License-Identifier: Apache-2.0
"""What each tensor is like: type, shape, and the values of sizes and other small constants.

The graph is read node by node (`infer.py`). Sizes that the file leaves open are filled in twice with different numbers (two
*cases*); what differs between the cases is dynamic.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx.shape_inference
from onnx import ModelProto, TensorProto, ValueInfoProto

from onnxprune.ir.graph import UNKNOWN, Fact, Facts, Graph, Node, Weight, free_inputs, read_nodes, read_weights
from onnxprune.ir.infer import Interpreter, fact_of_type, fact_of_weight
from onnxprune.ir.tensors import copy_without

# Small sizes keep the analysis fast; they differ in every place so that a mix-up shows, and 16 divides the spatial ones.
# (height or depth, width); the next pair is tried where a model contradicts the one before.
FIRST = ((64, 64), (48, 48), (32, 32), (224, 224), (299, 299), (512, 512))
CASES_OF_BENCHMARK = ((224, 224), (48, 320), *FIRST)
SECOND = ((96, 96), (48, 96), (32, 96), (96, 48))


def input_fact(
    value: ValueInfoProto, sizes: Mapping[str, int], named: dict[str, int], fed: Mapping[str, Sequence[int]]
) -> Fact:
    """The fact of a graph input with its open sizes filled in.

    A size the user gave (`fed`: input name -> shape) wins; the same symbol gets the same size everywhere.
    """
    fact = fact_of_type(value.type)
    if fact.shape is None:
        return Fact(fact.dtype, tuple(fed[value.name])) if value.name in fed else fact
    dims = value.type.tensor_type.shape.dim
    channels = _channel_axis(dims)
    shape = []
    for k, d in enumerate(dims):
        if d.HasField("dim_value") and d.dim_value >= 0:
            shape.append(d.dim_value)
        elif value.name in fed and k < len(fed[value.name]) and fed[value.name][k] > 0:
            shape.append(fed[value.name][k])
        else:
            place = "other"
            if k == 0:
                place = "batch"
            elif len(dims) >= 4:
                last = len(dims) - (1 if channels == 1 else 2)
                place = f"channels of {value.name}" if k == channels else "width" if k == last else "height"
            default = sizes[place]
            shape.append(named.setdefault(d.dim_param, default) if d.dim_param else default)
    return Fact(fact.dtype, tuple(shape))


def _channel_axis(dims: Sequence[Any]) -> int:
    """Where an image-like input has its channels: at the end, where they are the only size that the file states."""
    stated = [d.HasField("dim_value") and d.dim_value >= 0 for d in dims]
    return len(dims) - 1 if len(dims) >= 4 and stated[-1] and not any(stated[1:-1]) else 1


def _first_channels(nodes: Sequence[Node], weights: Mapping[str, Weight], name: str) -> int:
    """How many channels the first convolution that reads input `name` expects; 3 if there is none."""
    for node in nodes:
        if node.op == "Conv" and node.inputs[0] == name and node.inputs[1] in weights:
            return int(weights[node.inputs[1]].shape[1] * node.attribute("group", 1))
    return 3


@dataclass(frozen=True, slots=True)
class Reading:
    """The facts of every tensor for one choice of the open sizes.

    Attributes:
        facts: of every tensor of the main graph, and of those between the parts of fused nodes.
        contradictions: how often the model contradicts that choice.
        parts: index of a fused node -> the nodes that it stands for.
        nodes: the nodes of the main graph.
    """

    facts: dict[str, Fact]
    contradictions: int
    parts: dict[int, tuple[Node, ...]]
    nodes: Sequence[Node]

    def elementary(self) -> Iterator[Node]:
        """All nodes, with the parts of a fused node in its place."""
        for node in self.nodes:
            yield from self.parts.get(node.index, (node,))


def interpret(
    model: ModelProto,
    nodes: Sequence[Node],
    weights: Mapping[str, Weight],
    sizes: Mapping[str, int],
    fed: Mapping[str, Sequence[int]] | None = None,
) -> Reading:
    """The facts of every tensor of the main graph for one choice of the open sizes."""
    interpreter = Interpreter(model)
    facts = {name: fact_of_weight(w) for name, w in weights.items()}
    facts.update({s.values.name: Fact(s.values.data_type, tuple(s.dims)) for s in model.graph.sparse_initializer})
    named: dict[str, int] = {}
    for value in free_inputs(model):
        channels = {f"channels of {value.name}": _first_channels(nodes, weights, value.name)}
        facts[value.name] = input_fact(value, {**sizes, **channels}, named, fed or {})
    said, contradictions = _Said(model), 0
    parts: dict[int, tuple[Node, ...]] = {}
    for node in nodes:
        if node.inputs or node.outputs[0] not in facts:
            inputs = {name: facts.get(name, UNKNOWN) for name in (*node.inputs, *node.implicit) if name}
            try:
                pieces, found = interpreter.with_parts(node.proto, inputs)
                if pieces:
                    parts[node.index] = tuple(node.part(p) for p in pieces)
            except Exception:  # InferenceError and its kin: what is not known is pinned, and onnxruntime has the last word
                found = {name: UNKNOWN for name in node.outputs if name}
                contradictions += 1
            facts.update({name: said.better(name, fact) for name, fact in found.items()})
            contradictions += node.op == "Reshape" and not _same_count(facts[node.inputs[0]], facts[node.outputs[0]])
    return Reading(facts, contradictions, parts, nodes)


def _same_count(a: Fact, b: Fact) -> bool:
    """Whether two shapes, as far as they are known, hold the same number of elements."""
    if a.shape is None or b.shape is None or -1 in a.shape or -1 in b.shape:
        return True
    return bool(np.prod(a.shape) == np.prod(b.shape))


class _Said:
    """What the file itself, or inference over the whole model, says of tensors that node-wise inference cannot tell."""

    def __init__(self, model: ModelProto) -> None:
        self._model = model
        self._infos: dict[str, Fact] | None = None

    def better(self, name: str, fact: Fact) -> Fact:
        if fact.dtype and fact.shape is not None and -1 not in fact.shape:
            return fact
        if self._infos is None:
            self._infos = {v.name: fact_of_type(v.type) for v in self._all_infos()}
        said = self._infos.get(name, UNKNOWN)
        if fact.shape is None or said.shape is None or len(said.shape) != len(fact.shape):
            return said if fact.shape is None and (said.shape is not None or said.dtype) else fact
        return Fact(fact.dtype, tuple(b if a < 0 else a for a, b in zip(fact.shape, said.shape, strict=True)), fact.value)

    def _all_infos(self) -> Iterator[ValueInfoProto]:
        light = without_large_weights(self._model)
        try:
            inferred = onnx.shape_inference.infer_shapes(light, data_prop=True)
        except Exception:  # inference over the whole model is a bonus
            inferred = light
        yield from inferred.graph.value_info
        yield from inferred.graph.output


def without_large_weights(model: ModelProto) -> ModelProto:
    """A copy of the model in which large tensors have a type and a shape but no values."""
    light = skeleton(model)
    for t in model.graph.initializer:
        light.graph.initializer.add().CopyFrom(t if int(np.prod(t.dims)) <= 1024 else _hollow(t))
    for node in model.graph.node:
        new = light.graph.node.add()
        if node.op_type == "Constant" and node.ByteSize() > 8192 and node.attribute[0].HasField("t"):
            new.op_type, new.name, new.domain = node.op_type, node.name, node.domain
            new.output.extend(node.output)
            new.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(_hollow(node.attribute[0].t))
        else:
            new.CopyFrom(node)
    return light


def _hollow(t: TensorProto) -> TensorProto:
    return TensorProto(name=t.name, data_type=t.data_type, dims=t.dims)


def skeleton(model: ModelProto) -> ModelProto:
    """A copy of everything in the model but the nodes and initializers of its main graph."""
    copy = ModelProto()
    copy_without(model, copy, {"graph"})
    copy_without(model.graph, copy.graph, {"node", "initializer"})
    return copy


def read_graph(model: ModelProto, fed: Mapping[str, Sequence[int]] | None = None) -> Graph:
    """The frozen view of a model: nodes, weights, and facts in every case.

    Args:
        model: a valid model with its weights in memory.
        fed: input name -> shape, where the user knows the sizes that the file leaves open.
    """
    nodes, weights = read_nodes(model), read_weights(model)
    inputs = free_inputs(model)
    dynamic = any(-1 in (fact_of_type(v.type).shape or (-1,)) for v in inputs)
    readings = [_best_reading(model, nodes, weights, FIRST if dynamic else FIRST[:1], {"batch": 1, "other": 16}, fed or {})]
    if dynamic:
        readings.append(_best_reading(model, nodes, weights, SECOND, {"batch": 2, "other": 24}, {}))
    cases = [r.facts for r in readings]
    facts = {name: Facts(tuple(c.get(name, UNKNOWN) for c in cases)) for name in cases[0]}
    outputs = tuple(v.name for v in model.graph.output)
    return Graph(model, nodes, weights, facts, tuple(v.name for v in inputs), outputs, fed or {}, readings[0].parts)


def read_once(
    model: ModelProto, pairs: Sequence[tuple[int, int]], fed: Mapping[str, Sequence[int]]
) -> tuple[Reading, tuple[str, ...]]:
    """The reading for the first of some (height, width) that the model does not contradict, and the names of its inputs."""
    nodes, weights = read_nodes(model), read_weights(model)
    reading = _best_reading(model, nodes, weights, pairs, {"batch": 1, "other": 16}, fed)
    return reading, tuple(v.name for v in free_inputs(model))


def _best_reading(
    model: ModelProto,
    nodes: Sequence[Node],
    weights: Mapping[str, Weight],
    pairs: Sequence[tuple[int, int]],
    sizes: Mapping[str, int],
    fed: Mapping[str, Sequence[int]],
) -> Reading:
    best: Reading | None = None
    for height, width in pairs:
        reading = interpret(model, nodes, weights, {**sizes, "height": height, "width": width}, fed)
        if best is None or reading.contradictions < best.contradictions:
            best = reading
        if not best.contradictions:
            break
    assert best is not None
    return best
