# SPDX-License-Identifier: Apache-2.0
"""The commands other than `prune`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import cli_reference
import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.cli.app import run
from tests.cases.commands import Capture, refused
from tests.cases.nets import pruned, small, write


def pruned_pair(folder: Path) -> tuple[Path, Path, Path]:
    path = write(folder)
    result = pruned(path, 0.5, align="none")
    result.save(folder / "p.onnx", folder / "p.json")
    return path, folder / "p.onnx", folder / "p.json"


def test_verify_accepts_a_correct_cut_and_refuses_a_wrong_one(tmp_path: Path, capsys: Capture) -> None:
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


def test_verify_does_not_call_a_recovered_model_equal_to_the_masked_original(tmp_path: Path, capsys: Capture) -> None:
    path, out = write(tmp_path), tmp_path / "o.onnx"
    options = ["--recover", "bias", "--data", "random", "--samples", "8", "--no-bench"]
    assert run([str(path), "--ratio", "0.5", *options, "-o", str(out)]) == 0
    capsys.readouterr()
    assert run(["verify", str(path), str(out), str(tmp_path / "o.plan.json")]) == 0
    assert "before its weights were refitted (bias), PRUNED was equal to the original" in capsys.readouterr().out


def test_apply_cuts_a_retrained_copy_in_the_same_way(tmp_path: Path, capsys: Capture) -> None:
    _, pruned, plan = pruned_pair(tmp_path)
    retrained = write(tmp_path, small(seed=5), "again.onnx")
    assert run(["apply", str(retrained), str(plan), "--no-bench"]) == 0
    assert "retrained copy" in capsys.readouterr().out
    a, b = (onnx.load(tmp_path / name) for name in ("p.onnx", "again.pruned.onnx"))
    assert [list(t.dims) for t in a.graph.initializer] == [list(t.dims) for t in b.graph.initializer]
    assert pruned.read_bytes() != (tmp_path / "again.pruned.onnx").read_bytes()
    assert "use --force" in refused(["apply", str(retrained), str(plan)], capsys)


@pytest.mark.parametrize("made_by", [None, {}, {"ratio": "a half"}, {"carrier": 3}])
def test_a_plan_that_does_not_record_its_options_is_applied_and_nothing_is_invented(
    made_by: dict[str, Any] | None, tmp_path: Path, capsys: Capture
) -> None:
    path, _, plan = pruned_pair(tmp_path)
    data = json.loads(plan.read_text())
    data["made_by"] = made_by
    plan.write_text(json.dumps({k: v for k, v in data.items() if v is not None}))
    assert run(["apply", str(path), str(plan), "--no-bench", "-o", str(tmp_path / "again.onnx")]) == 0
    assert "asked: the channels of the plan\n" in capsys.readouterr().out


def test_inspect_lists_groups_and_pins(tmp_path: Path, capsys: Capture) -> None:
    path = write(tmp_path)
    assert run(["inspect", str(path), "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(g["name"], g["channels"]) for g in found["groups"]] == [("w1", 16), ("w2", 12)]
    total = 27 * 16 * 64 + 144 * 12 * 64 + 108 * 16 * 64 + 80
    [pin] = found["pins"]
    assert pin.pop("macs") == pytest.approx(80 / total)
    assert (pin["op"], pin["node"], pin["why"]) == ("output", "y", "is a model output, so its size is fixed")
    assert (pin["channels"], pin["weights"], pin["made_by"]) == (5, ["w4"], ["Gemm 'y'"])
    assert run(["inspect", str(path)]) == 0
    table = capsys.readouterr().out
    assert "w3[1]" in table
    assert "is a model output" in table


def test_explain_shows_ties_and_pins(tmp_path: Path, capsys: Capture) -> None:
    path = write(tmp_path)
    assert run(["explain", str(path), "w3"]) == 0
    out = capsys.readouterr().out
    assert "axis 0 of 16: all can be removed, each together with its slice of " in out
    assert "w1[0]" in out
    assert run(["explain", str(path), "w4", "--format", "json"]) == 0
    axes = json.loads(capsys.readouterr().out)["axes"]
    assert axes[0]["reason"] == "output 'y' is a model output, so its size is fixed"


def test_bench_compares_models(tmp_path: Path, capsys: Capture) -> None:
    path, pruned, _ = pruned_pair(tmp_path)
    assert run(["bench", str(path), str(pruned), "--seconds", "0.2", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "p.onnx" in json.dumps(found)
    assert run(["bench", str(path), str(pruned), "--seconds", "0.2"]) == 0
    assert "p.onnx" in capsys.readouterr().out


COUNT_READS = """
import collections, sys
from onnxprune.cli.app import run
opened = collections.Counter()
sys.addaudithook(lambda event, given: opened.update([given[0]]) if event == "open" else None)
status = run(sys.argv[1:])
print(status, *(opened[path] for path in sys.argv[2:4]), file=sys.stderr)
"""


@pytest.mark.parametrize("command", ["verify", "apply"])
def test_a_file_that_is_read_twice_is_detected(command: str, tmp_path: Path) -> None:
    path, pruned, plan = pruned_pair(tmp_path)
    given = [str(path), str(pruned), str(plan)] if command == "verify" else [str(path), str(plan), "--no-bench"]
    done = subprocess.run([sys.executable, "-c", COUNT_READS, command, *given], capture_output=True, text=True, check=True)
    assert done.stderr.split()[-3:] == ["0", "1", "1"]


def test_the_help_lists_the_main_options_and_the_panels_in_order(capsys: Capture) -> None:
    run(["prune", "--help"])
    text = capsys.readouterr().out
    options = "ratio criterion scores scope align include exclude data recover plan no-verify no-bench format output force"
    for option in options.split():
        assert f"--{option}" in text
    panels = [text.index(f"─ {name} ─") for name in ("Selection", "Data", "Recovery", "Checks", "Output")]
    assert panels == sorted(panels)


def test_the_top_level_help_shows_its_own_options_and_all_commands(capsys: Capture) -> None:
    assert run(["--help"]) == 0
    text = capsys.readouterr().out
    for command in ("prune", "inspect", "explain", "apply", "verify", "bench"):
        assert command in text
    assert set(re.findall(r"--[a-z-]+", text)) == {"--version", "--help", "--ratio"}  # the last one in the typical call
    for same in (["-h"], []):
        run(same)
        assert capsys.readouterr().out.strip() == text.strip()
    assert run(["prune", "-h"]) == 0
    assert "--ratio" in capsys.readouterr().out
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"onnxprune {onnxprune.__version__}\n"


def test_the_command_line_page_matches_the_help() -> None:
    page = Path(onnxprune.__file__).parents[1] / "docs" / "cli.md"
    assert page.read_text(encoding="utf-8") == cli_reference.page(), "python tools/cli_reference.py > docs/cli.md"


def test_a_process_exits_with_the_status_and_the_error_line_of_the_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "onnxprune", str(tmp_path / "no.onnx"), "--ratio", "0.5"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"onnxprune: {tmp_path}/no.onnx: no such file; check the path\n"
