# SPDX-License-Identifier: Apache-2.0
"""Packed models on the command line: every command reads one, and `--pack zst` writes one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from onnxprune.cli.app import COMMANDS, run
from onnxprune.ir.files import load
from onnxprune.ir.saving import save
from tests.cases.commands import FAST, Capture, files, refused
from tests.cases.nets import TRAINED, pruned, small, write

ZST = ("--pack", "zst")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a packed model, a packed cut of it, its plan, and data."""
    save(small(), tmp_path / "net.onnx.zst")
    pruned(tmp_path / "net.onnx.zst", 0.5, align="none").save(tmp_path / "p.onnx.zst", tmp_path / "p.json")
    np.savez(tmp_path / "d.npz", x=np.random.default_rng(0).standard_normal((20, 3, 8, 8)).astype("f"))
    return tmp_path


READING: dict[str, list[str]] = {
    "prune": ["prune", "HERE/net.onnx.zst", "--ratio", "0.5", "--bench", "--recover", "none"],
    "prune with recovery": ["HERE/net.onnx.zst", "--ratio", "0.5", "--recover", "bias", "--data", "HERE/d.npz", "--no-bench"],
    "apply": ["apply", "HERE/net.onnx.zst", "HERE/p.json"],
    "unify": ["unify", "HERE/net.onnx.zst", "--data", "HERE/d.npz", "--all-layers", "--recover", "reconstruct", "--no-bench"],
    "inspect": ["inspect", "HERE/net.onnx.zst"],
    "explain": ["explain", "HERE/net.onnx.zst", "w3"],
    "sensitivity": ["sensitivity", "HERE/net.onnx.zst", "--data", "HERE/d.npz", "--ratios", "0.5"],
    "search": [
        *("search", "HERE/net.onnx.zst", "--data", "HERE/d.npz", "--macs", "60%", "--trials", "2", "--no-bench"),
        *("--recover", "none", "--best", "1"),
    ],
    "verify": ["verify", "HERE/net.onnx.zst", "HERE/p.onnx.zst", "HERE/p.json"],
    "bench": ["bench", "HERE/net.onnx.zst", "HERE/p.onnx.zst", "--seconds", "0.1"],
}


@pytest.mark.parametrize("command", READING.values(), ids=READING)
def test_every_command_reads_a_packed_model(command: list[str], folder: Path, capsys: Capture) -> None:
    before = files(folder)
    assert run([word.replace("HERE", str(folder)) for word in command]) == 0
    assert {name: files(folder)[name] for name in before} == before
    assert "net.onnx.zst" in capsys.readouterr().out or command[0] in ("inspect", "explain", "verify")


def test_a_command_without_a_packed_model_is_detected() -> None:
    assert {command[0] for command in READING.values()} >= COMMANDS.keys() - {"profile"}  # which reads none


def test_a_plan_is_for_the_plain_and_the_packed_file(folder: Path, capsys: Capture) -> None:
    plain = write(folder)
    for model in (plain, folder / "net.onnx.zst"):
        assert run(["verify", str(model), str(folder / "p.onnx.zst"), str(folder / "p.json")]) == 0
        assert run(["apply", str(model), str(folder / "p.json"), "--no-bench", "--force"]) == 0
        assert "retrained copy" not in capsys.readouterr().out
    assert json.loads((folder / "p.json").read_text())["model_sha256"] == load(plain).sha256


NAMES: dict[str, tuple[tuple[str, ...], list[str]]] = {
    "default": ((), ["net.pruned.onnx", "net.pruned.plan.json"]),
    "--pack": (ZST, ["net.pruned.onnx.zst", "net.pruned.plan.json"]),
    "--pack -o": ((*ZST, "-o", "HERE/o.onnx"), ["o.onnx.zst", "o.plan.json"]),
    "--pack -o .zst": ((*ZST, "-o", "HERE/o.onnx.zst"), ["o.onnx.zst", "o.plan.json"]),
    "-o .zst": (("-o", "HERE/o.onnx.zst"), ["o.onnx.zst", "o.plan.json"]),
    "-o .onnx": (("-o", "HERE/o.onnx"), ["o.onnx", "o.plan.json"]),
}


@pytest.mark.parametrize(("options", "names"), NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("source", ["net.onnx", "net.onnx.zst"])
def test_the_name_of_the_output_says_whether_it_is_packed(
    source: str, options: tuple[str, ...], names: list[str], tmp_path: Path, capsys: Capture
) -> None:
    save(small(), tmp_path / source)
    words = [w.replace("HERE", str(tmp_path)) for w in options]
    assert run([str(tmp_path / source), "--ratio", "0.5", *words, *FAST]) == 0
    assert sorted(files(tmp_path)) == sorted([source, *names])
    assert names[0] in capsys.readouterr().out
    magic = (tmp_path / names[0]).read_bytes()[:4]
    assert (magic == bytes.fromhex("28b52ffd")) == names[0].endswith(".zst")


WRITING: list[tuple[list[str], str, set[str]]] = [
    (["apply", "HERE/net.onnx.zst", "HERE/p.json", "--no-bench"], "net.pruned.onnx.zst", set()),
    (READING["unify"], "net.unified.onnx.zst", {"net.unified.plan.json"}),
]


@pytest.mark.parametrize(("command", "name", "others"), WRITING, ids=["apply", "unify"])
def test_the_other_commands_that_write_a_model_pack_it_too(
    command: list[str], name: str, others: set[str], folder: Path
) -> None:
    before = files(folder)
    assert run([*(word.replace("HERE", str(folder)) for word in command), *ZST]) == 0
    assert files(folder).keys() - before.keys() == {name, *others}
    assert load(folder / name).model.graph.node


def test_a_packed_model_is_smaller(tmp_path: Path) -> None:
    assert run([str(TRAINED), "--ratio", "0.5", *FAST, *ZST, "-o", str(tmp_path / "o.onnx")]) == 0
    packed = tmp_path / "o.onnx.zst"
    size = load(packed).size
    assert size is not None
    assert packed.stat().st_size < size


@pytest.mark.parametrize("data", [b"", b"PK\3\4", bytes.fromhex("28b52ffd"), b"\x28\xb5\x2f\xfd" * 9])
@pytest.mark.parametrize("command", READING.values(), ids=READING)
def test_a_bad_packed_file_gives_one_line_and_writes_nothing(
    command: list[str], data: bytes, folder: Path, capsys: Capture
) -> None:
    (folder / "net.onnx.zst").write_bytes(data)
    before = files(folder)
    assert f"{folder}/net.onnx.zst: " in refused([word.replace("HERE", str(folder)) for word in command], capsys)
    assert files(folder) == before


def test_a_packed_input_is_never_overwritten(folder: Path, capsys: Capture) -> None:
    before = files(folder)
    for options in (["-o", str(folder / "net.onnx.zst")], ["-o", str(folder / "net.onnx"), *ZST]):
        command = [str(folder / "net.onnx.zst"), "--ratio", "0.5", "--force", *options]
        assert "is the input itself" in refused(command, capsys)
    assert files(folder) == before


def test_a_packed_output_does_not_take_the_plan_of_a_plain_one(tmp_path: Path, capsys: Capture) -> None:
    path = write(tmp_path)
    command = [str(path), *FAST, "--ratio"]
    assert run([*command, "0.5"]) == 0
    plan = tmp_path / "net.pruned.plan.json"
    before = plan.read_text()
    capsys.readouterr()
    assert "is the plan of" in refused([*command, "0.25", "--force", "--pack", "zst"], capsys)
    assert plan.read_text() == before
    assert not (tmp_path / "net.pruned.onnx.zst").exists()
    assert run([*command, "0.25", "--force"]) == 0  # its own plan is replaced with it
    (tmp_path / "net.pruned.onnx").unlink()
    assert run([*command, "0.5", "--force", "--pack", "zst"]) == 0  # and a plan that belongs to nothing any more
