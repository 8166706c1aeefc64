# SPDX-License-Identifier: Apache-2.0
"""Groups: channels that compete for one width, and what pins the others."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.analysis.couple import couple
from onnxprune.analysis.groups import find_groups, find_pinned
from onnxprune.ir.facts import read_graph
from tests.cases.nets import small
from tests.cases.text import model


def test_a_residual_spine_is_one_group() -> None:
    coupled = couple(read_graph(small()))
    spine, branch = find_groups(coupled)
    assert (spine.name, len(spine)) == ("w1", 16)
    assert {("w1", 0), ("w3", 0), ("w2", 1), ("w4", 1), ("ws1", 0)} <= set(spine.members)
    assert (branch.name, len(branch), branch.members) == ("w2", 12, (("w2", 0), ("w3", 1)))
    makers = [coupled.graph.nodes[coupled.uses[u].node].outputs[0] for u in spine.producers]
    assert makers == ["c1", "c3"]


def test_an_atom_may_stand_for_several_channels() -> None:
    net = model(
        """g (float[N,3,8,8] x, float[12,3,1,1] w1, float[12,3,3,3] w2, float[4,12,1,1] w3) => (float[] y) {
        a = Conv(x, w1)  b = Conv <group = 4> (a, w2)  y = Conv(b, w3) }"""
    )
    ins, outs = find_groups(couple(read_graph(net)))
    assert (len(ins), ins.channels, ins.blocks) == (3, 4, ())
    assert (len(outs), outs.channels) == (12, 1)
    assert [rows.tolist() for rows in outs.blocks] == [np.arange(12).reshape(4, 3).tolist()]


def test_positions_that_nothing_multiplies_are_not_channels() -> None:
    net = model(
        "g (float[N,8] x, float[8,6] w1, float[3,6] w3, float[6,4] w2) => (float[] y) <int64[1] k = {0}> {"
        " a = MatMul(x, w1)  m = ReduceMean <axes = [0]> (w3)  b = Add(a, m)  y = MatMul(b, w2) }"
    )
    assert [(g.name, len(g)) for g in find_groups(couple(read_graph(net)))] == [("w1", 6)]


def test_pinned_channels_are_counted_once_and_largest_first() -> None:
    net = model(
        """g (float[N,3,8,8] x, float[8,3,1,1] w1, float[8,3,1,1] w2, float[20,8,1,1] w3) => (float[] y, float[] z) {
        a = Conv(x, w1)  c = Conv(x, w2)  y = Add(a, c)  z = Conv(y, w3) }"""
    )
    found = [(p.channels, p.pin.node, p.weights) for p in find_pinned(couple(read_graph(net)))]
    assert found in (
        [(20, "output 'z'", ("w3",)), (8, "output 'y'", ("w1",))],
        [(20, "output 'z'", ("w3",)), (16, "output 'y'", ("w1", "w2"))],
        [(20, "output 'z'", ("w3",)), (16, "output 'y'", ("w2", "w1"))],
    )


def test_convolutions_of_unknown_weights_are_listed_as_pinned() -> None:
    """'0 channels cannot be cut' beside a convolution that is held."""
    net = model(
        """g (float[1,3,8,8] x, float[16,3,3,3] k, float[5,16,1,1] w2) => (float[] y) {
        a = Conv(x, k)  b = Relu(a)  y = Conv(b, w2) }"""
    )
    found = find_pinned(couple(read_graph(net)))
    assert [(p.channels, p.weights) for p in found] == [(16, ("k",)), (5, ("w2",))]
    assert str(found[0].pin) == "Conv 'a' takes its weights from 'k', which is an input of the model"
    assert sum(p.macs for p in found) == 1


def test_weights_without_labels_are_listed_with_their_operator() -> None:
    text = """g (float[1,3,8,8] x, float[16,3,3,3] w1, float[5,16,1,1] w2) => (float[1,5,6,6] y) {
        u = custom.Up(x)  q = custom.Deq(w1)  a = Conv(u, q)  b = Relu(a)  y = Conv(b, w2) }"""
    found = find_pinned(couple(read_graph(model(text))))
    assert {(p.channels, p.weights) for p in found} == {(5, ("w2",)), (0, ("q",))}
    assert any("'q', which custom.Deq 'q' computes" in str(p.pin) for p in found)


def test_a_product_of_computed_tensors_makes_no_channels_of_its_own() -> None:
    net = model("g (float[8,8] x, float[8,8] w1) => (float[] y) { a = MatMul(x, w1)  y = MatMul(x, a) }")
    assert [p.weights for p in find_pinned(couple(read_graph(net)))] == [("w1",)]


RECURRENT = """g (float[5,1,8] x, float[1,{n},8] w1, float[1,{n},16] w2, float[1,{m}] w3, float[16,4] w4) => (float[] y) {{
    a, h = {op} <hidden_size = 16> (x, w1, w2, w3)  s = Squeeze(a)  y = {end} }}"""


@pytest.mark.parametrize(("op", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_gates_are_not_counted_as_channels(op: str, gates: int) -> None:
    shapes = {"op": op, "n": 16 * gates, "m": 32 * gates}
    [group] = find_groups(couple(read_graph(model(RECURRENT.format(**shapes, end="MatMul(s, w4)")))))
    assert (len(group), group.channels) == (16, 1)
    held = find_pinned(couple(read_graph(model(RECURRENT.format(**shapes, end="Relu(s)")))))
    assert [p.channels for p in held] == [16]


def test_coordinates_are_not_counted_as_channels() -> None:
    """A table of positions, from which a small network computes a bias of attention (Swin V2), and one beside the features."""
    net = model(
        """g (float[1,49,4] x, float[49,2] w1, float[2,12] w2, float[12,4] w3, float[4,4] w4) => (float[] y) {
        a = MatMul(w1, w2)  b = Relu(a)  c = MatMul(b, w3)  d = MatMul(x, w4)  y = Add(d, c) }"""
    )
    coupled = couple(read_graph(net))
    assert [(g.name, len(g)) for g in find_groups(coupled)] == [("w2", 12)]
    assert sum(p.channels for p in find_pinned(coupled)) == 8
    net = model(
        """g (float[1,3,8,8] x, float[6,3,1,1] w1, float[1,2,8,8] w2, float[5,8,1,1] w3) => (float[] y) {
        a = Conv(x, w1)  b = Concat <axis = 1> (a, w2)  y = Conv(b, w3) }"""
    )
    assert [(g.name, len(g)) for g in find_groups(couple(read_graph(net)))] == [("w1", 6)]


def test_an_embedding_has_channels() -> None:
    net = model(
        "g (int64[1,5] x, float[20,12] w1, float[12,8] w2) => (float[] y) { a = Gather(w1, x)  b = Relu(a)  y = MatMul(b, w2) }"
    )
    assert [len(g) for g in find_groups(couple(read_graph(net)))] == [12]
