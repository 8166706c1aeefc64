# SPDX-License-Identifier: Apache-2.0
"""Type, shape and (for sizes and other small constants) values of a node's outputs, given its inputs.

Shapes come from ONNX's shape inference, values from ONNX's reference evaluator. Fused operators are evaluated by their parts
(`decompositions/`); for other operators of onnxruntime's own, onnxruntime infers the shapes.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache, reduce
from typing import Any

import numpy as np
import onnx
import onnx.shape_inference
from onnx import ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto

from onnxprune.ir.bodies import is_opened
from onnxprune.ir.decompositions import MICROSOFT, parts_of
from onnxprune.ir.graph import FLOATS, UNKNOWN, Fact, Weight, opsets
from onnxprune.ir.loops import joint, leaving
from onnxprune.ort import output_types
from onnxprune.types import Array

MAX_INTEGERS, MAX_FLOATS = 65536, 16
# Operators whose shape ONNX does not infer: it is that of the first input. Two of them convert all numbers to float32.
LIKE_FIRST = {"GroupNormalization", "MeanVarianceNormalization", "Scaler", "Normalizer", "Imputer", "Binarizer"}
TO_FLOAT = {"Scaler", "Normalizer"}
# Operators whose output size depends on values.
SIZED_BY_VALUES = {"Compress", "NonMaxSuppression", "NonZero", "Range", "Unique"}
# The opset of the parts of fused operators.
NEWEST = {"": onnx.defs.onnx_opset_version()}
RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}


class Interpreter:
    """Derives the facts of a node's outputs from those of its inputs, for one model's opsets."""

    def __init__(self, model: ModelProto, versions: Mapping[str, int] | None = None) -> None:
        self._versions = versions or opsets(model)
        self._imports = [onnx.helper.make_opsetid(domain, version) for domain, version in self._versions.items()]
        self._ir = model.ir_version
        self._functions = {(f.domain, f.name) for f in model.functions}
        self._of_parts = None if versions else Interpreter(model, NEWEST)

    def __call__(self, node: NodeProto, inputs: Mapping[str, Fact]) -> dict[str, Fact]:
        """Facts of each named output; unknown if they cannot be derived.

        Raises:
            onnx.shape_inference.InferenceError: the input shapes contradict the operator.
        """
        found = self.with_parts(node, inputs)[1]
        return {name: found.get(name, UNKNOWN) for name in node.output if name}

    def with_parts(self, node: NodeProto, inputs: Mapping[str, Fact]) -> tuple[list[NodeProto], dict[str, Fact]]:
        """The nodes that a fused node stands for (empty for any other node), and the facts of all computed tensors."""
        own = (node.domain, node.op_type) not in self._functions
        parts = parts_of(node, lambda name: inputs[name].shape) if own and self._of_parts else []
        if not parts or self._of_parts is None:
            return [], self._derive(node, inputs)
        known = dict(inputs)
        for part in parts:
            known.update(self._of_parts(part, known))
        found = {name: known[name] for part in parts for name in part.output if name}
        hidden = [name for name in node.output if name and found.get(name, UNKNOWN).shape is None]
        inferred = self._ask_onnxruntime(node, inputs) if hidden else {}
        return parts, {**found, **{name: inferred[name] for name in hidden if name in inferred}}

    def _derive(self, node: NodeProto, inputs: Mapping[str, Fact]) -> dict[str, Fact]:
        if node.op_type == "If":
            return self._branches(node, inputs)
        if is_opened(node, self._versions):
            return leaving(node, inputs)
        types = self._infer(node, inputs)
        # of the second input of CastLike, only the type matters
        read = node.input[:1] if node.op_type == "CastLike" else node.input
        known = all(inputs[name].value is not None for name in read if name)
        found = {}
        for name in node.output:
            if name:
                found[name] = types.get(name, UNKNOWN)
        open_sizes = node.op_type in SIZED_BY_VALUES and all(-1 in (f.shape or (-1,)) for f in found.values())
        small = open_sizes or all(_is_small(f) for f in found.values())
        if known and small and not _has_graph(node) and node.op_type not in RANDOM:
            found.update(self._evaluate(node, inputs, found))
        elif node.op_type in ("Shape", "Size") and node.domain in ("", "ai.onnx"):
            found.update(self._sizes(node, inputs))
        return found

    def _branches(self, node: NodeProto, inputs: Mapping[str, Fact]) -> dict[str, Fact]:
        """The outputs of the branch that is taken; if the condition is unknown, what both branches agree on."""
        condition = inputs[node.input[0]].value
        taken = {
            "then_branch": condition is None or bool(condition.all()),
            "else_branch": condition is None or not condition.any(),
        }
        outputs = [[inputs.get(v.name, UNKNOWN) for v in a.g.output] for a in node.attribute if taken[a.name]]
        agreed = [reduce(joint, facts) for facts in zip(*outputs, strict=True)]
        return {name: fact for name, fact in zip(node.output, agreed, strict=True) if name}

    def _infer(self, node: NodeProto, inputs: Mapping[str, Fact]) -> dict[str, Fact]:
        domain = "" if node.domain == "ai.onnx" else node.domain
        if (node.domain, node.op_type) in self._functions or any(not inputs[name].dtype for name in node.input if name):
            return {}
        if not onnx.defs.has(node.op_type, domain):
            return self._ask_onnxruntime(node, inputs)
        if node.op_type == "Squeeze" and len(node.input) == 1 and not node.attribute:
            fact = inputs[node.input[0]]  # inference leaves open which axes are removed
            shape = None if fact.shape is None or -1 in fact.shape else tuple(n for n in fact.shape if n != 1)
            return {node.output[0]: Fact(fact.dtype, shape)}
        if node.op_type in LIKE_FIRST:
            first = inputs[node.input[0]]
            return {node.output[0]: Fact(TensorProto.FLOAT if node.op_type in TO_FLOAT else first.dtype, first.shape)}
        if node.op_type == "MaxUnpool" and len(node.input) > 2:
            sizes = inputs[node.input[2]].value
            return {node.output[0]: Fact(inputs[node.input[0]].dtype, None if sizes is None else tuple(sizes.tolist()))}
        data = {n: _tensor(inputs[n].value) for n in node.input if n and inputs[n].value is not None}
        types = {n: _type(inputs[n]) for n in node.input if n}
        schema = self._schema(node.op_type, domain)
        found = onnx.shape_inference.infer_node_outputs(schema, node, types, data, None, self._imports, self._ir)
        return {name: _without_negative(t) for name, t in found.items()}

    def _schema(self, op: str, domain: str) -> Any:
        try:
            return onnx.defs.get_schema(op, self._versions.get(domain, 1), domain)
        except onnx.defs.SchemaError:  # onnxruntime's optimizer writes operators that are newer than the opset
            return onnx.defs.get_schema(op, domain)

    def _ask_onnxruntime(self, node: NodeProto, inputs: Mapping[str, Fact]) -> dict[str, Fact]:
        """The facts that onnxruntime infers for one of its own operators."""
        if not node.domain.startswith(MICROSOFT) or any(not inputs[name].dtype for name in node.input if name):
            return {}
        model = onnx.ModelProto(ir_version=self._ir, opset_import=self._imports)
        model.graph.name = "one"
        model.graph.node.add().CopyFrom(node)
        for name in dict.fromkeys(n for n in node.input if n):
            if inputs[name].value is None:
                model.graph.input.add(name=name).type.CopyFrom(_type(inputs[name]))
            else:
                model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(inputs[name].value), name))
        model.graph.output.extend(ValueInfoProto(name=n) for n in node.output if n)
        return _inferred_by_onnxruntime(model)

    def _evaluate(self, node: NodeProto, inputs: Mapping[str, Fact], found: Mapping[str, Fact]) -> dict[str, Fact]:
        given = [inputs[n].value if n else None for n in node.input]
        if node.op_type == "CastLike":
            given[1] = np.zeros(1, onnx.helper.tensor_dtype_to_np_dtype(inputs[node.input[1]].dtype))
        values = evaluate(node, self._versions, given)
        if values is None:
            return {}
        return {
            name: Fact(found[name].dtype, tuple(v.shape), v)
            for name, v in zip(node.output, values, strict=False)
            if name and isinstance(v, np.ndarray) and v.size <= MAX_INTEGERS
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


def _inferred_by_onnxruntime(model: ModelProto) -> dict[str, Fact]:
    """The facts of a model's outputs, as onnxruntime infers them."""
    kinds = {f"tensor({name.lower()})": number for name, number in TensorProto.DataType.items()}
    found = {}
    for name, kind, sizes in output_types(model.SerializeToString(deterministic=True)):
        if kind in kinds:  # it reports an empty shape also if the shape is unknown
            found[name] = Fact(kinds[kind], tuple(-1 if n is None else n for n in sizes) or None)
    return found


def evaluate(node: NodeProto, versions: Mapping[str, int], inputs: Sequence[Array | None]) -> list[Array] | None:
    """The outputs of a node from ONNX's reference evaluator; None if it has no implementation or fails."""
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
    except Exception:  # the evaluator raises whatever numpy does; an unknown value is always safe
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


def _without_negative(t: TypeProto) -> Fact:
    """The fact of an inferred type. A window longer than its axis has no position; inference may then return less than zero."""
    fact = fact_of_type(t)
    if fact.shape is None:
        return fact
    stated = [d.HasField("dim_value") for d in t.tensor_type.shape.dim]
    return Fact(fact.dtype, tuple(max(n, 0) if known else n for n, known in zip(fact.shape, stated, strict=True)))


def fact_of_weight(weight: Weight) -> Fact:
    """Type and shape of a stored tensor, with its values if there are few."""
    size = int(np.prod(weight.shape))
    small = size <= (MAX_FLOATS if weight.is_float else MAX_INTEGERS)
    return Fact(weight.tensor.data_type, weight.shape, weight.array if small else None)


def _is_small(fact: Fact) -> bool:
    if fact.shape is None or -1 in fact.shape:
        return False
    return int(np.prod(fact.shape)) <= (MAX_FLOATS if fact.dtype in FLOATS else MAX_INTEGERS)


def _has_graph(node: NodeProto) -> bool:
    return any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute)


def _type(fact: Fact) -> TypeProto:
    if fact.shape is None:
        return onnx.helper.make_tensor_type_proto(fact.dtype, None)
    return onnx.helper.make_tensor_type_proto(fact.dtype, [None if d < 0 else d for d in fact.shape])


def _tensor(value: Array | None) -> TensorProto:
    return onnx.numpy_helper.from_array(np.asarray(value))
