# SPDX-License-Identifier: Apache-2.0
"""Flaws that runtimes forgive and onnx.checker does not, mended where the right value is known."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import onnx
import onnx.shape_inference
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from onnxprune.errors import ModelError
from onnxprune.ir.facts import read_graph, without_large_weights
from onnxprune.ir.graph import UNKNOWN, all_nodes, free_inputs, with_nodes

STANDARD = "ai.onnx"
"""The long name of ONNX's own domain, whose short name is empty."""
FREE_INITIALIZERS = 4
"""The first IR version in which initializers need not be inputs."""
INVENTED = "unk__"
"""How the names start that shape inference gives to sizes it does not know."""


def mended(model: ModelProto) -> tuple[ModelProto, tuple[str, ...]]:
    """The model without flaws that can be mended, and a sentence for each; the model itself if it has none.

    Args:
        model: a model with its nodes in order, and without functions.

    Raises:
        ModelError: two weights have one name, and different values.
    """
    if not _flawed(model):
        return model, ()
    new = with_nodes(model, model.graph.node)
    return new, (
        *_name(new),
        *_imports(new),
        *_tensors(new),
        *_references(new),
        *_parts(new),
        *_initializers(new),
        *_outputs(new),
    )


def _flawed(model: ModelProto) -> bool:
    stored, names = [*_stored(model)], [t.name for t in model.graph.initializer]
    odd = any(t.HasField("segment") for t in stored) or "" in names or len({*names}) < len(names) or any(_referring(model))
    outputs = any(map(_is_open, model.graph.output)) or any(_nameless(model))
    return bool(not model.graph.name or _unimported(model) or _not_inputs(model) or odd or outputs)


def _nameless(model: ModelProto) -> Iterator[NodeProto]:
    """Nodes that leave out a part: Split has no optional outputs, and onnxruntime crashes."""
    return (n for n in all_nodes(model.graph.node) if n.op_type == "Split" and not n.domain and "" in n.output)


def _parts(model: ModelProto) -> Iterator[str]:
    taken = {name for n in all_nodes(model.graph.node) for name in n.output}
    for node in _nameless(model):
        for k, name in enumerate(node.output):
            if not name:
                node.output[k] = next(new for n in count() if (new := f"part_{n}") not in taken)
                taken.add(node.output[k])
        yield f"a part that Split leaves out is now called '{node.output[0] or node.output[-1]}'"


def _name(model: ModelProto) -> Iterator[str]:
    if not model.graph.name:
        model.graph.name = "main_graph"
        yield "the graph has no name; it is now 'main_graph'"


def _unimported(model: ModelProto) -> list[str]:
    """Domains that nodes use and the file does not import, by that spelling."""
    known = {o.domain for o in model.opset_import} | {""}
    return sorted({n.domain for n in all_nodes(model.graph.node)} - known)


def _imports(model: ModelProto) -> Iterator[str]:
    for domain in _unimported(model):
        if domain == STANDARD:
            for node in all_nodes(model.graph.node):
                node.domain = "" if node.domain == STANDARD else node.domain
            yield f"nodes are of domain '{STANDARD}', which the file imports as ''; they are written so too"
        else:
            model.opset_import.append(onnx.helper.make_opsetid(domain, 1))
            yield f"the file uses operators of '{domain}' but does not import that domain; version 1 was added"


def _stored(model: ModelProto) -> Iterator[TensorProto]:
    """Initializers and constants."""
    yield from model.graph.initializer
    yield from (a.t for n in all_nodes(model.graph.node) for a in n.attribute if a.HasField("t"))


def _tensors(model: ModelProto) -> Iterator[str]:
    """Drop what no runtime reads: parts that a tensor says it is of, weights without a name, and copies of a weight."""
    for t in _stored(model):
        if t.HasField("segment"):
            t.ClearField("segment")
            yield f"tensor '{t.name}' is marked as a part of another one, as no runtime supports; it is taken as a whole"
    found: dict[str, TensorProto] = {}
    for t in [*model.graph.initializer]:
        if not t.name:
            yield "a weight has no name, so that nothing can read it; it is left out"
        elif found.setdefault(t.name, t) is not t:
            if t != found[t.name]:
                raise ModelError(
                    f"weight '{t.name}' is stored twice, with different contents, of which onnxruntime and onnx take different "
                    "ones; export the model again"
                )
            yield f"weight '{t.name}' is stored twice; it is kept once"
    if len(found) < len(model.graph.initializer):
        kept = [*found.values()]
        del model.graph.initializer[:]
        model.graph.initializer.extend(kept)


def _referring(model: ModelProto) -> Iterator[AttributeProto]:
    """Attributes that refer to one of a function, although they are in none."""
    yield from (a for n in all_nodes(model.graph.node) for a in n.attribute if a.ref_attr_name)


def _references(model: ModelProto) -> Iterator[str]:
    for a in [*_referring(model)]:
        yield f"attribute '{a.name}' refers to one of a function, but is in none; it has the value that is stored with it"
        a.ClearField("ref_attr_name")


def _not_inputs(model: ModelProto) -> list[str]:
    """Initializers that are no inputs, in a file of an IR version in which all must be."""
    inputs = {v.name for v in model.graph.input}
    return [t.name for t in model.graph.initializer if t.name not in inputs] if model.ir_version < FREE_INITIALIZERS else []


def _initializers(model: ModelProto) -> Iterator[str]:
    if names := _not_inputs(model):
        yield (
            f"initializer '{names[0]}' is not an input, as IR version {model.ir_version} demands; "
            f"the result has IR version {FREE_INITIALIZERS}, which does not"
        )
        inputs = [*free_inputs(model)]
        del model.graph.input[:]
        model.graph.input.extend(inputs)
        model.ir_version = FREE_INITIALIZERS


def _is_open(value: ValueInfoProto) -> bool:
    """Whether the file does not say what an output is: its type is missing, or the shape of a tensor."""
    tensor = value.type.tensor_type
    kind = value.type.WhichOneof("value")
    return kind is None or (kind == "tensor_type" and not (tensor.elem_type and tensor.HasField("shape")))


def _outputs(model: ModelProto) -> Iterator[str]:
    """Give outputs the type and shape that follow from the graph; those that remain open are left as they are."""
    outputs = [value for value in model.graph.output if _is_open(value)]
    inferred = _inferred(model) if outputs else {}
    for value in outputs:
        found = inferred.get(value.name)
        if found is not None:
            what = "shape" if value.type.tensor_type.elem_type else "type"
            value.type.CopyFrom(found.type)
            sizes = "x".join(str(d.dim_value) if d.HasField("dim_value") else "?" for d in found.type.tensor_type.shape.dim)
            yield f"output '{value.name}' has no {what} in the file; it is now {sizes or 'a scalar'}, as the graph computes it"


def _inferred(model: ModelProto) -> dict[str, ValueInfoProto]:
    """The outputs whose type and shape can be inferred: by ONNX, or else by the analysis, which knows more operators."""
    light = without_large_weights(model)
    try:
        light = onnx.shape_inference.infer_shapes(light, data_prop=True)
    except Exception:  # for example because of a contradiction elsewhere
        light = model
    known = {v.name: v for v in light.graph.output if not _is_open(v)}
    for value in known.values():
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param.startswith(INVENTED):
                dim.Clear()
    if len(known) < len(model.graph.output):
        facts = read_graph(model).facts
        for value in model.graph.output:
            fact = facts[value.name].cases[0] if value.name in facts else UNKNOWN
            if value.name not in known and fact.dtype and fact.shape is not None:
                # sizes may depend on those chosen for the analysis, the number of axes does not
                known[value.name] = onnx.helper.make_tensor_value_info(value.name, fact.dtype, [None] * len(fact.shape))
    return known
