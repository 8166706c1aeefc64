# SPDX-License-Identifier: Apache-2.0
"""Multiply-accumulates by hand, and fair timing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxprune.cost import benchmark
from onnxprune.cost.size import cost
from onnxprune.errors import DataError
from tests.models import model
from tests.nets import small

COSTS: dict[str, tuple[str, int]] = {
    "convolution": ("float[1,3,8,8] x, float[6,3,3,3] w1|y = Conv(x, w1)", 6 * 6 * 6 * 3 * 9),
    "strides": ("float[1,3,9,9] x, float[6,3,3,3] w1|y = Conv <strides = [2,2]> (x, w1)", 6 * 4 * 4 * 27),
    "groups": ("float[1,8,5,5] x, float[8,2,1,1] w1|y = Conv <group = 4> (x, w1)", 8 * 25 * 2),
    "depthwise": ("float[1,8,5,5] x, float[8,1,3,3] w1|y = Conv <group = 8> (x, w1)", 8 * 9 * 9),
    "transposed": ("float[1,4,5,5] x, float[4,6,2,2] w1|y = ConvTranspose <strides = [2,2]> (x, w1)", 4 * 25 * 6 * 4),
    "gemm": ("float[2,7] x, float[7,5] w1|y = Gemm(x, w1)", 2 * 7 * 5),
    "gemm, transposed": ("float[7,2] x, float[5,7] w1|y = Gemm <transA = 1, transB = 1> (x, w1)", 2 * 7 * 5),
    "matmul": ("float[2,3,7] x, float[7,5] w1|y = MatMul(x, w1)", 2 * 3 * 7 * 5),
    "nothing": ("float[2,3] x|y = Relu(x)", 0),
}


@pytest.mark.parametrize(("text", "macs"), COSTS.values(), ids=COSTS)
def test_multiply_accumulates(text: str, macs: int) -> None:
    inputs, _, body = text.partition("|")
    assert cost(model(f"g ({inputs}) => (float[] y) {{ {body} }}")).macs == macs


def test_open_sizes_may_be_given() -> None:
    one, four = (cost(small(), {"x": (n, 3, 8, 8)}) for n in (1, 4))
    assert four.macs == 4 * one.macs
    assert four.inputs == {"x": (4, 3, 8, 8)}
    assert one.params == 16 * 27 + 4 * 16 + 12 * 144 + 16 * 108 + 80


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


def test_the_ratio_is_that_of_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_inputs_that_do_not_suit_give_one_line() -> None:
    with pytest.raises(DataError, match="give suitable sizes with `input_shape`"):
        benchmark.benchmark([small()], {"x": np.zeros((1, 3, 0), np.float32)})
