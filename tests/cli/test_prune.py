# SPDX-License-Identifier: Apache-2.0
"""The command line: exit statuses, one clear line for bad input, nothing half-written, the same figures in every format."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxprune.cli.app import run
from tests.models import model
from tests.nets import PINNED, pruned, small, write

Capture = pytest.CaptureFixture[str]
FAST = ("--no-bench", "--recover", "none")


def files(folder: Path) -> dict[str, bytes]:
    """Everything in a folder."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def refused(arguments: Sequence[str], capsys: Capture, status: int = 2) -> str:
    """The single line on stderr of a command that fails."""
    assert run(arguments) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("onnxprune: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return err


def test_prune_writes_a_model_and_its_plan(tmp_path: Path, capsys: Capture) -> None:
    path = write(tmp_path)
    before = path.read_bytes()
    assert run([str(path), "--ratio", "0.5", "--align", "none", *FAST]) == 0
    assert sorted(files(tmp_path)) == ["net.onnx", "net.pruned.onnx", "net.pruned.plan.json"]
    assert path.read_bytes() == before
    assert "50.0% of them removed" in capsys.readouterr().out
    plan = json.loads((tmp_path / "net.pruned.plan.json").read_text())
    assert plan["format"] == "onnxprune-plan/1"
    pruned = {t.name: list(t.dims) for t in onnx.load(tmp_path / "net.pruned.onnx").graph.initializer}
    for name, axes in plan["kept"].items():
        for axis, positions in axes.items():
            assert pruned[name][int(axis)] == len(positions)


def test_a_budget_is_kept_or_the_status_is_one(tmp_path: Path, capsys: Capture) -> None:
    path = write(tmp_path)
    assert run([str(path), "--macs", "60%", "--format", "json", *FAST]) == 0
    report = json.loads(capsys.readouterr().out)
    assert 0.5 < report["macs"]["kept"] <= 0.6
    assert report["asked"]["macs"] == "60%"
    assert run([str(path), "--macs", "1K", "--force", *FAST]) == 1
    table = capsys.readouterr().out
    assert "asked: at most 1K of MACs" in table
    assert "the budget of 1K MACs cannot be reached" in table
    assert (tmp_path / "net.pruned.onnx").exists()


@pytest.mark.parametrize("order", [["prune", "M", "--ratio", "0.5"], ["--ratio", "0.5", "M"], ["M", "-r", "0.5"]])
def test_prune_is_the_default_command(order: list[str], tmp_path: Path) -> None:
    path = write(tmp_path)
    assert run([str(path) if word == "M" else word for word in [*order, *FAST]]) == 0
    assert (tmp_path / "net.pruned.onnx").exists()


def test_the_formats_show_the_same_figures(tmp_path: Path, capsys: Capture) -> None:
    path = write(tmp_path)
    command = [str(path), "--ratio", "0.5", "--align", "none", "--force", *FAST]
    assert run([*command, "--format", "json"]) == 0
    out, _ = capsys.readouterr()
    report = json.loads(out)
    assert run(command) == 0
    table = capsys.readouterr().out
    row = {line.split("  ")[0]: line for line in table.splitlines()}
    assert [f"{report['prunable']:,}", f"{report['prunable'] - report['removed']:,}"] == re.findall(
        r" (\d+)", row["prunable channels"]
    )[:2]
    assert f"{report['macs']['kept']:.1%}" in row["MACs"]
    assert f"{report['params']['kept']:.1%}" in row["parameters"]
    assert f"{report['bytes']['kept']:.1%}" in row["file"]
    assert f"error {report['verification']['error']:.1e}" in table
    for group in report["groups"]:
        assert any(group["name"] in line and f" {group['after']}" in line for line in table.splitlines())
    for pin in report["pins"]:
        assert pin["reason"] in table


def test_the_benchmark_is_in_the_report(tmp_path: Path, capsys: Capture) -> None:
    path = write(tmp_path)
    assert run([str(path), "--ratio", "0.5", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)["benchmark"]
    assert found["threads"] == 1
    assert found["provider"] == "CPUExecutionProvider"
    assert len(found["latencies"]) == 2
    assert all(0 < x["low_ms"] <= x["median_ms"] <= x["high_ms"] for x in found["latencies"])


def test_accuracy_on_given_data(tmp_path: Path, capsys: Capture) -> None:
    path, data = write(tmp_path), tmp_path / "data.npz"
    rng = np.random.default_rng(0)
    np.savez(data, x=rng.standard_normal((20, 3, 8, 8)).astype("f"), label=rng.integers(0, 5, 20))
    given = ["--data", str(data), "--format", "json", "--force", "--no-bench"]
    assert run([str(path), "--ratio", "0.5", "--recover", "none", *given]) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == 20
    assert run([str(path), "--ratio", "0.5", *given]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["samples"] == report["recovery"]["judged"] == 4  # the others were fitted to
    assert report["recovery"]["fitted"] == 16
    assert 0 <= report["accuracy"]["after"] <= 1


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


def with_options(*options: str) -> Spoil:
    return lambda folder: [str(write(folder)), *[o.replace("HERE", str(folder)) for o in options]]


def output_exists(folder: Path) -> list[str]:
    (folder / "o.onnx").write_text("mine")
    return [str(write(folder)), "--ratio", "0.5", "-o", str(folder / "o.onnx")]


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


def bad_scores(folder: Path) -> list[str]:
    np.savez(folder / "s.npz", w1=np.ones(3))
    return [str(write(folder)), "--ratio", "0.5", "--scores", str(folder / "s.npz")]


BAD: dict[str, tuple[Spoil, str]] = {
    "missing": (lambda f: [str(f / "no.onnx"), "--ratio", "0.5"], "no such file"),
    "folder": (lambda f: [str(f), "--ratio", "0.5"], "is a folder"),
    "text": (text_file, "not an ONNX model"),
    "truncated": (truncated, "net.onnx"),
    "pinned": (nothing_to_prune, "no prunable channel"),
    "ratio -1": (with_options("--ratio", "-1"), "expected 0 <= ratio < 1"),
    "ratio 1": (with_options("--ratio", "1"), "expected 0 <= ratio < 1"),
    "ratio 7": (with_options("--ratio", "7"), "expected 0 <= ratio < 1"),
    "ratio nan": (with_options("--ratio", "nan"), "expected 0 <= ratio < 1"),
    "ratio abc": (with_options("--ratio", "abc"), "--ratio"),
    "no ratio": (with_options(), "--ratio, --macs: got neither"),
    "ratio and macs": (with_options("--ratio", "0.5", "--macs", "50%"), "got both"),
    "macs": (with_options("--macs", "0.5"), "expected what may remain: a share such as 50%"),
    "criterion": (with_options("--ratio", "0.5", "--criterion", "ccprun"), "did you mean 'ccprune'"),
    "scope": (with_options("--ratio", "0.5", "--scope", "all"), "expected one of global, local"),
    "align": (with_options("--ratio", "0.5", "--align", "wide"), "expected auto, none, or a number"),
    "recover": (with_options("--ratio", "0.5", "--recover", "magic"), "--recover: got 'magic'"),
    "threads": (with_options("--ratio", "0.5", "--threads", "0"), "expected at least 1"),
    "data nowhere": (with_options("--ratio", "0.5", "--data", "nowhere"), "--data nowhere: no such file"),
    "labels alone": (with_options("--ratio", "0.5", "--labels", "l.csv"), "says something about --data, which is missing"),
    "preprocess of noise": (with_options("--ratio", "0.5", "--data", "random", "--preprocess", "size=8"), "a folder of images"),
    "samples": (with_options("--ratio", "0.5", "--data", "random", "--samples", "-1"), "expected at least 1"),
    "metric": (with_options("--ratio", "0.5", "--data", "random", "--metric", "mine"), "expected module:function"),
    "format": (with_options("--ratio", "0.5", "--format", "xml"), "xml"),
    "include": (with_options("--ratio", "0.5", "--include", "nothing*"), "matches no weight"),
    "exclude": (with_options("--ratio", "0.5", "--exclude", "nothing*"), "matches no weight"),
    "all excluded": (with_options("--ratio", "0.5", "--exclude", "w*"), "leave no prunable channel"),
    "option": (with_options("--ratio", "0.5", "--fast"), "--fast"),
    "shape": (with_options("--ratio", "0.5", "--input-shape", "x:1xbig"), "or NAME:1x3x224x224"),
    "shape name": (with_options("--ratio", "0.5", "--input-shape", "z:1x3x8x8"), "with a name of x"),
    "output is input": (with_options("--ratio", "0.5", "-o", "HERE/net.onnx", "--force"), "is the input itself"),
    "plan is input": (with_options("--ratio", "0.5", "--plan", "HERE/net.onnx", "--force"), "is the input itself"),
    "plan is output": (with_options("--ratio", "0.5", "-o", "HERE/o", "--plan", "HERE/o"), "choose two names"),
    "output exists": (output_exists, "use --force"),
    "plan exists": (plan_exists, "use --force"),
    "output folder": (with_options("--ratio", "0.5", "-o", "HERE/no/o.onnx"), "no such folder"),
    "data missing": (with_options("--ratio", "0.5", "--data", "HERE/no.npz"), "--data"),
    "scores missing": (with_options("--ratio", "0.5", "--scores", "HERE/no.npz"), "--scores"),
    "scores length": (bad_scores, "expected (16,)"),
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
    "place", ["onnxprune.pipeline.prune.read_graph", "onnxprune.pipeline.prune.verify", "onnxprune.ir.files.written_whole"]
)
def test_ctrl_c_leaves_nothing_behind(place: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path)
    monkeypatch.setattr(place, interrupted)
    assert "stopped" in refused([str(path), "--ratio", "0.5", *FAST], capsys, 130)
    assert sorted(files(tmp_path)) == ["net.onnx"]


def test_a_mistake_of_ours_is_one_line_too(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise IndexError("list index\nout of range")

    path = write(tmp_path)
    monkeypatch.setattr("onnxprune.pipeline.prune.in_rounds", fails)
    assert "internal error, nothing was written: IndexError" in refused([str(path), "--ratio", "0.5", *FAST], capsys)
    monkeypatch.setenv("ONNXPRUNE_TRACEBACK", "1")
    with pytest.raises(IndexError):
        run([str(path), "--ratio", "0.5", *FAST])


def test_a_cut_that_is_not_proven_is_not_written(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_missed_ratio_is_status_one(tmp_path: Path, capsys: Capture) -> None:
    path = write(tmp_path)
    assert run([str(path), "--ratio", "0.99", "--align", "none", *FAST]) == 1
    assert "instead of 99%" in capsys.readouterr().out
    assert (tmp_path / "net.pruned.onnx").exists()


def pruned_pair(folder: Path) -> tuple[Path, Path, Path]:
    path = write(folder)
    result = pruned(path, 0.5, align="none")
    result.save(folder / "p.onnx", folder / "p.json")
    return path, folder / "p.onnx", folder / "p.json"


def test_verify_proves_and_refuses(tmp_path: Path, capsys: Capture) -> None:
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


def test_as_a_process(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "onnxprune", str(tmp_path / "no.onnx"), "--ratio", "0.5"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"onnxprune: {tmp_path}/no.onnx: no such file; check the path\n"


def test_images_labels_and_a_metric_from_the_command_line(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    path, images = write(tmp_path), tmp_path / "images"
    images.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (12, 9, 9, 3), np.uint8)
    for k, x in enumerate(pixels):
        Image.fromarray(x).save(images / f"{k:02}.png")
    (tmp_path / "labels.csv").write_text("file,class\n" + "".join(f"{k:02}.png,{k % 5}\n" for k in range(12)))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_metric_of_cli.py").write_text("def spread(outputs, labels):\n    return -len(labels) / 3\n")
    given = ["--data", "images", "--preprocess", "size=8x8,mean=0.5,std=0.5", "--samples", "9", "--labels", "labels.csv"]
    given += ["--recover", "none"]
    assert run([str(path), "--ratio", "0.5", *given, "--format", "json", *FAST]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["samples"], report["measure"]) == (9, "top-1")
    assert any("9 of 12 images are used" in note for note in report["notes"])
    assert run([str(path), "--ratio", "0.5", *given, "--metric", "my_metric_of_cli:spread", "--force", *FAST]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"accuracy +-3 +-3 +9 samples, spread", shown)
