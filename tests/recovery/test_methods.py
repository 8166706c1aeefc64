# SPDX-License-Identifier: Apache-2.0
"""Which recovery method is selected, and what is reported of the others."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

from onnxprune.data.samples import MadeUp
from onnxprune.effort import Clock, Effort
from onnxprune.evaluation.evaluator import Evaluator
from onnxprune.options import Options
from onnxprune.pipeline.samples import Samples, given
from onnxprune.recovery import METHODS
from onnxprune.recovery.editor import Fitted
from onnxprune.recovery.methods import WAYS, Task, recover
from onnxprune.types import Progress
from tests.cases.nets import small
from tests.cases.recovery import data_for, drop


def supplied(net: ModelProto, samples: int = 60) -> Samples:
    return given(data_for(net, samples), net, Options.of(ratio=0.5, data=data_for(net, samples)), Effort())


def test_a_value_of_recover_without_methods_is_detected() -> None:
    assert sorted(METHODS) == sorted(WAYS)


@pytest.mark.parametrize("method", ["auto", "bias", "reconstruct", "none"])
def test_every_attempt_is_reported_and_the_best_is_kept(method: str) -> None:
    net = small()
    p = drop(net, "w2", [1, 3, 5, 7])
    supply = supplied(net)
    task = Task(p.coupled, p.dropped, p.pruned, supply.fit, Effort(Clock(20.0)))
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
    supply = supplied(net)
    monkeypatch.setattr("onnxprune.recovery.methods.reconstruct", fails)
    task = Task(p.coupled, p.dropped, p.pruned, supply.fit)
    found = recover(task, "reconstruct", Evaluator(net, supply.held_out))
    assert (found.method, found.attempts[1].why) == ("none", "singular")


def test_training_that_does_not_help_on_held_out_samples_is_undone() -> None:
    """`distill` returns the cut model itself, which is worse than the fit that it started from."""
    net = small()
    p = drop(net, "w2", [1, 3, 5, 7])
    supply = supplied(net)
    ways = {**WAYS, "distill": (WAYS["distill"][0], ("distill", lambda task, progress: Fitted(task.pruned)))}
    task, judge = Task(p.coupled, p.dropped, p.pruned, supply.fit), Evaluator(net, supply.held_out)
    found = recover(task, "distill", judge, ways=ways)
    assert (found.method, [a.name for a in found.attempts]) == ("reconstruct", ["none", "reconstruct", "distill"])


@pytest.mark.parametrize(("seconds", "genuine", "tried"), [(29, True, False), (40, True, True), (40, False, False)])
def test_auto_trains_only_on_genuine_samples_with_half_a_minute_left(seconds: float, genuine: bool, tried: bool) -> None:
    net, ran = small(), list[Task]()
    p, supply = drop(net, "w2", [1, 3]), supplied(net)

    def trains(task: Task, progress: Progress) -> Fitted:
        ran.append(task)
        return Fitted(task.pruned)

    ways = tuple((name, trains if name == "distill" else way) for name, way in WAYS["auto"])
    fit = supply.fit if genuine else replace(supply.fit, made=MadeUp())
    task, judge = Task(p.coupled, p.dropped, p.pruned, fit, Effort(Clock(seconds))), Evaluator(net, supply.held_out)
    recover(task, "auto", judge, ways={**WAYS, "auto": ways})
    assert bool(ran) == (tried and importlib.util.find_spec("torch") is not None)


def test_without_samples_biases_are_corrected_if_asked_for_and_nothing_is_judged() -> None:
    p = drop(small(), "w1", [1, 3])
    assert recover(Task(p.coupled, p.dropped, p.pruned, None), "auto", None).method == "none"
    found = recover(Task(p.coupled, p.dropped, p.pruned, None), "bias", None)
    assert [(a.name, a.judgement, a.why) for a in found.attempts] == [("none", None, ""), ("bias", None, "")]
    assert (found.method, found.before, found.chosen) == ("bias", None, None)


def test_a_fit_to_made_up_samples_must_hold_on_others(monkeypatch: pytest.MonkeyPatch) -> None:
    net = small()
    p, supply = drop(net, "w2", [1, 3]), supplied(net)
    task = Task(p.coupled, p.dropped, p.pruned, replace(supply.fit, made=MadeUp({}, 0.1, 3)))
    judge = Evaluator(net, supply.held_out)
    found = recover(task, "auto", judge)
    assert [a.name for a in found.attempts] == ["none", "reconstruct"]
    lost = found.attempts[1].judgement
    assert lost is not None
    assert found.method == "reconstruct"
    monkeypatch.setattr("onnxprune.recovery.methods.MADE_UP_LOST", lost.lost / 2)
    assert recover(task, "auto", judge).method == "none"
