# SPDX-License-Identifier: Apache-2.0
"""Budgets: a cut lands just below its budget, and a missed budget is explained."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.analysis.analyse import analyse
from onnxprune.analysis.groups import find_groups
from onnxprune.cost.macs import macs_model
from onnxprune.ir.facts import read_graph
from onnxprune.selection.alignment import ladder
from onnxprune.selection.budget import TARGETS, amount
from onnxprune.selection.order import order_of
from onnxprune.selection.sizing import Sizing
from onnxprune.selection.space import space_of
from onnxprune.selection.strategy import Limit, filled, greedy, shallowest
from onnxprune.selection.units import units_of
from tests.cases.choosing import groups_of, scores_of
from tests.cases.nets import TRAINED, pruned, small
from tests.cases.text import model
from tests.cases.topologies import NETS


@pytest.mark.parametrize("scope", ["global", "local"])
@pytest.mark.parametrize("align", ["none", 4, 16])
@pytest.mark.parametrize("budget", ["80%", "50%", "20M", "10%"])
def test_a_trained_network_lands_at_most_one_percent_below_its_budget(budget: str, align: str | int, scope: str) -> None:
    report = pruned(TRAINED, macs=budget, align=align, scope=scope, verify=False).report
    limit = amount(budget, "macs").of(report.macs.before)
    assert 0.99 * limit <= report.macs.after <= limit
    assert not report.missed
    assert report.warnings == ()


def test_a_budget_that_is_already_met_removes_nothing() -> None:
    assert pruned(TRAINED, macs="100%", verify=False).report.removed == 0


@pytest.mark.parametrize("align", ["none", 16])
@pytest.mark.parametrize(
    "asked",
    [
        *[{"params": "50%"}, {"params": "60K"}, {"size": "50%"}, {"size": "300KB"}, {"memory": "50%"}, {"memory": "0.4MiB"}],
        *[{"macs": "50%", "size": "50%"}, {"params": "70%", "memory": "60%", "macs": "60%"}],
    ],
    ids=str,
)
def test_all_targets_hold_and_the_tightest_is_nearly_reached(asked: dict[str, Any], align: str | int) -> None:
    result = pruned(TRAINED, **asked, align=align, verify=False)
    report = result.report
    assert not report.missed
    assert [t.name for t in report.targets] == [name for name in TARGETS if name in asked]
    assert all(t.met and t.reached <= t.most for t in report.targets)
    assert max(t.reached / t.most for t in report.targets) >= 0.99
    real = {"macs": report.macs, "params": report.params, "size": report.bytes, "memory": report.memory}
    assert all(t.reached == real[t.name].after for t in report.targets)
    assert report.bytes.after == len(result.model.SerializeToString())


def test_what_a_cut_adds_to_the_file_is_within_the_target() -> None:
    net = NETS["option A shortcut"].model()
    report = pruned(net, size="80%", align="none", verify=False).report
    assert report.bytes.after <= 0.8 * report.bytes.before


def test_alignment_is_kept_where_that_is_near_enough() -> None:
    """Of one group of 64 channels, 46 are within the limit: 32 of them are aligned, and 0.7 of it."""
    coupled = analyse(read_graph(model(NET, 18))).coupled
    groups = find_groups(coupled)
    space = space_of(coupled, groups, [np.arange(64.0)], Sizing(align=16))
    cost = macs_model(coupled)
    most = cost.of(space.dropped([46]))
    assert [greedy(space, [Limit(cost, most, near=near)]).widths for near in (0.69, 0.99)] == [[32], [46]]


NET = """g (float[1,3,8,8] x, float[64,3,1,1] w1, float[5,64,1,1] w2) => (float[] y) {
    a = Conv(x, w1)  b = Relu(a)  y = Conv(b, w2) }"""


def test_a_budget_out_of_reach_is_missed_with_the_reason() -> None:
    report = pruned(TRAINED, macs="1%", verify=False).report
    assert report.missed
    assert "the budget of 1% MACs cannot be reached" in report.warnings[0]
    assert "at least a tenth" in report.warnings[0]
    text = """g (float[1,3,8,8] x, float[30,3,3,3] w1, float[8,30,3,3] w2, float[5,8,1,1] w3) => (float[] y) {
        a = Conv(x, w1)  b = custom.Mystery(a)  c = Conv(a, w2)  y = Conv(c, w3) }"""
    report = pruned(model(text), macs="10%", verify=False).report
    assert report.missed
    assert "channels that cannot be cut account for" in report.warnings[0]
    assert "custom.Mystery 'b' is an operator without a rule" in report.warnings[0]


def test_the_plan_and_the_report_record_the_request() -> None:
    result = pruned(small(), macs="50%")
    assert result.plan.made_by["macs"] == result.report.asked["macs"] == "50%"
    assert "ratio" not in result.report.asked


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=6), st.floats(0.05, 1.2), st.sampled_from([1, 4, 16]))
def test_a_search_stays_below_its_limit_and_ends_near_it(sizes: list[int], share: float, align: int) -> None:
    weights = np.arange(1, len(sizes) + 1)
    groups, sizing = groups_of(sizes), Sizing(align=align)
    units = [units_of(g, s) for g, s in zip(groups, scores_of(sizes, 0), strict=True)]

    def price(widths: list[int]) -> float:
        return float((np.array(widths) * weights).sum())

    order, limit = order_of(groups, units, sizing), share * price(sizes)
    ladders = [ladder(g, u, sizing, 9) for g, u in zip(groups, units, strict=True)]
    found, deepest = shallowest(order, price, limit), order.widths(len(order.owner))
    wider = filled(found, ladders, lambda k, a, b: float(a - b), price, limit)
    if price(deepest) > limit:
        assert found == wider == deepest
        return
    assert price(found) <= price(wider) <= limit
    more = [[*wider[:k], w, *wider[k + 1 :]] for k in range(len(sizes)) for w in ladders[k] if w > wider[k]]
    assert price(wider) >= 0.99 * limit or all(price(w) > limit for w in more)
