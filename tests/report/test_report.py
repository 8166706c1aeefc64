# SPDX-License-Identifier: Apache-2.0
"""The report states what was requested, what was reached and what limited it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from onnxprune.cli.progress import print_all
from onnxprune.cost.benchmark import Benchmark, Latency
from onnxprune.report.render.json import to_json
from onnxprune.report.render.table import report_parts
from tests.cases.nets import pruned, small
from tests.cases.text import model

NET = """g (float[1,3,4,4] x, float[8,3,1,1] w1, float[6,8,1,1] w2, float[20,6,1,1] w3, float[2,20,1,1] w4)
    => (float[1,6,4,4] y, float[1,2,4,4] z) {
    a = Conv(x, w1)  b = Relu(a)  y = Conv(b, w2)  c = Conv(y, w3)  d = CumProd(c)  z = Conv(d, w4) }"""


def test_figures_match_a_count_by_hand() -> None:
    text = NET.replace("d = CumProd(c)", "d = Relu(c)")
    report = pruned(model(text), 0.5, scope="local", align="none").report
    assert (report.prunable, report.removed, report.ratio) == (28, 14, 0.5)
    assert (report.macs.before, report.macs.after) == (16 * (24 + 48 + 120 + 40), 16 * (12 + 24 + 60 + 20))
    assert (report.params.before, report.params.after) == (232, 116)
    assert [(g.name, g.before, g.after) for g in report.groups] == [("w1", 8, 4), ("w3", 20, 10)]
    assert report.inputs == {"x": (1, 3, 4, 4)}
    assert [(p.channels, p.reason) for p in report.pins] == [
        (6, "output 'y' is a model output, so its size is fixed"),
        (2, "output 'z' is a model output, so its size is fixed"),
    ]


def test_pins_are_listed_largest_first() -> None:
    text = NET.replace("d = CumProd(c)", "d = ReduceProd <axes = [1]> (c)  e = Mul(d, c)").replace("Conv(d, w4)", "Conv(e, w4)")
    report = pruned(model(text), 0.5).report
    assert [p.channels for p in report.pins] == [20, 6, 2]
    assert report.pins[0].weights == ("w3",)


def timed(speedup: float) -> Benchmark:
    one, other = Latency(1.0, 0.9, 1.1, 9), Latency(1 / speedup, 0.9 / speedup, 1.1 / speedup, 9)
    both = (1.0, speedup)
    return Benchmark((one, other), both, both, both, both, both, 1, "CPUExecutionProvider", {})


@pytest.mark.parametrize("speedup", [0.8, 1.4])
def test_a_result_that_is_not_faster_is_reported(speedup: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxprune.cost.benchmark.benchmark", lambda *_, **__: timed(speedup))
    report = pruned(small(), 0.5, bench=True).report
    assert any("NOT faster here (0.80x)" in w for w in report.warnings) == (speedup < 1)


def test_a_missed_ratio_is_reported() -> None:
    report = pruned(small(), 0.99, align="none").report
    assert report.missed
    assert "instead of 99%" in report.warnings[0]


def test_table_and_json_show_the_same_figures(capsys: pytest.CaptureFixture[str]) -> None:
    report = replace(pruned(small(), 0.5).report, benchmark=timed(1.5), output="out.onnx")
    data = json.loads(to_json(report))
    print_all(report_parts(report))
    table = capsys.readouterr().out
    assert data["reached"]["ratio"] == report.ratio
    assert data["benchmark"]["speedup"][1] == 1.5
    assert "1.50x" in table
    assert f"{data['macs']['kept']:.1%}" in table
    assert "out.onnx" in table
    assert "verified: equal to the original" in table
