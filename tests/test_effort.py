# SPDX-License-Identifier: Apache-2.0
"""How much work there is time for, and how it is repeated."""

from __future__ import annotations

import time

import pytest

from onnxprune.effort import Clock, Effort


def test_amounts_follow_the_time_that_is_left_within_bounds() -> None:
    effort = Effort(Clock(10.0))
    assert effort.amount("a", 0.1, 1, 1000) == pytest.approx(100, abs=1)
    assert effort.amount("b", 0.1, 1, 20) == 20
    assert effort.amount("c", 100.0, 3, 20) == 3
    assert effort.done == {"a": effort.done["a"], "b": 20, "c": 3}


def test_without_a_budget_there_is_time_for_all() -> None:
    assert Effort().amount("a", 1e9, 1, 1000) == 1000
    assert list(Effort().steps("a", 0, 3)) == [0, 1, 2]


def test_a_part_has_a_share_of_the_time_and_the_same_record() -> None:
    whole = Effort(Clock(10.0))
    part = whole.within(0.3)
    assert part.clock.left == pytest.approx(3, abs=0.1)
    part.amount("a", 1.0, 1, 100)
    assert whole.done == {"a": 2}


def test_a_clock_that_stands_still_spends_nothing_and_neither_do_its_parts() -> None:
    whole = Effort(Clock(10.0))
    with whole.clock.stopped():
        time.sleep(0.2)
    part = whole.within(0.5)
    with whole.within(1.0).clock.stopped():  # whichever of them it is
        time.sleep(0.2)
    assert whole.clock.spent < 0.1
    assert part.clock.spent < 0.1
    assert part.clock.left == pytest.approx(5, abs=0.1)
    time.sleep(0.2)
    assert 0.2 <= part.clock.spent <= whole.clock.spent < 0.4


def test_steps_end_when_there_is_no_time_for_another() -> None:
    effort = Effort(Clock(0.1))
    for _ in effort.steps("a", 1, 1000):
        time.sleep(0.03)
    assert 1 <= effort.done["a"] <= 4
    late = Effort(Clock(0.0))
    for _ in late.steps("a", 2, 9):
        time.sleep(0.001)
    assert late.done == {"a": 2}


def test_an_earlier_run_is_repeated_whatever_the_time() -> None:
    effort = Effort(Clock(0.0), {"a": 7, "b": 2})
    assert effort.amount("a", 1.0, 1, 3) == 7
    assert list(effort.steps("b", 0, 9)) == [0, 1]
    assert effort.done == {"a": 7, "b": 2}
