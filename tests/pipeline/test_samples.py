# SPDX-License-Identifier: Apache-2.0
"""Samples for recovery and samples for evaluation."""

from __future__ import annotations

from onnxprune.pipeline.samples import given
from tests.cases.nets import small
from tests.cases.recovery import data_for


def test_a_single_sample_is_enough_and_the_report_says_so() -> None:
    supply = given(data_for(small(), 1), "data.npz", 0)
    assert len(supply.fit) == len(supply.held_out) == 1
    assert "single sample" in supply.notes[0]
