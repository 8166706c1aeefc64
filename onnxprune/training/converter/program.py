# SPDX-License-Identifier: Apache-2.0
"""An ONNX graph as a list of steps for the interpreter: what is trained, what is constant, what depends on shapes only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx.inliner
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from onnxprune.errors import TrainingError
from onnxprune.ir.constants import dense
from onnxprune.ir.decompositions import LABELS_ONLY, key, parts_of
from onnxprune.ir.graph import FLOATS, captured, constant_tensor, free_inputs, opsets, read_weights, subgraphs
from onnxprune.ir.infer import RANDOM
from onnxprune.ir.normalize import normal_form
from onnxprune.ir.tensors import array_of
from onnxprune.training.converter.call import Call
from onnxprune.training.converter.ops import NUMBERS, OPS, SETTINGS
from onnxprune.training.converter.ops import elementwise as pointwise
from onnxprune.types import Array

NEWEST = {"": onnx.defs.onnx_opset_version()}
PASSING = frozenset("Identity Reshape Flatten Transpose Squeeze Unsqueeze Cast".split())


@dataclass(frozen=True)
class Instruction:
    """One node.

    Attributes:
        static: the result depends only on the shapes of the model's inputs, and is computed once per combination of shapes.
        opsets: domain -> version for this node; the newest for parts of a fused node.
        branches: for If, the steps of each branch and the names of its outputs.
    """

    call: Call
    node: NodeProto = field(repr=False)
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    implicit: tuple[str, ...]
    static: bool
    opsets: Mapping[str, int]
    branches: Mapping[str, tuple[tuple[Instruction, ...], tuple[str, ...]]] = field(default_factory=dict)

    def __str__(self) -> str:
        """Operator and name, for messages."""
        return f"{self.call.op} '{self.node.name or self.outputs[0]}'"


@dataclass(frozen=True)
class Program:
    """A model to interpret.

    Attributes:
        steps: the nodes in file order.
        stored: tensors of the file that do not change.
        weights: tensors that are trained, by name.
        statistics: running means and variances of BatchNormalization, by name.
        inputs, outputs: names.
    """

    steps: tuple[Instruction, ...] = field(repr=False)
    stored: Mapping[str, Array] = field(repr=False)
    weights: Mapping[str, Array] = field(repr=False)
    statistics: Mapping[str, Array] = field(repr=False)
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def read_program(model: ModelProto) -> Program:
    """The steps of a model; its functions are expanded, and so are ONNX's for operators that the table lacks."""
    graph, versions = expanded(model).graph, opsets(model)
    nodes = [n for n, _ in flat(graph, versions)]
    stored = stored_arrays(graph, versions)
    statistics = {name for n in nodes if n.op_type == "BatchNormalization" for name in n.input[3:5]} & stored.keys()
    weights = _weights(model, nodes, stored) - statistics
    constants = {n: x for n, x in stored.items() if n not in weights and n not in statistics}
    return Program(
        _steps(graph, versions, set(constants)),
        constants,
        {n: x for n, x in stored.items() if n in weights},
        {n: x for n, x in stored.items() if n in statistics},
        tuple(v.name for v in free_inputs(model)),
        tuple(v.name for v in model.graph.output),
    )


def expanded(model: ModelProto) -> ModelProto:
    """The model without sequences of parts; its functions are inlined, and so are ONNX's for operators that the table lacks."""
    model = normal_form(onnx.inliner.inline_local_functions(model) if model.functions else model)
    versions = opsets(model)
    lacking = {n.op_type for n in model.graph.node if n.domain in ("", "ai.onnx") and n.op_type not in OPS}
    defined = [("", op) for op in sorted(lacking) if _has_body(op, versions.get("", 1))]
    return onnx.inliner.inline_selected_functions(model, defined, inline_schema_functions=True) if defined else model


def _has_body(op: str, version: int) -> bool:
    try:
        schema: Any = onnx.defs.get_schema(op, version)
    except onnx.defs.SchemaError:
        return False
    # these produce integers, so a function body gains nothing
    return bool(schema.has_function or schema.has_context_dependent_function) and "Quantize" not in op


def flat(graph: GraphProto, versions: Mapping[str, int]) -> Iterator[tuple[NodeProto, Mapping[str, int]]]:
    """Each node, or the parts that a fused node stands for, with the opset versions that it is written for."""
    for n in graph.node:
        parts = [] if key(n) in {*OPS, *LABELS_ONLY} else parts_of(n, lambda _: None)
        yield from ((p, NEWEST) for p in parts) if parts else ((n, versions),)


def stored_arrays(graph: GraphProto, versions: Mapping[str, int]) -> dict[str, Array]:
    """Initializers and Constant nodes, including those of subgraphs."""
    found = {t.name: array_of(t) for t in graph.initializer}
    found |= {t.values.name: dense(t) for t in graph.sparse_initializer}
    for n, _ in flat(graph, versions):
        tensor = constant_tensor(n)
        if tensor is not None:
            found[n.output[0]] = onnx.numpy_helper.to_array(tensor)
        for body in subgraphs(n):
            found |= stored_arrays(body, versions)
    return found


def _weights(model: ModelProto, nodes: Sequence[NodeProto], stored: Mapping[str, Array]) -> set[str]:
    """Finite floating-point tensors of the file that an operator multiplies or adds, possibly after moving their elements.

    A single number in a pointwise operator (an epsilon, the 6 of a hard swish) is not a weight; as a scale or a kernel it is.
    """
    uses: dict[str, list[tuple[NodeProto, int]]] = {}
    for n in nodes:
        for k, name in enumerate(n.input):
            uses.setdefault(name, []).append((n, k))

    def is_used(name: str, size: int) -> bool:
        for n, k in uses.get(name, ()):
            if n.op_type in PASSING and k == 0:
                if is_used(n.output[0], size):
                    return True
            elif k not in SETTINGS.get(n.op_type, ()) and (size > 1 or n.op_type not in pointwise.OPS):
                return True
        return False

    floats = {name: stored[name] for name, w in read_weights(model).items() if w.is_float and name in stored}
    return {name for name, x in floats.items() if np.isfinite(x.astype(np.float32)).all() and is_used(name, x.size)}


def _steps(graph: GraphProto, versions: Mapping[str, int], static: set[str]) -> tuple[Instruction, ...]:
    """The nodes except Constant; `static` holds the names of constants, and those of other static tensors are added.

    The shape of a tensor is *loose* if it depends on data; it is then read again in each run.
    """
    used = {v.name for v in graph.output} | {name for n, _ in flat(graph, versions) for name in (*n.input, *captured(n))}
    loose: set[str] = set()
    steps = []
    for n, of in flat(graph, versions):
        tensor = constant_tensor(n)
        if tensor is None:
            step = _step(n, used, of, static, loose)
            steps.append(step)
            static |= set(step.outputs) if step.static else set()
            if _shaped_by_data(step, static, loose):
                loose |= set(step.outputs)
    return tuple(steps)


def _step(n: NodeProto, used: set[str], versions: Mapping[str, int], static: set[str], loose: set[str]) -> Instruction:
    domain = "" if n.domain == "ai.onnx" else n.domain
    op = f"{domain}.{n.op_type}" if domain else n.op_type
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in n.attribute}
    last = max((k for k, name in enumerate(n.output) if name in used), default=0)
    call = Call(op, versions.get(domain, 1), attributes, len(n.output), last + 1)
    branches = {}
    if op == "If":
        for a in n.attribute:
            branches[a.name] = (_steps(a.g, versions, set()), tuple(v.name for v in a.g.output))
    return Instruction(
        call, n, tuple(n.input), tuple(n.output), tuple(captured(n)), _is_static(n, static, loose), versions, branches
    )


def _is_static(n: NodeProto, static: set[str], loose: set[str]) -> bool:
    if n.op_type in ("Shape", "Size"):
        return n.input[0] not in loose
    return n.op_type not in RANDOM and not any(subgraphs(n)) and all(name in static for name in n.input if name)


def _shaped_by_data(step: Instruction, static: set[str], loose: set[str]) -> bool:
    if step.static:
        return False
    sizes = [name for k, name in enumerate(step.inputs) if name and k in NUMBERS.get(step.call.op, ())]
    return step.call.op not in OPS or any(s not in static for s in sizes) or any(i in loose for i in step.inputs)


def write_back(values: Mapping[str, Array], model: ModelProto) -> ModelProto:
    """A copy of a model whose stored tensors have new values of the same types; unchanged tensors are preserved bit for bit.

    Args:
        values: name of an initializer, or of a Constant node's output -> new values.
        model: the model that the names come from.

    Raises:
        TrainingError: a name is not in the model, or its shape differs.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    tensors = {name: w.tensor for name, w in read_weights(copy).items()}
    for name, new in values.items():
        if name not in tensors or tuple(tensors[name].dims) != new.shape:
            raise TrainingError(
                f"'{name}' {list(new.shape)} is not in this model: write back into the model that was converted"
            )
        _store(tensors[name], new)
    return copy


def _store(tensor: TensorProto, new: Array) -> None:
    old = array_of(tensor)
    new = np.ascontiguousarray(new.astype(old.dtype))
    if tensor.data_type in FLOATS and new.tobytes() != old.tobytes():
        name, doc = tensor.name, tensor.doc_string
        tensor.CopyFrom(onnx.numpy_helper.from_array(new, name))
        if doc:
            tensor.doc_string = doc
