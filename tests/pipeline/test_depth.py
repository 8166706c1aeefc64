# SPDX-License-Identifier: Apache-2.0
"""Whole residual branches may go: targets hold relative to the whole model, and plans say what is gone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.cost.size import cost
from onnxprune.errors import OptionError, PlanError
from onnxprune.pipeline import depth
from onnxprune.pipeline.depth import Candidate, Gone, separate
from onnxprune.rewrite.plan import Plan
from onnxprune.rewrite.shorten import Branch
from tests.cases.nets import TRAINED, pruned, small
from tests.cases.running import random_feeds, runner
from tests.cases.text import model

DATA = TRAINED.with_suffix(".npz")
ASKED: dict[str, Any] = {"depth": True, "data": str(DATA), "samples": 60, "recover": "bias", "time_budget": 60}


@pytest.fixture(scope="module")
def found() -> onnxprune.Result:
    """The trained network at a fifth of its multiply-accumulates; only cuts without branches are tried."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(depth, "sizes_of", lambda order: (3,))
        return pruned(TRAINED, macs="20%", **ASKED)


def test_a_target_is_a_share_of_the_whole_model(found: onnxprune.Result) -> None:
    report = found.report
    [target] = report.targets
    assert report.macs.before == cost(onnx.load(TRAINED)).macs
    assert report.macs.after == cost(found.model, report.inputs).macs
    assert 0.19 <= target.kept == report.macs.kept <= 0.2
    assert len(found.plan.removed) == 3
    assert any("residual branches left out" in note for note in report.notes)
    assert report.verification is not None


def test_a_plan_says_what_is_gone_and_can_be_applied_and_verified(found: onnxprune.Result, tmp_path: Path) -> None:
    found.save(tmp_path / "a.onnx", tmp_path / "a.json")
    plan = Plan.load(tmp_path / "a.json")
    assert plan == found.plan
    assert json.loads((tmp_path / "a.json").read_text())["removed"][0].keys() == {"from", "to"}
    assert onnxprune.verify_files(TRAINED, tmp_path / "a.onnx", plan).error < 1e-4
    again = onnxprune.apply_plan(TRAINED, plan, bench=False)
    shapes = [{t.name: list(t.dims) for t in x.model.graph.initializer} for x in (found, again)]
    assert shapes[1].items() <= shapes[0].items()
    assert again.report.macs == found.report.macs


def test_the_best_of_the_attempts_is_kept_and_the_cut_without_any_is_one_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = list[int]()
    whole = depth.sizes_of

    def watched(order: Gone) -> tuple[int, ...]:
        tried.extend(whole(order))
        return whole(order)

    monkeypatch.setattr(depth, "sizes_of", watched)
    report = pruned(TRAINED, macs="50%", **ASKED).report
    assert tried == [0, 1, 2, 4, 7]
    [note] = [note for note in report.notes if "residual branches left out" in note]
    losses = {
        int(n): float(loss) for n, loss in (pair.split(": ") for pair in note.split(": ", 1)[1].split(";")[0].split(", "))
    }
    assert [*losses] == tried
    gone = 0 if "none was removed" in note else note.count("Add_output")
    assert losses[gone] == min(losses.values())


def test_branches_within_others_do_not_go_with_them() -> None:
    outer, inner, other = (Branch("a", total, "b", nodes) for total, nodes in (("x", (1, 2, 3)), ("y", (2,)), ("z", (7,))))
    ranked = [Candidate(b, 0.1, 0.1) for b in (inner, outer, other)]
    assert [b.total for b in separate(ranked, 3)] == ["y", "z"]


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"ratio": 0.5}, "`depth`: needs a target"),
        ({"macs": "50%", "data": None, "samples": None}, "`depth`: requires `data`"),
        ({"macs": "50%", "recover": "none"}, "`depth`: got `recover` none"),
        ({"macs": "50%", "unify": 16, "recover": "reconstruct"}, "`depth`: does not go with `unify`"),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_refused_before_any_work(more: dict[str, Any], why: str) -> None:
    with pytest.raises(OptionError) as caught:
        onnxprune.prune(TRAINED, **{**ASKED, **more})
    assert why in str(caught.value)


def test_a_model_without_such_branches_is_refused() -> None:
    text = "g (float[N,3,8,8] x, float[6,3,1,1] w1, float[4,6,1,1] w2) => (float[] y) { a = Conv(x, w1)  y = Conv(a, w2) }"
    data = {"x": np.random.default_rng(0).standard_normal((20, 3, 8, 8)).astype(np.float32)}
    with pytest.raises(OptionError, match="has no residual branch that could go"):
        pruned(model(text), macs="50%", depth=True, data=data, recover="bias")


def test_an_error_of_the_cut_with_all_branches_is_told() -> None:
    with pytest.raises(OptionError, match="no prunable channel remains"):
        onnxprune.prune(TRAINED, macs="50%", exclude="*", **ASKED)


def test_a_dead_branch_goes_without_loss() -> None:
    """What is added is zero; half of the multiply-accumulates are spent on it."""
    net = small()
    for tensor in net.graph.initializer:
        if tensor.name == "w3":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.zeros(tensor.dims, np.float32), "w3"))
    data = {"x": np.random.default_rng(0).standard_normal((60, 3, 8, 8)).astype(np.float32)}
    result = pruned(net, macs="60%", depth=True, data=data, recover="bias", align="none")
    assert len(result.plan.removed) == 1
    feeds = random_feeds(net, np.random.default_rng(1), 2)
    np.testing.assert_allclose(runner(result.model)(feeds)[0], runner(net)(feeds)[0], rtol=1e-4, atol=1e-5)


def test_a_module_is_not_sliced_by_such_a_plan(found: onnxprune.Result) -> None:
    training = pytest.importorskip("onnxprune.training")
    from models.networks import NETWORKS

    with pytest.raises(PlanError, match="removes residual branches"):
        training.apply_plan(NETWORKS["resnet20"](), found.plan)
