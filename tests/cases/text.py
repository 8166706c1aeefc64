# SPDX-License-Identifier: Apache-2.0
"""Models written as ONNX text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
import onnx.parser
import onnx.shape_inference
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from tests.cases.running import random_feeds, runner

Names = Mapping[str, str]
"""Name of a tensor in one graph -> its full name."""
DOMAINS = ("com.microsoft", "custom", "local")


def model(text: str, opset: int = 17, weights_seed: int = 0, functions: str = "") -> ModelProto:
    """A model from the text of its graph.

    Inputs whose name starts with `w` become initializers with seeded values of about unit gain, positive for `wvar*`.
    """
    ir = 10 if opset <= 23 else 11
    imports = ", ".join([f'"" : {opset}', *(f'"{d}" : 1' for d in DOMAINS if d in text + functions)])
    made = onnx.parser.parse_model(f"<ir_version: {ir}, opset_import: [{imports}]>\n{text}\n{functions}")
    fill(made.graph, weights_seed)
    state_outputs(made)
    return made


def state_outputs(model: ModelProto) -> None:
    """Give outputs of unknown shape the inferred one, or the rank that a run of the model shows."""
    inferred = {v.name: v for v in onnx.shape_inference.infer_shapes(model, data_prop=True).graph.output}
    for v in model.graph.output:
        kind = v.type.tensor_type
        if not kind.HasField("shape") and inferred[v.name].type.tensor_type.HasField("shape"):
            v.CopyFrom(inferred[v.name])
        elif not kind.HasField("shape"):
            values = runner(model)(random_feeds(model, np.random.default_rng(0), 2))
            ranks = {o.name: np.ndim(x) for o, x in zip(model.graph.output, values, strict=True)}
            v.CopyFrom(onnx.helper.make_tensor_value_info(v.name, kind.elem_type, [None] * ranks[v.name]))


def fill(graph: GraphProto, seed: int) -> None:
    """Turn inputs whose name starts with `w` into initializers."""
    rng = np.random.default_rng(seed)
    for value in [v for v in graph.input if v.name.startswith("w")]:
        kind = value.type.tensor_type
        shape = [d.dim_value for d in kind.shape.dim]
        array = np.asarray(rng.standard_normal(shape)) / np.sqrt(float(np.prod(shape[1:])))
        if value.name.startswith("wvar"):
            array = np.abs(array) + 0.5
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        if dtype.kind in "iu":
            array = rng.integers(max(-90, np.iinfo(dtype).min), 90, shape)
        graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array).astype(dtype), value.name))
        graph.input.remove(value)


def graphs(graph: GraphProto, prefix: str = "", outer: Mapping[str, str] | None = None) -> Iterator[tuple[GraphProto, Names]]:
    """A graph and the bodies in it, each with the full names of the tensors that it can read: `NODE/then_branch/NAME`."""
    own = [*(v.name for v in graph.input), *(t.name for t in graph.initializer), *(o for n in graph.node for o in n.output)]
    names = {**(outer or {}), **{name: prefix + name for name in own}}
    yield graph, names
    for k, node in enumerate(graph.node):
        for a in node.attribute:
            if a.type == onnx.AttributeProto.GRAPH:
                yield from graphs(a.g, f"{prefix}{node.name or f'#{k}'}/{a.name}/", names)


def stored(model: ModelProto) -> dict[str, TensorProto]:
    """Initializers and Constant nodes by name, also those in bodies; changes of the tensors change the model."""
    found: dict[str, TensorProto] = {}
    for graph, names in graphs(model.graph):
        found |= {names[t.name]: t for t in graph.initializer}
        for node in graph.node:
            for a in node.attribute:
                if node.op_type == "Constant" and a.name == "value":
                    found[names[node.output[0]]] = a.t
    return found


def users(model: ModelProto, weight: str) -> list[tuple[NodeProto, int]]:
    """The nodes that read a tensor, also from inside bodies, each with the index of the input; inputs have their full names."""
    found = []
    for graph, names in graphs(model.graph):
        for node in graph.node:
            read = [names[name] if name else "" for name in node.input]
            if weight in read:
                named = NodeProto()
                named.CopyFrom(node)
                named.input[:] = read
                found += [(named, k) for k, name in enumerate(read) if name == weight]
    return found


def within(model: ModelProto, as_constants: bool = False) -> ModelProto:
    """The model with each weight stored in the body that alone reads it, as an initializer or in a Constant node."""
    new = ModelProto()
    new.CopyFrom(model)
    bodies = [graph for graph, _ in graphs(new.graph)][1:]
    for t in [*new.graph.initializer]:
        homes = [g for g in bodies if any(t.name in n.input for n in g.node)]
        if len(homes) == 1 and not any(t.name in n.input for n in new.graph.node):
            if as_constants:
                homes[0].node.insert(0, onnx.helper.make_node("Constant", [], [t.name], value=t))
            else:
                homes[0].initializer.append(t)
            new.graph.initializer.remove(t)
    return new
