# SPDX-License-Identifier: Apache-2.0
"""Multiples that follow from latencies over widths: of machines whose steps are known."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from onnxprune.cost.staircase import Curve, multiple_of
from tests.cases.profiles import curve, rounded

STEPS = (1, 2, 4, 8, 16, 32)


def growing(step: int, power: float = 2.0, fixed: float = 500.0) -> Callable[[int], float]:
    """A latency with steps, that grows by a power of the width beside a fixed part."""
    return lambda width: fixed + rounded(width, step) ** power


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("power", [1.0, 1.5, 2.0])
@pytest.mark.parametrize("fixed", [0.0, 10.0])
def test_a_step_is_found(step: int, power: float, fixed: float) -> None:
    assert multiple_of([curve(growing(step, power, fixed))]) == step


@pytest.mark.parametrize("step", [1, 4, 8, 16, 32])
def test_a_step_is_found_under_noise(step: int) -> None:
    """Five percent in what nine curves hold, as many as decide; two percent, what a percentile of runs leaves, in one kind."""
    for seed in range(30):
        assert multiple_of([curve(growing(step), 0.05, 9 * seed + k) for k in range(9)]) == step
        assert multiple_of([curve(growing(step), 0.02, 3 * seed + k) for k in range(3)]) == step


def test_widths_that_are_slow_between_multiples_do_not_make_larger_multiples_free() -> None:
    """Off a multiple of 8 three times as slow, on it without steps: 16 and 32 are better than 17, but not than 24."""
    assert multiple_of([curve(lambda w: w**2 * (1 if w % 8 == 0 else 3))]) == 8


def test_steps_in_which_widths_between_are_slower_still_are_found() -> None:
    """onnxruntime on AVX-512: blocks of 16, and widths off a multiple of 4 in another layout."""
    assert multiple_of([curve(lambda w: rounded(w, 16) ** 2 * (1 if w % 4 == 0 else 1.7))]) == 16


def test_a_latency_that_does_not_depend_on_the_width_has_no_steps() -> None:
    for seed in range(20):
        assert multiple_of([curve(lambda _: 1.0, 0.02, seed)]) == 1
    assert multiple_of([]) == 1


def test_of_several_curves_the_one_with_more_to_gain_decides() -> None:
    steep, flat = curve(growing(16)), curve(lambda w: 1e5 + w)
    assert multiple_of([steep, flat]) == multiple_of([flat, steep]) == 16


def test_a_latency_without_steps_is_described_by_itself() -> None:
    found = curve(lambda w: 3 + 2 * w + w**2)
    assert found.smooth == pytest.approx(found.milliseconds)


def test_few_widths_show_what_they_can() -> None:
    few = {w: float(rounded(w, 8) ** 2) for w in (16, 20, 22, 24, 28, 32)}
    assert multiple_of([Curve("convolution", "float", 14, few)]) == 8
    assert multiple_of([Curve("convolution", "float", 14, {16: 1.0})]) == 1
