# SPDX-License-Identifier: Apache-2.0
"""Fair timing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxprune.cost import benchmark
from onnxprune.errors import DataError
from tests.cases.nets import small


def test_models_run_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def run(name: str, _: Any) -> float:
        order.append(name)
        return {"a": 0.004, "b": 0.001}[name]

    monkeypatch.setattr(benchmark, "_open", lambda net, threads: net)
    monkeypatch.setattr(benchmark, "_run", run)
    found = benchmark.benchmark(["a", "b"], {}, seconds=0.0001)  # type: ignore[list-item]
    rounds = found.latencies[0].runs
    assert rounds >= 7
    assert order[-2 * rounds :] == ["a", "b"] * rounds
    assert list(found.speedup) == pytest.approx([1.0, 4.0])
    assert [x.median_ms for x in found.latencies] == pytest.approx([4, 1])


def test_a_machine_that_slows_down_does_not_change_the_speedup(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that slows down by half in the middle changes the times, not the speed-up."""
    clock = iter(range(10_000))

    def run(name: str, _: Any) -> float:
        slow = 1 + (next(clock) > 300)
        return slow * {"a": 0.002, "b": 0.001}[name]

    monkeypatch.setattr(benchmark, "_open", lambda net, threads: net)
    monkeypatch.setattr(benchmark, "_run", run)
    found = benchmark.benchmark(["a", "b"], {}, seconds=1.0)  # type: ignore[list-item]
    assert found.speedup[1] == pytest.approx(2.0)
    assert found.speedup_low[1] == pytest.approx(2.0)
    assert found.latencies[0].low_ms < found.latencies[0].high_ms


def test_unsuitable_inputs_give_a_one_line_error() -> None:
    with pytest.raises(DataError, match="set suitable sizes with `input_shape`"):
        benchmark.benchmark([small()], {"x": np.zeros((1, 3, 0), np.float32)})
