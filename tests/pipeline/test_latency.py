# SPDX-License-Identifier: Apache-2.0
"""Targets for latency, on machines whose times are computed, so that the right answer is known."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

from onnxprune.analysis.analyse import analyse
from onnxprune.analysis.groups import find_groups
from onnxprune.cost.footprint import params_model
from onnxprune.cost.latency import Features, Latency, Timed, fitted
from onnxprune.cost.macs import macs_model
from onnxprune.cost.model import of_original
from onnxprune.cost.size import cost
from onnxprune.errors import OptionError
from onnxprune.ir.facts import read_graph
from onnxprune.ir.files import load
from onnxprune.options import Options
from onnxprune.pipeline.components import Components
from onnxprune.pipeline.latency import random_cut
from onnxprune.pipeline.prune import prune_loaded
from onnxprune.pipeline.resolve import resolved
from onnxprune.report.values import Report
from onnxprune.selection.sizing import Sizing
from onnxprune.selection.space import space_of
from onnxprune.selection.strategy import Limit, greedy
from onnxprune.types import Advance, Array, Feeds
from tests.cases.nets import TRAINED, pruned, small
from tests.cases.profiles import profile
from tests.cases.text import model

FIXED = 5e-5
"""Seconds that any run takes on the machines below."""


def machine(noise: float = 0.0, fixed: float = FIXED, bend: float = 1.0) -> Any:
    """A machine on which a run takes a nanosecond for 100 multiply-accumulates, and some time besides.

    Args:
        bend: the power by which the time for multiply-accumulates grows, of that for 31 million; 1: in proportion.
    """
    rng = np.random.default_rng(0)

    def run(models: Sequence[ModelProto], feeds: Feeds, threads: int, seconds: float, progress: Advance) -> Array:
        times = np.array([fixed + 3.1e-4 * (cost(m).macs / 3.1e7) ** bend for m in models])
        drift = 1 + noise * rng.standard_normal((9, 1)).cumsum(0) / 3
        return np.asarray(times * drift * (1 + noise * rng.standard_normal((9, len(models)))))

    return run


def cut(noise: float = 0.0, fixed: float = FIXED, bend: float = 1.0, **options: Any) -> Report:
    """The trained network with a target for its latency on such a machine."""
    asked = Options.of(**{"recover": "none", "verify": False, **options})
    return prune_loaded(
        load(TRAINED), resolved(asked), components=Components(run=machine(noise, fixed, bend), profile=lambda *_: profile())
    ).report


@pytest.mark.parametrize("align", ["none", "auto"])
@pytest.mark.parametrize(("asked", "noise"), [("50%", 0.0), ("70%", 0.0), ("35%", 0.0), ("50%", 0.01)])
def test_a_share_of_the_latency_is_reached_and_hardly_less(asked: str, noise: float, align: str) -> None:
    report = cut(noise, latency=asked, align=align)
    [target] = report.targets
    assert not report.missed
    assert (target.name, target.asked, target.met) == ("latency", asked, True)
    share = (FIXED + 1e-11 * report.macs.after) / (FIXED + 1e-11 * report.macs.before)
    wanted = float(asked.strip("%")) / 100
    assert 0.93 * wanted <= share <= (1 + 3 * noise) * wanted
    assert target.kept == pytest.approx(share, rel=1e-6 + 4 * noise)


@pytest.mark.parametrize("bend", [0.2, 0.5, 1.3, 2.0])
@pytest.mark.parametrize("asked", ["60%", "80%"])
def test_a_machine_that_the_model_does_not_describe_is_measured_until_the_target_is_met(asked: str, bend: float) -> None:
    report = cut(0.0, FIXED, bend, latency=asked, align="none")
    [target] = report.targets
    assert target.met
    assert target.reached >= 0.93 * target.most


def test_with_inputs_the_best_of_three_orders_is_kept() -> None:
    x = np.random.default_rng(0).standard_normal((60, 3, 8, 8)).astype("f")
    options = {"latency": "60%", "data": {"x": x}, "recover": "reconstruct", "verify": False, "align": "none"}
    one = Components(run=machine(fixed=1e-7), profile=lambda *_: profile())
    report = prune_loaded(load(small()), resolved(Options.of(**options)), components=one).report
    [note] = [n for n in report.notes if n.startswith("order of channels: ")]
    tried = {order: float(loss) for order, loss in re.findall(r"(by latency|by MACs|evenly) ([0-9.]+)", note)}
    assert [*tried] == ["by latency", "by MACs", "evenly"]
    assert tried[note.partition(": ")[2].partition(";")[0]] == min(tried.values())
    assert report.targets[0].met
    local = resolved(Options.of(**options, scope="local"))  # whoever states the order gets it
    assert not [n for n in prune_loaded(load(small()), local, components=one).report.notes if "order of channels" in n]


def test_corrections_of_a_cost_do_not_change_the_order() -> None:
    coupled = analyse(read_graph(load(small()).model)).coupled
    groups, nothing = find_groups(coupled), np.zeros(len(coupled.roots), bool)
    scores = [np.arange(1.0, len(group) + 1) for group in groups]
    space = replace(space_of(coupled, groups, scores, Sizing()), additive=True)
    limit = Limit(macs_model(coupled), 1e9, learned=lambda cost, dropped, found: params_model(coupled))
    corrected = limit.corrected(nothing, 5.0).corrected(nothing, 6.0)
    assert (corrected.cost.name, corrected.price.name) == ("parameters", "MACs")
    for share in (0.3, 0.5, 0.8):
        most = share * of_original(params_model(coupled), len(nothing))
        found = greedy(space, [replace(corrected, most=most)]).widths
        assert found == greedy(space.per(macs_model(coupled)), [Limit(params_model(coupled), most)]).widths


def test_an_amount_of_time_is_reached_beside_other_targets() -> None:
    report = cut(latency="0.2ms", size="80%")
    found = {t.name: t for t in report.targets}
    assert list(found) == ["size", "latency"]
    assert all(t.met for t in found.values())
    assert 0.93 * 0.2 <= found["latency"].reached <= 0.2


def test_what_cannot_be_reached_is_the_nearest_and_missed() -> None:
    report = cut(fixed=3e-4, latency="40%")
    assert report.missed
    assert report.macs.kept < 0.1
    assert any("the budget of 40% latency cannot be reached" in warning for warning in report.warnings)


def test_more_time_than_the_original_takes_is_refused() -> None:
    with pytest.raises(OptionError, match=r"`latency`: got 5ms, more than the original takes here, 0\.36 ms"):
        cut(latency="5ms")


def test_a_latency_that_may_not_be_measured_is_refused() -> None:
    with pytest.raises(OptionError, match="`latency`: is measured, but"):
        pruned(TRAINED, latency="50%", bench=False)


@pytest.mark.parametrize("given", ["12MB", "0", "-1ms", "150%", "0ms", "fast"])
def test_another_unit_or_no_time_at_all_is_refused(given: str) -> None:
    with pytest.raises(OptionError, match=rf"^`latency`: got '{given}', expected"):
        pruned(TRAINED, latency=given)


def test_the_model_finds_what_layers_cost() -> None:
    coupled = analyse(read_graph(load(TRAINED).model)).coupled
    features, rng = Features.of_graph(coupled, 16), np.random.default_rng(0)
    nothing = np.zeros(len(coupled.roots), bool)
    true = np.zeros(len(features.of(nothing)))
    true[0], true[-2], true[-1] = 2e-8, 1e-7, 0.03
    cuts = [random_cut(coupled, find_groups(coupled), rng, 16) for _ in range(30)]
    seen = [features.of(dropped) for dropped in cuts]
    times = [float(x @ true) * (1 + 0.01 * rng.standard_normal()) for x in seen]
    whole = float(features.of(nothing) @ true)
    timed = [Timed(*pair) for pair in zip(seen[:20], times[:20], strict=True)]
    latency = Latency(features, fitted([*timed, Timed(features.of(nothing), whole, 10.0)]))
    assert of_original(latency, len(nothing)) == pytest.approx(whole, rel=2e-3)
    errors = [abs(latency.of(dropped) / float(x @ true) - 1) for dropped, x in zip(cuts[20:], seen[20:], strict=True)]
    assert max(errors) < 0.05
    assert (latency.costs[:-1] >= 0).all()


KINDS = """g (float[1,8,8,8] x, float[24,8,3,3] w1, float[24,1,3,3] w2, float[24,12,1,1] w3, float[20,24,1,1] w4,
    float[20,6,2,2] w5, float[6,5] w6) => (float[] y) <int64[2] axes = {2, 3}> {
    a = Conv(x, w1)  b = Conv <group = 24> (a, w2)  c = Conv <group = 2> (b, w3)  d = Conv(c, w4)
    e = ConvTranspose(d, w5)  f = ReduceMean <keepdims = 0> (e, axes)  y = MatMul(f, w6) }"""


def test_every_kind_of_layer_has_a_feature_of_its_own_and_widths_count_as_whole_vectors() -> None:
    coupled = analyse(read_graph(model(KINDS, 18))).coupled
    nothing = np.zeros(len(coupled.roots), bool)
    found = Features.of_graph(coupled, 1).of(nothing)
    by_hand = [36 * 24 * 72, 16 * 20 * 24, 16 * 24 * 9, 16 * 24 * 12, 16 * 20 * 6 * 4, 6 * 5]
    assert sorted(found[:6]) == sorted(by_hand)
    assert sum(found[:7]) == cost(model(KINDS, 18)).macs
    rounded = Features.of_graph(coupled, 16).of(nothing)
    assert (rounded[:7] >= found[:7]).all()
    assert rounded[0] == 36 * 32 * 72
