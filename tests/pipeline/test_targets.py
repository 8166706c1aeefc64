# SPDX-License-Identifier: Apache-2.0
"""Targets hold for the files that are written, after all steps."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cases.nets import TRAINED, pruned
from tests.cases.releases import needs

DATA = TRAINED.with_suffix(".npz")


@pytest.mark.parametrize(
    "more", [{}, pytest.param({"unify": 16, "runtime": "1.24"}, marks=needs(onnxruntime="1.24"))], ids=["", "unified"]
)
def test_biases_that_a_fit_adds_are_within_the_size(more: dict[str, Any]) -> None:
    result = pruned(TRAINED, size="120KB", data=DATA, samples=200, recover="reconstruct", time_budget=60, verify=False, **more)
    assert any(t.name.endswith("_refit") for t in result.model.graph.initializer)
    assert 0.97 * 120_000 <= len(result.model.SerializeToString()) <= 120_000
    assert not result.report.missed
