# SPDX-License-Identifier: Apache-2.0
"""Fair timing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from onnx import ModelProto

from onnxprune.cost.benchmark import Runner, around_median, benchmark, in_turn
from onnxprune.errors import DataError
from onnxprune.types import Advance, Array, Feeds
from tests.cases.nets import small

FEEDS: Feeds = {"x": np.zeros((2, 3, 8, 8), np.float32)}


def machine(times: Array) -> Runner:
    """A machine on which two models take these times in seconds (rounds, 2)."""

    def run(models: Sequence[ModelProto], feeds: Feeds, threads: int, seconds: float, progress: Advance) -> Array:
        assert len(models) == 2
        assert feeds is FEEDS
        assert (threads, seconds) == (3, 1.5)
        progress(1.0)
        return times

    return run


def test_a_runner_that_is_ignored_is_detected() -> None:
    done: list[float] = []
    times = np.array([[0.004, 0.001]] * 9)
    found = benchmark([small(), small()], FEEDS, 3, 1.5, done.append, machine(times))
    assert [x.median_ms for x in found.latencies] == pytest.approx([4, 1])
    assert [x.runs for x in found.latencies] == [9, 9]
    assert found.speedup == pytest.approx((1.0, 4.0))
    assert found.inputs == {"x": (2, 3, 8, 8)}
    assert done == [1.0]


def test_a_machine_that_slows_down_does_not_change_the_speedup() -> None:
    """It slows down by half in the middle: this changes the times, not the speed-up."""
    times = np.array([[0.002, 0.001]] * 50 + [[0.004, 0.002]] * 50)
    found = benchmark([small(), small()], FEEDS, 3, 1.5, run=machine(times))
    assert found.speedup_low[1] == found.speedup[1] == found.speedup_high[1] == pytest.approx(2.0)
    assert found.latencies[0].low_ms < found.latencies[0].high_ms


def test_the_interval_of_a_median_holds_it_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    for n in (7, 20, 101):
        least, most = around_median(rng.lognormal(size=(n, 4000)))
        assert 0.9 <= ((least <= 1) & (most >= 1)).mean() <= 0.99
    found = benchmark([small(), small()], FEEDS, 3, 1.5, run=machine(np.array([[0.002, 0.001]] * 30 + [[0.002, 0.004]] * 70)))
    assert found.speedup_high[1] == pytest.approx(2.0)
    assert found.speedup_least[1] == found.speedup[1] == found.speedup_most[1] == pytest.approx(0.5)


def test_models_run_in_turn() -> None:
    order: list[str] = []
    done: list[float] = []

    def call(name: str, seconds: float) -> float:
        order.append(name)
        return seconds

    times = in_turn([lambda: call("a", 0.004), lambda: call("b", 0.001)], 1e-9, done.append)
    assert times.tolist() == [[0.004, 0.001]] * 7
    assert order[-14:] == ["a", "b"] * 7
    assert done == [(k + 1) / 7 for k in range(7)]


def test_unsuitable_inputs_give_a_one_line_error() -> None:
    with pytest.raises(DataError, match="set suitable sizes with `input_shape`"):
        benchmark([small()], {"x": np.zeros((1, 3, 0), np.float32)})
