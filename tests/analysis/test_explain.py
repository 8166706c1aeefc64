# SPDX-License-Identifier: Apache-2.0
"""Every "why not" has an answer: the chain of ties that ends at a pin."""

from __future__ import annotations

import pytest

from onnxprune.analysis.couple import couple
from onnxprune.analysis.explain import about, explain
from onnxprune.errors import OptionError
from onnxprune.ir.facts import read_graph
from onnxprune.report.render.text import sentences
from tests.cases import zoo
from tests.cases.nets import small
from tests.cases.text import model

CHAIN = """g (float[N,3,8,8] x, float[8,3,1,1] w1, float[8,8,1,1] w2, float[8,3,1,1] w3, float[8] w4) => (float[N,8,8,8] y) {
    a = Conv(x, w1)  c = Conv(x, w3)  d = Add(a, c)  e = Conv(d, w2, w4)  f = Relu(e)  g = Add(d, f)  y = Sigmoid(g) }"""


def test_free_channels_name_what_is_cut_with_them() -> None:
    rows, columns, *kernel = explain(couple(read_graph(small())), "w2")
    assert (rows.free, rows.partners, rows.reason) == (12, ("w3[1]",), "")
    assert columns.free == 16
    assert {"w1[0]", "w3[0]", "w4[1]"} <= set(columns.partners)
    assert [(k.size, k.free) for k in kernel] == [(3, 0), (3, 0)]
    assert all("works across this axis" in k.reason for k in kernel)


def test_a_chain_leads_to_the_pin() -> None:
    rows = explain(couple(read_graph(model(CHAIN))), "w3")[0]
    assert rows.free == 0
    assert rows.reason == "output 'y' is a model output, so its size is fixed"
    assert [s.node for s in rows.chain] == ["Add 'd'"]


def test_axes_of_tensors_between_nodes_and_of_inputs_are_explained() -> None:
    coupled = couple(read_graph(small()))
    batch, channels, *_ = explain(coupled, "r1")
    assert channels.free == 16
    assert (batch.size, batch.free) == (None, 0)
    assert all(s.free == 0 and s.reason for s in explain(coupled, "x"))


def test_a_node_name_stands_for_its_first_output() -> None:
    net = small()
    net.graph.node[0].name = "stem"
    coupled = couple(read_graph(net))
    assert explain(coupled, "stem") == explain(coupled, "c1")


def test_an_unknown_tensor_gets_suggestions() -> None:
    with pytest.raises(OptionError, match=r"did you mean .*w1"):
        explain(couple(read_graph(small())), "w11")


def test_the_reason_behind_a_tie_is_named() -> None:
    rows, columns, *_ = explain(couple(read_graph(small())), "w1")
    assert rows.free == 16
    assert columns.reason.endswith("those of 'x', because it is an input of the model")
    concat = """g (float[2,3,8,8] x, float[8,3,1,1] w1, float[4,11,1,1] w2) => (float[2,4,8,8] y) {
        a = Conv(x, w1)  b = Concat <axis = 1> (a, x)  y = Conv(b, w2) }"""
    stories = explain(couple(read_graph(model(concat))), "w2")
    assert stories[1].free == 8
    assert "joins them with channels that cannot be cut: those of 'x', because it is an input of the model" in stories[1].reason


LINES = """g (float[2,6,8] x, float[8,12] w1, float[12,5] w2, float[3,4] w3) => (float[2,6,5] y, float[3,4] z) {
    a = MatMul(x, w1)  s = Softmax <axis = 1> (a)  b = Relu(s)  y = MatMul(b, w2)  z = Relu(w3) }"""


@pytest.mark.parametrize(
    ("tensor", "axis", "says"),
    [
        ("w1", 1, "axis 1 of 12: all can be removed, each together with its slice of w2[0]."),
        ("w2", 1, "axis 1 of 5: all are kept because output 'y' is a model output, so its size is fixed."),
        ("b", 1, "axis 1 of 6: all are kept because its channels lie along axis 2."),
        ("x", 2, "axis 2 of 8: all are kept because it is an input of the model."),
        ("w3", 0, "axis 0 of 3: all are kept because output 'z' is a model output, so its size is fixed."),
    ],
)
def test_an_axis_is_explained_in_one_sentence(tensor: str, axis: int, says: str) -> None:
    assert sentences(explain(couple(read_graph(model(LINES))), tensor)[axis]) == says


def test_a_chain_is_explained_in_one_sentence() -> None:
    rows = explain(couple(read_graph(model(CHAIN))), "w3")[0]
    chain = "Add 'd' ties one of them to w1[0] position 0, and output 'y' is a model output, so its size is fixed"
    assert sentences(rows) == f"axis 0 of 8: all are kept because {chain}."


def test_equal_counts_are_reported() -> None:
    text = """g (float[2,6,8,8] x, float[12,6,1,1] w1, float[24,4,1,1] w2, float[4,24,1,1] w3) => (float[2,4,8,8] y) {
        a = Conv(x, w1)  b = Conv <group = 3> (a, w2)  y = Conv(b, w3) }"""
    rows = explain(couple(read_graph(model(text))), "w2")[0]
    assert sentences(rows) == (
        "axis 0 of 24: all can be removed, each together with its slice of w3[1]; "
        "Conv 'b' needs the same number of them in each of its 3 blocks."
    )


def test_a_tensor_is_described_by_its_producer_and_consumers() -> None:
    coupled = couple(read_graph(small()))
    assert about(coupled, "w1") == "w1: a weight, read by Conv 'c1'"
    assert about(coupled, "y") == "y: produced by Gemm 'y', read by the caller"
    assert about(coupled, "x") == "x: an input of the model, read by Conv 'c1'"


@pytest.mark.parametrize("name", ["timm_test_vit.ts_bn", "shufflenet_v2_x1_0.ts_fold", "ssdlite320_mobilenet_v3_large.ts_fold"])
def test_any_tensor_of_a_real_network_can_be_explained(name: str) -> None:
    coupled = couple(read_graph(zoo.read(name)))
    names = [*coupled.graph.facts, *(n.name for n in coupled.graph.nodes if n.name)]
    for tensor in names[::9]:
        stories = explain(coupled, tensor)
        assert about(coupled, tensor)
        for story in stories:
            assert story.reason or story.free == story.size
            assert sentences(story).endswith(".")
