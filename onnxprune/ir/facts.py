# SPDX-License-Identifier: Apache-2.0
"""Type, shape and (for sizes and other small constants) values of every tensor.

The graph is read node by node (`infer.py`). Sizes that the file leaves open are filled in twice with different numbers (two
*cases*); whatever differs between the cases is dynamic.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx.shape_inference
from onnx import ModelProto, TensorProto, ValueInfoProto

from onnxprune.errors import OptionError, did_you_mean
from onnxprune.ir.bodies import Flat, body_graphs, entering, flatten, is_settled, iterations
from onnxprune.ir.graph import UNKNOWN, Fact, Facts, Graph, Node, Weight, free_inputs
from onnxprune.ir.infer import Interpreter, fact_of_type, fact_of_weight
from onnxprune.ir.tensors import copy_without
from onnxprune.types import Shapes

# Small sizes keep the analysis fast; they differ in every place so that a mix-up shows, and 16 divides the spatial ones.
# Each pair is (height or depth, width); the next one is tried if the model contradicts the previous one.
FIRST = ((64, 64), (48, 48), (32, 32), (224, 224), (299, 299), (512, 512))
CASES_OF_BENCHMARK = ((224, 224), (48, 320), *FIRST)
SECOND = ((96, 96), (48, 96), (32, 96), (96, 48))


def input_fact(value: ValueInfoProto, sizes: Mapping[str, int], named: dict[str, int], fed: Shapes) -> Fact:
    """The fact of a graph input with its open sizes filled in.

    Sizes given by the user (`fed`: input name -> shape) take precedence; the same symbol gets the same size everywhere.
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
    """The channel axis of an image-like input: the last one if it is the only size that the file states, else axis 1."""
    stated = [d.HasField("dim_value") and d.dim_value >= 0 for d in dims]
    return len(dims) - 1 if len(dims) >= 4 and stated[-1] and not any(stated[1:-1]) else 1


def _first_channels(nodes: Sequence[Node], weights: Mapping[str, Weight], name: str) -> int:
    """The number of channels that the first convolution on input `name` expects; 3 if there is none."""
    for node in nodes:
        if node.op == "Conv" and node.inputs[0] == name and node.inputs[1] in weights:
            return int(weights[node.inputs[1]].shape[1] * node.attribute("group", 1))
    return 3


@dataclass(frozen=True, slots=True)
class Reading:
    """The facts of every tensor for one choice of the open sizes.

    Attributes:
        facts: facts of every tensor, and of the tensors between the parts of fused nodes.
        contradictions: the number of times that the model contradicts that choice.
        parts: index of a fused node -> the nodes that it stands for.
        nodes: all nodes.
    """

    facts: dict[str, Fact]
    contradictions: int
    parts: dict[int, tuple[Node, ...]]
    nodes: Sequence[Node]

    def elementary(self) -> Iterator[Node]:
        """All nodes, with each fused node replaced by its parts."""
        for node in self.nodes:
            yield from self.parts.get(node.index, (node,))


def interpret(model: ModelProto, flat: Flat, sizes: Mapping[str, int], fed: Shapes | None = None) -> Reading:
    """The facts of every tensor for one choice of the open sizes."""
    interpreter, nodes = Interpreter(model), flat.nodes
    facts = {name: fact_of_weight(w) for name, w in flat.weights.items()} | dict(flat.sparse)
    named: dict[str, int] = {}
    for value in free_inputs(model):
        channels = {f"channels of {value.name}": _first_channels(nodes, flat.weights, value.name)}
        facts[value.name] = input_fact(value, {**sizes, **channels}, named, fed or {})
    stated, wrong = _Stated(model), set[int]()
    parts: dict[int, tuple[Node, ...]] = {}
    loops = [b for b in flat.bodies[1:] if nodes[b.owner].op != "If"]
    k = 0
    while k < len(nodes):
        node = nodes[k]
        for body in (b for b in loops if b.first == k):
            owner = nodes[body.owner].proto
            entry = entering(owner, body, facts)
            facts.update({name: stated.better(name, fact) for name, fact in entry.items()})
            facts[body.prefix] = Fact(TensorProto.INT64, (iterations(owner, facts),))
        if node.inputs or node.outputs[0] not in facts:
            inputs = {name: facts.get(name, UNKNOWN) for name in (*node.inputs, *node.implicit) if name}
            wrong.discard(k)
            try:
                pieces, found = interpreter.with_parts(node.proto, inputs)
                if pieces:
                    parts[k] = tuple(node.part(p) for p in pieces)
            except Exception:  # InferenceError and the like: unknown tensors are pinned, and onnxruntime has the last word
                found = {name: UNKNOWN for name in node.outputs if name}
                wrong.add(k)
            facts.update({name: stated.better(name, fact) for name, fact in found.items()})
            if node.op == "Reshape" and not _same_count(facts[node.inputs[0]], facts[node.outputs[0]]):
                wrong.add(k)
        k = next((b.first for b in loops if b.owner == k and not is_settled(node.proto, b, facts)), k + 1)
    return Reading(facts, _contradictions(flat, wrong), parts, nodes)


def _contradictions(flat: Flat, wrong: Collection[int]) -> int:
    """The number of nodes that contradict a choice of sizes; of the branches of an If only the one that fits best counts."""
    counts = [0] * len(flat.bodies)
    for k in wrong:
        counts[flat.nodes[k].body] += 1
    owners: dict[int, list[int]] = {}
    for k, body in enumerate(flat.bodies[1:], 1):
        owners.setdefault(body.owner, []).append(k)
    for owner, inner in reversed(owners.items()):  # nodes in a body after the node around it
        counts[flat.nodes[owner].body] += min(counts[k] for k in inner)
    return counts[0]


def _same_count(a: Fact, b: Fact) -> bool:
    """Whether two shapes, as far as they are known, have the same number of elements."""
    if a.shape is None or b.shape is None or -1 in a.shape or -1 in b.shape:
        return True
    return bool(np.prod(a.shape) == np.prod(b.shape))


class _Stated:
    """What the file itself, or inference over the whole model, states about tensors that node-wise inference leaves open."""

    def __init__(self, model: ModelProto) -> None:
        self._model = model
        self._infos: dict[str, Fact] | None = None

    def better(self, name: str, fact: Fact) -> Fact:
        if fact.dtype and fact.shape is not None and -1 not in fact.shape:
            return fact
        if self._infos is None:
            self._infos = {v.name: fact_of_type(v.type) for v in self._all_infos()}
        stated = self._infos.get(name, UNKNOWN)
        if fact.shape is None or stated.shape is None or len(stated.shape) != len(fact.shape):
            return stated if fact.shape is None and (stated.shape is not None or stated.dtype) else fact
        return Fact(fact.dtype, tuple(b if a < 0 else a for a, b in zip(fact.shape, stated.shape, strict=True)), fact.value)

    def _all_infos(self) -> Iterator[ValueInfoProto]:
        light = without_large_weights(self._model)
        try:
            inferred = onnx.shape_inference.infer_shapes(light, data_prop=True)
        except Exception:  # inference over the whole model is optional
            inferred = light
        for graph, body in body_graphs(inferred):
            for value in (*graph.value_info, *graph.output, *(graph.input if body.prefix else ())):
                yield ValueInfoProto(name=body.named(value.name), type=value.type)


def without_large_weights(model: ModelProto) -> ModelProto:
    """A copy of the model in which large tensors keep their type and shape but have no values."""
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
    """A copy of the model without the nodes and initializers of its main graph."""
    copy = ModelProto()
    copy_without(model, copy, {"graph"})
    copy_without(model.graph, copy.graph, {"node", "initializer"})
    return copy


def check_shapes(model: ModelProto, fed: Shapes) -> None:
    """Check that the shapes given by the user are for inputs of the model and agree with the sizes that the file states.

    Raises:
        OptionError: a name is not an input, or a shape contradicts the file.
    """
    inputs = {v.name: fact_of_type(v.type).shape for v in free_inputs(model)}
    for name, sizes in fed.items():
        if name not in inputs:
            hint = did_you_mean(name, inputs)
            raise OptionError(f"--input-shape: '{name}' is not an input; {hint}the inputs are {', '.join(inputs)}")
        stated = inputs[name]
        if stated is None:
            continue
        fits = len(stated) == len(sizes) and all(a < 0 or b <= 0 or a == b for a, b in zip(stated, sizes, strict=False))
        if not fits:
            got, expected = ("x".join("?" if n <= 0 else str(n) for n in shape) for shape in (sizes, stated))
            raise OptionError(f"--input-shape: got {got} for '{name}', but the file says {expected} (? is any size)")


def read_graph(model: ModelProto, fed: Shapes | None = None) -> Graph:
    """The frozen view of a model: nodes, weights, and facts in every case.

    Args:
        model: a valid model with its weights in memory.
        fed: input name -> shape, for inputs whose open sizes the user has given.

    Raises:
        OptionError: `fed` contradicts the model.
    """
    check_shapes(model, fed or {})
    flat, inputs = flatten(model), free_inputs(model)
    dynamic = any(-1 in (fact_of_type(v.type).shape or (-1,)) for v in inputs)
    readings = [_best_reading(model, flat, FIRST if dynamic else FIRST[:1], {"batch": 1, "other": 16}, fed or {})]
    if dynamic:
        readings.append(_best_reading(model, flat, SECOND, {"batch": 2, "other": 24}, {}))
    cases = [r.facts for r in readings]
    facts = {name: Facts(tuple(c.get(name, UNKNOWN) for c in cases)) for name in cases[0]}
    outputs = tuple(v.name for v in model.graph.output)
    ends = tuple(v.name for v in inputs), outputs
    return Graph(model, flat.nodes, flat.weights, facts, *ends, fed or {}, readings[0].parts, flat.bodies)


def read_once(model: ModelProto, pairs: Sequence[tuple[int, int]], fed: Shapes) -> tuple[Reading, tuple[str, ...]]:
    """The reading for the first (height, width) that the model does not contradict, and the names of the model's inputs."""
    check_shapes(model, fed)
    reading = _best_reading(model, flatten(model), pairs, {"batch": 1, "other": 16}, fed)
    return reading, tuple(v.name for v in free_inputs(model))


def _best_reading(
    model: ModelProto, flat: Flat, pairs: Sequence[tuple[int, int]], sizes: Mapping[str, int], fed: Shapes
) -> Reading:
    best: Reading | None = None
    for height, width in pairs:
        reading = interpret(model, flat, {**sizes, "height": height, "width": width}, fed)
        if best is None or reading.contradictions < best.contradictions:
            best = reading
        if not best.contradictions:
            break
    assert best is not None
    return best
