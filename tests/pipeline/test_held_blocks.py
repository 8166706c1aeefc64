# SPDX-License-Identifier: Apache-2.0
"""Unification with training: the report names all that was tried, and the file has the blocks, also after a cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from onnx import ModelProto

from onnxprune.compression.carrier import restored
from onnxprune.errors import TrainingError
from onnxprune.ir.files import load
from onnxprune.options import Options
from onnxprune.pipeline.blocks import check_divisions, divisions_of
from onnxprune.pipeline.prune import prune_loaded, unify_loaded
from onnxprune.pipeline.resolve import resolved
from onnxprune.pipeline.result import Result
from onnxprune.training.distillation import distill
from tests.cases.nets import small, write
from tests.cases.recovery import data_for


def unified(folder: Path, ratio: float = 0.0) -> Result:
    wanted: dict[str, Any] = {"unify": "8", "all_layers": True, "recover": "distill", "time_budget": "6s", "bench": False}
    options = resolved(Options.of(ratio=ratio, align="none", data=data_for(small()), **wanted))
    run = prune_loaded if ratio else unify_loaded
    return run(load(write(folder)), options)


@pytest.mark.parametrize("ratio", [0.0, 0.4])
def test_a_trained_network_has_its_blocks_and_every_attempt_a_row(tmp_path: Path, ratio: float) -> None:
    result = unified(tmp_path, ratio)
    row = result.report.unification
    assert row is not None
    assert row.recovery is not None
    assert [a.name for a in row.recovery.attempts] == ["none", "reconstruct", "distill"]
    losses = {a.name: a.judgement.loss for a in row.recovery.attempts if a.judgement is not None}
    assert row.method == min(("reconstruct", "distill"), key=lambda name: losses[name])
    numbers, names = restored(result.model)
    assert names == result.plan.blocks.keys()
    check_divisions(numbers, divisions_of(result.plan, numbers))
    assert any(name.endswith(distill.STEPS) for name in result.plan.made_by["work"])


def test_training_that_fails_leaves_the_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> ModelProto:
        raise TrainingError("no way")

    monkeypatch.setattr(distill, "distill", fails)
    row = unified(tmp_path).report.unification
    assert row is not None
    assert row.recovery is not None
    assert row.method == "reconstruct"
    assert row.recovery.attempts[-1].why == "no way"
