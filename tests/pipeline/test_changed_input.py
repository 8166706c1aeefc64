# SPDX-License-Identifier: Apache-2.0
"""Input files that change during a run: the plan names the content that was read, or nothing is written."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

import onnxprune
from onnxprune.errors import ModelError
from onnxprune.pipeline.rounds import in_rounds
from onnxprune.rewrite.plan import Plan, dropped_by
from tests.cases.commands import FAST, Capture, files, refused
from tests.cases.nets import external, pruned, small, write

Change = Callable[[Path], object]


def rewritten(path: Path) -> None:
    onnx.save(small(1), path)


def replaced(path: Path) -> None:
    onnx.save(small(1), path.with_name("new"))
    path.with_name("new").replace(path)


def other_weights(path: Path) -> None:
    data = path.with_name("net.bin")
    data.write_bytes(data.read_bytes()[::-1])


def during(monkeypatch: pytest.MonkeyPatch, path: Path, change: Change) -> None:
    """Change a file in the middle of a cut."""

    def changing(*arguments: Any, **options: Any) -> Any:
        change(path)
        return in_rounds(*arguments, **options)

    monkeypatch.setattr("onnxprune.pipeline.prune.in_rounds", changing)


CHANGES: dict[str, tuple[Change, bool, str]] = {
    "written": (rewritten, False, "net.onnx: was changed or replaced"),
    "replaced": (replaced, False, "net.onnx: was changed or replaced"),
    "removed": (Path.unlink, False, "net.onnx: was removed"),
    "other weights": (other_weights, True, "net.bin: was changed or replaced"),
    "weights removed": (lambda p: p.with_name("net.bin").unlink(), True, "net.bin: was removed"),
}


@pytest.mark.parametrize(("change", "beside", "why"), CHANGES.values(), ids=CHANGES)
def test_a_changed_input_ends_the_run_and_nothing_is_written(
    change: Change, beside: bool, why: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = external(tmp_path) if beside else write(tmp_path)
    during(monkeypatch, path, change)
    assert why in refused([str(path), "--ratio", "0.5", *FAST], capsys)
    assert not [name for name in files(tmp_path) if "pruned" in name]


@pytest.mark.parametrize("change", [os.utime, lambda p: p.write_bytes(p.read_bytes())])
def test_a_file_that_only_seems_to_be_new_is_the_same(change: Change, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path)
    during(monkeypatch, path, change)
    pruned(path, 0.5).save(tmp_path / "o.onnx", tmp_path / "p.json")
    assert Plan.load(tmp_path / "p.json").model_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_result_in_memory_may_be_saved_whatever_became_of_the_input(tmp_path: Path) -> None:
    path = write(tmp_path)
    digest, result = hashlib.sha256(path.read_bytes()).hexdigest(), pruned(path, 0.5)
    rewritten(path)
    result.save(tmp_path / "o.onnx", tmp_path / "p.json")
    assert Plan.load(tmp_path / "p.json").model_sha256 == digest


def test_a_large_file_that_seems_to_be_new_is_refused_because_weights_are_read_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnxprune.ir import files, protobuf

    for module in (files, protobuf):
        for name in ("LARGE_FILE", "LARGE_TENSOR"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, 8)
    path = write(tmp_path)
    during(monkeypatch, path, os.utime)
    with pytest.raises(ModelError, match="was changed or replaced while"):
        pruned(path, 0.5)


def test_apply_refuses_a_changed_input_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path)
    plan = pruned(path, 0.5).plan

    def changing(*arguments: Any) -> Any:
        rewritten(path)
        return dropped_by(*arguments)

    monkeypatch.setattr("onnxprune.pipeline.apply.dropped_by", changing)
    with pytest.raises(ModelError, match="was changed or replaced while"):
        onnxprune.apply_plan(path, plan, bench=False)
