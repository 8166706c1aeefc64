# SPDX-License-Identifier: Apache-2.0
"""One clear line for bad input, and nothing half-written."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from onnxprune.cli.app import run
from tests.cases.commands import FAST, Capture, files, refused
from tests.cases.nets import PINNED, pruned, write
from tests.cases.text import model

Spoil = Callable[[Path], list[str]]


def text_file(folder: Path) -> list[str]:
    (folder / "m.onnx").write_text("no model")
    return [str(folder / "m.onnx"), "--ratio", "0.5"]


def truncated(folder: Path) -> list[str]:
    path = write(folder)
    path.write_bytes(path.read_bytes()[:900])
    return [str(path), "--ratio", "0.5"]


def nothing_to_prune(folder: Path) -> list[str]:
    return [str(write(folder, model(PINNED))), "--ratio", "0.5"]


def plan_exists(folder: Path) -> list[str]:
    (folder / "net.pruned.plan.json").write_text("mine")
    return [str(write(folder)), "--ratio", "0.5"]


def plan_of_another(folder: Path) -> list[str]:
    text = (
        "g (float[N,3,8,8] x, float[8,3,3,3] v1, float[4,8,1,1] w2) => (float[N,4,6,6] y) { a = Conv(x, v1) y = Conv(a, w2) }"
    )
    other = pruned(model(text.replace("v1", "w9")), 0.5)
    other.plan.save(folder / "p.json")
    return ["apply", str(write(folder)), str(folder / "p.json")]


def broken_plan(folder: Path) -> list[str]:
    (folder / "p.json").write_text('{"format": "onnxprune-plan/1"')
    return ["apply", str(write(folder)), str(folder / "p.json")]


BAD: dict[str, tuple[Spoil, str]] = {
    "missing": (lambda f: [str(f / "no.onnx"), "--ratio", "0.5"], "no such file"),
    "name too long": (lambda f: [str(f / ("n" * 300)), "--ratio", "0.5"], "cannot be read: "),
    "missing with its folder": (lambda f: [str(f / "no/no.onnx"), "--ratio", "0.5"], "no.onnx: no such file"),
    "folder": (lambda f: [str(f), "--ratio", "0.5"], "is a folder"),
    "text": (text_file, "not an ONNX model"),
    "truncated": (truncated, "net.onnx"),
    "pinned": (nothing_to_prune, "no prunable channel"),
    "plan exists": (plan_exists, "use --force"),
    "plan for another": (plan_of_another, "is it for another model"),
    "plan broken": (broken_plan, "not a plan"),
    "plan missing": (lambda f: ["apply", str(write(f)), str(f / "no.json")], "cannot read the plan"),
    "tensor": (lambda f: ["explain", str(write(f)), "w77"], "w77"),
    "seconds": (lambda f: ["bench", str(write(f)), "--seconds", "0"], "expected more than 0"),
}


@pytest.mark.parametrize(("spoil", "why"), BAD.values(), ids=BAD)
def test_bad_input_gives_one_line_and_writes_nothing(spoil: Spoil, why: str, tmp_path: Path, capsys: Capture) -> None:
    arguments = spoil(tmp_path)
    before = files(tmp_path)
    assert why in refused(arguments, capsys)
    assert files(tmp_path) == before


def interrupted(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "place", ["onnxprune.pipeline.prune.read_graph", "onnxprune.pipeline.measured.verify", "onnxprune.ir.saving.written_whole"]
)
def test_ctrl_c_leaves_nothing_behind(place: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path)
    monkeypatch.setattr(place, interrupted)
    assert "interrupted" in refused([str(path), "--ratio", "0.5", *FAST], capsys, 130)
    assert sorted(files(tmp_path)) == ["net.onnx"]


def test_a_full_standard_output_is_not_reported_as_an_internal_error(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("onnxprune.cli.prune.print_all", is_full)
    command = [str(write(tmp_path)), "--ratio", "0.5", *FAST]
    said = refused(command, capsys)
    assert said.startswith("onnxprune: standard output: No space left on device; ")
    assert said.endswith("net.pruned.plan.json were written\n")


@pytest.mark.parametrize(
    ("words", "why"), [(["inspekt", "no.onnx"], "did you mean 'inspect'"), ([".", "--ratio", "0.5"], "a folder")]
)
def test_a_misspelt_command_and_a_folder_are_not_taken_for_a_model(words: list[str], why: str, capsys: Capture) -> None:
    assert why in refused(words, capsys)


def test_an_unknown_option_points_to_the_help_of_its_command(capsys: Capture) -> None:
    assert "see 'onnxprune prune --help'" in refused(["no.onnx", "--rato", "0.5"], capsys)
    assert "see 'onnxprune bench --help'" in refused(["bench", "no.onnx", "--second", "1"], capsys)


def test_an_internal_error_is_one_line_too(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise IndexError("list index\nout of range")

    path = write(tmp_path)
    monkeypatch.setattr("onnxprune.pipeline.prune.in_rounds", fails)
    assert "internal error, nothing was written: IndexError" in refused([str(path), "--ratio", "0.5", *FAST], capsys)
    monkeypatch.setenv("ONNXPRUNE_TRACEBACK", "1")
    with pytest.raises(IndexError):
        run([str(path), "--ratio", "0.5", *FAST])


def test_a_wrong_cut_is_not_written(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxprune.pipeline import decide as decision
    from onnxprune.rewrite import cut as rewrite

    def wrong(*arguments: Any) -> onnx.ModelProto:
        made = rewrite.cut(*arguments)
        w4 = next(t for t in made.graph.initializer if t.name == "w4")
        w4.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(w4)[:, ::-1].copy(), "w4"))
        return made

    monkeypatch.setattr(decision, "cut", wrong)
    path = write(tmp_path)
    assert "verification failed" in refused([str(path), "--ratio", "0.5", *FAST], capsys, 1)
    assert sorted(files(tmp_path)) == ["net.onnx"]
