# SPDX-License-Identifier: Apache-2.0
"""Units: channels that are kept or dropped together, one from every block."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.analysis.couple import couple
from onnxprune.analysis.groups import Group, find_groups
from onnxprune.ir.facts import read_graph
from onnxprune.selection.sizing import Sizing
from onnxprune.selection.space import space_of
from onnxprune.selection.units import Units, units_of
from tests.cases.choosing import select
from tests.cases.nets import grouped

BLOCKS = st.tuples(st.integers(1, 5), st.integers(2, 12), st.integers(0, 9))


@settings(max_examples=150, deadline=None)
@given(st.lists(BLOCKS, min_size=1, max_size=5), st.floats(0, 0.89), st.sampled_from(["global", "local"]),
       st.sampled_from([1, 8]), st.integers(0, 99))  # fmt: skip
def test_selection_keeps_blocks_even_and_meets_the_total(
    shapes: list[tuple[int, int, int]], ratio: float, scope: str, align: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    groups, scores, start = [], [], 0
    for blocks, size, more in shapes:
        n = blocks * size + more
        rows = rng.permutation(n)[: blocks * size].reshape(blocks, size)
        groups.append(Group(f"g{start}", np.arange(start, start + n), ((f"w{start}", 0),), (), 1, (rows,)))
        scores.append(rng.random(n))
        start += n
    removed = 0
    for group, s, kept in zip(groups, scores, select(groups, scores, ratio, Sizing(scope, align)), strict=True):
        [rows] = group.blocks
        counts = kept[rows].sum(1)
        assert (counts == counts[0]).all()
        for row in rows:
            assert kept[row].all() or not kept[row].any() or s[row][kept[row]].min() >= s[row][~kept[row]].max()
        assert kept.sum() >= max(1, len(group) / 10 - 1e-9)
        removed += int((~kept).sum())
    most = max(units_of(g, s).sizes.max() for g, s in zip(groups, scores, strict=True))
    if scope == "global" and align == 1:
        room = sum(int(np.floor(0.9 * len(g) + 1e-9)) for g in groups)
        assert removed <= round(ratio * start) + most / 2
        assert removed >= min(round(ratio * start) - most / 2, room - len(groups) * most)


def test_a_channel_that_is_needed_keeps_its_unit() -> None:
    coupled = couple(read_graph(grouped()))
    group = next(g for g in find_groups(coupled) if g.blocks)
    space = space_of(replace(coupled, needed=(group.roots[:2],)), [group], [np.arange(24.0)], Sizing("local"))
    dropped = space.dropped(space.by_ratio(0.5))
    counts = (~dropped[group.roots]).reshape(3, 8).sum(1)
    assert counts.tolist() == [4, 4, 4]
    assert not dropped[group.roots[1]]


def test_units_are_made_of_members_of_equal_rank() -> None:
    group = Group("g", np.arange(5), (("w", 0),), (), 1, (np.array([[0, 1], [2, 3]]),))
    units: Units = units_of(group, np.array([0.1, 0.9, 0.7, 0.3, 0.5]))
    assert sorted(zip(units.scores.round(9).tolist(), units.sizes.tolist(), strict=True)) == [(0.2, 2), (0.5, 1), (0.8, 2)]
    assert units.of[0] == units.of[3] != units.of[1] == units.of[2]
    assert units.dropped.tolist() == [0, 2, 3, 5]
    assert units.kept.tolist() == [0, 2, 3, 5]
