# SPDX-License-Identifier: Apache-2.0
"""Which recovery method is selected, and what is reported of the others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

from onnxprune.evaluation.evaluator import Evaluator
from onnxprune.pipeline.samples import given
from onnxprune.recovery import METHODS
from onnxprune.recovery.methods import WAYS, Task, recover
from tests.cases.nets import small
from tests.cases.recovery import data_for, drop


def test_a_value_of_recover_without_methods_is_detected() -> None:
    assert sorted(METHODS) == sorted(WAYS)


@pytest.mark.parametrize("method", ["auto", "bias", "reconstruct", "none"])
def test_every_attempt_is_reported_and_the_best_is_kept(method: str) -> None:
    net = small()
    p = drop(net, "w2", [1, 3, 5, 7])
    supply = given(data_for(net), "data.npz", 0)
    task = Task(p.coupled, p.dropped, p.pruned, p.pruned, supply.fit, supply.held_out)
    found = recover(task, method, Evaluator(net, supply.held_out))
    losses = {a.name: a.judgement.loss for a in found.attempts if a.judgement}
    assert found.attempts[0].name == "none"
    assert found.method == (min(losses, key=losses.__getitem__) if method == "auto" else method)
    assert losses[found.method] <= losses["none"]
    assert (len(supply.held_out), len(supply.fit) + len(supply.held_out)) == (12, 60)


def test_a_failed_attempt_is_reported_and_the_plain_cut_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> ModelProto:
        raise np.linalg.LinAlgError("singular")

    net = small()
    p = drop(net, "w2", [1, 3])
    supply = given(data_for(net), "data.npz", 0)
    monkeypatch.setattr("onnxprune.recovery.methods.reconstruct", fails)
    task = Task(p.coupled, p.dropped, p.pruned, p.pruned, supply.fit, supply.held_out)
    found = recover(task, "reconstruct", Evaluator(net, supply.held_out))
    assert (found.method, found.attempts[1].why) == ("none", "singular")
