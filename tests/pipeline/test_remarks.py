# SPDX-License-Identifier: Apache-2.0
"""What a report says where a cut is not what was asked, and what kept it from there."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.analysis.analyse import analyse
from onnxprune.cli.progress import print_all
from onnxprune.errors import ModelError
from onnxprune.ir.facts import read_graph
from onnxprune.pipeline.remarks import missed_limit
from onnxprune.report.render.table import report_parts
from onnxprune.selection.strategy import Limit
from onnxprune.types import Mask
from tests.cases.nets import TRAINED, pruned
from tests.cases.text import model

CHAIN = """g (float[1,3,8,8] x, float[16,3,3,3] w1, float[16,16,3,3] w2, float[16,16,1,1] w3,
    float[5,16,1,1] w4) => (float[] y) {
    a = Conv(x, w1)  b = Relu(a)  c = Conv(b, w2)  d = Relu(c)  e = Conv(d, w3)  f = Relu(e)  y = Conv(f, w4) }"""


def test_widths_that_are_no_multiples_of_what_was_asked_are_named() -> None:
    [note] = [n for n in pruned(model(CHAIN), 0.5, align=64, verify=False).report.notes if "align" in n]
    assert note.startswith(
        "--align 64: 3 of 3 groups have a width that is no multiple of it, 3 because they have at most 64 channels"
    )
    assert "w1 16 -> 8" in note
    notes = pruned(model(CHAIN), 0.5, align=8, verify=False).report.notes
    assert not any("align" in n for n in notes)


def test_patterns_are_shown_as_asked(capsys: pytest.CaptureFixture[str]) -> None:
    result = pruned(model(CHAIN), 0.5, include=["w1", "w2"], exclude="w3", verify=False)
    assert result.report.asked["include"] == result.plan.made_by["include"] == ["w1", "w2"]
    print_all(report_parts(result.report))
    assert "include w1 w2, exclude w3" in " ".join(capsys.readouterr().out.split())


def test_a_budget_that_patterns_make_impossible_names_them() -> None:
    [warning] = pruned(model(CHAIN), macs="20%", exclude="w2", verify=False).report.warnings
    assert "--exclude w2 keeps groups that account for" in warning
    assert "of the MACs: w1, w2;" in warning or "of the MACs: w2, w1;" in warning
    [warning] = pruned(model(CHAIN), macs="20%", scores={"w3": np.arange(16.0)}, verify=False).report.warnings
    assert "--scores keeps groups that account for" in warning
    assert "keeps groups" not in pruned(model(CHAIN), macs="1%", verify=False).report.warnings[0]


class Bytes:
    """A cost that is not measured in multiply-accumulates: four bytes a label."""

    name, resolution = "bytes", 1.0

    def of(self, dropped: Mask) -> float:
        return 4.0 * int((~dropped).sum())

    def text(self, value: float) -> str:
        return f"{value:.0f} B"


def test_a_missed_limit_speaks_of_its_own_cost() -> None:
    coupled = analyse(read_graph(model(CHAIN))).coupled
    text = missed_limit(Limit(Bytes(), 4.0, "4 B"), 8.0, 0.5, coupled, np.zeros(len(coupled.roots), bool))
    assert "of the bytes, mostly because" in text
    assert "MACs" not in text


def test_whole_steps_that_miss_the_ratio_are_named_as_the_reason() -> None:
    net = model("""g (float[1,3,4,4] x, float[6,3,1,1] w1, float[5,6,1,1] w2) => (float[] y) {
        a = Conv(x, w1)  b = Relu(a)  y = Conv(b, w2) }""")
    report = pruned(net, 0.4, align="none", verify=False).report
    assert report.missed
    assert report.warnings[0].startswith("removed 33.3% of the channels instead of 40%: channels are removed in whole steps")
    report = pruned(net, 0.45, align="none", verify=False).report
    assert not report.missed
    assert any(n.startswith("removed 50.0% of the channels instead of 45%") for n in report.notes)


def test_a_budget_that_no_step_comes_close_to_says_what_remains() -> None:
    net = model("""g (float[1,3,4,4] x, float[4,3,1,1] w1, float[5,4,1,1] w2) => (float[] y) {
        a = Conv(x, w1)  b = Relu(a)  y = Conv(b, w2) }""")
    report = pruned(net, macs="70%", align="none", verify=False).report
    assert not report.missed
    assert any(n.startswith("50.0% (0.00 M) of the MACs remain instead of 70%") for n in report.notes)


def test_no_prunable_channel_names_what_holds_the_most_work() -> None:
    text = """g (float[1,3,32,32] x, float[16,3,3,3] w1, float[64,16,1,1] w2) => (float[] y) {
        a = Conv(x, w1)  b = custom.Foo(a)  p = GlobalAveragePool(a)  y = Conv(p, w2) }"""
    with pytest.raises(ModelError, match=r"100% of the MACs make channels that are kept because custom\.Foo 'b' is"):
        pruned(model(text), 0.5)


def test_rounds_with_a_pattern_remove_the_asked_fraction_of_what_matches() -> None:
    for rounds in (1, 2, 3):
        report = pruned(
            TRAINED, 0.5, include="layer3*", rounds=rounds, recover="bias", data="random", samples=8, align="none", verify=False
        ).report
        assert abs(report.ratio - 0.5) < 0.02
