# SPDX-License-Identifier: Apache-2.0
"""Residual branches that go: the model then computes what it computes with these branches times zero."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from onnxprune.errors import PlanError
from onnxprune.evaluation.verification import DifferenceError, verify_shortened
from onnxprune.ir.facts import read_graph
from onnxprune.ir.files import load
from onnxprune.rewrite.shorten import branches, muted, shortened
from tests.cases.comparing import compare_all
from tests.cases.nets import TRAINED, small
from tests.cases.running import random_feeds, runner
from tests.cases.text import model
from tests.cases.topologies import NETS

IN = "g (float[2,8,6,6] x, float[8,8,3,3] w1, float[8,8,3,3] w2, float[8,8,1,1] w3, float[8,4,1,1] w4) => (float[] y)"
ONE = "p = Conv(x, w3)  q = Relu(p)  a = Conv <pads = [1,1,1,1]> (q, w1)  b = Relu(a)  c = Conv <pads = [1,1,1,1]> (b, w2)"


def found(text: str) -> list[tuple[str, str]]:
    return [(b.skip, b.total) for b in branches(read_graph(model(f"{IN} {{ {text} }}")))]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (f"{ONE}  d = Add(c, q)  y = Relu(d)", [("q", "d")]),
        (f"{ONE}  d = Add(q, c)  y = Relu(d)", [("q", "d")]),
        (f"{ONE}  y = Add(q, c)", [("q", "y")]),
        (f"{ONE}  d = Add(c, x)  y = Relu(d)", [("x", "d")]),
        (f"{ONE}  d = Add(c, q)  e = Add(d, b)  y = Relu(e)", []),  # something else reads what is inside
        (f"{ONE}  z = Conv(x, w3)  d = Add(c, z)  y = Relu(d)", []),  # both are computed from x
        ("p = Conv(x, w3)  q = Sigmoid(p)  d = Add(q, p)  y = Relu(d)", []),  # nothing is multiplied
        ("p = Conv(x, w3)  q = ReduceMean <axes = [2, 3]> (p)  r = Conv(q, w3)  d = Add(p, r)  y = Relu(d)", [("p", "d")]),
        ("p = Conv(x, w3)  q = ReduceMean <axes = [2, 3]> (p)  r = Conv(p, w3)  d = Add(q, r)  y = Relu(d)", []),  # shapes
    ],
)
def test_a_branch_is_what_depends_on_the_skipped_tensor_alone(text: str, wanted: list[tuple[str, str]]) -> None:
    assert found(text) == wanted


def outputs(net: ModelProto) -> list[np.ndarray]:
    return runner(net)(random_feeds(net, np.random.default_rng(0), 2))


@pytest.mark.parametrize("name", [*NETS, "trained"])
def test_without_branches_it_computes_what_it_computes_with_them_times_zero(name: str) -> None:
    net = load(TRAINED).model if name == "trained" else NETS[name].model()
    graph = read_graph(net)
    known = [*branches(graph)]
    for gone in [[b] for b in known]:
        shorter = shortened(net, [(b.skip, b.total) for b in gone], graph)
        onnx.checker.check_model(shorter)
        compare_all(net, outputs(muted(net, gone)), outputs(shorter))
        verify_shortened(graph, muted(net, gone), shorter)
        assert len(shorter.graph.node) < len(net.graph.node)
        used = {name for node in shorter.graph.node for name in node.input} | {v.name for v in net.graph.output}
        assert {t.name for t in shorter.graph.initializer} <= used


def test_branches_that_follow_each_other_go_together() -> None:
    net = load(TRAINED).model
    graph = read_graph(net)
    known = [*branches(graph)]
    assert len(known) == 7
    shorter = shortened(net, [(b.skip, b.total) for b in known], graph)
    compare_all(net, outputs(muted(net, known)), outputs(shorter))


def test_another_model_is_no_match() -> None:
    net = small()
    graph = read_graph(net)
    [branch] = branches(graph)
    with pytest.raises(DifferenceError):
        verify_shortened(graph, net, shortened(net, [(branch.skip, branch.total)], graph))
    with pytest.raises(PlanError, match="this model has no such branch"):
        shortened(net, [("x", "y")], graph)
