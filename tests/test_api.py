# SPDX-License-Identifier: Apache-2.0
"""The Python functions, on the trained network in models/."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.errors import OptionError, PlanError
from onnxprune.ir.files import mark, plan_of_model
from onnxprune.selection.criteria import NAMES
from onnxprune.selection.criteria.names import CALIBRATED
from tests.cases.commands import files
from tests.cases.nets import TRAINED, external, pruned, small, write


@pytest.mark.parametrize("criterion", NAMES)
@pytest.mark.parametrize("scope", ["global", "local"])
def test_every_criterion_reaches_the_ratio_on_a_trained_network(scope: str, criterion: str) -> None:
    options: dict[str, Any] = {"scope": scope, "criterion": criterion, "align": "none", "bench": False, "recover": "none"}
    if criterion in CALIBRATED:
        options |= {"data": TRAINED.with_suffix(".npz"), "samples": 40}
    report = pruned(TRAINED, 0.5, **options).report
    assert abs(report.ratio - 0.5) <= 0.02
    assert report.macs.kept < 0.6
    assert report.verification is not None
    assert report.verification.error < 1e-4


@pytest.mark.parametrize("ratio", [0.0, 0.25, 0.7])
def test_a_ratio_is_reached_on_a_trained_network(ratio: float) -> None:
    report = pruned(TRAINED, ratio, align="none").report
    assert abs(report.ratio - ratio) <= 0.02
    assert (report.macs.kept < 1) == (ratio > 0)


def test_a_path_a_string_and_a_model_give_the_same_result(tmp_path: Path) -> None:
    path = write(tmp_path)
    found = [pruned(m, 0.5).model for m in (path, str(path), onnx.load(path))]
    assert found[0] == found[1]
    mark(found[2], plan_of_model(found[0]))  # only the plan of a file states a digest
    assert found[0] == found[2]


def test_the_given_model_is_not_changed() -> None:
    net = small()
    before = net.SerializeToString()
    pruned(net, 0.5)
    assert net.SerializeToString() == before


def test_a_result_can_be_saved_verified_and_applied_again(tmp_path: Path) -> None:
    path = write(tmp_path)
    result = pruned(path, 0.5)
    result.save(tmp_path / "o.onnx", tmp_path / "o.json")
    assert onnxprune.verify_files(path, tmp_path / "o.onnx", tmp_path / "o.json").error < 1e-5
    again = onnxprune.apply_plan(path, tmp_path / "o.json", bench=False)
    assert again.model == result.model
    assert again.plan.kept == result.plan.kept
    assert again.report.notes == ()


@pytest.mark.parametrize("place", ["output", "plan"])
def test_a_result_never_replaces_the_file_that_it_was_made_from(place: str, tmp_path: Path) -> None:
    path = external(tmp_path)
    before = files(tmp_path)
    result = pruned(path, 0.5)
    for name in ("net.onnx", "net.bin"):
        paths: dict[str, Path] = {"output": tmp_path / "o.onnx", "plan": tmp_path / "o.json", place: tmp_path / name}
        with pytest.raises(OptionError, match="never overwritten"):
            result.save(paths["output"], paths["plan"])
    assert files(tmp_path) == before


def test_a_plan_for_another_model_is_refused(tmp_path: Path) -> None:
    plan = pruned(TRAINED, 0.5, verify=False).plan
    with pytest.raises(PlanError, match="is it for another model"):
        onnxprune.apply_plan(small(), plan)


def test_include_and_exclude_choose_groups() -> None:
    only = pruned(small(), 0.5, include=["w2"])
    assert set(only.plan.kept) == {"w2", "w3"}
    without = pruned(small(), 0.5, exclude=["w1"], align="none")
    assert without.plan.kept == {"w2": {0: without.plan.kept["w3"][1]}, "w3": {1: without.plan.kept["w3"][1]}}
    with pytest.raises(OptionError, match="matches no weight"):
        pruned(small(), 0.5, include=["conv*"])


def test_progress_rises_to_one_in_every_stage() -> None:
    calls: list[tuple[str, float]] = []
    onnxprune.prune(small(), 0.5, recover="none", progress=lambda stage, done: calls.append((stage, done)))
    assert calls[0][0] == "analyse"
    for stage in ("analyse", "verify", "benchmark"):
        done = [d for s, d in calls if s == stage]
        assert done == sorted(done)
        assert done[-1] == 1


def test_analyze_finds_channels_and_pins() -> None:
    found = onnxprune.analyze(small())
    assert found.prunable == 28
    assert [(h.channels, h.weights) for h in found.pinned] == [(5, ("w4",))]


def test_the_sample_data_reproduce_the_accuracy_of_the_trained_model() -> None:
    asked: dict[str, Any] = {"recover": "none", "bench": False, "verify": False, "time_budget": 600}  # even on a busy machine
    report = onnxprune.prune(TRAINED, 0.1, data=TRAINED.with_suffix(".npz"), **asked).report
    assert report.accuracy is not None
    assert report.samples == 1000
    assert report.accuracy.before >= 0.925
    assert report.accuracy.after > 0.9


def test_the_trained_network_has_the_documented_form() -> None:
    """Input [N, 1, 28, 28] in [0, 1], output [N, 10], BatchNormalization kept."""
    net = onnx.load(TRAINED)
    shapes = [
        [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in (net.graph.input[0], net.graph.output[0])
    ]
    assert [s[1:] for s in shapes] == [[1, 28, 28], [10]]
    assert all(isinstance(s[0], str) for s in shapes)
    assert sum(n.op_type == "BatchNormalization" for n in net.graph.node) >= 19
    with np.load(TRAINED.with_suffix(".npz")) as data:
        x = data[net.graph.input[0].name]
        assert 0 <= x.min() < x.max() <= 1
