# SPDX-License-Identifier: Apache-2.0
"""Cuts in rounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxprune
from onnxprune.pipeline.rounds import Kept, composed
from tests.cases.nets import small, write
from tests.cases.recovery import data_for


def test_two_cuts_in_a_row_compose_to_one() -> None:
    w = np.arange(60).reshape(6, 10)
    first: Kept = {"w": {0: (0, 2, 3, 5)}, "v": {1: (1,)}}
    second: Kept = {"w": {0: (1, 3), 1: (2, 4, 9)}}
    both = composed(first, second)
    np.testing.assert_array_equal(w[[0, 2, 3, 5]][np.ix_([1, 3], [2, 4, 9])], w[np.ix_(both["w"][0], both["w"][1])])
    assert both["v"] == {1: (1,)}


@pytest.mark.parametrize("budget", [{"ratio": 0.5}, {"macs": "40%"}])
def test_rounds_come_to_the_asked_cut_of_the_original(tmp_path: Path, budget: dict[str, Any]) -> None:
    path = write(tmp_path)
    options: dict[str, Any] = {"align": "none", "bench": False, "data": data_for(small()), "recover": "reconstruct", **budget}
    result = onnxprune.prune(path, rounds=3, **options)
    once = onnxprune.prune(path, **options)
    assert abs(result.report.macs.kept - once.report.macs.kept) < 0.1
    assert abs(result.report.ratio - once.report.ratio) < 0.15
    result.save(tmp_path / "out.onnx", tmp_path / "plan.json")
    onnxprune.verify_files(path, tmp_path / "out.onnx", tmp_path / "plan.json")
    assert any("3 rounds" in note for note in result.report.notes)
