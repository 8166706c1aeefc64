# SPDX-License-Identifier: Apache-2.0
"""What each tensor is like: type, shape, and the values of sizes and other small constants.

Shapes come from ONNX's own inference and values from ONNX's own reference evaluator, node by node. Sizes that the file
leaves open are filled in twice with different numbers (two *cases*); what differs between the cases is dynamic.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
import onnx.shape_inference
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto

from onnxprune.graph import FLOATS, UNKNOWN, Fact, Facts, Graph, Node, Weight, free_inputs, opsets, read_nodes, read_weights

MOST_INTEGERS, MOST_FLOATS = 65536, 16
# Small sizes keep the analysis fast; they differ in every place so that a mix-up shows, and 16 divides the spatial ones.
# (height or depth, width); the next pair is tried where a model contradicts the one before.
FIRST = ((64, 64), (48, 48), (32, 32), (224, 224), (299, 299), (512, 512))
CASES_OF_BENCHMARK = ((224, 224), (48, 320), *FIRST)
SECOND = ((96, 96), (48, 96), (32, 96), (96, 48))
# Operators that ONNX defines by a function, of which inference does not tell the shape: it is that of the first input.
LIKE_FIRST = {"GroupNormalization"}
RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}


class Interpreter:
    """Derives the facts of a node's outputs from those of its inputs, for one model's opsets."""

    def __init__(self, model: ModelProto) -> None:
        self._imports = list(model.opset_import)
        self._versions = opsets(model)
        self._ir = model.ir_version
        self._functions = {(f.domain, f.name) for f in model.functions}

    def __call__(self, node: NodeProto, inputs: Mapping[str, Fact]) -> dict[str, Fact]:
        """Facts of each named output; unknown where ONNX cannot tell.

        Raises:
            onnx.shape_inference.InferenceError: the input shapes contradict the operator.
        """
        types = self._infer(node, inputs)
        known = all(inputs[name].value is not None for name in node.input if name)
        found = {}
        for name in node.output:
            if name:
                found[name] = types.get(name, UNKNOWN)
        if known and not _has_graph(node) and node.op_type not in RANDOM and all(_is_small(f) for f in found.values()):
            found.update(self._evaluate(node, inputs, found))
        elif node.op_type in ("Shape", "Size") and node.domain in ("", "ai.onnx"):
            found.update(self._sizes(node, inputs))
        return found

    def _infer(self, node: NodeProto, inputs: Mapping[str, Fact]) -> dict[str, Fact]:
        domain = "" if node.domain == "ai.onnx" else node.domain
        if (node.domain, node.op_type) in self._functions or not onnx.defs.has(node.op_type, domain):
            return {}
        if any(not inputs[name].dtype for name in node.input if name):
            return {}
        if node.op_type == "Squeeze" and len(node.input) == 1 and not node.attribute:
            fact = inputs[node.input[0]]  # inference leaves open which axes go
            shape = None if fact.shape is None or -1 in fact.shape else tuple(n for n in fact.shape if n != 1)
            return {node.output[0]: Fact(fact.dtype, shape)}
        if node.op_type in LIKE_FIRST:
            return {node.output[0]: Fact(inputs[node.input[0]].dtype, inputs[node.input[0]].shape)}
        schema = onnx.defs.get_schema(node.op_type, self._versions.get(domain, 1), domain)
        data = {n: _tensor(inputs[n].value) for n in node.input if n and inputs[n].value is not None}
        types = {n: _type(inputs[n]) for n in node.input if n}
        found = onnx.shape_inference.infer_node_outputs(schema, node, types, data, None, self._imports, self._ir)
        return {name: fact_of_type(t) for name, t in found.items()}

    def _evaluate(self, node: NodeProto, inputs: Mapping[str, Fact], found: Mapping[str, Fact]) -> dict[str, Fact]:
        values = evaluate(node, self._versions, [inputs[n].value if n else None for n in node.input])
        if values is None:
            return {}
        return {
            name: Fact(found[name].dtype, tuple(v.shape), v)
            for name, v in zip(node.output, values, strict=False)
            if name and isinstance(v, np.ndarray)
        }

    @staticmethod
    def _sizes(node: NodeProto, inputs: Mapping[str, Fact]) -> dict[str, Fact]:
        shape = inputs[node.input[0]].shape
        if shape is None or -1 in shape:
            return {}
        if node.op_type == "Size":
            return {node.output[0]: Fact(TensorProto.INT64, (), np.array(int(np.prod(shape)), np.int64))}
        bounds = {a.name: a.i for a in node.attribute}
        value = np.array(shape[bounds.get("start", 0) : bounds.get("end", len(shape))], np.int64)
        return {node.output[0]: Fact(TensorProto.INT64, value.shape, value)}


def evaluate(node: NodeProto, versions: Mapping[str, int], inputs: Sequence[NDArray[Any] | None]) -> list[NDArray[Any]] | None:
    """The outputs of a node by ONNX's reference evaluator; None where it has no implementation or fails."""
    attributes = tuple(a.SerializeToString(deterministic=True) for a in node.attribute)
    present = tuple(x is not None for x in inputs)
    runner = _runner(node.op_type, node.domain, versions.get(node.domain, 1), attributes, present, len(node.output))
    if runner is None:
        return None
    feeds = {f"i{k}": x for k, x in enumerate(inputs) if x is not None}
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            return [np.asarray(v) for v in runner.run(None, feeds)]
    except Exception:  # the evaluator raises whatever numpy does; not knowing a value is always safe
        return None


@lru_cache(4096)
def _runner(op: str, domain: str, version: int, attributes: tuple[bytes, ...], present: tuple[bool, ...], outputs: int) -> Any:
    from onnx.reference import ReferenceEvaluator

    node = NodeProto(op_type=op, domain=domain)
    node.input.extend(f"i{k}" if there else "" for k, there in enumerate(present))
    node.output.extend(f"o{k}" for k in range(outputs))
    node.attribute.extend(onnx.AttributeProto.FromString(a) for a in attributes)
    graph = onnx.helper.make_graph(
        [node],
        "one",
        [ValueInfoProto(name=n) for n in node.input if n],
        [ValueInfoProto(name=n) for n in node.output],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid(domain, version)])
    try:
        return ReferenceEvaluator(model)
    except Exception:  # no implementation of this operator at this version
        return None


def fact_of_type(t: TypeProto) -> Fact:
    """Element type and shape of a tensor type."""
    if not t.HasField("tensor_type"):
        return UNKNOWN
    shape = None
    if t.tensor_type.HasField("shape"):
        shape = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in t.tensor_type.shape.dim)
    return Fact(t.tensor_type.elem_type, shape)


def fact_of_weight(weight: Weight) -> Fact:
    """Type and shape of a stored tensor, with its values if they are few."""
    size = int(np.prod(weight.shape))
    small = size <= (MOST_FLOATS if weight.is_float else MOST_INTEGERS)
    return Fact(weight.tensor.data_type, weight.shape, weight.array if small else None)


def _is_small(fact: Fact) -> bool:
    if fact.shape is None or -1 in fact.shape:
        return False
    return int(np.prod(fact.shape)) <= (MOST_FLOATS if fact.dtype in FLOATS else MOST_INTEGERS)


def _has_graph(node: NodeProto) -> bool:
    return any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute)


def _type(fact: Fact) -> TypeProto:
    if fact.shape is None:
        return onnx.helper.make_tensor_type_proto(fact.dtype, None)
    return onnx.helper.make_tensor_type_proto(fact.dtype, [None if d < 0 else d for d in fact.shape])


def _tensor(value: NDArray[Any] | None) -> TensorProto:
    return onnx.numpy_helper.from_array(np.asarray(value))


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
                place = f"channels of {value.name}" if k == 1 else "width" if k == len(dims) - 1 else "height"
            default = sizes[place]
            shape.append(named.setdefault(d.dim_param, default) if d.dim_param else default)
    return Fact(fact.dtype, tuple(shape))


def _first_channels(nodes: Sequence[Node], weights: Mapping[str, Weight], name: str) -> int:
    """How many channels the first convolution that reads input `name` expects; 3 if there is none."""
    for node in nodes:
        if node.op == "Conv" and node.inputs[0] == name and node.inputs[1] in weights:
            return int(weights[node.inputs[1]].shape[1] * node.attribute("group", 1))
    return 3


@dataclass(frozen=True, slots=True)
class Reading:
    """The facts of every tensor for one choice of the open sizes, and how often the model contradicts that choice."""

    facts: dict[str, Fact]
    contradictions: int


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
    for node in nodes:
        if node.inputs or node.outputs[0] not in facts:
            inputs = {name: facts.get(name, UNKNOWN) for name in node.inputs if name}
            try:
                found = interpreter(node.proto, inputs)
            except Exception:  # InferenceError and its kin: what is not known is pinned, and onnxruntime has the last word
                found = {name: UNKNOWN for name in node.outputs if name}
                contradictions += 1
            facts.update({name: said.better(name, fact) for name, fact in found.items()})
            contradictions += node.op == "Reshape" and not _same_count(facts[node.inputs[0]], facts[node.outputs[0]])
    return Reading(facts, contradictions)


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
    _copy_fields(model, copy, {"graph"})
    _copy_fields(model.graph, copy.graph, {"node", "initializer"})
    return copy


def _copy_fields(source: Any, target: Any, leave: set[str]) -> None:
    for field, value in source.ListFields():
        if field.name in leave:
            continue
        if isinstance(value, (str, bytes, int, float)):
            setattr(target, field.name, value)
        elif hasattr(value, "MergeFrom"):
            getattr(target, field.name).MergeFrom(value)
        else:
            getattr(target, field.name).extend(value)


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
    return Graph(model, nodes, weights, facts, tuple(v.name for v in inputs), outputs, fed or {})


def read_once(
    model: ModelProto, pairs: Sequence[tuple[int, int]], fed: Mapping[str, Sequence[int]]
) -> tuple[dict[str, Fact], tuple[str, ...]]:
    """The facts of every tensor for the first of some (height, width) that the model does not contradict, and its inputs."""
    nodes, weights = read_nodes(model), read_weights(model)
    reading = _best_reading(model, nodes, weights, pairs, {"batch": 1, "other": 16}, fed)
    return reading.facts, tuple(v.name for v in free_inputs(model))


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
