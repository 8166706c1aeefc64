# SPDX-License-Identifier: Apache-2.0
"""Inspections as pictures, and in a terminal."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from onnxprune.analysis.analyse import analyse
from onnxprune.cli.app import run
from onnxprune.ir.facts import read_graph
from onnxprune.report.inspection import inspect
from onnxprune.report.render.svg import inspection_to_svg
from onnxprune.report.render.table import bar
from tests.cases.commands import Capture
from tests.cases.nets import small, write


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
