# SPDX-License-Identifier: Apache-2.0
"""A larger ratio keeps a part of what a smaller one keeps, and never costs more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto

from onnxprune.analysis.analyse import analyse
from onnxprune.analysis.groups import Group
from onnxprune.cost.macs import macs_model
from onnxprune.ir.facts import read_graph
from onnxprune.options import WITHOUT_DATA, Options
from onnxprune.pipeline.decide import decide
from onnxprune.selection.criteria import Scorer
from onnxprune.selection.matching import matched
from onnxprune.selection.order import order_of
from onnxprune.selection.sizing import Sizing
from onnxprune.selection.space import space_of
from onnxprune.selection.units import units_of
from onnxprune.types import Vector
from tests.cases import zoo
from tests.cases.nets import TRAINED, grouped, pruned
from tests.cases.text import model
from tests.cases.topologies import NETS

RATIOS = [k / 20 for k in range(1, 20)]
SIZINGS = [Sizing(scope, align) for scope in ("global", "local") for align in (1, 8, 16, 64)]
REAL = ("googlenet.dy_fold", "shufflenet_v2_x1_0.ts_fold", "densenet121.dy_fold", "timm_test_vit.ts_bn")
SHAPES = st.tuples(st.integers(0, 5), st.integers(2, 24), st.integers(0, 40), st.sampled_from([1, 2, 16]))
"""Blocks, atoms in each, further atoms, channels of an atom."""
UNEVEN = """g (float[1,1,40,40] x, float[8,1,5,5] w0, float[32,8,3,3] w1, float[32,32,3,3] w2,
    float[1,32,3,3] w3) => (float[] y) {
    a = Conv(x, w0)  b = Relu(a)  c = Conv(b, w1)  d = Relu(c)  e = Conv(d, w2)  f = Relu(e)  y = Conv(f, w3) }"""


def scored(sizes: Sequence[int], kind: str, seed: int) -> list[Vector]:
    """Scores that differ much, are mostly equal, or are all equal."""
    rng = np.random.default_rng(seed)
    scales = 10.0 ** rng.integers(-6, 3, len(sizes))
    if kind == "spread":
        return [rng.random(n) * scale for n, scale in zip(sizes, scales, strict=True)]
    return [rng.integers(0, 3 if kind == "tied" else 1, n) / 10 + 0.1 for n in sizes]


@settings(max_examples=300, deadline=None)
@given(st.lists(SHAPES, min_size=1, max_size=6), st.sampled_from(SIZINGS), st.sampled_from(["spread", "tied", "equal"]),
       st.lists(st.floats(0, 1), min_size=2, max_size=6), st.integers(0, 99))  # fmt: skip
def test_widths_are_nested(
    shapes: list[tuple[int, int, int, int]], sizing: Sizing, kind: str, ratios: list[float], seed: int
) -> None:
    rng, groups, start = np.random.default_rng(seed), [], 0
    for blocks, size, more, channels in shapes:
        n = blocks * size + more + 1
        rows = (rng.permutation(n)[: blocks * size].reshape(blocks, size),) if blocks else ()
        groups.append(Group(f"g{start}", np.arange(start, start + n), ((f"w{start}", 0),), (), channels, rows))
        start += n
    units = [units_of(g, s) for g, s in zip(groups, scored([*map(len, groups)], kind, seed), strict=True)]
    order = order_of(groups, units, sizing)
    assert sorted(order.owner.tolist()) == [k for k, u in enumerate(units) for _ in range(len(u.scores) - u.lowest)]
    counts = [order.nearest(round(r * start), start) for r in sorted(ratios)]
    assert counts == sorted(counts)
    for k, count in enumerate(counts):
        lost = start - sum(int(u.kept[w]) for u, w in zip(units, order.widths(count), strict=True))
        assert lost == order.removed[count]
        wanted = min(round(sorted(ratios)[k] * start), int(order.removed[-1]))
        largest = max(int(u.sizes.max()) for u in units)
        assert abs(lost - wanted) <= max(largest / 2, 0.01 * start), "a single unit comes closer"


def check_nested(net: ModelProto, kind: str, sizings: Sequence[Sizing]) -> None:
    """For every ratio: what is dropped, and what remains of the MACs."""
    analysis = analyse(read_graph(net))
    cost, total = macs_model(analysis.coupled), analysis.prunable
    scores = scored([len(g) for g in analysis.groups], kind, 0)
    others = scored([len(g) for g in analysis.groups], kind, 1)
    spaces = [space_of(analysis.coupled, analysis.groups, scores, sizing) for sizing in sizings]
    other = space_of(analysis.coupled, analysis.groups, others, sizings[0])
    for space in (*spaces, matched(spaces[0], other, cost)):
        dropped = [space.dropped(space.by_ratio(ratio)) for ratio in RATIOS]
        for less, more in pairwise(dropped):
            assert not (less & ~more).any()
            assert cost.of(more) <= cost.of(less)
        for roots in analysis.coupled.spans():
            assert not dropped[-1][roots].all(), "an axis is empty"
        for ratio, lost in zip(RATIOS, dropped, strict=True):
            removed = sum(int(lost[g.roots].sum()) for g in analysis.groups)
            largest = max(int(u.sizes.max()) for u in space.units)
            assert removed <= round(ratio * total) + max(largest, 0.01 * total)


def test_cuts_with_data_leave_about_as_many_macs_as_those_without() -> None:
    """The errors are those of a network whose cheap layers matter most: by themselves they would spare the costly ones or cut
    only those."""
    analysis = analyse(read_graph(onnx.load(TRAINED)))
    cost, groups = macs_model(analysis.coupled), analysis.groups
    known = [s for s in Scorer(WITHOUT_DATA).score(analysis.coupled, groups).scores if s is not None]
    other = space_of(analysis.coupled, groups, known, Sizing("global", 8))
    saved = other.saved(cost)
    noise = np.random.default_rng(0)
    for power in (-1.0, 0.0, 1.0, 2.0):
        scores = [each**power * noise.lognormal(size=len(g)) for each, g in zip(saved.tolist(), groups, strict=True)]
        space = space_of(analysis.coupled, groups, scores, Sizing("global", 8))
        found = matched(space, other, cost)
        for ratio in (0.2, 0.3, 0.4, 0.5, 0.6, 0.7):
            here, there = (cost.of(s.dropped(s.by_ratio(ratio))) for s in (found, other))
            assert 0.85 < here / there < 1.15


@pytest.mark.parametrize("name", [n for n in NETS if analyse(read_graph(NETS[n].model())).groups])
def test_cuts_of_small_networks_are_nested(name: str) -> None:
    for kind in ("spread", "tied"):
        check_nested(NETS[name].model(), kind, SIZINGS)


@pytest.mark.parametrize(
    "name", ["googlenet.dy_fold", "shufflenet_v2_x1_0.ts_fold", "timm_test_vit.ts_bn", "densenet121.dy_fold"]
)
def test_cuts_of_real_graphs_are_nested(name: str) -> None:
    check_nested(zoo.read(name), "spread", SIZINGS)


@pytest.mark.parametrize("criterion", ["ccprune", "l1", "bn_scale", "random"])
def test_cuts_of_a_trained_network_are_nested(criterion: str) -> None:
    analysis = analyse(read_graph(onnx.load(TRAINED)))
    cost = macs_model(analysis.coupled)
    for scope in ("global", "local"):
        for align in (1, 8, 16):
            dropped = [
                decide(analysis, Options.of(ratio=r, criterion=criterion, scope=scope, align=align), "net").dropped
                for r in RATIOS[::3]
            ]
            for less, more in pairwise(dropped):
                assert not (less & ~more).any()
                assert cost.of(more) <= cost.of(less)


def test_alignment_does_not_take_its_remainder_from_the_narrowest_group() -> None:
    """Two groups of 32 that 16 channels can be taken from, and one of 8."""
    net = model(UNEVEN)
    scores = {f"w{k}": np.ones(n) for k, n in enumerate((8, 32, 32))}
    widths = []
    for ratio in (0.1, 0.3, 0.5, 0.7):
        report = pruned(net, ratio, align=16, scores=scores, verify=False).report
        widths.append([g.after for g in report.groups])
        assert abs(report.ratio - ratio) < 0.02
    assert widths[1][0] >= 4, "the narrowest group loses a larger share than the others"
    assert widths[2] == [4, 16, 16]
    assert all(narrow <= wide for less, more in pairwise(widths) for wide, narrow in zip(less, more, strict=True))


def test_a_channel_that_only_one_axis_needs_is_kept_at_every_ratio() -> None:
    """Which channel of an axis survives must not depend on the ratio, or a deeper cut keeps what a shallower one drops."""
    analysis = analyse(read_graph(grouped()))
    coupled, group = analysis.coupled, max(analysis.groups, key=len)
    space = space_of(replace(coupled, needed=(group.roots[:2],)), [group], [np.arange(24.0)], Sizing())
    kept = [~space.dropped(space.by_ratio(ratio))[group.roots] for ratio in RATIOS]
    assert all(k[:2].any() for k in kept)
    assert all(not (more & ~less).any() for less, more in pairwise(kept))
