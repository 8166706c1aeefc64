# SPDX-License-Identifier: Apache-2.0
"""Every "why not" has an answer: the chain of ties that ends at a pin."""

from __future__ import annotations

import pytest

from onnxprune.coupling import couple
from onnxprune.errors import OptionError
from onnxprune.explain import explain
from onnxprune.facts import read_graph
from tests.models import model
from tests.nets import small

CHAIN = """g (float[N,3,8,8] x, float[8,3,1,1] w1, float[8,8,1,1] w2, float[8,3,1,1] w3, float[8] w4) => (float[N,8,8,8] y) {
    a = Conv(x, w1)  c = Conv(x, w3)  d = Add(a, c)  e = Conv(d, w2, w4)  f = Relu(e)  g = Add(d, f)  y = Sigmoid(g) }"""


def test_free_channels_name_what_goes_with_them() -> None:
    rows, columns, *kernel = explain(couple(read_graph(small())), "w2")
    assert (rows.free, rows.partners, rows.reason) == (12, ("w3[1]",), "")
    assert columns.free == 16
    assert {"w1[0]", "w3[0]", "w4[1]"} <= set(columns.partners)
    assert [(k.size, k.free) for k in kernel] == [(3, 0), (3, 0)]
    assert all("works across this axis" in k.reason for k in kernel)


def test_a_chain_leads_to_the_pin() -> None:
    rows = explain(couple(read_graph(model(CHAIN))), "w3")[0]
    assert rows.free == 0
    assert rows.reason == "output 'y' promises its size to the user"
    assert [s.node for s in rows.chain] == ["Add 'd'"]


def test_tensors_between_nodes_and_inputs() -> None:
    coupled = couple(read_graph(small()))
    batch, channels, *_ = explain(coupled, "r1")
    assert channels.free == 16
    assert (batch.size, batch.free) == (None, 0)
    assert all(s.free == 0 and s.reason for s in explain(coupled, "x"))


def test_a_node_stands_for_its_output() -> None:
    net = small()
    net.graph.node[0].name = "stem"
    coupled = couple(read_graph(net))
    assert explain(coupled, "stem") == explain(coupled, "c1")


def test_an_unknown_tensor_gets_near_names() -> None:
    with pytest.raises(OptionError, match=r"near names: .*w1"):
        explain(couple(read_graph(small())), "w11")
