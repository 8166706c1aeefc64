# SPDX-License-Identifier: Apache-2.0
"""Groups: channels that compete for one width, and what pins the others."""

from __future__ import annotations

import numpy as np

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
