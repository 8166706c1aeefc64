# SPDX-License-Identifier: Apache-2.0
"""The cut law on the structures of real networks, in the forms in which exporters write them."""

from __future__ import annotations

import onnx
import pytest

from onnxprune.analysis.couple import couple
from onnxprune.ir.facts import read_graph
from tests.cases.law import cut_some, free_atoms, pins
from tests.cases.text import model, within
from tests.cases.topologies import NETS
from tests.cases.topologies.bodies import NETS as BODIES
from tests.cases.topologies.net import Net

SEEDS = range(4)


@pytest.mark.parametrize("net", NETS.values(), ids=list(NETS))
def test_a_network_whose_cut_differs_from_the_masked_original_is_detected(net: Net) -> None:
    made = net.model()
    for seed in SEEDS:
        found = cut_some(made, seed, (0.3, 0.5, 0.7, 0.9)[seed])
        reasons = pins(found.coupled)
        assert found.atoms >= net.free, f"{found.atoms} atoms are free; pins:\n{reasons}"
        assert found.atoms <= net.most or net.most < 0, f"{found.atoms} atoms are free"
        assert net.pinned in reasons, reasons
        assert found.dropped > 0 or not net.free


def test_unknown_operator_keeps_its_channels() -> None:
    made = model("""g (float[2,3,8,8] x, float[8,3,3,3] w1, float[8,8,1,1] w2, float[6,8,1,1] w3,
        float[5,6,1,1] w4) => (float[2,5,6,6] y) {
        a = Conv(x, w1)  b = custom.Mystery(a)  c = Conv(b, w2)  d = Relu(c)  e = Conv(d, w3)  y = Conv(e, w4) }""")
    coupled = couple(read_graph(made))
    assert "custom.Mystery 'b' is an operator without a rule" in pins(coupled)
    first = next(o for o in coupled.owners if (o.weight, o.axis) == ("w1", 0))
    assert not coupled.free[first.start : first.start + first.size].any()


def test_shapes_stored_in_the_file_free_the_channels_after_an_unknown_operator() -> None:
    text = """g (float[2,3,8,8] x, float[8,3,3,3] w1, float[8,8,1,1] w2, float[6,8,1,1] w3,
        float[5,6,1,1] w4) => (float[2,5,6,6] y) {
        a = Conv(x, w1)  b = custom.Mystery(a)  c = Conv(b, w2)  d = Relu(c)  e = Conv(d, w3)  y = Conv(e, w4) }"""
    made = model(text)
    made.graph.value_info.append(onnx.helper.make_tensor_value_info("b", onnx.TensorProto.FLOAT, [2, 8, 6, 6]))
    assert free_atoms(made) == 14


@pytest.mark.parametrize("as_constants", [False, True], ids=["initializers", "Constant nodes"])
@pytest.mark.parametrize("net", BODIES.values(), ids=list(BODIES))
def test_a_cut_of_weights_that_bodies_store_is_the_masked_original(net: Net, as_constants: bool) -> None:
    made = within(net.model(), as_constants)
    onnx.checker.check_model(made)
    for seed in range(2):
        found = cut_some(made, seed, 0.5)
        assert found.atoms >= net.free, pins(found.coupled)
        assert found.atoms <= net.most or net.most < 0, f"{found.atoms} atoms are free"
        assert found.dropped > 0
