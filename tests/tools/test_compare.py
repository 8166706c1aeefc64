# SPDX-License-Identifier: Apache-2.0
"""The comparison of two checkouts: what counts as a difference, and what as another wording of the same result."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import compare
import pytest

REPORT: dict[str, Any] = {
    "asked": {"criterion": "obs", "align": 8},
    "align_reason": "x86-64 with AVX-512",
    "macs": {"before": 200, "after": 100},
    "groups": [{"name": "w1", "members": ["w1[0]", "b1[0]"]}],
    "pins": [{"channels": 2, "reason": "output 'y' is a model output"}],
    "recovery": {
        "method": "bias",
        "source": "256 images",
        "attempts": [{"name": "bias", "seconds": 1.5, "why": ""}, {"name": "distill", "seconds": 0.5, "why": "no torch"}],
    },
    "verification": {"engine": "onnxruntime", "error": 1e-7},
    "benchmark": {"speedup": [1.0, 1.4]},
    "warnings": ["distill failed"],
    "missed": False,
}
RESULT = compare.Result(0, REPORT, {"cut.onnx": "1a", "cut.plan.json": "2b"}, "")


def verdict(change: Callable[[dict[str, Any]], object]) -> tuple[str, list[str]]:
    """The verdict on two runs that differ only by a change of the report."""
    changed = copy.deepcopy(REPORT)
    change(changed)
    return compare.difference(RESULT, RESULT._replace(report=changed))


def test_figures_that_every_run_measures_anew_are_no_difference() -> None:
    assert verdict(lambda r: r.update(benchmark={"speedup": [1.0, 1.3]})) == ("same", [])
    assert verdict(lambda r: r["recovery"]["attempts"][0].update(seconds=9.0)) == ("same", [])


SENTENCES: dict[str, Callable[[dict[str, Any]], object]] = {
    "align_reason": lambda r: r.update(align_reason="this processor has AVX-512"),
    "pins/0/reason": lambda r: r["pins"][0].update(reason="'y' is an output"),
    "recovery/source": lambda r: r["recovery"].update(source="images: 256"),
    "recovery/attempts/1/why": lambda r: r["recovery"]["attempts"][1].update(why="torch is missing"),
    "warnings/0": lambda r: r.update(warnings=["distillation failed"]),
}
VALUES: dict[str, Callable[[dict[str, Any]], object]] = {
    "asked/criterion": lambda r: r["asked"].update(criterion="l1"),
    "recovery/method": lambda r: r["recovery"].update(method="none"),
    "recovery/attempts/0/name": lambda r: r["recovery"]["attempts"][0].update(name="batchnorm"),
    "verification/engine": lambda r: r["verification"].update(engine="onnx.reference"),
    "groups/0/members/1": lambda r: r["groups"][0].update(members=["w1[0]", "b2[0]"]),
    "macs/after": lambda r: r["macs"].update(after=101),
    "missed": lambda r: r.update(missed=True),
}


@pytest.mark.parametrize(("place", "change"), SENTENCES.items(), ids=SENTENCES)
def test_another_wording_of_a_sentence_is_a_difference_in_words(place: str, change: Callable[[dict[str, Any]], object]) -> None:
    found, [where] = verdict(change)
    assert (found, where.partition(": ")[0]) == ("words", place)


@pytest.mark.parametrize(("place", "change"), VALUES.items(), ids=VALUES)
def test_a_name_or_a_figure_that_differs_is_detected(place: str, change: Callable[[dict[str, Any]], object]) -> None:
    found, [where] = verdict(change)
    assert (found, where.partition(": ")[0]) == ("DIFFERENT", place)


def test_a_missing_entry_is_detected() -> None:
    assert verdict(lambda r: r["warnings"].clear())[0] == "DIFFERENT"
    assert verdict(lambda r: r.pop("missed"))[0] == "DIFFERENT"


@pytest.mark.parametrize("files", [{"cut.onnx": "1a"}, {"cut.onnx": "1a", "cut.plan.json": "3c"}])
def test_a_file_that_is_missing_or_differs_is_detected(files: dict[str, str]) -> None:
    assert compare.difference(RESULT, RESULT._replace(files=files)) == ("DIFFERENT", ["file cut.plan.json"])


def test_another_exit_status_is_detected_and_another_message_is_words() -> None:
    assert compare.difference(RESULT, RESULT._replace(status=2))[0] == "DIFFERENT"
    assert compare.difference(RESULT, RESULT._replace(said="note")) == ("words", ["stderr: '' -> 'note'"])
