# SPDX-License-Identifier: Apache-2.0
"""The cut: everything unrelated to it is kept, regardless of how a file stores its weights."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto

from onnxprune.ir.files import PLAN_KEY, VERSION_KEY, mark
from tests.cases.law import cut_some
from tests.cases.nets import pruned, small
from tests.cases.text import model
from tests.cases.topologies import NETS


def test_an_input_with_the_old_size_of_its_initializer_is_detected() -> None:
    made = model("""g (float[2,3,8,8] x, float[8,3,3,3] w1, float[8] w1b, float[4,8,1,1] w2) => (float[] y) {
        a = Conv(x, w1, w1b)  b = Relu(a)  y = Conv(b, w2) }""")
    for t in made.graph.initializer:
        made.graph.input.append(onnx.helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)))
    found = cut_some(made, 1)
    assert (found.atoms, found.dropped > 0) == (8, True)
    sizes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in found.pruned.graph.input}
    width = 8 - found.dropped
    assert sizes == {"x": [2, 3, 8, 8], "w1": [width, 3, 3, 3], "w1b": [width], "w2": [4, width, 1, 1]}


def test_a_value_info_with_the_old_size_is_detected() -> None:
    made = onnx.shape_inference.infer_shapes(
        model("""g (float[N,3,8,8] x, float[8,3,3,3] w1,
        float[4,8,1,1] w2) => (float[] y) {
        a = Conv(x, w1)  b = Relu(a)  y = Conv(b, w2) }""")
    )
    assert {v.name for v in made.graph.value_info} == {"a", "b"}
    found = cut_some(made, 0)
    for v in found.pruned.graph.value_info:
        assert v.type.tensor_type.shape.dim[1].dim_value == 8 - found.dropped
        assert v.type.tensor_type.shape.dim[0].dim_param == "N"


def test_weights_in_typed_fields_are_cut_like_raw_bytes() -> None:
    for kind in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16):
        name = {1: "float", 11: "double", 10: "float16"}[kind]
        made = model(f"""g ({name}[2,3,8,8] x, {name}[8,3,3,3] w1, {name}[4,8,1,1] w2) => ({name}[] y) {{
            a = Conv(x, w1)  b = Relu(a)  y = Conv(b, w2) }}""")
        for t in made.graph.initializer:
            array = onnx.numpy_helper.to_array(t)
            t.CopyFrom(onnx.helper.make_tensor(t.name, kind, list(t.dims), array.astype(np.float64).ravel().tolist()))
        assert cut_some(made, 2).dropped > 0


def test_a_name_that_a_fixup_would_use_is_not_overwritten() -> None:
    made = model("""g (float[2,3,8,8] x, float[8,3,3,3] w1, float[4,8,1,1] w2) => (float[] y)
        <int64[3] s = {2,8,36}, int64[3] s_pruned = {2,8,36}, int64[4] t = {2,8,6,6}> {
        a = Conv(x, w1)  b = Reshape(a, s)  c = Reshape(a, s_pruned)  d = Add(b, c)  e = Reshape(d, t)
        y = Conv(e, w2) }""")
    assert cut_some(made, 0).dropped > 0


@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_a_cut_of_no_channels_and_one_of_all_but_one_are_exact(fraction: float) -> None:
    made = NETS["residual and batch norm"].model()
    assert cut_some(made, 0, fraction).atoms == 46


def test_only_named_weights_are_cut() -> None:
    made = model("""g (float[2,3,8,8] x, float[8,3,3,3] w1, float[6,8,1,1] w2, float[5,6,1,1] w3) => (float[] y) {
        a = Conv(x, w1)  b = Conv(a, w2)  y = Conv(b, w3) }""")
    found = cut_some(made, 0, names=["w3"])
    shapes = {t.name: tuple(t.dims) for t in found.pruned.graph.initializer}
    assert found.atoms == 6
    assert shapes["w1"] == (8, 3, 3, 3)
    assert shapes["w2"] == (6 - found.dropped, 8, 1, 1)


def decorated() -> ModelProto:
    net = small()
    net.ir_version, net.model_version, net.domain, net.doc_string = 7, 42, "org.example", "made by hand"
    net.producer_name, net.producer_version = "hand", "1.2"
    net.metadata_props.add(key="classes", value="cat,dog")
    net.graph.doc_string = "a graph"
    for k, node in enumerate(net.graph.node):
        node.name, node.doc_string = f"node {k}", f"says {k}"
    for t in net.graph.initializer:
        t.doc_string = f"doc of {t.name}"
    net.graph.input[0].doc_string = "an image"
    net.graph.value_info.append(onnx.helper.make_tensor_value_info("r1", TensorProto.FLOAT, ["N", 16, 8, 8]))
    net.graph.value_info.append(onnx.helper.make_tensor_value_info("y2", TensorProto.FLOAT, ["N", 5]))
    net.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    return net


def test_everything_unrelated_to_the_cut_is_kept() -> None:
    before = decorated()
    after = pruned(before, 0.5, align="none").model
    for field in ("ir_version", "model_version", "domain", "doc_string", "producer_name", "producer_version"):
        assert getattr(after, field) == getattr(before, field)
    assert list(after.metadata_props)[:1] == list(before.metadata_props)
    assert [p.key for p in after.metadata_props[1:]] == [VERSION_KEY, PLAN_KEY]
    assert list(after.opset_import) == list(before.opset_import)
    assert list(after.graph.input) == list(before.graph.input)
    assert list(after.graph.output) == list(before.graph.output)
    assert (after.graph.name, after.graph.doc_string) == (before.graph.name, before.graph.doc_string)
    assert list(after.graph.node) == list(before.graph.node)
    assert [(t.name, t.doc_string) for t in after.graph.initializer] == [
        (t.name, t.doc_string) for t in before.graph.initializer
    ]
    infos = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in after.graph.value_info}
    width = next(t for t in after.graph.initializer if t.name == "w1").dims[0]
    assert infos == {"r1": ["N", width, 8, 8], "y2": ["N", 5]}
    assert width < 16


def test_a_ratio_of_zero_changes_nothing() -> None:
    before = decorated()
    result = pruned(before, 0.0)
    mark(before, result.plan.sha256)
    assert result.model == before


def test_initializers_that_are_also_inputs_are_cut_in_both_places() -> None:
    net = small()
    net.ir_version = 3
    for t in net.graph.initializer:
        net.graph.input.append(onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims))
    after = pruned(net, 0.5, align="none").model
    shapes = {t.name: list(t.dims) for t in after.graph.initializer}
    declared = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in after.graph.input}
    assert {name: declared[name] for name in shapes} == shapes


@pytest.mark.parametrize("opset", [9, 11, 13, 17, onnx.defs.onnx_opset_version()])
@pytest.mark.parametrize("kind", ["float", "double", "float16", "bfloat16"])
def test_every_type_and_opset_is_cut(kind: str, opset: int) -> None:
    if kind == "bfloat16" and opset < 22:
        return  # ONNX has no bfloat16 convolution before opset 22
    text = f"""g ({kind}[N,3,8,8] x, {kind}[8,3,3,3] w1, {kind}[4,8,1,1] w2) => ({kind}[N,4,6,6] y) {{
        a = Conv(x, w1)  b = Relu(a)  y = Conv(b, w2) }}"""
    result = pruned(model(text, min(opset, 23)), 0.5, align="none")
    assert [list(t.dims) for t in result.model.graph.initializer] == [[4, 3, 3, 3], [4, 4, 1, 1]]
    assert result.report.verification is not None
