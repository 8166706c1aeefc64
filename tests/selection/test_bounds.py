# SPDX-License-Identifier: Apache-2.0
"""Ratios, floors and ceilings of single layers; scopes that rank layers of one structure together; scores made comparable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.analysis.analyse import analyse
from onnxprune.errors import OptionError
from onnxprune.ir.facts import read_graph
from onnxprune.ir.files import load
from onnxprune.selection.bounds import Bounds, LayerRatios
from onnxprune.selection.criteria import Scorer
from onnxprune.selection.criteria.weights import NORMALISERS
from onnxprune.selection.order import order_of
from onnxprune.selection.sizing import Sizing
from onnxprune.selection.structure import structures
from onnxprune.selection.units import units_of
from tests.cases.choosing import groups_of, scores_of
from tests.cases.nets import TRAINED, pruned


def kept(report: Any) -> dict[str, float]:
    return {g.name: g.after / g.before for g in report.groups}


def test_a_ratio_a_frozen_layer_and_bounds_are_held(tmp_path: Path) -> None:
    file = tmp_path / "ratios.toml"
    file.write_text(
        """"layer1.*" = 0
"layer2.0.conv1.weight" = 0.25
"layer2.*" = {keep_at_least = 0.75}
"layer3.*" = {keep_at_most = 0.5}
"""
    )
    report = pruned(TRAINED, 0.4, layer_ratios=file, align="none", verify=False).report
    found = kept(report)
    assert all(share == 1 for name, share in found.items() if name.startswith("layer1"))
    assert found["layer2.0.conv1.weight"] == 0.75
    assert all(share >= 0.75 for name, share in found.items() if name.startswith("layer2"))
    assert all(share <= 0.5 for name, share in found.items() if name.startswith("layer3"))
    assert report.ratio == pytest.approx(0.4, abs=0.01)
    assert report.asked["layer_ratios"] == str(file)


def test_alone_they_decide_everything() -> None:
    report = pruned(TRAINED, layer_ratios={"layer3.*": 0.5}, align="none", verify=False).report
    assert kept(report) == {name: 0.5 if name.startswith("layer3") else 1.0 for name in kept(report)}
    assert not report.missed


def test_more_than_the_asked_ratio_is_removed_if_layers_ask_for_it() -> None:
    report = pruned(TRAINED, 0.1, layer_ratios={"*": 0.5}, align="none", verify=False).report
    assert report.ratio == pytest.approx(0.5, abs=0.01)
    assert any("--layer-ratios alone remove 50.0%" in note for note in report.notes)


@pytest.mark.parametrize("macs", ["70%", "50%"])
@pytest.mark.parametrize("align", ["none", 8])
def test_targets_are_met_within_the_bounds(macs: str, align: str | int) -> None:
    asked = {"layer1.*": 0, "*": {"keep_at_most": 0.9}}
    report = pruned(TRAINED, macs=macs, layer_ratios=asked, align=align, verify=False).report
    assert report.macs.kept <= float(macs.strip("%")) / 100
    found = kept(report)
    # the first convolution makes the same channels as the last ones of the first stage
    frozen = {name for name in found if name.startswith("layer1") or name == "conv.weight"}
    assert all(found[name] == 1 for name in frozen)
    assert all(share <= 0.9 for name, share in found.items() if name not in frozen)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(2, 40), min_size=1, max_size=5),
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=5, max_size=5),
    st.sampled_from(["global", "local", "isomorphic"]),
    st.sampled_from([1, 4, 16]),
    st.floats(0, 0.95),
)
def test_every_cut_is_within_the_bounds_of_every_layer(
    sizes: list[int], ends: list[tuple[float, float]], scope: str, align: int, ratio: float
) -> None:
    groups, total = groups_of(sizes), sum(sizes)
    bounds = [Bounds(min(pair), max(pair)) for pair in ends[: len(sizes)]]
    units = [units_of(g, s, b.least, b.most) for g, s, b in zip(groups, scores_of(sizes, 0), bounds, strict=True)]
    order = order_of(groups, units, Sizing(scope, align), [0] * len(sizes))
    widths = order.widths(order.nearest(round(ratio * total), total))
    for width, size, b in zip(widths, sizes, bounds, strict=True):
        least = max(1, int(np.ceil(size * b.least - 1e-9)))
        assert width >= least
        assert width <= max(least, size * b.most + 1e-9)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is empty"),
        ("a = ", "cannot be read"),
        ('"layer1.*" = 1', "expected 0 <= ratio < 1"),
        ('"layer1.*" = -0.1', "expected 0 <= ratio < 1"),
        ('"layer1.*" = nan', "expected 0 <= ratio < 1"),
        ('"layer1.*" = true', 'expected "PATTERN" = RATIO'),
        ('"layer1.*" = {keep = 1}', 'expected "PATTERN" = RATIO'),
        ('"layer1.*" = {keep_at_least = 0.8, keep_at_most = 0.2}', "in ascending order"),
        ('"layer9.*" = 0.5', "'layer9.*' matches no weight"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line_with_its_name(text: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(OptionError) as e:
        pruned(TRAINED, 0.5, layer_ratios=tmp_path / "r.toml")
    assert why in str(e.value)
    assert "\n" not in str(e.value)


def test_the_first_pattern_that_matches_counts() -> None:
    found = LayerRatios.read({"a.b*": 0.5, "a*": 0.25})
    assert (found.of(["a.b.weight"]).least, found.of(["a.c.weight"]).least, found.of(["x"])) == (0.5, 0.75, Bounds())


def test_layers_of_one_structure_are_ranked_together_and_structures_lose_alike() -> None:
    coupled = analyse(read_graph(load(TRAINED).model)).coupled
    groups = analyse(read_graph(load(TRAINED).model)).groups
    kinds = structures(coupled, groups)
    inner = {k for k, g in zip(kinds, groups, strict=True) if g.name.endswith("conv1.weight")}
    assert len(inner) == 1
    report = pruned(TRAINED, 0.4, scope="isomorphic", align="none", verify=False).report
    lost = dict[int, list[tuple[int, int]]]()
    for kind, row in zip(kinds, report.groups, strict=True):
        lost.setdefault(kind, []).append((row.before - row.after, row.before))
    shares = [sum(a for a, _ in rows) / sum(b for _, b in rows) for rows in lost.values()]
    assert max(shares) - min(shares) < 0.05
    within = {round(a / b, 2) for a, b in lost[inner.pop()]}
    assert len(within) > 2


def test_scores_are_made_comparable_as_asked() -> None:
    analysis = analyse(read_graph(load(TRAINED).model))
    plain = Scorer("l2", normalise="none").score(analysis.coupled, analysis.groups).scores
    for name, normaliser in NORMALISERS.items():
        found = Scorer("l2", normalise=name).score(analysis.coupled, analysis.groups).scores
        expected = [normaliser(np.asarray(s)) for s in plain]
        least = min(0.0, *(float(s.min()) for s in expected))
        for a, b in zip(found, expected, strict=True):
            assert a is not None
            np.testing.assert_allclose(a, b - least, rtol=1e-9)
    assert NORMALISERS["standard"](np.array([1.0, 3.0])).tolist() == [-1, 1]
    assert NORMALISERS["max"](np.array([1.0, 4.0])).tolist() == [0.25, 1]
    asked = {"align": "none", "verify": False}
    widths = {n: kept(pruned(TRAINED, 0.4, normalise=n, **asked).report).values() for n in ("mean", "standard")}
    assert [*widths["mean"]] != [*widths["standard"]]


FRACTIONS = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(lambda pair: Bounds(min(pair), max(pair)))


@given(FRACTIONS, FRACTIONS)
def test_bounds_within_others_are_what_both_allow_and_never_leave_the_others(one: Bounds, other: Bounds) -> None:
    found = one.within(other)
    assert other.least <= found.least <= found.most <= other.most
    least, most = max(one.least, other.least), min(one.most, other.most)
    if least <= most:
        assert found == Bounds(least, most)
    if other.fixed:
        assert found == other


def test_ratios_within_others_hold_group_by_group() -> None:
    outer = LayerRatios.read(
        {"head": 0.0, "body*": {"keep_at_least": 0.25, "keep_at_most": 0.5}, "lean": {"keep_at_least": 0.0}}
    )
    found = LayerRatios("the search", {"body1": Bounds(0.1, 0.3), "*": Bounds(0.4)}, outer)
    assert found.of(["head"]) == Bounds(1, 1)
    assert found.of(["body1"]) == Bounds(0.25, 0.3)
    assert found.of(["body2"]) == Bounds(0.4, 0.5)
    assert found.of(["other"]) == Bounds(0.4)
    assert LayerRatios("the search", {}, outer).of(["lean"]) == outer.of(["lean"]) == Bounds(0.0), "none asks for nothing"
