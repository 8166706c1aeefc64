# SPDX-License-Identifier: Apache-2.0
"""A component that is passed in, but not used, is detected: one small fake for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper

from onnxprune.analysis.analyse import analyse
from onnxprune.analysis.coupling import Coupled
from onnxprune.cost.profile import Profile
from onnxprune.ir.facts import read_graph
from onnxprune.ir.files import load
from onnxprune.options import CheckOptions, Options
from onnxprune.pipeline.apply import apply_loaded
from onnxprune.pipeline.components import DEFAULT
from onnxprune.pipeline.goal import Budget, Goal
from onnxprune.pipeline.prune import prune_loaded
from onnxprune.pipeline.rounds import RoundRecovery, in_rounds
from onnxprune.pipeline.samples import Samples
from onnxprune.recovery.editor import Fitted
from onnxprune.report.values import Report
from onnxprune.rewrite.plan import plan_of
from onnxprune.selection.budget import Amount
from onnxprune.selection.space import Space
from onnxprune.selection.strategy import Chosen, Limit, greedy
from onnxprune.types import Advance, Array, Feeds, Mask, Progress, Vector
from tests.cases.nets import small
from tests.cases.pictures import pictures, trained_on
from tests.cases.profiles import profile
from tests.cases.recovery import data_for

QUIET = {"recover": "none", "bench": False, "align": "none"}


def widths(report: Report) -> list[int]:
    return [row.after for row in report.groups]


@pytest.mark.parametrize("rounds", [1, 2])
def test_a_strategy_that_is_ignored_is_detected(rounds: int) -> None:
    """It halves every group, though the limit asks for nothing."""
    asked: list[Limit] = []

    def halves(space: Space, limits: Sequence[Limit]) -> Chosen:
        asked.extend(limits)
        return Chosen([len(units.scores) // 2 for units in space.units], "halved")

    options = Options.of(**{**QUIET, "recover": "bias"}, macs="100%", rounds=rounds, data=data_for(small()))
    report = prune_loaded(load(small()), options, components=replace(DEFAULT, strategy=halves)).report
    assert "halved" in report.notes
    assert widths(report) in ([16 // 2**rounds, 12 // 2**rounds], [16 // 2, 12 // 2])  # rounds that do not help are undone
    cuts = 1 if rounds == 1 else 1 + rounds
    assert [(limit.cost.name, limit.most) for limit in asked] == [("MACs", report.macs.before)] * cuts


@pytest.mark.parametrize("rounds", [1, 2])
def test_a_maker_of_inputs_that_is_ignored_is_detected(rounds: int) -> None:
    net = trained_on(pictures(20, 1), 1)

    def make(*_: object) -> Samples:
        return Samples(*data_for(net, 20).split(0.2), "made")

    options = Options.of(**{**QUIET, "recover": "reconstruct"}, ratio=0.5, rounds=rounds)
    row = prune_loaded(load(net), options, components=replace(DEFAULT, make=make)).report.recovery
    assert row is not None
    assert (row.source, row.fitted, row.judged) == ("made", 16, 4)


def twice_as_fast(models: Sequence[ModelProto], feeds: Feeds, threads: int, seconds: float, progress: Advance) -> Array:
    """A machine on which the second model takes half the time."""
    assert list(feeds) == ["x"]
    return np.array([[0.004, 0.002]] * 7)


def test_a_runner_that_is_ignored_is_detected() -> None:
    options = Options.of(**{**QUIET, "bench": True}, ratio=0.5)
    cut = prune_loaded(load(small()), options, components=replace(DEFAULT, run=twice_as_fast))
    applied = apply_loaded(load(small()), cut.plan, {}, CheckOptions(), run=twice_as_fast)
    for report in (cut.report, applied.report):
        assert report.benchmark is not None
        assert [x.median_ms for x in report.benchmark.latencies] == [4.0, 2.0]
        assert report.benchmark.speedup == (1.0, 2.0)


def test_a_profile_of_the_machine_that_is_ignored_is_detected() -> None:
    """Only a target for the latency asks for it, and with it, widths are what it says."""
    asked: list[int] = []

    def measure(threads: int, progress: Progress) -> Profile:
        asked.append(threads)
        return profile(4)

    components = replace(DEFAULT, run=twice_as_fast, profile=measure)
    quiet = {"recover": "none", "verify": False, "threads": 3}
    plain = prune_loaded(load(small()), Options.of(**quiet, ratio=0.5), components=components)
    assert not asked
    assert "profile" not in plain.plan.made_by
    timed = prune_loaded(load(small()), Options.of(**quiet, latency="60%"), components=components)
    assert asked == [3]
    assert timed.plan.made_by["align"] == 4
    assert timed.plan.made_by["profile"] == profile(4).digest
    assert timed.report.align_reason == f"measured on {profile(4).machine.processor}"
    prune_loaded(load(small()), Options.of(**quiet, latency="60%", profile=profile(8)), components=components)
    assert asked == [3]


def test_sets_of_branches_that_are_ignored_are_detected() -> None:
    """One set is given, which therefore goes, however much the network loses without it."""
    options = Options.of(**{**QUIET, "recover": "bias"}, macs="60%", depth=True, data=data_for(small()))
    components = replace(DEFAULT, sets=lambda *_: [(("r1", "a"),)])
    assert prune_loaded(load(small()), options, components=components).plan.removed == (("r1", "a"),)


def test_a_recovery_of_rounds_that_is_ignored_is_detected() -> None:
    """It silences the strongest channel of `w2`, which is therefore dropped in the next round."""
    silenced: list[int] = []

    def silence(coupled: Coupled, dropped: Mask, model: ModelProto, batches: Sequence[Feeds], seed: int) -> Fitted:
        assert seed == 3
        assert sum(len(batch["x"]) for batch in batches) == 48
        (owner,) = (o for o in coupled.owners if (o.weight, o.axis) == ("w2", 0))
        (tensor,) = (t for t in model.graph.initializer if t.name == "w2")
        w2 = numpy_helper.to_array(tensor).copy()
        strongest = int(np.linalg.norm(w2.reshape(len(w2), -1), axis=1).argmax())
        silenced.append(int(np.flatnonzero(~dropped[owner.start : owner.start + owner.size])[strongest]))
        w2[strongest] = 0
        tensor.CopyFrom(numpy_helper.from_array(w2, "w2"))
        return Fitted(model)

    data = data_for(small())
    options = Options.of(**{**QUIET, "recover": "bias"}, ratio=0.4, rounds=2, seed=3, criterion="l2", data=data)
    analysis, batches = analyse(read_graph(small())), list(data.split(0.2, 3)[0].batches(16))
    plain = in_rounds(analysis, options, "net", batches)
    other = in_rounds(analysis, options, "net", batches, recover=RoundRecovery("a silencing", silence))
    assert "channels were chosen in 2 rounds, with a reconstruction after each" in plain.notes
    assert "channels were chosen in 2 rounds, with a silencing after each" in other.notes
    plans = [plan_of(d.analysis.coupled, d.dropped, "", {}) for d in (plain, other)]
    (channel,) = silenced
    assert channel in plans[0].kept["w2"][0]
    assert channel not in plans[1].kept["w2"][0]
    silenced.clear()
    prune_loaded(load(small()), options, components=replace(DEFAULT, recover=RoundRecovery("a silencing", silence)))
    assert silenced


@dataclass(frozen=True)
class Channels:
    """The channels that are kept, of those that could be dropped; each costs `each`."""

    coupled: Coupled
    each: float = 0.1
    name: str = "channels"
    resolution: float = 0.01

    def of(self, dropped: Mask) -> float:
        return self.each * len(set(self.coupled.roots[self.coupled.free & ~dropped].tolist()))

    def text(self, value: float) -> str:
        return f"{value:.1f} tens"


@pytest.mark.parametrize("rounds", [1, 2])
@pytest.mark.parametrize("criterion", ["l2", "obs"])
def test_a_cost_that_is_ignored_is_detected(criterion: str, rounds: int) -> None:
    """Of 28 channels, 25% may remain. By MACs, which the options name, nothing would be dropped."""
    asked: list[Limit] = []

    def watched(space: Space, limits: Sequence[Limit]) -> Chosen:
        asked.extend(limits)
        return greedy(space, limits)

    goal = Goal(None, (Budget(Channels, Amount(0.25, True), "25%"),))
    components = replace(DEFAULT, strategy=watched, goal=lambda _: goal)
    common = {**QUIET, "recover": "bias", "rounds": rounds, "criterion": criterion, "data": data_for(small())}
    report = prune_loaded(load(small()), Options.of(**common, macs="100%"), components=components).report
    assert sum(widths(report)) == 7
    assert [limit.most for limit in asked] == pytest.approx([0.7] if rounds == 1 else [0.7, 1.4, 0.7])
    assert not report.missed


@pytest.mark.parametrize(("criterion", "factors"), [("obs", [1, 10, 100]), ("l2", [1, 1, 1])])
def test_only_scores_that_are_errors_are_divided_by_the_cost_that_a_channel_saves(criterion: str, factors: list[int]) -> None:
    """A saving below the resolution of a cost, 0.01, counts as 0.01."""

    def scores(each: float) -> Vector:
        spaces: list[Space] = []

        def watched(space: Space, limits: Sequence[Limit]) -> Chosen:
            spaces.append(space.per(limits[0].cost) if space.additive else space)
            return greedy(space, limits)

        goal = Goal(None, (Budget(lambda coupled: Channels(coupled, each), Amount(0.5, True)),))
        components = replace(DEFAULT, strategy=watched, goal=lambda _: goal)
        options = Options.of(**QUIET, macs="100%", criterion=criterion, data=data_for(small()))
        prune_loaded(load(small()), options, components=components)
        return np.concatenate([units.scores for units in spaces[0].units])

    whole, tenths, thousandths = (scores(each) for each in (1.0, 0.1, 0.001))
    for found, factor in zip((whole, tenths, thousandths), factors, strict=True):
        np.testing.assert_allclose(found, whole * factor)


def test_a_limit_on_another_cost_that_is_missed_is_reported_in_its_unit() -> None:
    """A tenth of each group remains."""
    goal = Goal(None, (Budget(Channels, Amount(0.01, True), "1%"),))
    options = Options.of(**{**QUIET, "recover": "bias"}, macs="100%", data=data_for(small()))
    report = prune_loaded(load(small()), options, components=replace(DEFAULT, goal=lambda _: goal)).report
    assert widths(report) == [2, 2]
    assert report.missed
    assert report.warnings[0].startswith("the budget of 1% channels cannot be reached, 14.3% (0.4 tens) remain: ")
