# SPDX-License-Identifier: Apache-2.0
"""What is known about tensors before anything is cut: shapes in two cases, and values of sizes."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest

from onnxprune.errors import OptionError
from onnxprune.ir.facts import CASES_OF_BENCHMARK, read_graph, read_once
from onnxprune.ir.graph import Graph
from tests.cases.text import model


def read(text: str, opset: int = 17) -> Graph:
    return read_graph(model(text, opset))


def test_static_shapes_need_one_case() -> None:
    graph = read("g (float[2,3,8,8] x, float[8,3,3,3] w1) => (float[2,8,6,6] y) { y = Conv(x, w1) }")
    assert graph.shape("y") == (2, 8, 6, 6)


def test_a_size_that_differs_between_cases_is_dynamic() -> None:
    graph = read("g (float[N,3,H,W] x, float[8,3,3,3] w1) => (float[] y) { y = Conv <strides = [2,2]> (x, w1) }")
    assert graph.shape("y") == (None, 8, None, None)
    assert graph.shape("w1") == (8, 3, 3, 3)
    heights = {c.shape[2] for c in graph.facts["x"].cases if c.shape}
    assert len(heights) == 2


def test_dimensions_with_the_same_symbol_get_the_same_size() -> None:
    graph = read("g (float[N,T] x, float[N,T] z) => (float[N,T] y) { y = Add(x, z) }")
    for case in range(len(graph.facts["x"].cases)):
        assert graph.facts["x"].cases[case].shape == graph.facts["z"].cases[case].shape


def test_input_sizes_given_by_the_user_are_used() -> None:
    net = model("g (float[N,3,H,W] x, float[8,3,3,3] w1) => (float[] y) { y = Conv(x, w1) }")
    graph = read_graph(net, {"x": (1, 3, 40, 56)})
    assert graph.facts["y"].cases[0].shape == (1, 8, 38, 54)
    # the plan must not depend on the given sizes: they are still dynamic
    assert graph.shape("y") == (None, 8, None, None)


def test_an_unknown_number_of_channels_follows_from_the_first_convolution() -> None:
    net = model("g (float[N,5,8,8] x, float[8,5,3,3] w1) => (float[] y) { y = Conv(x, w1) }")
    for dim in net.graph.input[0].type.tensor_type.shape.dim:
        dim.Clear()
    assert read_graph(net).shape("x")[1] == 5  # type: ignore[index]


def test_a_channels_last_image_gets_a_size_that_runs() -> None:
    net = model("""g (float[N,H,W,3] x, float[8,3,3,3] w1) => (float[] y) {
        t = Transpose <perm = [0,3,1,2]> (x)  y = Conv <strides = [8,8]> (t, w1) }""")
    sizes = read_graph(net).facts["y"].cases[0].shape or ()
    assert min(sizes) > 0
    assert read_graph(net).shape("y") == (None, 8, None, None)


AUDIO = """g (float[batch,samples] x, float[8,1,256] w1, float[8,8,3] w2) => (float[] y) <int64[1] one = {1}> {
    a = Unsqueeze(x, one)  b = Conv <strides = [128]> (a, w1)  y = Conv(b, w2) }"""


@pytest.mark.parametrize("fed", [{}, {"x": (1, 16000)}], ids=["open", "given"])
def test_an_open_length_grows_until_no_tensor_is_empty(fed: dict[str, tuple[int, ...]]) -> None:
    """Three windows of 256 samples, 128 apart, are 512 samples."""
    graph = read_graph(model(AUDIO), fed)
    lengths = [(c.shape or ())[2] for c in graph.facts["y"].cases]
    assert min(lengths) > 0
    assert graph.shape("y") == (None, 8, None)
    assert not fed or graph.facts["x"].cases[0].shape == fed["x"]
    assert min(read_once(model(AUDIO), CASES_OF_BENCHMARK, fed)[0].facts["y"].shape or ()) > 0


def test_an_empty_constant_does_not_make_lengths_grow() -> None:
    graph = read("""g (float[N,T] x) => (float[] y) <int64[1] none = {0}> {
        s = Shape(x)  e = Slice(s, none, none)  z = ConstantOfShape(none)  y = Concat <axis = 0> (z, z) }""")
    assert graph.facts["x"].cases[0].shape == (1, 16)


TWO = "g (float[batch,8,len] x, float[1,batch,4] state) => (float[] y, float[] z) { y = Relu(x)  z = Relu(state) }"


def test_a_size_given_for_a_symbol_holds_for_all_inputs() -> None:
    graph = read_graph(model(TWO), {"x": (3, 8, 64)})
    assert graph.facts["state"].cases[0].shape == (1, 3, 4)
    assert read_graph(model(TWO), {"state": (1, 3, 4)}).facts["x"].cases[0].shape == (3, 8, 16)


def test_a_symbol_of_a_first_axis_is_a_batch_everywhere() -> None:
    turned = "g (float[1,batch,4] state, float[batch,8] x) => (float[] y, float[] z) { y = Relu(x)  z = Relu(state) }"
    assert [c.shape for c in read(turned).facts["state"].cases] == [(1, 1, 4), (1, 2, 4)]


CONFLICTS: dict[str, tuple[dict[str, tuple[int, ...]], str]] = {
    "two inputs": (
        {"x": (1, 8, 64), "state": (1, 2, 4)},
        "got 2 for 'batch' in 'state', but 1 in 'x'; one symbol has one size",
    ),
    "the file": ({"x": (1, 9, 64)}, "got 1x9x64 for 'x', but the file says ?x8x?"),
}


@pytest.mark.parametrize(("fed", "message"), CONFLICTS.values(), ids=CONFLICTS)
def test_contradictory_sizes_are_refused(fed: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(OptionError, match=re.escape(message)):
        read_graph(model(TWO), fed)


def test_a_model_that_accepts_one_length_gets_it_in_both_readings() -> None:
    """Only the batch is really open: 512 positions are stored."""
    net = model("g (float[N,T,4] x, float[512,4] w1) => (float[] y) { y = Add(x, w1) }")
    graph = read_graph(net, {"x": (1, 512, 4)})
    assert [c.shape for c in graph.facts["y"].cases] == [(1, 512, 4), (2, 512, 4)]


def test_an_input_of_unknown_rank_has_the_given_shape_in_both_readings() -> None:
    net = model("g (float[1,3,8,8] x, float[8,3,3,3] w1) => (float[1,8,6,6] y) { y = Conv(x, w1) }")
    net.graph.input[0].type.tensor_type.ClearField("shape")
    assert read_graph(net, {"x": (1, 3, 8, 8)}).shape("y") == (1, 8, 6, 6)


SIZES: dict[str, tuple[str, str, list[int] | None]] = {
    "static": ("s = Shape(x)", "s", [2, 12, 4]),
    "gathered": ("s = Shape(x)  k = Gather(s, one)", "k", [12]),
    "halved": ("s = Shape(x)  k = Gather(s, one)  h = Div(k, two)", "h", [6]),
    "joined": ("s = Shape(x)  k = Gather(s, one)  j = Concat <axis = 0> (k, two, two)", "j", [12, 2, 2]),
    "cast": ("s = Shape(x)  f = Cast <to = 1> (s)  g = Cast <to = 7> (f)", "g", [2, 12, 4]),
    "root": ("s = Size(x)  f = Cast <to = 1> (s)  r = Sqrt(f)  g = Cast <to = 7> (r)", "g", [9]),
    "counted": ("k = Range(nought, six, step)", "k", [0, 2, 4]),
}


@pytest.mark.parametrize(("body", "name", "value"), SIZES.values(), ids=SIZES)
def test_sizes_are_computed(body: str, name: str, value: list[int]) -> None:
    graph = read(
        f"""g (float[2,12,4] x) => (float[2,12,4] y) <int64[1] one = {{1}}, int64[1] two = {{2}}, int64 nought = {{0}},
        int64 six = {{6}}, int64 step = {{2}}> {{ {body}  y = Relu(x) }}"""
    )
    found = graph.facts[name].value
    assert found is not None
    assert np.ravel(found).tolist() == value


def test_a_dynamic_size_has_a_value_in_each_case_but_no_single_value() -> None:
    graph = read("g (float[N,12] x) => (int64[2] s) { s = Shape(x) }")
    facts = graph.facts["s"]
    assert facts.value is None
    values = [c.value.tolist() for c in facts.cases if c.value is not None]
    assert len(values) == len(facts.cases) > 1
    assert {v[1] for v in values} == {12}
    assert len({v[0] for v in values}) > 1


def test_other_sizes_are_tried_if_the_first_contradict_the_model() -> None:
    """At 64 x 64 the flattened map has 2048 elements; the model needs the 512 of 32 x 32."""
    graph = read(
        """g (float[N,3,H,W] x, float[8,3,1,1] w1, float[512,4] w2) => (float[] y) {
        a = Conv(x, w1)  p = MaxPool <kernel_shape = [4,4], strides = [4,4]> (a)  f = Flatten(p)  y = MatMul(f, w2) }"""
    )
    assert graph.facts["f"].cases[0].shape == (1, 512)


def test_random_values_are_unknown() -> None:
    graph = read("g (float[2,3] x) => (float[2,3] y) { r = RandomNormal <shape = [2,3]> ()  y = Add(x, r) }")
    assert graph.facts["r"].value is None


def test_shapes_stored_in_the_file_fill_gaps() -> None:
    net = model("g (float[2,3] x, float[3,4] w1) => (float[] y) { a = MatMul(x, w1)  y = Relu(a) }")
    net.graph.node[0].domain, net.graph.node[0].op_type = "custom", "Product"
    net.opset_import.append(onnx.helper.make_opsetid("custom", 1))
    net.graph.value_info.append(onnx.helper.make_tensor_value_info("a", onnx.TensorProto.FLOAT, [2, 4]))
    assert read_graph(net).shape("a") == (2, 4)
