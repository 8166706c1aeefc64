# SPDX-License-Identifier: Apache-2.0
"""Cuts in rounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

import onnxprune
from onnxprune.errors import DataError
from onnxprune.rewrite.plan import Kept, composed
from tests.cases.nets import small, write
from tests.cases.recovery import data_for
from tests.cases.renormalising import MIXES
from tests.cases.text import model


def test_two_cuts_in_a_row_compose_to_one() -> None:
    w = np.arange(60).reshape(6, 10)
    first: Kept = {"w": {0: (0, 2, 3, 5)}, "v": {1: (1,)}}
    second: Kept = {"w": {0: (1, 3), 1: (2, 4, 9)}}
    both = composed(first, second)
    np.testing.assert_array_equal(w[[0, 2, 3, 5]][np.ix_([1, 3], [2, 4, 9])], w[np.ix_(both["w"][0], both["w"][1])])
    assert both["v"] == {1: (1,)}


@pytest.mark.parametrize("budget", [{"ratio": 0.5}, {"macs": "40%"}])
def test_rounds_reach_the_requested_cut_of_the_original(tmp_path: Path, budget: dict[str, Any]) -> None:
    path = write(tmp_path)
    options: dict[str, Any] = {"align": "none", "bench": False, "data": data_for(small()), "recover": "reconstruct", **budget}
    result = onnxprune.prune(path, rounds=3, **options)
    once = onnxprune.prune(path, **options)
    assert abs(result.report.macs.kept - once.report.macs.kept) < 0.1
    assert abs(result.report.ratio - once.report.ratio) < 0.15
    result.save(tmp_path / "out.onnx", tmp_path / "plan.json")
    onnxprune.verify_files(path, tmp_path / "out.onnx", tmp_path / "plan.json")
    assert any("3 rounds" in note for note in result.report.notes)


@pytest.mark.parametrize(("goal", "why"), [({"ratio": 0.99}, "instead of 99%"), ({"macs": "1%"}, "the budget of 1% MACs")])
def test_a_goal_that_the_rounds_miss_is_reported(goal: dict[str, Any], why: str) -> None:
    options: dict[str, Any] = {"align": "none", "bench": False, "data": data_for(small()), "recover": "bias", **goal}
    report = onnxprune.prune(small(), rounds=2, **options).report
    assert report.missed
    assert why in report.warnings[0]


OPEN = """g (float[N,3,H,W] x, float[16,3,3,3] w1, float[24,16,3,3] w2, float[5,24,1,1] w3) => (float[N,5,P,Q] y) {
    a = Conv(x, w1)  b = Relu(a)  c = Conv(b, w2)  y = Conv(c, w3) }"""
GROUPS = """g (float[N,3,6,6] x, float[16,3,1,1] w1, float[32,2,3,3] w2, float[5,32,1,1] w3) => (float[] y) {
    a = Conv(x, w1)  b = Conv <group = 8> (a, w2)  y = Conv(b, w3) }"""
IMAGES = {"x": np.random.default_rng(0).standard_normal((24, 3, 9, 9)).astype("f")}
FORGOTTEN: dict[str, tuple[ModelProto, dict[str, Any]]] = {
    "carrier": (model(GROUPS), {"ratio": 0.5, "carrier": "outer", "data": data_for(model(GROUPS))}),
    "allow_renormalising": (MIXES["softmax"].model(), {"ratio": 0.5, "allow_renormalising": True, "data": "random"}),
    "input_shape": (model(OPEN), {"macs": "50%", "input_shape": {"x": (1, 3, 9, 9)}, "data": IMAGES}),
}


@pytest.mark.parametrize(("net", "options"), FORGOTTEN.values(), ids=FORGOTTEN)
def test_a_round_that_forgets_an_option_is_detected(net: ModelProto, options: dict[str, Any], tmp_path: Path) -> None:
    path = write(tmp_path, net)
    given: dict[str, Any] = {"recover": "reconstruct", "align": "none", "bench": False, **options}
    once, twice = (onnxprune.prune(path, rounds=n, **given) for n in (1, 2))
    assert abs(twice.report.macs.kept - once.report.macs.kept) < 0.05
    assert twice.plan.policy == once.plan.policy
    twice.save(tmp_path / "out.onnx", tmp_path / "plan.json")
    onnxprune.verify_files(path, tmp_path / "out.onnx", tmp_path / "plan.json")


@pytest.mark.parametrize("rounds", [1, 2])
def test_inputs_that_the_model_cannot_take_are_noticed_before_the_first_round(rounds: int, tmp_path: Path) -> None:
    """The model accepts one sample at a time, which only its nodes reveal."""
    net = model("""g (float[N,3,6,6] x, float[8,3,3,3] w1, float[12,8,3,3] w2, float[432,5] w3) => (float[1,5] y)
        <int64[2] s = {1, 432}> { a = Conv <pads = [1,1,1,1]> (x, w1)  b = Relu(a)  c = Conv <pads = [1,1,1,1]> (b, w2)
        f = Reshape(c, s)  y = MatMul(f, w3) }""")
    data = {"x": np.ones((24, 3, 6, 6), np.float32)}
    with pytest.raises(DataError, match="does not run"):
        onnxprune.prune(net, 0.5, data=data, recover="reconstruct", bench=False, rounds=rounds, input_shape={"x": (1, 3, 6, 6)})
