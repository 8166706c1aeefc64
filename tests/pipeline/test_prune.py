# SPDX-License-Identifier: Apache-2.0
"""From a file to a recovered model, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest

import onnxprune
from onnxprune.data.samples import Data
from onnxprune.errors import VerificationError
from onnxprune.evaluation.evaluator import Evaluator
from tests.cases.nets import TRAINED, small, write
from tests.cases.pictures import pictures, trained_on
from tests.cases.recovery import data_for


def test_a_recovered_model_is_verified_from_its_files(tmp_path: Path) -> None:
    """Recovered, saved, and verified again from the files."""
    path = write(tmp_path)
    result = onnxprune.prune(path, 0.4, align="none", bench=False, data=data_for(small()), recover="reconstruct")
    assert result.plan.recovered == "reconstruct"
    row = result.report.recovery
    assert row is not None
    assert row.chosen is not None
    assert row.cut is not None
    assert row.chosen.lost < row.cut.lost
    result.save(tmp_path / "out.onnx", tmp_path / "plan.json")
    assert onnxprune.verify_files(path, tmp_path / "out.onnx", tmp_path / "plan.json").error < 1e-4
    spoilt = onnx.load(tmp_path / "out.onnx")
    spoilt.graph.node[0].attribute[0].ints[0] = 0
    onnx.save(spoilt, tmp_path / "spoilt.onnx")
    with pytest.raises(VerificationError):
        onnxprune.verify_files(path, tmp_path / "spoilt.onnx", tmp_path / "plan.json")


def test_the_trained_network_keeps_its_accuracy() -> None:
    """Without recovery a third of its accuracy would be lost."""
    options: dict[str, Any] = {"align": "none", "bench": False, "data": TRAINED.with_suffix(".npz"), "samples": 400}
    options["time_budget"] = "10m"  # also on a slow machine
    report = onnxprune.prune(TRAINED, macs="57%", recover="reconstruct", **options).report
    assert report.accuracy is not None
    assert report.accuracy_cut is not None
    assert report.accuracy_cut < report.accuracy.before - 0.05
    assert report.accuracy.after > report.accuracy.before - 0.04
    assert report.recovery is not None
    assert report.recovery.chosen is not None
    assert (report.recovery.chosen.agreement or 0) > 0.93


def test_without_data_a_cut_is_recovered_on_synthetic_inputs() -> None:
    x = pictures(90, 1)
    net = trained_on(x, 1)
    plain, recovered = (
        onnxprune.prune(net, 0.4, recover=name, criterion="l2", align="none", bench=False) for name in ("none", "reconstruct")
    )
    assert recovered.report.recovery is not None
    assert recovered.report.recovery.source == "made-up inputs"
    judge = Evaluator(net, Data(({"x": pictures(30, 1, seed=6)},)))
    errors = [judge.judge(result.model).lost for result in (plain, recovered)]
    assert errors[1] < 0.7 * errors[0]
