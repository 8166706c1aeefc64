# SPDX-License-Identifier: Apache-2.0
"""The plan: a small file, checked against the model before anything is cut."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import onnxprune
from onnxprune.errors import PlanError
from onnxprune.rewrite.plan import FORMAT, BlockMask, Plan
from tests.cases.nets import SMALL, pruned, small
from tests.cases.text import model

Kept = dict[str, dict[str, list[int]]]


def made() -> Plan:
    return pruned(small(), 0.5, align="none", verify=False).plan


def test_a_plan_survives_saving_and_loading(tmp_path: Path) -> None:
    plan = made()
    plan.save(tmp_path / "p.json")
    assert Plan.load(tmp_path / "p.json") == plan
    assert json.loads(plan.to_json())["format"] == FORMAT == "onnxprune-plan/1"


def test_a_plan_lists_weights_that_the_file_does_not_store(tmp_path: Path) -> None:
    plan = replace(made(), folded=("w2",))
    plan.save(tmp_path / "p.json")
    assert Plan.load(tmp_path / "p.json") == plan
    data = json.loads(plan.to_json())
    assert (data["format"], data["folded"]) == ("onnxprune-plan/2", ["w2"])
    with pytest.raises(ValueError, match="expected a list of names in 'kept'"):
        Plan.from_json({**data, "folded": ["w77"]})


def test_the_same_plan_makes_the_same_model() -> None:
    result = pruned(small(), 0.5, align="none")
    assert onnxprune.apply_plan(small(), result.plan, bench=False).model == result.model


def test_every_cut_axis_is_listed_with_positions_of_the_original() -> None:
    kept = made().kept
    assert set(kept) == {"w1", "ws1", "wt1", "wm1", "wvar1", "w2", "w3", "w4"}
    spine, branch = kept["w1"][0], kept["w2"][0]
    assert kept["w2"] == {0: branch, 1: spine}
    assert kept["w3"] == {0: spine, 1: branch}
    assert kept["w4"] == {1: spine}
    assert len(spine) + len(branch) == 14
    assert max(spine) < 16


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{}", '{"format": "other/1", "kept": {}}', '{"format": "onnxprune-plan/1"}', "\x00", '{"format":'),
        '{"format": "onnxprune-plan/1", "kept": {}, "made_by": 5}',
    ],
)
def test_a_file_that_is_not_a_plan_gives_a_one_line_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(PlanError, match="not a plan") as e:
        Plan.load(tmp_path / "p.json")
    assert "\n" not in str(e.value)


def test_a_path_that_cannot_be_one_gives_a_one_line_error() -> None:
    with pytest.raises(PlanError, match="cannot read the plan: embedded null byte"):
        Plan.load("\0")


def to_json(change: Callable[[Kept], Any]) -> Plan:
    data = json.loads(made().to_json())
    del data["sizes"]  # older plans have none
    change(data["kept"])
    return Plan.from_json(data)


@pytest.mark.parametrize("positions", [[], [2, 1], [1, 1], [-1, 2]])
def test_positions_that_are_empty_negative_or_not_ascending_are_refused(positions: list[int]) -> None:
    def spoil(kept: Kept) -> None:
        kept["w1"]["0"] = positions

    with pytest.raises(ValueError, match="'w1' axis 0: expected kept positions"):
        to_json(spoil)


def another_name(kept: Kept) -> None:
    kept["w99"] = kept.pop("w1")


def another_axis(kept: Kept) -> None:
    kept["w1"]["7"] = [0]


def too_far(kept: Kept) -> None:
    kept["w2"]["0"] = [0, 12]


def untied(kept: Kept) -> None:
    kept["w3"]["0"] = [p for p in range(16) if p not in kept["w3"]["0"]]


def an_output(kept: Kept) -> None:
    kept["w4"]["0"] = [0, 1]


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (another_name, "which this model does not have"),
        (another_axis, "which this model does not have"),
        (too_far, "keeps position 12 on axis 0 of 'w2', which has only 12"),
        (untied, "but cuts channels tied to it"),
        (an_output, "is a model output, so its size is fixed"),
    ],
)
def test_a_plan_that_does_not_fit_the_model_is_refused(spoil: Callable[[Kept], Any], why: str) -> None:
    with pytest.raises(PlanError, match=why):
        onnxprune.apply_plan(small(), to_json(spoil), bench=False)


def test_a_plan_is_refused_by_a_wider_model_of_the_same_names() -> None:
    plan = made()
    assert plan.sizes["w2"] == {0: 12, 1: 16}
    with pytest.raises(PlanError, match="made for 12 positions on axis 0 of 'w2', which has 20: is it for another model"):
        onnxprune.apply_plan(model(SMALL.replace("12", "20")), plan, bench=False)


@pytest.mark.parametrize("sizes", [{"w2": {"0": 3}}, {"w2": {"0": True}}, {"w2": {"5": 30}}, {"w99": {"0": 30}}, {"w2": 12}])
def test_sizes_that_contradict_the_kept_positions_are_refused(sizes: dict[str, Any]) -> None:
    data = json.loads(made().to_json())
    with pytest.raises(ValueError, match="'sizes' of"):
        Plan.from_json({**data, "sizes": sizes})


def test_the_sizes_of_consecutive_cuts_are_those_of_the_original() -> None:
    first, later = (
        Plan("", {"w": {0: (1, 2, 5)}}, sizes={"w": {0: 8}}),
        Plan("", {"w": {0: (0, 1), 1: (4,)}}, sizes={"w": {0: 3, 1: 6}}),
    )
    assert first.then(later).sizes == {"w": {0: 8, 1: 6}}


def test_a_plan_records_that_weights_were_refitted() -> None:
    assert Plan("", {}, {"recovered": "bias"}).recovered == "bias"
    assert Plan("", {}, {}).recovered == ""


@pytest.mark.parametrize("actions", [[1], [0, 1, 2], [1] * 12 + [2] * 3 + [0] * 5, [2, 2, 1, 2]])
def test_the_actions_of_blocks_come_back_in_order(actions: list[int]) -> None:
    mask = BlockMask.of((1, 8, 1, 1), actions)
    assert mask.decoded() == actions
    assert mask.count == len(actions)
    plan = Plan("", {}, {"unify": "8"}, blocks={"w": mask})
    assert Plan.from_json(json.loads(plan.to_json())).blocks == {"w": mask}


def test_actions_of_blocks_are_stored_as_runs() -> None:
    assert BlockMask.of((1, 16), [1] * 12 + [2] * 3 + [0] * 5).actions == "12s3z5f"


def test_a_later_cut_brings_its_own_blocks() -> None:
    mask = BlockMask((1, 2), "3s")
    first, later = Plan("", {"w": {0: (1, 2, 5)}}), Plan("", {"w": {1: (0, 3)}}, {"unify": "2"}, blocks={"w": mask})
    assert first.then(later).blocks == {"w": mask}
    assert first.then(later).format == "onnxprune-plan/3"
