# SPDX-License-Identifier: Apache-2.0
"""Selection by scores: the requested total is met, minimum widths hold, and widths suit the runtime."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.selection.alignment import widths_allowed
from onnxprune.selection.sizing import Sizing
from onnxprune.selection.space import keep_one_everywhere
from onnxprune.selection.units import least
from tests.cases.choosing import groups_of, scores_of, select

SIZES = st.lists(st.integers(1, 96), min_size=1, max_size=9)
RATIOS = st.floats(0, 0.89)
SCOPES = st.sampled_from(["global", "local"])


@settings(max_examples=200, deadline=None)
@given(SIZES, RATIOS, SCOPES, st.integers(0, 9))
def test_unaligned_widths_meet_the_requested_total(sizes: list[int], ratio: float, scope: str, seed: int) -> None:
    keep = select(groups_of(sizes), scores_of(sizes, seed), ratio, Sizing(scope))
    removed = sum(int((~k).sum()) for k in keep)
    room = sum(n - least(n, 0.1) for n in sizes)
    if scope == "global":
        assert removed == min(round(ratio * sum(sizes)), room)
    else:
        assert abs(removed - ratio * sum(sizes)) <= 1 or removed == room or any(n < 10 for n in sizes)


@settings(max_examples=200, deadline=None)
@given(SIZES, RATIOS, SCOPES, st.sampled_from([1, 4, 8, 16]), st.integers(0, 9))
def test_minimum_widths_hold_and_the_best_are_kept(sizes: list[int], ratio: float, scope: str, align: int, seed: int) -> None:
    scores = scores_of(sizes, seed)
    for n, s, kept in zip(sizes, scores, select(groups_of(sizes), scores, ratio, Sizing(scope, align)), strict=True):
        assert kept.shape == (n,)
        assert kept.sum() >= max(1, math.ceil(n / 10 - 1e-9))
        assert kept.all() or s[kept].min() >= s[~kept].max()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(8, 512), min_size=2, max_size=12), st.floats(0.05, 0.85), SCOPES, st.integers(0, 9))
def test_aligned_widths_meet_the_requested_total(sizes: list[int], ratio: float, scope: str, seed: int) -> None:
    groups, scores = groups_of(sizes), scores_of(sizes, seed)
    free = sum(int(k.sum()) for k in select(groups, scores, ratio, Sizing(scope)))
    aligned = sum(int(k.sum()) for k in select(groups, scores, ratio, Sizing(scope, 16)))
    assert abs(aligned - free) <= max(1, 0.01 * sum(sizes))


@pytest.mark.parametrize("size", range(2, 200))
def test_alignment_removes_about_half_of_a_group_of_any_size(size: int) -> None:
    [kept] = select(groups_of([size]), scores_of([size], 0), 0.5, Sizing("local", 16))
    assert abs(int(kept.sum()) - size / 2) <= 1 + 0.01 * size


def test_wide_groups_get_aligned_widths() -> None:
    sizes = [64, 128, 256, 192]
    for ratio in (0.25, 0.5, 0.75):
        kept = [int(k.sum()) for k in select(groups_of(sizes), scores_of(sizes, 1), ratio, Sizing("local", 16))]
        assert all(n % 16 == 0 for n in kept), kept


def test_local_scope_removes_the_same_fraction_of_every_group() -> None:
    sizes = [10, 20, 40, 80]
    kept = select(groups_of(sizes), scores_of(sizes, 0), 0.3, Sizing("local"))
    assert [int(k.sum()) for k in kept] == [7, 14, 28, 56]


def test_global_scope_removes_the_weakest_channels_of_all_groups() -> None:
    weak, strong = np.full(20, 0.1), np.linspace(1, 2, 20)
    kept = select(groups_of([20, 20]), [weak, strong], 0.4, Sizing("global"))
    assert [int(k.sum()) for k in kept] == [4, 20]
    kept = select(groups_of([20, 20]), [weak, strong], 0.5, Sizing("global"))
    assert [int(k.sum()) for k in kept] == [2, 18]
    assert not kept[1][:2].any()


def test_small_scores_are_ordered_beside_large_ones() -> None:
    scores = [np.array([1e9, 1e9, 1e-7, 3e-7]), np.array([1e9, 1e9, 2e-7, 4e-7])]
    kept = select(groups_of([4, 4]), scores, 0.25, Sizing("global"))
    assert [k.tolist() for k in kept] == [[True, True, False, True], [True, True, False, True]]


def test_equal_scores_take_the_same_fraction_of_every_group() -> None:
    kept = select(groups_of([10, 20, 40]), [np.full(n, 0.1) for n in (10, 20, 40)], 0.3, Sizing("global"))
    assert [int(k.sum()) for k in kept] == [7, 14, 28]


def test_allowed_widths_end_with_the_whole_group() -> None:
    for size in range(1, 130):
        widths = widths_allowed(size, 16, 1)
        assert widths == sorted(set(widths))
        assert widths[-1] == size


def test_one_channel_is_kept_where_an_axis_would_be_empty() -> None:
    spans = [np.array([0, 1]), np.array([1, 2, 3])]
    assert keep_one_everywhere(spans, {0: 0.2, 1: 0.1}) == {0}
    assert keep_one_everywhere(spans, {0: 0.2, 1: 0.3, 2: 0.1, 3: 0.9}) == {1}
    assert keep_one_everywhere(spans, {0: 0.2, 3: 0.1}) == set()
