# SPDX-License-Identifier: Apache-2.0
"""Mixed samples: windows of one in another."""

from __future__ import annotations

import numpy as np

from onnxprune.calibration.mixes import mixed


def test_a_mixed_sample_is_one_sample_with_a_window_of_another() -> None:
    given = [
        {"x": np.full((4, 3, 2, 40), k, np.int32) + np.arange(4, dtype=np.int32)[:, None, None, None] * 10} for k in (1, 2)
    ]
    found = mixed(given, 12)
    assert [b["x"].shape for b in found] == [(4, 3, 2, 40)] * 3
    for batch in found:
        for sample in batch["x"]:
            columns = sample[0, 0]
            assert (sample == columns).all()
            assert 1 <= len(set(columns.tolist())) <= 2
            changes = np.flatnonzero(np.diff(columns))
            assert len(changes) <= 2
    assert any(len(np.unique(s)) == 2 for b in found for s in b["x"])
    assert all(np.array_equal(a["x"], b["x"]) for a, b in zip(found, mixed(given, 12), strict=True))


def test_samples_of_other_sizes_are_not_mixed() -> None:
    given = [{"x": np.full((2, 8 + k), k, np.float32)} for k in range(4)]
    assert [np.unique(b["x"]).tolist() for b in mixed(given, 8)] == [[0], [1], [2], [3]]


def test_inputs_are_cut_at_the_same_place_and_numbers_per_sample_stay() -> None:
    x = np.arange(2, dtype=np.float32)[:, None] * np.ones((2, 64), np.float32)
    for batch in mixed([{"x": x, "mask": x.copy(), "length": np.array([1.0, 2.0])}], 8):
        assert np.array_equal(batch["x"], batch["mask"])
        assert batch["length"].tolist() == [1.0, 2.0]
