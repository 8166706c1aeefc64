# SPDX-License-Identifier: Apache-2.0
"""Inspections as pictures, and in a terminal."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from onnxprune.analysis.analyse import analyse
from onnxprune.cli.app import run
from onnxprune.cli.progress import print_all
from onnxprune.ir.facts import read_graph
from onnxprune.report.inspection import inspect
from onnxprune.report.render.inspection import bar, inspection_parts
from onnxprune.report.render.svg import inspection_to_svg
from tests.cases.commands import Capture
from tests.cases.nets import small, write
from tests.cases.text import model


def test_a_picture_has_a_bar_for_each_layer(tmp_path: Path, capsys: Capture) -> None:
    picture = tmp_path / "net.svg"
    assert run(["inspect", str(write(tmp_path)), "--picture", str(picture)]) == 0
    root: Any = ElementTree.fromstring(picture.read_text(encoding="utf-8"))
    rows = [g for g in root.iter() if g.tag.endswith("}g")]
    assert len(rows) == 4
    assert "Conv 'c1'" not in rows[0][0].text
    assert "Conv c1" in rows[0][0].text
    assert "16 channels can be removed" in rows[0][0].text
    assert "5 are kept because output 'y' is a model output, so its size is fixed" in rows[3][0].text
    assert "0.0%" not in capsys.readouterr().err


def test_special_characters_in_names_are_escaped_in_svg() -> None:
    net = small()
    net.graph.node[0].name = '<a & "b">'
    drawn = ElementTree.fromstring(inspection_to_svg(inspect(analyse(read_graph(net)), "x < y.onnx")))
    texts = " ".join(drawn.itertext())
    assert "x < y.onnx" in texts
    assert '<a & "b">' in texts


@pytest.mark.parametrize("name", ["net.png", "net"])
def test_a_picture_that_is_not_an_svg_is_refused(name: str, tmp_path: Path, capsys: Capture) -> None:
    assert run(["inspect", str(write(tmp_path)), "--picture", str(tmp_path / name)]) == 2
    assert "ends in .svg" in capsys.readouterr().err


def test_bars_grow_with_the_share() -> None:
    lengths = [len(bar(k / 40)) for k in range(41)]
    assert lengths == sorted(lengths)
    assert (bar(0), bar(1)) == ("", "█" * 10)


def test_a_terminal_without_block_characters_gets_ascii(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr("rich.console.Console.encoding", "ascii")
    assert run(["inspect", str(write(tmp_path))]) == 0
    capsys.readouterr().out.encode("ascii")


LONG = """g (float[1,3,8,8] x, float[16,3,3,3] w1_of_the_first_convolution, float[16,16,3,3] w2_of_the_second_convolution,
    float[16,16,1,1] w3_of_the_third_convolution) => (float[] y) {
    a = Conv(x, w1_of_the_first_convolution)  b = Relu(a)  c = Conv(b, w2_of_the_second_convolution)
    y = Conv(c, w3_of_the_third_convolution) }"""


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_names_stay_whole_whatever_the_width(
    width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    net = model(LONG)
    for command in (["inspect"], ["prune", "--ratio", "0.5", "--recover", "none", "--no-bench", "--force"]):
        assert run([command[0], str(write(tmp_path, net)), *command[1:]]) == 0
        shown = capsys.readouterr().out
        assert max(map(len, shown.splitlines())) <= width
        words = shown.split()
        assert any(w.startswith("w1_of_the_first_convolution") for w in words)
        assert any(w.startswith("w3_of_the_third_convolution") for w in words)
        assert "…" not in shown


def test_shares_that_overlap_are_explained(tmp_path: Path, capsys: Capture) -> None:
    assert run(["inspect", str(write(tmp_path))]) == 0
    assert "shares add up to more than 100%" in capsys.readouterr().out
    one = model("g (float[1,8] x, float[8,16] w1) => (float[] y) { y = MatMul(x, w1) }")
    shown = inspect(analyse(read_graph(one)), "one")
    print_all(inspection_parts(shown, False))
    assert "more than 100%" not in capsys.readouterr().out


def test_one_of_a_kind_is_singular(tmp_path: Path, capsys: Capture) -> None:
    net = model("g (float[1,8] x, float[8,6] w1, float[6,1] w2) => (float[] y) { a = MatMul(x, w1)  y = MatMul(a, w2) }")
    assert run(["inspect", str(write(tmp_path, net))]) == 0
    assert "6 prunable channels in 1 group; 1 channel cannot be cut" in capsys.readouterr().out


def test_all_written_files_are_named(tmp_path: Path, capsys: Capture) -> None:
    assert (
        run([str(write(tmp_path)), "--ratio", "0.5", "--recover", "none", "--no-bench", "--plan", str(tmp_path / "p.json")])
        == 0
    )
    assert f"wrote {tmp_path}/net.pruned.onnx, plan {tmp_path}/p.json" in "".join(capsys.readouterr().out.splitlines())
