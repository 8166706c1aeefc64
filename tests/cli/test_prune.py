# SPDX-License-Identifier: Apache-2.0
"""`prune`: exit statuses, and the same figures in every format."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxprune.cli.app import run
from tests.cases.commands import FAST, Capture, files
from tests.cases.nets import write


def test_prune_writes_a_model_and_its_plan(tmp_path: Path, capsys: Capture) -> None:
    path = write(tmp_path)
    before = path.read_bytes()
    assert run([str(path), "--ratio", "0.5", "--align", "none", *FAST]) == 0
    assert sorted(files(tmp_path)) == ["net.onnx", "net.pruned.onnx", "net.pruned.plan.json"]
    assert path.read_bytes() == before
    assert "50.0% removed" in capsys.readouterr().out
    plan = json.loads((tmp_path / "net.pruned.plan.json").read_text())
    assert plan["format"] == "onnxprune-plan/1"
    pruned = {t.name: list(t.dims) for t in onnx.load(tmp_path / "net.pruned.onnx").graph.initializer}
    for name, axes in plan["kept"].items():
        for axis, positions in axes.items():
            assert pruned[name][int(axis)] == len(positions)


def test_a_budget_is_met_or_the_exit_status_is_one(tmp_path: Path, capsys: Capture) -> None:
    path = write(tmp_path)
    assert run([str(path), "--macs", "60%", "--format", "json", *FAST]) == 0
    report = json.loads(capsys.readouterr().out)
    assert 0.5 < report["macs"]["kept"] <= 0.6
    assert report["asked"]["macs"] == "60%"
    assert run([str(path), "--macs", "1K", "--force", *FAST]) == 1
    table = capsys.readouterr().out
    assert "asked: at most 1K MACs" in table
    assert "asked: at most 1K, missed" in table
    assert "the budget of 1K MACs cannot be reached" in table
    assert (tmp_path / "net.pruned.onnx").exists()


def test_a_missed_target_writes_nothing_if_strict(tmp_path: Path, capsys: Capture) -> None:
    path = write(tmp_path)
    picture = str(tmp_path / "net.svg")
    assert run([str(path), "--macs", "1K", "--strict", "--picture", picture, *FAST]) == 1
    out, err = capsys.readouterr()
    assert "the budget of 1K MACs cannot be reached" in out
    assert "nothing was written (--strict)" in err
    assert sorted(files(tmp_path)) == ["net.onnx"]
    assert run([str(path), "--macs", "50%", "--strict", *FAST]) == 0
    assert (tmp_path / "net.pruned.onnx").exists()


def test_several_targets_are_asked_and_reported_together(tmp_path: Path, capsys: Capture) -> None:
    path = write(tmp_path)
    assert run([str(path), "--macs", "60%", "--memory", "90%", "--size", "15KB", *FAST]) == 0
    out = capsys.readouterr().out
    assert "asked: at most 60% of the MACs and 15KB of files and 90% of the memory" in out
    assert (tmp_path / "net.pruned.onnx").stat().st_size <= 15_000


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
    assert f"{report['bytes']['kept']:.1%}" in row["file size"]
    assert f"largest relative difference {report['verification']['error']:.1e}" in table
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


def test_accuracy_is_measured_on_samples_not_used_for_fitting(tmp_path: Path, capsys: Capture) -> None:
    path, data = write(tmp_path), tmp_path / "data.npz"
    rng = np.random.default_rng(0)
    np.savez(data, x=rng.standard_normal((20, 3, 8, 8)).astype("f"), label=rng.integers(0, 5, 20))
    given = ["--data", str(data), "--format", "json", "--force", "--no-bench"]
    assert run([str(path), "--ratio", "0.5", "--recover", "none", *given]) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == 20
    assert run([str(path), "--ratio", "0.5", "--recover", "reconstruct", *given]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["samples"] == report["recovery"]["judged"] == 4  # the others were used for fitting
    assert report["recovery"]["fitted"] == 16
    assert 0 <= report["accuracy"]["after"] <= 1


def test_a_missed_ratio_gives_exit_status_one(tmp_path: Path, capsys: Capture) -> None:
    path = write(tmp_path)
    assert run([str(path), "--ratio", "0.99", "--align", "none", *FAST]) == 1
    shown = capsys.readouterr()
    assert "asked: 99% of" in shown.out
    assert "instead of 99%" in shown.out
    assert "a requested limit was missed" in shown.err
    assert (tmp_path / "net.pruned.onnx").exists()


def test_images_labels_and_a_metric_can_be_given_as_options(
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
    assert re.search(r"accuracy +-3 +-3 +spread on 9 samples", shown)
