# SPDX-License-Identifier: Apache-2.0
"""The commands beside `prune`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxprune.cli.app import run
from tests.cases.commands import Capture, refused
from tests.cases.nets import pruned, small, write


def pruned_pair(folder: Path) -> tuple[Path, Path, Path]:
    path = write(folder)
    result = pruned(path, 0.5, align="none")
    result.save(folder / "p.onnx", folder / "p.json")
    return path, folder / "p.onnx", folder / "p.json"


def test_verify_accepts_a_right_cut_and_refuses_a_wrong_one(tmp_path: Path, capsys: Capture) -> None:
    path, pruned, plan = pruned_pair(tmp_path)
    command = ["verify", str(path), str(pruned), str(plan)]
    assert run(command) == 0
    assert "verified" in capsys.readouterr().out
    assert run([*command, "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["error"] < 1e-5
    altered = onnx.load(pruned)
    w = altered.graph.initializer[0]
    w.raw_data = (np.frombuffer(w.raw_data, np.float32) * np.float32(1.05)).tobytes()
    onnx.save(altered, pruned)
    assert "verification failed" in refused(command, capsys, 1)


def test_apply_cuts_a_retrained_copy_alike(tmp_path: Path, capsys: Capture) -> None:
    _, pruned, plan = pruned_pair(tmp_path)
    retrained = write(tmp_path, small(seed=5), "again.onnx")
    assert run(["apply", str(retrained), str(plan), "--no-bench"]) == 0
    assert "retrained copy" in capsys.readouterr().out
    a, b = (onnx.load(tmp_path / name) for name in ("p.onnx", "again.pruned.onnx"))
    assert [list(t.dims) for t in a.graph.initializer] == [list(t.dims) for t in b.graph.initializer]
    assert pruned.read_bytes() != (tmp_path / "again.pruned.onnx").read_bytes()
    assert "use --force" in refused(["apply", str(retrained), str(plan)], capsys)


def test_inspect_lists_groups_and_pins(tmp_path: Path, capsys: Capture) -> None:
    path = write(tmp_path)
    assert run(["inspect", str(path), "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(g["name"], g["channels"]) for g in found["groups"]] == [("w1", 16), ("w2", 12)]
    total = 27 * 16 * 64 + 144 * 12 * 64 + 108 * 16 * 64 + 80
    [pin] = found["pins"]
    assert pin.pop("macs") == pytest.approx(80 / total)
    assert (pin["op"], pin["node"], pin["why"]) == ("output", "y", "promises its size to the user")
    assert (pin["channels"], pin["weights"], pin["made_by"]) == (5, ["w4"], ["Gemm 'y'"])
    assert run(["inspect", str(path)]) == 0
    table = capsys.readouterr().out
    assert "w3[1]" in table
    assert "promises its size" in table


def test_explain_tells_ties_and_pins(tmp_path: Path, capsys: Capture) -> None:
    path = write(tmp_path)
    assert run(["explain", str(path), "w3"]) == 0
    out = capsys.readouterr().out
    assert "axis 0 of 16: all can be removed, each together with its slice of " in out
    assert "w1[0]" in out
    assert run(["explain", str(path), "w4", "--format", "json"]) == 0
    axes = json.loads(capsys.readouterr().out)["axes"]
    assert axes[0]["reason"] == "output 'y' promises its size to the user"


def test_bench_compares_models(tmp_path: Path, capsys: Capture) -> None:
    path, pruned, _ = pruned_pair(tmp_path)
    assert run(["bench", str(path), str(pruned), "--seconds", "0.2", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "p.onnx" in json.dumps(found)
    assert run(["bench", str(path), str(pruned), "--seconds", "0.2"]) == 0
    assert "p.onnx" in capsys.readouterr().out


def test_the_help_names_every_option_of_the_contract(capsys: Capture) -> None:
    run(["prune", "--help"])
    text = capsys.readouterr().out
    options = "ratio criterion scores scope align include exclude data recover plan no-verify no-bench format output force"
    for option in options.split():
        assert f"--{option}" in text
    run(["--help"])
    text = capsys.readouterr().out
    for command in ("prune", "inspect", "explain", "apply", "verify", "bench"):
        assert command in text


def test_a_process_has_the_status_and_the_line_of_the_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "onnxprune", str(tmp_path / "no.onnx"), "--ratio", "0.5"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"onnxprune: {tmp_path}/no.onnx: no such file; check the path\n"
