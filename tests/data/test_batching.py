# SPDX-License-Identifier: Apache-2.0
"""Batches are bounded by what a model computes, not only by what it reads."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.data import batching
from onnxprune.data.samples import Data
from tests.cases.text import model

WIDENED = """g (float[N,1,8,8] x, float[64,1,1,1] w1, float[1,64,1,1] w2) => (float[N,1,8,8] y) {
    a = Conv(x, w1)  b = Relu(a)  y = Conv(b, w2) }"""


def sizes(data: Data) -> list[int]:
    return [len(b["x"]) for b in batching.batched(data, model(WIDENED))]


def test_wide_maps_make_small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    data = Data(({"x": np.zeros((40, 1, 8, 8), np.float32)},))
    assert sizes(data) == [10] * 4
    per_sample = (64 + 64 + 1) * 64 * 4
    monkeypatch.setattr(batching, "BATCH_BYTES", 3 * per_sample)
    assert sizes(data) == [3] * 13 + [1]
    monkeypatch.setattr(batching, "BATCH_BYTES", 1)
    assert sizes(data) == [1] * 40


def test_the_largest_samples_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "BATCH_BYTES", 2 * (64 + 64 + 1) * 256 * 4)
    text = WIDENED.replace("8,8", "H,W")
    data = Data(({"x": np.zeros((20, 1, 8, 8), np.float32)}, {"x": np.zeros((4, 1, 16, 16), np.float32)}))
    assert [len(b["x"]) for b in batching.batched(data, model(text))] == [2] * 12


def test_a_fixed_batch_stays_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "BATCH_BYTES", 1)
    data = Data(({"x": np.zeros((12, 1, 8, 8), np.float32)},), fixed=4)
    assert [len(b["x"]) for b in batching.batched(data, model(WIDENED.replace("[N", "[4")))] == [4] * 3
