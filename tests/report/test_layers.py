# SPDX-License-Identifier: Apache-2.0
"""MACs of each layer before and after a cut, as values and as a picture."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from onnxprune.cli.app import run
from onnxprune.report.layers import LayerChange, layer_changes
from onnxprune.report.render.svg import BAR, LABEL, cut_to_svg
from tests.cases.commands import FAST
from tests.cases.nets import pruned, write
from tests.cases.text import model

NET = """g (float[N,3,8,8] x, float[8,3,3,3] w1, float[4,8,1,1] w2) => (float[N,4,6,6] y) {
    a = Conv(x, w1)  b = Relu(a)  y = Conv(b, w2) }"""
ROWS = (LayerChange("Conv", "a", 36 * 8 * 27, 36 * 2 * 27), LayerChange("Conv", "y", 36 * 4 * 8, 36 * 4 * 2))
"""Six of the eight channels between the convolutions are dropped."""


def bars(svg: str) -> list[tuple[str, list[float], str]]:
    """For each bar of a picture: the text shown on hovering, the lengths of its parts, and the text after it."""
    rows = [g for g in ElementTree.fromstring(svg).iter() if g.tag.endswith("}g")]
    return [(str(g[0].text), [float(x.get("width", "")) for x in g if x.tag.endswith("}rect")], str(g[-1].text)) for g in rows]


def test_the_macs_of_each_layer_match_a_count_by_hand() -> None:
    net = model(NET)
    assert layer_changes(net, pruned(net, 0.75, align="none").model, {"x": (1, 3, 8, 8)}) == ROWS


def test_the_macs_of_each_layer_are_counted_at_the_given_input_sizes() -> None:
    net = model(NET)
    for row, four in zip(ROWS, layer_changes(net, net, {"x": (4, 3, 8, 8)}), strict=True):
        assert (four.before, four.after) == (4 * row.before, 4 * row.before)


def test_recurrent_layers_that_omit_their_first_output_are_told_apart() -> None:
    net = model("""g (float[5,1,6] x, float[1,12,6] w1, float[1,12,4] w2, float[1,24,6] w3, float[1,24,8] w4) => (s, t) {
        , s = GRU <hidden_size = 4> (x, w1, w2)  , t = GRU <hidden_size = 8> (x, w3, w4) }""")
    rows = layer_changes(net, net, {"x": (5, 1, 6)})
    assert [(r.node, r.before, r.after) for r in rows] == [("s", 600, 600), ("t", 1680, 1680)]


def test_a_layer_that_the_pruned_model_lacks_has_no_macs_left() -> None:
    net, without = model(NET), model(NET.replace("y = Conv(b, w2)", "y = Identity(b)"))
    assert [row.after for row in layer_changes(net, without, {"x": (1, 3, 8, 8)})] == [ROWS[0].before, 0]


def test_a_picture_of_a_cut_has_a_bar_for_each_layer_with_what_is_kept_and_removed() -> None:
    found = bars(cut_to_svg(pruned(model(NET), 0.75, align="none").report, ROWS))
    share = BAR * 1152 / 7776
    assert found == [
        ("Conv a: 0.008 -> 0.002 M multiply-accumulates", [BAR * 0.25, BAR * 0.75], "25%"),
        ("Conv y: 0.001 -> 0.000 M multiply-accumulates", [round(share * 0.25, 1), round(share * 0.75, 1)], "25%"),
    ]


def test_the_parts_of_a_bar_lie_side_by_side() -> None:
    root: Any = ElementTree.fromstring(cut_to_svg(pruned(model(NET), 0.75).report, ROWS))
    kept, removed = (x for x in next(g for g in root.iter() if g.tag.endswith("}g")) if x.tag.endswith("}rect"))
    assert float(kept.get("x")) == LABEL
    assert float(removed.get("x")) == LABEL + BAR * 0.25


def test_the_command_draws_what_was_cut(tmp_path: Path) -> None:
    path, picture = write(tmp_path, model(NET)), tmp_path / "cut.svg"
    assert run([str(path), "--ratio", "0.75", "--align", "none", "--picture", str(picture), *FAST]) == 0
    text = picture.read_text(encoding="utf-8")
    assert [(hover.split(":")[0], end) for hover, _, end in bars(text)] == [("Conv a", "25%"), ("Conv y", "25%")]
    assert "0.0 -> 0.0 M MACs (25%)" in text.replace("&gt;", ">")
