# SPDX-License-Identifier: Apache-2.0
"""The analysis, and how it is updated if a cut shows that a node cannot follow."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from onnx import ModelProto

from onnxprune.analysis import couple as engine
from onnxprune.analysis.analyse import Analysis, analyse, refuse
from onnxprune.analysis.labels import Flow
from onnxprune.analysis.policy import DEFAULT, Policy
from onnxprune.analysis.rules import RULES
from onnxprune.analysis.rules.site import Rule, Site
from onnxprune.ir.facts import read_graph
from tests.cases.nets import small
from tests.cases.operators import SEVERAL
from tests.cases.renormalising import MIXES
from tests.cases.topologies import NETS

RENORMALISE = Policy((), True)
MODELS = {
    **{name: (net.model(), DEFAULT) for name, net in NETS.items()},
    **{name: (sample.model(), DEFAULT) for name, sample in SEVERAL.items()},
    **{f"{name}, renormalised": (mixes.model(), RENORMALISE) for name, mixes in MIXES.items()},
}
WHY = "cannot follow"


def assert_same(found: Analysis, expected: Analysis) -> None:
    a, b = found.coupled, expected.coupled
    assert np.array_equal(a.roots, b.roots)
    assert np.array_equal(a.free, b.free)
    assert a.owners == b.owners
    assert [(u.node, u.op, u.operand, u.produces) for u in a.uses] == [(u.node, u.op, u.operand, u.produces) for u in b.uses]
    assert [str(pin) for _, pin in a.pins] == [str(pin) for _, pin in b.pins]
    assert [m.node for m in a.mixed] == [m.node for m in b.mixed]
    assert [e.labels.tolist() for e in a.evens] == [e.labels.tolist() for e in b.evens]
    assert [s.nodes for s in a.shuffles] == [s.nodes for s in b.shuffles]
    assert list(a.flows) == list(b.flows)
    for name, flow in a.flows.items():
        assert flow.residue == b.flows[name].residue
        for x, y in zip(flow.axes, b.flows[name].axes, strict=True):
            assert np.array_equal(x, y) if x is not None and y is not None else x is y
    assert [g.name for g in found.groups] == [g.name for g in expected.groups]
    assert all(np.array_equal(g.roots, h.roots) for g, h in zip(found.groups, expected.groups, strict=True))
    assert found.refused == expected.refused


@pytest.mark.parametrize(("net", "policy"), MODELS.values(), ids=list(MODELS))
def test_a_resumed_analysis_that_differs_from_a_new_one_is_detected(net: ModelProto, policy: Policy) -> None:
    """Refuse every node, then also the one before it, so that a resumed analysis is resumed again."""
    graph = read_graph(net)
    whole = analyse(graph, policy)
    for node in graph.nodes:
        resumed = refuse(whole, {node.index: WHY})
        assert_same(resumed, analyse(graph, policy, {node.index: WHY}))
        if node.index:
            both = {node.index: WHY, node.index - 1: WHY}
            assert_same(refuse(resumed, {node.index - 1: WHY}), analyse(graph, policy, both))


def test_a_refusal_that_changes_the_earlier_analysis_is_detected() -> None:
    graph = read_graph(next(iter(NETS.values())).model())
    whole = analyse(graph)
    before = (whole.coupled.roots.copy(), whole.coupled.free.copy(), len(whole.groups))
    refuse(whole, {node.index: WHY for node in graph.nodes})
    assert np.array_equal(whole.coupled.roots, before[0])
    assert np.array_equal(whole.coupled.free, before[1])
    assert len(whole.groups) == before[2]


def visited(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The indices of the nodes whose rules are applied from now on."""
    found: list[int] = []

    def watched(rule: Rule) -> Rule:
        def visit(site: Site) -> list[Flow]:
            found.append(site.node.index)
            return rule.visit(site)

        return replace(rule, visit=visit)

    monkeypatch.setattr(engine, "RULES", {op: watched(rule) for op, rule in RULES.items()})
    return found


def test_a_refusal_that_visits_earlier_nodes_again_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = read_graph(small())
    nodes = visited(monkeypatch)
    whole = analyse(graph)
    assert nodes == list(range(len(graph.nodes)))
    for node in graph.nodes:
        nodes.clear()
        refuse(whole, {node.index: WHY})
        assert nodes == list(range(node.index, len(graph.nodes)))


def test_a_refusal_that_adds_nothing_visits_no_node(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = analyse(read_graph(small()), refused={3: WHY})
    nodes = visited(monkeypatch)
    assert_same(refuse(whole, {3: "and again"}), replace(whole, refused={3: "and again"}))
    assert nodes == []
