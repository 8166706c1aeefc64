# SPDX-License-Identifier: Apache-2.0
"""Models written as ONNX text."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx.shape_inference
from onnx import GraphProto, ModelProto, TensorProto

from tests.cases.running import random_feeds, runner

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


def stored(model: ModelProto) -> dict[str, TensorProto]:
    """Initializers and Constant nodes by name; changes of the tensors change the model."""
    found = {t.name: t for t in model.graph.initializer}
    for node in model.graph.node:
        for a in node.attribute:
            if node.op_type == "Constant" and a.name == "value":
                found[node.output[0]] = a.t
    return found
