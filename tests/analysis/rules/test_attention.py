# SPDX-License-Identifier: Apache-2.0
"""Attention is cut by whole heads or by their size, and keeps its scale."""

from __future__ import annotations

import onnx
import pytest

from onnxprune.analysis.couple import couple
from onnxprune.analysis.groups import find_groups
from onnxprune.analysis.policy import Policy, read_carrier
from onnxprune.ir.facts import read_graph
from tests.cases.law import cut_some
from tests.cases.operators.attention import THREE_HEADS


@pytest.mark.parametrize("name", THREE_HEADS)
@pytest.mark.parametrize(("carrier", "atoms"), [("outer", 3), ("inner", 8), ("auto", 8)])
def test_the_carrier_decides_whether_heads_or_their_size_are_cut(name: str, carrier: str, atoms: int) -> None:
    net = THREE_HEADS[name].model()
    coupled = couple(read_graph(net), policy=Policy(read_carrier(carrier)))
    assert sum(map(len, find_groups(coupled))) == atoms


def test_the_scale_of_attention_is_kept_if_heads_shrink() -> None:
    """It follows from the size of a head unless it is stated."""
    made = cut_some(THREE_HEADS["fused"].model(), 0)
    [node] = [n for n in made.pruned.graph.node if n.op_type == "MultiHeadAttention"]
    given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    assert given == {"num_heads": 3, "scale": pytest.approx(0.5)}
