# SPDX-License-Identifier: Apache-2.0
"""Multiply-accumulates against counts by hand, and as predicted for cuts not yet made."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.analysis.couple import couple
from onnxprune.analysis.groups import find_groups
from onnxprune.cost.macs import macs_model
from onnxprune.cost.model import of_original
from onnxprune.cost.size import cost
from onnxprune.ir.facts import read_graph
from onnxprune.rewrite.cut import cut
from tests.cases.choosing import choose
from tests.cases.nets import small
from tests.cases.operators.attention import THREE_HEADS
from tests.cases.operators.recurrent import layered
from tests.cases.text import model
from tests.cases.topologies import NETS

COSTS: dict[str, tuple[str, int]] = {
    "convolution": ("float[1,3,8,8] x, float[6,3,3,3] w1|y = Conv(x, w1)", 6 * 6 * 6 * 3 * 9),
    "strides": ("float[1,3,9,9] x, float[6,3,3,3] w1|y = Conv <strides = [2,2]> (x, w1)", 6 * 4 * 4 * 27),
    "groups": ("float[1,8,5,5] x, float[8,2,1,1] w1|y = Conv <group = 4> (x, w1)", 8 * 25 * 2),
    "depthwise": ("float[1,8,5,5] x, float[8,1,3,3] w1|y = Conv <group = 8> (x, w1)", 8 * 9 * 9),
    "transposed": ("float[1,4,5,5] x, float[4,6,2,2] w1|y = ConvTranspose <strides = [2,2]> (x, w1)", 4 * 25 * 6 * 4),
    "gemm": ("float[2,7] x, float[7,5] w1|y = Gemm(x, w1)", 2 * 7 * 5),
    "gemm, transposed": ("float[7,2] x, float[5,7] w1|y = Gemm <transA = 1, transB = 1> (x, w1)", 2 * 7 * 5),
    "matmul": ("float[2,3,7] x, float[7,5] w1|y = MatMul(x, w1)", 2 * 3 * 7 * 5),
    "deformable": (
        "float[1,4,6,6] x, float[1,18,4,4] off, float[8,2,3,3] w1|y = DeformConv <group = 2> (x, w1, off)",
        8 * 16 * 2 * 9,
    ),
    "deformable, offset groups": (
        "float[1,4,6,6] x, float[1,36,4,4] off, float[8,4,3,3] w1|y = DeformConv <offset_group = 2> (x, w1, off)",
        8 * 16 * 4 * 9,
    ),
    "einsum": ('float[2,3,7] x, float[7,5] w1|y = Einsum <equation = "bic,co->bio"> (x, w1)', 2 * 3 * 7 * 5),
    "einsum of many axes": ('float[2,3,7] x, float[7,5] w1|y = Einsum <equation = "...c,co"> (x, w1)', 2 * 3 * 7 * 5),
    "einsum of one operand": ('float[2,3,7] x|y = Einsum <equation = "bic->bci"> (x)', 0),
    "integers": ("uint8[1,3,8,8] x, uint8[6,3,3,3] w1|i = ConvInteger(x, w1) y = Cast <to = 1> (i)", 6 * 36 * 27),
    "LSTM": (
        "float[7,2,6] x, float[1,20,6] w1, float[1,20,5] w2|h, y, c = LSTM <hidden_size = 5> (x, w1, w2)",
        7 * 2 * (20 * 6 + 20 * 5),
    ),
    "LSTM, both directions, initial state": (
        "float[7,2,6] x, float[2,20,6] w1, float[2,20,5] w2, float[2,2,5] s"
        '|y = LSTM <hidden_size = 5, direction = "bidirectional"> (x, w1, w2, , , s)',
        2 * 7 * 2 * (20 * 6 + 20 * 5),
    ),
    "GRU, batch first": (
        "float[2,7,6] x, float[1,15,6] w1, float[1,15,5] w2|y = GRU <hidden_size = 5, layout = 1> (x, w1, w2)",
        7 * 2 * (15 * 6 + 15 * 5),
    ),
    "RNN": ("float[7,2,6] x, float[1,5,6] w1, float[1,5,5] w2|y = RNN <hidden_size = 5> (x, w1, w2)", 7 * 2 * (5 * 6 + 5 * 5)),
    "nothing": ("float[2,3] x|y = Relu(x)", 0),
}


@pytest.mark.parametrize(("text", "macs"), COSTS.values(), ids=COSTS)
def test_multiply_accumulates_match_counts_by_hand(text: str, macs: int) -> None:
    inputs, _, body = text.partition("|")
    assert cost(model(f"g ({inputs}) => (float[] y) {{ {body} }}", opset=19)).macs == macs


def test_the_cost_is_counted_at_the_given_input_sizes() -> None:
    one, four = (cost(small(), {"x": (n, 3, 8, 8)}) for n in (1, 4))
    assert four.macs == 4 * one.macs
    assert four.inputs == {"x": (4, 3, 8, 8)}
    assert one.params == 16 * 27 + 4 * 16 + 12 * 144 + 16 * 108 + 80


@pytest.mark.parametrize("name", THREE_HEADS)
def test_attention_counts_its_products(name: str) -> None:
    """Batch 2, 5 positions, 12 channels: three projections from 6, queries by keys, weights by values, one product to 4."""
    macs = cost(THREE_HEADS[name].model()).macs
    assert macs == 2 * 5 * (3 * 6 * 12 + 5 * 12 + 5 * 12 + 12 * 4)


def test_a_recurrent_layer_shrinks_with_its_units_and_its_inputs() -> None:
    net = layered("LSTM", 4)[1].model()
    before = cost(net)
    assert before.macs == 5 * 2 * (6 * 8 + 28 * (8 + 7) + 7 * 4)
    coupled = couple(read_graph(net))
    macs, seen = macs_model(coupled), set()
    for seed in range(3):
        dropped = choose(coupled, find_groups(coupled), np.random.default_rng(seed), 0.5)
        assert macs.of(dropped) == cost(cut(coupled, dropped), before.inputs).macs
        seen.add(macs.of(dropped))
    assert max(seen) < before.macs * 0.6


@pytest.mark.parametrize("name", NETS)
def test_predicted_macs_of_a_cut_equal_those_of_the_pruned_model(name: str) -> None:
    net = NETS[name].model()
    before = cost(net)
    coupled = couple(read_graph(net))
    macs = macs_model(coupled)
    for seed in range(3):
        dropped = choose(coupled, find_groups(coupled), np.random.default_rng(seed), 0.5)
        after = cost(cut(coupled, dropped), before.inputs)
        assert macs.of(dropped) == after.macs
    assert of_original(macs, len(dropped)) == before.macs


def test_predicted_macs_are_counted_at_the_given_input_sizes() -> None:
    net = NETS["dynamic batch and space"].model()
    for shape in ((1, 3, 40, 30), (1, 3, 10, 10)):
        coupled = couple(read_graph(net, {"x": shape}))
        assert of_original(macs_model(coupled), len(coupled.roots)) == cost(net, {"x": shape}).macs
