# SPDX-License-Identifier: Apache-2.0
"""Graphs that no exporter writes, but that run: parts that nobody reads, outputs that are always the same."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime

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
