# SPDX-License-Identifier: Apache-2.0
"""`onnxprune unify`: what it writes and says, and one clear line for what cannot be unified."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper, numpy_helper

from onnxprune.cli.app import run
from tests.cases.commands import FAST, Capture, files, refused
from tests.cases.nets import external, small, write
from tests.cases.releases import needs
from tests.cases.text import model


def unified(folder: Path, *options: str, net: ModelProto | None = None) -> Path:
    """A unified file beside its original."""
    assert run(["unify", str(write(folder, net)), "--block", "8", *FAST, *options]) == 0
    return folder / "net.unified.onnx"


def test_the_model_and_its_plan_are_written_beside_the_original(tmp_path: Path, capsys: Capture) -> None:
    path = unified(tmp_path)
    assert {*files(tmp_path)} == {"net.onnx", "net.unified.onnx", "net.unified.plan.json"}
    assert onnx.load(tmp_path / "net.onnx") == small()
    assert path.stat().st_size < 0.6 * (tmp_path / "net.onnx").stat().st_size
    out = " ".join(capsys.readouterr().out.split())
    assert "blocks of 8: 504 share a magnitude, in 2 weights" in out
    assert "codes in INT8, loads in onnxruntime 1.20 and newer" in out
    assert "verified: every block has what is claimed" in out
    assert "not unified: w1, w4" in out
    assert "unknown: no --data; blocks have the mean magnitude of their weights. Give --data" in out


@needs(onnxruntime="1.24")
def test_json_is_the_report_alone(tmp_path: Path, capsys: Capture) -> None:
    unified(tmp_path, "--format", "json", "--share", "0.5", "--zero", "0.25", "--runtime", "1.24")
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert err == ""
    rows = found["unification"]["weights"]
    assert [sum(row[kind] for row in rows) for kind in ("shared", "zero", "free")] == [252, 126, 126]
    assert found["unification"]["carrier"]["codes"] == "INT4"
    assert found["plan"].endswith("net.unified.plan.json")


def test_a_packed_result_is_read_by_the_other_commands(tmp_path: Path, capsys: Capture) -> None:
    unified(tmp_path, "--pack", "zst")
    packed = str(tmp_path / "net.unified.onnx.zst")
    assert run(["verify", str(tmp_path / "net.onnx"), packed, str(tmp_path / "net.unified.plan.json")]) == 0
    capsys.readouterr()
    assert "already unified" in refused(["unify", packed, *FAST], capsys)


def test_verify_says_what_it_compared(tmp_path: Path, capsys: Capture) -> None:
    path = unified(tmp_path)
    capsys.readouterr()
    assert run(["verify", str(tmp_path / "net.onnx"), str(path), str(tmp_path / "net.unified.plan.json")]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert out.startswith(
        "verified: every block has one magnitude or is zero, as the plan says; magnitudes and all other weights are those of "
        "the original; no channel was removed"
    )
    words = ["verify", str(tmp_path / "net.onnx"), str(path), str(tmp_path / "net.unified.plan.json"), "--format", "json"]
    assert run(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["unified"], found["refitted"], found["error"]) == (["w2", "w3"], "", 0)


def test_verify_refuses_a_file_with_a_broken_block_with_status_1(tmp_path: Path, capsys: Capture) -> None:
    path = unified(tmp_path)
    net = onnx.load(path)
    [codes] = [t for t in net.graph.initializer if t.name == "w2_codes"]
    broken = numpy_helper.to_array(codes).copy()
    broken.flat[0] = 2
    codes.CopyFrom(numpy_helper.from_array(broken, codes.name))
    onnx.save(net, path)
    capsys.readouterr()
    words = ["verify", str(tmp_path / "net.onnx"), str(path), str(tmp_path / "net.unified.plan.json")]
    assert "'w2' has 1 block with several magnitudes" in refused(words, capsys, 1)


def test_weights_in_a_separate_file_stay_separate_and_are_not_touched(tmp_path: Path, capsys: Capture) -> None:
    path = external(tmp_path)
    before = files(tmp_path)
    assert run(["unify", str(path), "--block", "8", *FAST]) == 0
    after = files(tmp_path)
    assert after.keys() - before.keys() == {"net.unified.onnx", "net.unified.onnx.data", "net.unified.plan.json"}
    assert {name: after[name] for name in before} == before
    assert len(after["net.unified.onnx.data"]) < 0.7 * len(before["net.bin"])
    words = ["verify", str(path), str(tmp_path / "net.unified.onnx"), str(tmp_path / "net.unified.plan.json")]
    assert run(words) == 0
    capsys.readouterr()


def test_inspect_says_that_unified_weights_cannot_be_cut(tmp_path: Path, capsys: Capture) -> None:
    path = unified(tmp_path)
    capsys.readouterr()
    assert run(["inspect", str(path)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert said.endswith("note: 2 weights in blocks of one magnitude, such as w2, cannot be cut; inspect the original")
    assert run(["inspect", str(tmp_path / "net.onnx")]) == 0
    assert "blocks of one magnitude" not in capsys.readouterr().out


def test_apply_repeats_the_blocks_in_a_retrained_copy(tmp_path: Path, capsys: Capture) -> None:
    unified(tmp_path, "--zero", "0.5")
    copy, out = write(tmp_path, small(seed=1), "copy.onnx"), tmp_path / "again.onnx"
    plan = str(tmp_path / "net.unified.plan.json")
    capsys.readouterr()
    assert run(["apply", str(copy), plan, "--no-bench", "-o", str(out)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "asked: blocks of 8" in said
    assert "accuracy: unknown: apply measures none; blocks have the mean magnitude of their weights" in said
    assert "not verified" not in said
    assert run(["verify", str(copy), str(out), plan]) == 0
    capsys.readouterr()


def test_apply_does_not_speak_of_a_fit_that_it_does_not_repeat(tmp_path: Path, capsys: Capture) -> None:
    data = tmp_path / "data.npz"
    np.savez(data, x=np.random.default_rng(0).standard_normal((40, 3, 8, 8)).astype("f"))
    words = ["unify", str(write(tmp_path)), "--block", "8", "--no-bench", "--recover", "reconstruct", "--data", str(data)]
    assert run(words) == 0
    plan = tmp_path / "net.unified.plan.json"
    assert json.loads(plan.read_text())["made_by"]["recovered"] == "reconstruct"
    capsys.readouterr()
    assert run(["apply", str(tmp_path / "net.onnx"), str(plan), "--no-bench", "-o", str(tmp_path / "again.onnx")]) == 0
    assert "asked: blocks of 8\n" in capsys.readouterr().out


def test_the_default_command_cuts_and_then_unifies(tmp_path: Path, capsys: Capture) -> None:
    path = write(tmp_path)
    assert run([str(path), "--ratio", "0.3", "--unify", "8", "--align", "none", *FAST]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "blocks of 8: " in out
    assert "file size, cut" in out
    assert run(["verify", str(path), str(tmp_path / "net.pruned.onnx"), str(tmp_path / "net.pruned.plan.json")]) == 0


def given(*options: str, net: ModelProto | None = None) -> Callable[[Path], list[str]]:
    """A command on a model."""
    return lambda folder: ["unify", str(write(folder, net)), *FAST, *options]


def quantized() -> ModelProto:
    """A model whose weights are integers with scales."""
    net = small()
    for name in ("w1", "w2", "w3", "w4"):
        [tensor] = [t for t in net.graph.initializer if t.name == name]
        codes = np.round(numpy_helper.to_array(tensor) * 100).astype(np.int8)
        tensor.CopyFrom(numpy_helper.from_array(codes, f"{name}_int"))
        net.graph.initializer.append(numpy_helper.from_array(np.array(0.01, np.float32), f"{name}_scale"))
        net.graph.node.insert(0, helper.make_node("DequantizeLinear", [f"{name}_int", f"{name}_scale"], [name]))
    return net


def unified_already(folder: Path) -> list[str]:
    return ["unify", str(unified(folder)), "--block", "8", *FAST]


def unified_already_and_cut(folder: Path) -> list[str]:
    return [str(unified(folder)), "--ratio", "0.3", "--unify", "8", *FAST]


def output_exists(folder: Path) -> list[str]:
    (folder / "net.unified.onnx").write_text("mine")
    return ["unify", str(write(folder)), *FAST]


BARE = "g (float[N,8] x, float[8,8] w1, float[8,8] w2, float[8,8] w3) => (float[N,8] y) {{ {} }}".format(
    "a = MatMul(x, w1)  b = MatMul(a, w2)  y = MatMul(b, w3)"
)
BAD: dict[str, tuple[Callable[[Path], list[str]], str]] = {
    "block": (given("--block", "200"), "block size: got 200, 200 inputs, but the largest weight of this model has 144"),
    "outputs": (given("--block", "17x8"), "block size: got 17x8, 17 outputs, but the largest weight of this model has 16"),
    "kernel": (given("--block", "1x8x5x5"), "5 kernel positions, but the largest weight of this model has 3"),
    "rank": (given("--block", "1x8x3"), "3 sizes, but the weights of this model have 2, 4 axes"),
    "block 0": (given("--block", "0"), "block size: got '0', expected sizes such as 16"),
    "block below": (given("--block", "-8"), "block size: got '-8', expected sizes such as 16"),
    "block text": (given("--block", "big"), "block size: got 'big', expected sizes such as 16"),
    "block 1": (given("--block", "1"), "a block of one saves nothing"),
    "share above": (given("--share", "1.01"), "--share: got 1.01, expected a share of all blocks, between 0 and 1"),
    "share below": (given("--share", "-0.5"), "--share: got -0.5"),
    "share nan": (given("--share", "nan"), "--share: got nan"),
    "share text": (given("--share", "half"), "--share"),
    "zero above": (given("--zero", "2", "--share", "0"), "--zero: got 2"),
    "zero above, no share": (given("--zero", "2"), "--zero: got 2"),
    "both above": (given("--share", "0.7", "--zero", "0.4"), "--share and --zero: got 1.1 together"),
    "both 0": (given("--share", "0", "--zero", "0"), "--share and --zero: got 0 together, expected more than 0"),
    "less than a block": (given("--share", "0.0001"), "less than one of"),
    "old runtime": (given("--runtime", "1.10"), "--runtime: got 1.10, expected 1.20 or newer"),
    "runtime": (given("--runtime", "abc"), "--runtime: got 'abc', expected a version of onnxruntime such as 1.24"),
    "exclude": (given("--exclude", "nothing*"), "--exclude: 'nothing*' matches no weight"),
    "all excluded": (given("--exclude", "*"), "--exclude: * leaves no weight of this model to unify"),
    "bias": (lambda f: ["unify", str(write(f)), "--recover", "bias"], "--recover: got bias, which cannot fit blocks"),
    "integers": (given(net=quantized()), "has no weight of a convolution or matrix product that is stored as floating-point"),
    "no layers between": (
        given("--block", "8", net=model(BARE.replace("b = MatMul(a, w2)", "b = Relu(a)"))),
        "without --all-layers",
    ),
    "smaller weights": (given(net=model(BARE)), "block size: got 16, 16 inputs, but the largest weight of this model has 8"),
    "unified": (unified_already, "has already unified weights, such as 'w2'; unify the original instead"),
    "unified, then cut": (
        unified_already_and_cut,
        "such as 'w2', whose channels cannot be removed; cut the original",
    ),
    "no data": (lambda f: ["unify", str(write(f, model(BARE))), "--block", "8"], "give a few dozen typical inputs with --data"),
    "output exists": (output_exists, "use --force"),
    "no model": (lambda f: ["unify", str(f / "no.onnx")], "no such file"),
}


@pytest.mark.parametrize(("command", "why"), BAD.values(), ids=BAD)
def test_what_is_wrong_is_said_in_one_line_and_nothing_is_written(
    command: Callable[[Path], list[str]], why: str, tmp_path: Path, capsys: Capture
) -> None:
    words = command(tmp_path)
    capsys.readouterr()
    before = files(tmp_path)
    assert why in refused(words, capsys)
    assert files(tmp_path) == before


def test_a_file_that_would_not_have_its_blocks_is_not_written(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoilt(net: ModelProto, divisions: Any) -> ModelProto:
        return net

    monkeypatch.setattr("onnxprune.pipeline.blocks.projected", spoilt)
    words = ["unify", str(write(tmp_path)), "--block", "8", *FAST]
    assert "'w2' has 216 blocks with several magnitudes" in refused(words, capsys, 1)
    assert {*files(tmp_path)} == {"net.onnx"}
