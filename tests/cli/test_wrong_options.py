# SPDX-License-Identifier: Apache-2.0
"""A wrong option ends the run in one line before anything slow: nothing is generated, run or written.

Errors that the command line alone shows are reported before the model is read; those that need the graph, before any sample is
generated and any model is run.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.main import get_command

from onnxprune.cli.app import app, run
from onnxprune.options import MOST_THREADS
from tests.cases.commands import FAST, Capture, files, refused
from tests.cases.nets import TRAINED, external
from tests.cases.profiles import PI, profile

RATIO = ("--ratio", "0.5")
NAMES: dict[str, tuple[tuple[str, ...], str]] = {
    "ratio below": (("--ratio", "-1"), "expected 0 <= ratio < 1"),
    "ratio of one": (("--ratio", "1"), "expected 0 <= ratio < 1"),
    "ratio above": (("--ratio", "7"), "expected 0 <= ratio < 1"),
    "ratio nan": (("--ratio", "nan"), "expected 0 <= ratio < 1"),
    "ratio infinite": (("--ratio", "inf"), "expected 0 <= ratio < 1"),
    "ratio superscript": (("--ratio", "²"), "--ratio"),
    "ratio abc": (("--ratio", "abc"), "--ratio"),
    "no ratio": ((), "--ratio, --macs, --params, --size, --memory, --latency: got neither"),
    "params": (("--params", "12ms"), "such as 50% or 5M"),
    "size": (("--size", "300M"), "such as 50% or 2MB"),
    "a loss without data": ((*RATIO, "--max-loss", "1%"), "--max-loss: requires --data"),
    "a loss on made-up inputs": ((*RATIO, "--max-loss", "1%", "--data", "synthetic"), "--max-loss: requires --data"),
    "loss": ((*RATIO, "--max-loss", "60%"), "such as 1% or 0.01"),
    "loss without a unit": (("--max-loss", "1"), "did you mean 1%?"),
    "widths": ((*RATIO, "--widths", "best"), "expected one of order, knapsack"),
    "normalise": ((*RATIO, "--normalise", "mode"), "expected one of none, mean, max, standard"),
    "no file of layer ratios": (("--layer-ratios", "HERE/nowhere.toml"), "cannot be read: No such file"),
    "latency": (("--latency", "12MB"), "such as 50% or 12ms"),
    "latency without measuring": (("--latency", "50%", "--no-bench"), "--no-bench leaves measuring out"),
    "memory": (("--memory", "0"), "such as 50% or 20MB"),
    "ratio and macs": ((*RATIO, "--macs", "50%"), "got both"),
    "macs above": (("--macs", "150%"), "expected at most 100%"),
    "macs": (("--macs", "0.5"), "such as 50%"),
    "macs without a unit": (("--macs", "50"), "did you mean 50%?"),
    "criterion": ((*RATIO, "--criterion", "ccprun"), "did you mean 'ccprune'"),
    "criterion without inputs": ((*RATIO, "--criterion", "obs", "--recover", "none"), "--criterion obs: "),
    "scores missing": ((*RATIO, "--scores", "HERE/no.npz"), "--scores"),
    "scores not numbers": ((*RATIO, "--scores", "HERE/text.npz"), "expected finite numbers"),
    "scores without names": ((*RATIO, "--scores", "HERE/d.npy"), "expected an .npz"),
    "scores unreadable": ((*RATIO, "--scores", "HERE/net.onnx"), "--scores"),
    "scope": ((*RATIO, "--scope", "all"), "expected one of global, isomorphic, local"),
    "align": ((*RATIO, "--align", "wide"), "expected auto, none, or a number"),
    "align superscript": ((*RATIO, "--align", "²"), "expected auto, none, or a number"),
    "align long": ((*RATIO, "--align", "9" * 5000), "expected auto, none, or a number"),
    "align zero": ((*RATIO, "--align", "0"), "expected auto, none, or a number"),
    "no profile": ((*RATIO, "--profile", "HERE/no.json"), "no.json: cannot be read: No such file"),
    "profile not JSON": (
        (*RATIO, "--profile", "HERE/net.onnx"),
        "is not JSON; expected a file that 'onnxprune profile -o FILE'",
    ),
    "profile of another format": ((*RATIO, "--profile", "HERE/old.json"), "got format 'onnxprune-profile/0', expected"),
    "profile and align": ((*RATIO, "--profile", "HERE/pi.json", "--align", "8"), "decides what --align auto means"),
    "profile of another machine": (("--latency", "50%", "--profile", "HERE/pi.json"), "but --latency is measured here"),
    "profile for other threads": (
        ("--latency", "50%", "--profile", "HERE/here.json", "--threads", "2"),
        "measured elsewhere, or otherwise (threads 1 instead of 2)",
    ),
    "profile is output": ((*RATIO, "--profile", "HERE/pi.json", "-o", "HERE/pi.json", "--force"), "is the input itself"),
    "other machine alone": ((*RATIO, "--other-machine"), "--other-machine: requires --profile"),
    "carrier": ((*RATIO, "--carrier", "both"), "--carrier"),
    "data missing": ((*RATIO, "--data", "HERE/no.npz"), "no such file"),
    "data empty": ((*RATIO, "--data", ""), "--data: got '', expected a file"),
    "data too long": ((*RATIO, "--data", "n" * 300), "cannot be read: File name too long"),
    "data with line breaks": ((*RATIO, "--data", "no\nsuch\x1b[31m"), "no such file"),
    "data nowhere": ((*RATIO, "--data", "nowhere"), "--data nowhere: no such file"),
    "data: unknown module": ((*RATIO, "--data", "no_such_module:samples"), "no_such_module"),
    "data: unknown function": ((*RATIO, "--data", "json:samples"), "samples"),
    "preprocess alone": ((*RATIO, "--recover", "none", "--preprocess", "size=8x8"), "--preprocess: "),
    "preprocess key": ((*RATIO, "--data", "HERE/images", "--preprocess", "sise=8"), "size"),
    "preprocess with noise": ((*RATIO, "--data", "random", "--preprocess", "size=8"), "folders of images"),
    "samples": ((*RATIO, "--data", "random", "--samples", "-1"), "expected at least 1"),
    "samples superscript": ((*RATIO, "--data", "random", "--samples", "²"), "--samples"),
    "samples nan": ((*RATIO, "--data", "random", "--samples", "nan"), "--samples"),
    "samples alone": ((*RATIO, "--samples", "9"), "--samples: "),
    "labels alone": ((*RATIO, "--labels", "l.csv"), "--labels: "),
    "labels of generated inputs": ((*RATIO, "--data", "synthetic", "--labels", "HERE/l.csv"), "have no true labels"),
    "labels empty": ((*RATIO, "--data", "HERE/d.npz", "--labels", ""), "--labels .: is a folder; expected a file"),
    "labels missing": ((*RATIO, "--data", "HERE/d.npz", "--labels", "HERE/no.csv"), "no such file"),
    "metric empty": ((*RATIO, "--data", "random", "--metric", ""), "expected module:function"),
    "metric": ((*RATIO, "--data", "random", "--metric", "mine"), "expected module:function"),
    "metric: unknown module": ((*RATIO, "--data", "random", "--metric", "no_such_module:f"), "no_such_module"),
    "metric: unknown function": ((*RATIO, "--data", "random", "--metric", "json:no_such_function"), "no_such_function"),
    "input shape": ((*RATIO, "--input-shape", "x:1xbig"), "or NAME:1x3x224x224"),
    "input shape superscript": ((*RATIO, "--input-shape", "x:²x3x8x8"), "or NAME:1x3x224x224"),
    "input shape long": ((*RATIO, "--input-shape", "x:" + "9" * 30 + "x3x8x8"), "or NAME:1x3x224x224"),
    "input shape zero": ((*RATIO, "--input-shape", "1x0x8x8"), "or NAME:1x3x224x224"),
    "seed": ((*RATIO, "--seed", "-3"), "--seed: got -3"),
    "seed of one below zero": ((*RATIO, "--seed", "-1"), "--seed: got -1"),
    "seed superscript": ((*RATIO, "--seed", "²"), "--seed"),
    "seed beyond all generators": ((*RATIO, "--seed", str(2**63)), "less than 2^63"),
    "recover": ((*RATIO, "--recover", "magic"), "--recover: got 'magic'"),
    "rounds": ((*RATIO, "--rounds", "0"), "--rounds: got 0"),
    "rounds without recovery": ((*RATIO, "--rounds", "2", "--recover", "none"), "--rounds: "),
    "time budget nan": ((*RATIO, "--time-budget", "nan"), "--time-budget: got 'nan'"),
    "time budget infinite": ((*RATIO, "--time-budget", "inf"), "--time-budget: got 'inf'"),
    "time budget that overflows": ((*RATIO, "--time-budget", "9" * 310 + "h"), "expected a time such as"),
    "time budget": ((*RATIO, "--time-budget", "soon"), "--time-budget: got 'soon'"),
    "work": ((*RATIO, "--work", "HERE/no.json"), "no.json"),
    "unify": ((*RATIO, "--unify", "0"), "expected sizes such as 16 (inputs)"),
    "unify text": ((*RATIO, "--unify", "wide"), "expected sizes such as 16 (inputs)"),
    "unify one": ((*RATIO, "--unify", "1"), "a block of one saves nothing"),
    "unify with bias": (
        (*RATIO, "--unify", "16", "--recover", "bias"),
        "choose auto, reconstruct, distill or none for unified weights",
    ),
    "share": ((*RATIO, "--unify", "16", "--share", "1.5"), "--share: got 1.5"),
    "share nan": ((*RATIO, "--unify", "16", "--share", "nan"), "--share: got nan"),
    "zero nan": ((*RATIO, "--unify", "16", "--zero", "nan"), "--zero: got nan"),
    "share alone": ((*RATIO, "--share", "0.5"), "--share: requires --unify"),
    "zero": ((*RATIO, "--unify", "16", "--zero", "-0.5"), "--zero: got -0.5"),
    "zero alone": ((*RATIO, "--zero", "0.5"), "--zero: requires --unify"),
    "share and zero": ((*RATIO, "--unify", "16", "--share", "0.6", "--zero", "0.6"), "--share and --zero: got 1.2 together"),
    "all layers alone": ((*RATIO, "--all-layers"), "--all-layers: requires --unify"),
    "runtime superscript": ((*RATIO, "--unify", "16", "--runtime", "1.²"), "such as 1.24"),
    "runtime": ((*RATIO, "--unify", "16", "--runtime", "new"), "such as 1.24"),
    "runtime alone": ((*RATIO, "--runtime", "1.24"), "--runtime: requires --unify"),
    "threads": ((*RATIO, "--threads", "0"), "expected at least 1"),
    "too many threads": ((*RATIO, "--threads", "100000"), f"expected at most {MOST_THREADS}"),
    "preprocess nan": ((*RATIO, "--data", "HERE/images", "--preprocess", "mean=nan"), "numbers such as"),
    "preprocess superscript": ((*RATIO, "--data", "HERE/images", "--preprocess", "size=²"), "a size such as"),
    "output folder": ((*RATIO, "-o", "HERE/no/o.onnx"), "no such folder"),
    "output is a folder": ((*RATIO, "-o", "HERE/images"), "is a folder"),
    "output is input": ((*RATIO, "-o", "HERE/net.onnx", "--force"), "is the input itself"),
    "output is data": ((*RATIO, "--data", "HERE/d.npz", "-o", "HERE/d.npz", "--force"), "is the input itself"),
    "output exists": ((*RATIO, "-o", "HERE/d.npz"), "use --force"),
    "plan is input": ((*RATIO, "--plan", "HERE/net.onnx", "--force"), "is the input itself"),
    "plan is output": ((*RATIO, "-o", "HERE/o", "--plan", "HERE/o"), "for both the model and the plan"),
    "plan folder": ((*RATIO, "--plan", "HERE/no/p.json"), "no such folder"),
    "output without a name": ((*RATIO, "-o", ""), "name a file in it"),
    "plan without a name": ((*RATIO, "--plan", ""), "name a file in it"),
    "picture without a name": ((*RATIO, "--picture", ""), "ends in .svg"),
    "output too long for its drafts": (
        (*RATIO, "-o", "HERE/" + "n" * 250),
        "a name of 250 bytes for an output, expected at most",
    ),
    "output too long": ((*RATIO, "-o", "HERE/" + "n" * 300), "a name of 300 bytes for an output, expected at most"),
    "plan too long": ((*RATIO, "--plan", "HERE/" + "n" * 300), "a name of 300 bytes for an output, expected at most"),
    "path too long": ((*RATIO, "-o", "HERE/" + "d/" * 2100 + "o"), "for an output, expected at most 4,000"),
    "plan is the output's weights": ((*RATIO, "-o", "HERE/o", "--plan", "HERE/o.data"), "for both the weights and the plan"),
    "picture is output": ((*RATIO, "-o", "HERE/o.svg", "--picture", "HERE/o.svg"), "for both the model and the picture"),
    "picture is plan": ((*RATIO, "--plan", "HERE/o.svg", "--picture", "HERE/o.svg"), "for both the plan and the picture"),
    "picture exists": ((*RATIO, "--picture", "HERE/old.svg"), "use --force"),
    "picture": ((*RATIO, "--picture", "HERE/p.png"), "ends in .svg"),
    "picture folder": ((*RATIO, "--picture", "HERE/no/p.svg"), "no such folder"),
    "pack": ((*RATIO, "--pack", "gz"), "'gz' is not"),
    "packed output exists": ((*RATIO, "-o", "HERE/old.onnx", "--pack", "zst"), "old.onnx.zst: already exists"),
    "packed output is a folder": ((*RATIO, "-o", "HERE/images", "--pack", "zst"), "is a folder"),
    "packed output without a name": ((*RATIO, "-o", "", "--pack", "zst"), "name a file in it"),
    "format": ((*RATIO, "--format", "xml"), "xml"),
    "unknown option": ((*RATIO, "--fast"), "--fast"),
}
"""Options, and a text that the error line contains; HERE is the folder of the model."""

GRAPH: dict[str, tuple[tuple[str, ...], str]] = {
    "include": ((*RATIO, "--include", "nothing*"), "matches no weight"),
    "exclude": ((*RATIO, "--exclude", "nothing*"), "matches no weight"),
    "all excluded": ((*RATIO, "--exclude", "w*"), "--include/--exclude"),
    "carrier pattern": ((*RATIO, "--carrier", "nothing*=outer"), "matches no weight"),
    "scores length": ((*RATIO, "--scores", "HERE/short.npz"), "expected (16,)"),
    "scores weight": ((*RATIO, "--scores", "HERE/d.npz"), "--scores"),
    "unify too large": ((*RATIO, "--unify", "64x4"), "64 outputs, but the largest weight of this model has 16"),
    "unify another rank": ((*RATIO, "--unify", "1x4x3"), "3 sizes, but the weights of this model have 2, 4 axes"),
    "unify less than a block": ((*RATIO, "--unify", "8", "--share", "0.0001"), "less than one of 504 blocks"),
    "input shape name": ((*RATIO, "--input-shape", "z:1x3x8x8"), "NAME"),
    "input shape rank": ((*RATIO, "--input-shape", "x:1x3x8"), "--input-shape"),
    "input shape of too many values": ((*RATIO, "--input-shape", "x:99999999x3x8x8"), "at most 2,147,483,648 values"),
    "input shape size": ((*RATIO, "--input-shape", "x:1x4x8x8"), "--input-shape"),
    "output is weights": ((*RATIO, "-o", "HERE/net.bin", "--force"), "is the input itself"),
    "plan is weights": ((*RATIO, "--plan", "HERE/net.bin", "--force"), "is the input itself"),
    "data of another model": ((*RATIO, "--data", "HERE/short.npz"), "missing: x"),
    "data with NaN": ((*RATIO, "--data", "HERE/nan.npz"), "'x' contains NaN, first in sample 2"),
    "labels unreadable": ((*RATIO, "--data", "HERE/d.npz", "--labels", "HERE/net.onnx"), "--labels"),
    "number of labels": ((*RATIO, "--data", "HERE/d.npz", "--labels", "HERE/l.csv"), "label"),
    "preprocess of another size": ((*RATIO, "--preprocess", "size=9x9,mean=0.5"), "use --preprocess size=8x8,mean=0.5,"),
    "preprocess without data, other channels": ((*RATIO, "--preprocess", "order=grey"), "the model expects ['any', 3, 8, 8]"),
    "preprocess with other channels": ((*RATIO, "--data", "HERE/images", "--preprocess", "order=grey"), "grey"),
}

SWITCHES = {"allow_renormalising", "depth", "verify", "bench", "strict", "dry_run"}
"""Options that cannot be wrong."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a model, its weights in a separate file, and the files that the options name."""
    from PIL import Image

    external(tmp_path)
    np.savez(tmp_path / "short.npz", w1=np.ones(3))
    np.savez(tmp_path / "d.npz", x=np.ones((6, 3, 8, 8), np.float32))
    np.save(tmp_path / "d.npy", np.ones(16))
    np.savez(tmp_path / "text.npz", w1=np.array(["a"] * 16))
    np.savez(
        tmp_path / "nan.npz", x=np.where(np.arange(6) == 2, np.nan, 1).reshape(6, 1, 1, 1) * np.ones((3, 8, 8), np.float32)
    )
    (tmp_path / "old.json").write_text('{"format": "onnxprune-profile/0"}')
    (tmp_path / "pi.json").write_text(profile(4, PI).to_json())
    (tmp_path / "here.json").write_text(profile().to_json())
    (tmp_path / "old.svg").write_text("<svg/>")
    (tmp_path / "old.onnx.zst").write_bytes(b"mine")
    (tmp_path / "l.csv").write_text("0\n1\n")
    (tmp_path / "images").mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "images" / "a.png")
    return tmp_path


def forbid(monkeypatch: pytest.MonkeyPatch, *places: str) -> None:
    """Fail the test if one of these functions is called."""

    def fails(*_: Any, **__: Any) -> None:
        raise AssertionError("too late")

    for place in places:
        monkeypatch.setattr(place, fails)


def error_line(folder: Path, options: tuple[str, ...], capsys: Capture) -> str:
    before = files(folder)
    line = refused([str(folder / "net.onnx"), *(o.replace("HERE", str(folder)) for o in options)], capsys)
    assert files(folder) == before
    return line


@pytest.mark.parametrize(("options", "why"), NAMES.values(), ids=NAMES)
def test_a_wrong_option_is_noticed_before_the_model_is_read(
    options: tuple[str, ...], why: str, folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid(monkeypatch, "onnxprune.cli.prune.opened")
    assert why in error_line(folder, options, capsys)


@pytest.mark.parametrize(("options", "why"), GRAPH.values(), ids=GRAPH)
def test_an_option_that_does_not_fit_the_graph_is_noticed_before_any_sample_is_generated_or_any_model_runs(
    options: tuple[str, ...], why: str, folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid(
        monkeypatch,
        "onnxruntime.InferenceSession",
        "onnxprune.data.synthetic.synthesize.synthesize",
        "onnxprune.pipeline.prune.provide",
    )
    assert why in error_line(folder, options, capsys)


def test_every_option_has_a_test_with_a_wrong_value() -> None:
    prune = get_command(app).commands["prune"]  # type: ignore[attr-defined]
    tried = {word for options, _ in (*NAMES.values(), *GRAPH.values()) for word in options if word.startswith("-")}
    untried = {p.name for p in prune.params if not tried & {*p.opts}} - {"model"}
    assert untried == SWITCHES


ARGUMENTS = {
    "apply": ["HERE/net.onnx", "HERE/p.json"],
    "inspect": ["HERE/net.onnx"],
    "explain": ["HERE/net.onnx", "w1"],
    "verify": ["HERE/net.onnx", "HERE/net.onnx", "HERE/p.json"],
    "bench": ["HERE/net.onnx"],
    "unify": ["HERE/net.onnx"],
}
"""What each of the other commands is given, besides options."""
WRONG = {
    "--input-shape": ("big", "or NAME:1x3x224x224"),
    "--carrier": ("both", "expected auto, outer, inner"),
    "--threads": ("0", "--threads: got 0"),
    "--seconds": ("0", "--seconds: got 0"),
    "--picture": ("HERE/p.png", "ends in .svg"),
    "--output": ("HERE/no/o.onnx", "no such folder"),
    "--pack": ("gz", "'gz' is not"),
    "--format": ("xml", "xml"),
    "--block": ("0", "block size: got '0', expected sizes such as 16 (inputs)"),
    "--share": ("2", "--share: got 2"),
    "--zero": ("1.5", "got 1.5"),
    "--scope": ("all", "--scope: got 'all', expected global or local"),
    "--runtime": ("abc", "--runtime: got 'abc', expected a version of onnxruntime such as 1.24"),
    "--data": ("HERE/no.npz", "no such file"),
    "--preprocess": ("sise=8", "size"),
    "--samples": ("-1", "--samples: "),
    "--labels": ("HERE/no.csv", "--labels: "),
    "--metric": ("mine", "--metric"),
    "--seed": ("-3", "--seed: got -3"),
    "--recover": ("magic", "--recover: got 'magic'"),
    "--time-budget": ("soon", "--time-budget: got 'soon'"),
    "--work": ("HERE/no.json", "no.json"),
    "--plan": ("HERE/no/p.json", "no such folder"),
}
"""A wrong value of each of their options, and a text that the error line contains."""


@pytest.mark.parametrize(("option", "value", "why"), [(option, *wrong) for option, wrong in WRONG.items()], ids=WRONG)
@pytest.mark.parametrize("command", ARGUMENTS)
def test_a_wrong_option_of_another_command_is_noticed_before_the_model_is_read(
    command: str, option: str, value: str, why: str, folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    if option not in options_of(command):
        assert f"No such option: {option}" in refused([command, *ARGUMENTS[command], option, value], capsys)
        return
    forbid(monkeypatch, f"onnxprune.cli.{'prune' if command == 'apply' else command}.opened")
    words = [w.replace("HERE", str(folder)) for w in (command, *ARGUMENTS[command], option, value)]
    assert why in refused(words, capsys)


def options_of(command: str) -> set[str]:
    found = get_command(app).commands[command].params  # type: ignore[attr-defined]
    return {name for p in found if p.param_type_name == "option" for name in p.opts if name.startswith("--")}


def test_every_option_of_another_command_has_a_test_with_a_wrong_value() -> None:
    tried = {*WRONG, "--verify", "--bench", "--force", "--allow-renormalising", "--depth", "--all-layers", "--exclude"}
    assert {option for command in ARGUMENTS for option in options_of(command)} <= tried


EMPTY = {
    "sensitivity: output": (["sensitivity", "HERE/net.onnx", "--data", "HERE/d.npz", "-o", ""], "name a file in it"),
    "sensitivity: model": (["sensitivity", "", "--data", "HERE/d.npz"], "name the .onnx file in it"),
    "search: storage": (
        ["search", "HERE/net.onnx", "--data", "HERE/d.npz", "--macs", "50%", "--storage", ""],
        "--storage: got ''",
    ),
    "search: storage and output": (
        ["search", "HERE/net.onnx", "--data", "HERE/d.npz", "--macs", "50%", "--storage", "HERE/o.onnx", "-o", "HERE/o.onnx"],
        "is given for both the storage and the model 1",
    ),
    "search: study": (["search", "HERE/net.onnx", "--data", "HERE/d.npz", "--macs", "50%", "--study", ""], "--study: got ''"),
    "search: best": (
        ["search", "HERE/net.onnx", "--data", "HERE/d.npz", "--macs", "50%", "--best", "9999999999"],
        "at most 100",
    ),
    "search: layer ratios": (
        ["search", "HERE/net.onnx", "--data", "HERE/d.npz", "--macs", "50%", "--layer-ratios", ""],
        "--layer-ratios .: cannot be read: is a folder",
    ),
    "search: profile": (
        ["search", "HERE/net.onnx", "--data", "HERE/d.npz", "--macs", "50%", "--profile", ""],
        "--profile .: cannot be read: is a folder",
    ),
    "search: other machine": (
        ["search", "HERE/net.onnx", "--data", "HERE/d.npz", "--macs", "50%", "--other-machine"],
        "--other-machine: requires --profile",
    ),
    "search: depth": (
        ["search", "HERE/net.onnx", "--data", "HERE/d.npz", "--macs", "50%", "--depth", "--recover", "none"],
        "--depth: got --recover none",
    ),
    "unify: time budget": (["unify", "HERE/net.onnx", "--time-budget", ""], "--time-budget: got ''"),
    "unify: plan": (["unify", "HERE/net.onnx", "--plan", ""], "name a file in it"),
}


@pytest.mark.parametrize(("words", "why"), EMPTY.values(), ids=EMPTY)
def test_empty_and_huge_values_of_other_commands_are_one_line(
    words: list[str], why: str, folder: Path, capsys: Capture
) -> None:
    assert why in refused([w.replace("HERE", str(folder)) for w in words], capsys)


def test_what_functions_print_does_not_reach_the_report(folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    Path("talks.py").write_text(
        "import numpy as np\n\n\ndef feeds():\n    print('feeds')\n"
        "    yield {'x': np.random.default_rng(0).random((6, 3, 8, 8), np.float32)}\n\n\n"
        "def metric(outputs, truth):\n    print('metric')\n    return 1.0\n"
    )
    words = [*RATIO, *FAST, "--data", "talks:feeds", "--metric", "talks:metric", "--format", "json"]
    assert run(["net.onnx", *words]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["measure"] == "metric"
    assert {"feeds", "metric"} <= set(err.split())


def test_a_picture_never_replaces_the_model_that_it_shows(folder: Path, capsys: Capture) -> None:
    (folder / "net.onnx").rename(folder / "net.svg")
    for command in (["inspect"], [*RATIO, "--force"]):
        assert "is the input itself" in refused(
            [*command, str(folder / "net.svg"), "--picture", str(folder / "net.svg")], capsys
        )


def test_labels_are_read_before_a_function_is_called_for_samples(
    folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "mine.py").write_text("def feeds():\n    raise SystemExit('too late')\n")
    monkeypatch.chdir(folder)
    options = (*RATIO, "--data", "mine:feeds", "--labels", str(folder / "net.onnx"))
    assert "--labels" in error_line(folder, options, capsys)


def test_wrong_paths_are_noticed_before_pytorch_is_imported(folder: Path) -> None:
    code = (
        "import sys; from onnxprune.cli.app import run; "
        "status = run(sys.argv[1:]); print(status, 'torch' in sys.modules, 'onnxruntime' in sys.modules)"
    )
    words = [str(folder / "net.onnx"), *RATIO, "--recover", "distill", "-o", str(folder / "no" / "o.onnx")]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "False", "False"]


def test_models_with_other_inputs_are_not_compared(folder: Path, capsys: Capture) -> None:
    assert "compare models with the same inputs" in refused(["bench", str(folder / "net.onnx"), str(TRAINED)], capsys)


def seconds(*arguments: str) -> tuple[float, subprocess.CompletedProcess[str]]:
    """The run time of a command, the shorter of two, and the finished process."""
    best, done = float("inf"), subprocess.CompletedProcess[str]([], 0)
    for _ in range(2):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", "onnxprune", *arguments], capture_output=True, text=True, check=False)
        best = min(best, time.perf_counter() - start)
    return best, done


def test_a_wrong_option_is_reported_quickly() -> None:
    """Wrong names within two seconds; if the graph is needed, within a second more than `inspect` takes."""
    by_names, done = seconds(str(TRAINED), *RATIO, "--criterion", "best")
    assert done.returncode == 2
    assert by_names < 2
    inspecting, _ = seconds("inspect", str(TRAINED))
    by_graph, done = seconds(str(TRAINED), *RATIO, "--include", "nothing*")
    assert done.returncode == 2
    assert by_graph < inspecting + 1
