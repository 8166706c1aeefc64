# SPDX-License-Identifier: Apache-2.0
"""Graphs that no exporter writes, but that run: parts that nobody reads, outputs that are always the same."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from onnxprune.analysis.analyse import analyse
from onnxprune.errors import ModelError
from onnxprune.ir.facts import read_graph
from onnxprune.ir.files import load
from tests.cases.nets import pruned, small
from tests.cases.text import model


def set_weight(net: onnx.ModelProto, name: str, value: float) -> None:
    for t in net.graph.initializer:
        if t.name == name:
            t.CopyFrom(onnx.numpy_helper.from_array(np.full_like(onnx.numpy_helper.to_array(t), value), name))


def test_the_sizes_of_what_nobody_reads_follow_a_cut() -> None:
    net = model("""g (float[2,3,8,8] x, float[8,3,3,3] w1, float[4,8,1,1] w2) => (float[2,4,1,1] y)
        <int64[5] s = {2,2,4,64,1}, int64[4] t = {0,-1,8,8}> {
        a = Conv <pads = [1,1,1,1]> (x, w1)  d = Reshape(a, s)  e = Relu(d)  b = Reshape(e, t)
        p = GlobalAveragePool(a)  y = Conv(p, w2) }""")
    found = pruned(net, 0.5, align="none")  # runtimes compute 'b' all the same
    assert found.report.macs.kept < 0.6
    assert onnxruntime.InferenceSession(found.model.SerializeToString()).run(None, {"x": np.ones((2, 3, 8, 8), "f")})


def test_positions_of_maxima_are_not_compared_where_outputs_are_always_the_same() -> None:
    net = model("""g (float[2,3,8,8] x, float[8,3,3,3] w1, float[4,8,1,1] w2) => (float[2,4,8,8] y) {
        a = Conv <pads = [1,1,1,1]> (x, w1)  d, i = MaxPool <kernel_shape = [2,2], strides = [2,2]> (a)
        b = MaxUnpool <kernel_shape = [2,2], strides = [2,2]> (d, i)  y = Conv(b, w2) }""")
    set_weight(net, "w2", 0.0)
    found = pruned(net, 0.5, align="none").report
    assert found.verification is not None
    assert found.verification.engine == "onnxruntime, node by node"


def test_a_domain_that_is_not_text_is_no_domain_of_any_node() -> None:
    net = small()
    net.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    odd = onnx.ModelProto.FromString(net.SerializeToString().replace(b"com.microsoft", b"com.microsof\xff"))
    assert pruned(odd, 0.5).plan.kept == pruned(small(), 0.5).plan.kept
    assert load(odd).model.graph.node


def test_maxima_that_are_put_back_elsewhere_keep_their_channels() -> None:
    text = """g (float[2,3,8,8] x, float[8,3,3,3] w1, float[4,8,1,1] w2) => (float[2,4,8,{width}] y) {{
        a = Conv <pads = [1,1,1,1]> (x, w1)  d, i = MaxPool <kernel_shape = [2,2], strides = [2,2]> (a)
        b = MaxUnpool <kernel_shape = [2,2], strides = [2,{stride}]> (d, i)  y = Conv(b, w2) }}"""
    counts = [analyse(read_graph(model(text.format(width=w, stride=s)))).prunable for w, s in ((8, 2), (11, 3))]
    assert counts == [8, 0]


def test_a_range_of_billions_is_not_written_out() -> None:
    net = model("""g (float[2,3,8,8] x, float[8,3,3,3] w1, float[4,8,1,1] w2) => (float[2,4,8,8] y)
        <int64 low = {-2147483648}, int64 one = {1}> {
        a = Conv <pads = [1,1,1,1]> (x, w1)  y = Conv(a, w2)  s = Shape(a)  n = Gather(s, one)  r = Range(low, n, one) }""")
    assert read_graph(net).facts["r"].cases[0].value is None


def test_an_attribute_that_refers_to_nothing_keeps_its_value() -> None:
    net = model("""g (float[2,3,8,8] x, float[8,3,3,3] w1, float[4,8,1,1] w2) => (float[2,4,8,8] y) {
        a = Conv <pads = [1,1,1,1]> (x, w1)  k = Constant <value_float = 0.5> ()  b = Mul(a, k)  y = Conv(b, w2) }""")
    net.graph.node[1].attribute[0].ref_attr_name = "alpha"
    assert pruned(net, 0.5, align="none").report.macs.kept < 0.6


def test_an_input_that_a_node_makes_is_refused() -> None:
    net = small()
    net.graph.input.append(onnx.helper.make_tensor_value_info("c2", onnx.TensorProto.FLOAT, None))
    with pytest.raises(ModelError, match="makes 'c2', which is an input of the model, too"):
        load(net)


@pytest.mark.parametrize("recover", ["bias", "reconstruct"])
def test_layers_that_nobody_reads_are_no_part_of_a_recovery(recover: str) -> None:
    net = model("""g (float[N,3,8,8] x, float[8,3,3,3] w1, float[7,8,1,1] w2, float[6,7,1,1] w3, float[4,8,1,1] w4) =>
        (float[N,4,1,1] y) {
        a = Conv <pads = [1,1,1,1]> (x, w1)  r = Relu(a)  b = Conv(r, w2)  c = Conv(b, w3)
        p = GlobalAveragePool(r)  y = Conv(p, w4) }""")
    x = np.random.default_rng(0).standard_normal((40, 3, 8, 8)).astype("f")
    found = pruned(net, 0.5, align="none", recover=recover, data={"x": x})
    assert found.report.recovery is not None
    assert found.report.recovery.method == recover


def test_a_part_without_a_name_gets_one_because_onnxruntime_crashes_on_it() -> None:
    net = model("""g (float[2,3,8,8] x, float[8,3,3,3] w1, float[4,4,1,1] w2) => (float[2,4,8,8] y) <int64[2] k = {4,4}> {
        a = Conv <pads = [1,1,1,1]> (x, w1)  p, q = Split <axis = 1> (a, k)  y = Conv(q, w2) }""")
    net.graph.node[1].output[0] = ""
    assert "" not in load(net).model.graph.node[1].output
    assert pruned(net, 0.5, align="none").report.verification is not None
