# SPDX-License-Identifier: Apache-2.0
"""The file of a profile: what is written is read, and what is damaged is refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from onnxprune.cost.profile import DECISIVE, Profile
from onnxprune.errors import DataError
from tests.cases.profiles import PI, curve, profile, rounded


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "p.json"


def test_what_is_written_is_read(path: Path) -> None:
    found = profile(4, PI)
    path.write_text(found.to_json())
    assert Profile.read(path) == found
    assert Profile.read(path).digest == found.digest
    assert found.digest != profile(8, PI).digest


def test_each_kind_has_its_own_multiple_and_the_decisive_ones_decide_together() -> None:
    steps = {"convolution": 16, "pointwise": 16, "depthwise": 8, "grouped": 4, "transposed": 1, "product": 2}
    curves = [curve(lambda w, s=step: rounded(w, s) ** 2, kind=kind) for kind, step in steps.items()]  # type: ignore[misc]
    found = Profile.of(PI, "2026-11-28", curves)
    assert found.alignment == {"float": steps, "int8": {}}
    assert found.multiple == 8
    others = [c for c in curves if c.kind not in DECISIVE]
    assert Profile.of(PI, "2026-11-28", others).multiple == 1


DAMAGE: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "another format": (lambda p: p.update(format="onnxprune-profile/9"), "got format 'onnxprune-profile/9', expected"),
    "a plan": (lambda p: p.update(format="onnxprune-plan/1"), "got format 'onnxprune-plan/1', expected"),
    "no format": (lambda p: p.pop("format"), "got no format, expected"),
    "no machine": (lambda p: p.pop("machine"), "'machine' is missing"),
    "no threads": (lambda p: p["machine"].pop("threads"), "'threads' is missing"),
    "threads as text": (lambda p: p["machine"].update(threads="2"), "threads: got '2'"),
    "no multiple": (lambda p: p.pop("multiple"), "'multiple' is missing"),
    "multiple of zero": (lambda p: p.update(multiple=0), "multiple: got 0, expected at least 1"),
    "multiple as a truth": (lambda p: p.update(multiple=True), "multiple: got True"),
    "alignment": (lambda p: p["alignment"].update(float=16), "float: got 16"),
    "no date": (lambda p: p.pop("date"), "'date' is missing"),
    "no curves": (lambda p: p.update(curves={}), "curves: got {}"),
    "a curve of text": (lambda p: p.update(curves=["x"]), "a curve is not an object"),
    "no time": (lambda p: p["curves"][0].update(milliseconds={}), "expected widths, and more than 0 ms for each"),
    "a time of zero": (lambda p: p["curves"][0]["milliseconds"].update({"16": 0}), "more than 0 ms"),
    "no number": (lambda p: p["curves"][0]["milliseconds"].update({"16": float("nan")}), "more than 0 ms"),
    "a width of text": (lambda p: p["curves"][0]["milliseconds"].update({"wide": 1.0}), "expected widths"),
}


@pytest.mark.parametrize(("change", "why"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_is_refused_with_what_is_wrong(change: Callable[[dict[str, Any]], Any], why: str, path: Path) -> None:
    values = json.loads(profile(4, PI).to_json())
    change(values)
    path.write_text(json.dumps(values))
    with pytest.raises(DataError) as e:
        Profile.read(path)
    assert why in e.value.message
    assert "onnxprune profile -o FILE" in e.value.message
    assert "\n" not in e.value.message


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe\x00", b"[" * 100_000], ids=["empty", "cut", "binary", "deep"])
def test_what_is_not_json_is_refused(text: bytes, path: Path) -> None:
    path.write_bytes(text)
    with pytest.raises(DataError, match="is not JSON; expected a file that 'onnxprune profile -o FILE' wrote"):
        Profile.read(path)
    for other in ("[]", "5", "null"):
        path.write_text(other)
        with pytest.raises(DataError, match="got no format"):
            Profile.read(path)
