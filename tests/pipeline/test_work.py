# SPDX-License-Identifier: Apache-2.0
"""What time decided in one run is repeated by another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import onnxprune
from onnxprune.errors import PlanError
from tests.cases.nets import small, write
from tests.cases.pictures import pictures, trained_on
from tests.cases.recovery import data_for

QUIET: dict[str, Any] = {"align": "none", "bench": False, "verify": False}


WAYS: tuple[dict[str, Any], ...] = (
    {"recover": "reconstruct"},
    {"rounds": 2, "recover": "reconstruct"},
    {"recover": "distill"},
)


@pytest.mark.parametrize("options", WAYS, ids=["reconstruct", "rounds", "distill"])
def test_a_run_is_repeated_exactly_from_its_plan(options: dict[str, Any], tmp_path: Path) -> None:
    path = write(tmp_path)
    given: dict[str, Any] = {**QUIET, "data": data_for(small()), **options}
    first = onnxprune.prune(path, 0.5, time_budget=2, **given)
    first.save(tmp_path / "out.onnx", tmp_path / "plan.json")
    again = onnxprune.prune(path, 0.5, work=tmp_path / "plan.json", **given)
    assert again.report.work == first.report.work
    assert again.model.SerializeToString() == first.model.SerializeToString()
    assert {"samples to judge on", "samples to fit to", "reconstruct: rows"} <= {*first.report.work}


def test_made_up_inputs_are_repeated() -> None:
    net = trained_on(pictures(90, 1), 1)
    first = onnxprune.prune(net, 0.4, time_budget=3, recover="reconstruct", **QUIET)
    again = onnxprune.prune(net, 0.4, work=first.report.work, recover="reconstruct", **QUIET)
    assert again.report.work == first.report.work
    assert again.report.unknown == first.report.unknown


def test_a_plan_without_a_record_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path)
    onnxprune.prune(path, 0.5, recover="none", **QUIET).save(tmp_path / "out.onnx", tmp_path / "plan.json")
    with pytest.raises(PlanError, match="holds no record of work"):
        onnxprune.prune(path, 0.5, work=tmp_path / "plan.json", **QUIET)
