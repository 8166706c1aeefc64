# SPDX-License-Identifier: Apache-2.0
"""Budgets: MACs are counted without making a model, a cut lands just below its budget, and what holds it back is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.analysis.couple import couple
from onnxprune.analysis.groups import find_groups
from onnxprune.cost.macs import macs_model
from onnxprune.cost.model import share_kept
from onnxprune.cost.size import cost
from onnxprune.errors import OptionError
from onnxprune.ir.facts import read_graph
from onnxprune.rewrite.cut import cut
from onnxprune.selection.budget import amount
from onnxprune.selection.strategy import filled, smallest
from tests.models import choose, model
from tests.nets import pruned, small
from tests.test_topologies import NETS

TRAINED = Path(__file__).parent.parent / "models" / "resnet20-fashion-mnist.onnx"


@pytest.mark.parametrize("name", NETS)
def test_macs_of_a_cut_are_those_of_the_model_it_makes(name: str) -> None:
    net = model(NETS[name].text, NETS[name].opset, functions=NETS[name].functions)
    before = cost(net)
    coupled = couple(read_graph(net))
    macs = macs_model(coupled)
    for seed in range(3):
        dropped = choose(coupled, find_groups(coupled), np.random.default_rng(seed), 0.5)
        after = cost(cut(coupled, dropped), before.inputs)
        assert macs.of(dropped) == after.macs
        assert share_kept(macs, dropped) == pytest.approx(after.macs / max(1, before.macs))
    assert macs.of(np.zeros_like(dropped)) == before.macs


def test_macs_are_counted_at_the_sizes_that_the_user_gave() -> None:
    net = model(NETS["dynamic batch and space"].text)
    for shape in ((1, 3, 40, 30), (1, 3, 10, 10)):
        coupled = couple(read_graph(net, {"x": shape}))
        macs = macs_model(coupled)
        assert macs.of(np.zeros(len(coupled.roots), bool)) == cost(net, {"x": shape}).macs


@pytest.mark.parametrize("scope", ["global", "local"])
@pytest.mark.parametrize("align", ["none", 4, 16])
@pytest.mark.parametrize("budget", ["80%", "50%", "20M", "10%"])
def test_a_trained_network_lands_within_one_percent_below(budget: str, align: str | int, scope: str) -> None:
    report = pruned(TRAINED, macs=budget, align=align, scope=scope, verify=False).report
    limit = amount(budget, "").of(report.macs.before)
    assert 0.99 * limit <= report.macs.after <= limit
    assert not report.missed
    assert report.warnings == ()


def test_a_budget_that_is_no_limit_removes_nothing() -> None:
    for budget in ("100%", "1G", 1e9):
        assert pruned(TRAINED, macs=budget, verify=False).report.removed == 0


def test_a_budget_out_of_reach_is_missed_with_the_reason() -> None:
    report = pruned(TRAINED, macs="1%", verify=False).report
    assert report.missed
    assert "the budget of 1% MACs cannot be reached" in report.warnings[0]
    assert "at least a tenth" in report.warnings[0]
    text = """g (float[1,3,8,8] x, float[30,3,3,3] w1, float[8,30,3,3] w2, float[5,8,1,1] w3) => (float[] y) {
        a = Conv(x, w1)  b = custom.Mystery(a)  c = Conv(a, w2)  y = Conv(c, w3) }"""
    report = pruned(model(text), macs="10%", verify=False).report
    assert report.missed
    assert "channels that cannot be cut make" in report.warnings[0]
    assert "custom.Mystery 'b' is an operator without a rule" in report.warnings[0]


def test_the_plan_and_the_report_say_what_was_asked() -> None:
    result = pruned(small(), macs="50%")
    assert result.plan.made_by["macs"] == result.report.asked["macs"] == "50%"
    assert "ratio" not in result.report.asked


@pytest.mark.parametrize("given", ["", "half", "-5%", "0", "0%", "0.5", "50%%", "nan", "inf", "3 %M"])
def test_what_is_no_amount_gives_one_line(given: str) -> None:
    with pytest.raises(OptionError, match=r"^`macs`: got '.*', expected what may remain"):
        pruned(small(), macs=given)


def test_one_of_ratio_and_budget() -> None:
    with pytest.raises(OptionError, match="got neither"):
        pruned(small())
    with pytest.raises(OptionError, match="got both"):
        pruned(small(), 0.5, macs="50%")


@pytest.mark.parametrize(
    ("text", "number"),
    [("50%", 0.5), ("12.5 %", 0.125), ("300M", 3e8), ("1.5g", 1.5e9), ("2e3", 2000), (7e6, 7e6), (".5K", 500)],
)
def test_amounts(text: str | float, number: float) -> None:
    assert amount(text, "--macs").number == pytest.approx(number)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=6), st.floats(0.05, 1.2), st.integers(1, 7))
def test_a_search_stays_below_its_limit_and_ends_near_it(sizes: list[int], share: float, step: int) -> None:
    weights = np.arange(1, len(sizes) + 1)

    def make(ratio: float) -> list[int]:
        return [max(1, round(n * (1 - ratio))) for n in sizes]

    def price(widths: list[int]) -> float:
        return float((np.array(widths) * weights).sum())

    limit, ladders = share * price(sizes), [[*range(step, n, step), n] for n in sizes]
    found = smallest(make, price, limit)
    wider = filled(found, ladders, lambda k, a, b: float(a - b), price, limit)
    if price(make(1.0)) > limit:
        assert found == wider == make(1.0)
        return
    assert price(found) <= price(wider) <= limit
    more = [[*wider[:k], w, *wider[k + 1 :]] for k in range(len(sizes)) for w in ladders[k] if w > wider[k]]
    assert price(wider) >= 0.99 * limit or all(price(w) > limit for w in more)
