# SPDX-License-Identifier: Apache-2.0
"""Widths by a knapsack: as good as the best of all cuts, and never worse than the greedy way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from onnxprune.analysis.analyse import analyse
from onnxprune.analysis.coupling import Coupled
from onnxprune.cost.footprint import memory_model, params_model
from onnxprune.cost.macs import macs_model
from onnxprune.cost.model import CostModel, of_original
from onnxprune.errors import OptionError
from onnxprune.ir.facts import read_graph
from onnxprune.selection import knapsack as module
from onnxprune.selection.knapsack import GAP, knapsack
from onnxprune.selection.sizing import Sizing
from onnxprune.selection.space import Space, space_of
from onnxprune.selection.strategy import Limit, fullness, greedy
from onnxprune.types import Vector
from tests.cases.nets import TRAINED, pruned, small
from tests.cases.text import model

CHAIN = """g (float[1,3,8,8] x, float[5,3,3,3] w1, float[7,5,3,3] w2, float[6,7,1,1] w3, float[4,6,1,1] w4) => (float[] y) {
    a = Conv(x, w1)  b = Conv(a, w2)  c = Conv(b, w3)  y = Conv(c, w4) }"""
RESIDUAL = """g (float[1,3,8,8] x, float[5,3,1,1] w1, float[7,5,1,1] w2, float[5,7,1,1] w3, float[6,5,1,1] w4,
    float[4,6,1,1] w5) => (float[] y) {
    a = Conv(x, w1)  b = Conv(a, w2)  c = Conv(b, w3)  d = Add(a, c)  e = Conv(d, w4)  y = Conv(e, w5) }"""
JOINED = """g (float[1,3,8,8] x, float[5,3,1,1] w1, float[6,3,1,1] w2, float[4,11,3,3] w3, float[4,4,1,1] w4) => (float[] y) {
    a = Conv(x, w1)  b = Conv(x, w2)  c = Concat <axis = 1> (a, b)  d = Conv(c, w3)  y = Conv(d, w4) }"""
COSTS: dict[str, Callable[[Coupled], CostModel]] = {"macs": macs_model, "params": params_model, "memory": memory_model}


def space(text: str, seed: int, align: int = 1) -> Space:
    """Errors that are far from equal, and differ from group to group."""
    coupled = analyse(read_graph(model(text))).coupled
    groups, rng = analyse(read_graph(model(text))).groups, np.random.default_rng(seed)
    scores = [rng.lognormal(rng.normal(), 1.5, len(g)) for g in groups]
    return replace(space_of(coupled, groups, scores, Sizing(align=align)), additive=True)


def limit(found: Space, name: str, share: float) -> Limit:
    cost: CostModel = COSTS[name](found.coupled)
    return Limit(cost, share * of_original(cost, len(found.coupled.roots)))


def total(lost: list[Vector], widths: list[int]) -> float:
    return float(sum(x[w] for x, w in zip(lost, widths, strict=True)))


@pytest.mark.parametrize(
    "asked", [{"macs": 0.5}, {"macs": 0.25}, {"params": 0.4}, {"macs": 0.6, "params": 0.5}, {"memory": 0.6}], ids=str
)
@pytest.mark.parametrize("text", [CHAIN, RESIDUAL, JOINED], ids=["chain", "residual", "joined"])
def test_no_cut_within_the_limits_loses_less(text: str, asked: dict[str, float]) -> None:
    for seed in range(5):
        found = space(text, seed)
        limits = [limit(found, name, share) for name, share in asked.items()]
        cost, lost = fullness(found, limits), found.lost()
        chosen = knapsack(found, limits).widths
        assert cost(chosen) <= 1
        best = min(total(lost, [*w]) for w in product(*found.ladders()) if cost([*w]) <= 1)
        # a peak is no sum over pairs: limits are tightened until it holds, and the best may be lost
        assert total(lost, chosen) <= (1.1 if "memory" in asked else 1 + 2 * GAP) * best
        assert total(lost, chosen) <= total(lost, greedy(found, limits).widths)


def test_the_report_says_what_was_gained_and_how_far_from_the_bound_it_may_be() -> None:
    found = space(RESIDUAL, 5)
    limits = [limit(found, "macs", 0.4)]
    chosen = knapsack(found, limits)
    lost = [total(found.lost(), x.widths) for x in (chosen, greedy(found, limits))]
    assert f"{1 - lost[0] / lost[1]:.1%} less lost than in order of score (gap 0." in chosen.note


@pytest.mark.parametrize(("name", "value"), [("SECONDS", 0.0), ("PAIRS", 0)])
def test_the_greedy_cut_is_kept_where_there_is_no_time_or_too_many_pairs(
    name: str, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, name, value)
    found = space(CHAIN, 0)
    limits = [limit(found, "macs", 0.5)]
    assert knapsack(found, limits) == greedy(found, limits)


def test_limits_out_of_reach_give_the_deepest_cut() -> None:
    found = space(CHAIN, 0)
    assert knapsack(found, [limit(found, "macs", 0.001)]).widths == [units.lowest for units in found.units]


def test_widths_stay_aligned_where_the_greedy_ones_are() -> None:
    wide = CHAIN.replace("5,3,3,3", "32,3,3,3").replace("7,5,3,3", "64,32,3,3").replace("6,7", "32,64").replace("4,6", "4,32")
    found = space(wide, 0, align=8)
    limits = [replace(limit(found, "macs", 0.5), near=0.5)]
    assert all(w % 8 == 0 for w in knapsack(found, limits).widths)


def test_it_is_for_the_global_scope_and_for_limits() -> None:
    found = space(CHAIN, 0)
    local = replace(found, sizing=Sizing("local"))
    assert knapsack(local, [limit(found, "macs", 0.5)]) == greedy(local, [limit(found, "macs", 0.5)])
    with pytest.raises(OptionError, match="`widths`: knapsack needs targets"):
        pruned(small(), 0.5, widths="knapsack")


def test_the_option_chooses_it() -> None:
    reports = [pruned(TRAINED, macs="40%", widths=w, align="none", verify=False).report for w in ("order", "knapsack")]
    assert [any("knapsack" in note for note in r.notes) for r in reports] == [False, True]
    assert all(0.39 <= r.macs.kept <= 0.4 for r in reports)


def test_what_is_lost_is_what_goes_while_little_goes_and_without_bound_as_nothing_is_left() -> None:
    found = space(CHAIN, 0)
    for kept, lost in zip(found.kept(), found.lost(), strict=True):
        assert lost[-1] == 0
        assert (np.diff(lost) < 0).all()
        assert lost[-2] == pytest.approx(kept[-1] - kept[-2], rel=0.2)
        assert lost[0] > 10 * kept[-1]


def test_errors_are_compared_with_what_they_save() -> None:
    """All channels are worth about the same; of the first layer, each saves 90 weights, of the others 51 and 11."""
    coupled = analyse(read_graph(model(CHAIN))).coupled
    groups = analyse(read_graph(model(CHAIN))).groups
    same = space_of(coupled, groups, [np.linspace(1, 1.1, len(g)) for g in groups], Sizing())
    params = limit(same, "params", 0.5)
    plain, errors = (greedy(x, [params]).widths for x in (same, replace(same, additive=True)))
    assert plain == [3, 5, 4]
    assert errors == [2, 7, 6]
