# SPDX-License-Identifier: Apache-2.0
"""Networks in bodies from the file to the report: cut, planned, applied, verified, counted, explained."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto

import onnxprune
from onnxprune.analysis.analyse import analyse
from onnxprune.analysis.explain import about, explain
from onnxprune.cli.app import run
from onnxprune.cost.macs import macs_model
from onnxprune.cost.size import cost
from onnxprune.data.load import random_data
from onnxprune.ir.facts import read_graph
from onnxprune.report.inspection import inspect
from onnxprune.report.layers import layer_changes
from onnxprune.rewrite.plan import Plan
from tests.cases.commands import FAST, Capture, refused
from tests.cases.law import check_law
from tests.cases.text import model, stored, within
from tests.cases.topologies.bodies import NETS

SWITCH = """g (float[N,3,12,12] x, bool k, float[16,3,3,3] w1, float[16] w1b, float[16,16,3,3] w2, float[4,16,1,1] w3,
    float[16,3,3,3] w4, float[16,16,3,3] w5, float[4,16,1,1] w6) => (float[N,4,8,8] y) {
    [gate] y = If (k) <then_branch = t () => (float[N,4,8,8] e) { a = Conv(x, w1, w1b)  b = Relu(a)  c = Conv(b, w2)
    d = Relu(c)  e = Conv(d, w3) },
    else_branch = f () => (float[N,4,8,8] l) { g = Conv(x, w4)  h = Relu(g)
    i = Conv(h, w5)  j = Relu(i)  l = Conv(j, w6) }> }"""
FIRST, SECOND, LAST = 16 * 100 * 27, 16 * 64 * 144, 4 * 64 * 16


def switch() -> ModelProto:
    return within(model(SWITCH))


def saved(net: ModelProto, folder: Path) -> Path:
    onnx.save(net, folder / "net.onnx")
    return folder / "net.onnx"


def test_both_branches_are_cut_and_the_plan_names_their_weights(tmp_path: Path) -> None:
    path = saved(switch(), tmp_path)
    result = onnxprune.prune(path, 0.5, scope="local", align="none", recover="none", bench=False)
    assert result.report.macs.before == 2 * (FIRST + SECOND + LAST)
    assert result.report.macs.after == 2 * (FIRST // 2 + SECOND // 4 + LAST // 2)
    assert 0.25 < result.report.params.kept < 0.35
    assert result.report.verification is not None
    assert result.report.verification.reached == ("gate/else_branch", "gate/then_branch")
    plan = json.loads(result.plan.to_json())
    assert plan["format"] == "onnxprune-plan/2"
    assert {name: sorted(axes) for name, axes in plan["kept"].items()} == {
        "gate/then_branch/w1": ["0"],
        "gate/then_branch/w1b": ["0"],
        "gate/then_branch/w2": ["0", "1"],
        "gate/then_branch/w3": ["1"],
        "gate/else_branch/w4": ["0"],
        "gate/else_branch/w5": ["0", "1"],
        "gate/else_branch/w6": ["1"],
    }
    result.save(tmp_path / "out.onnx", tmp_path / "plan.json")
    check_law(onnx.load(path), onnx.load(tmp_path / "out.onnx"), plan["kept"])
    assert Plan.load(tmp_path / "plan.json") == result.plan
    assert onnxprune.verify_files(path, tmp_path / "out.onnx", tmp_path / "plan.json").unreached == ()
    again = onnxprune.apply_plan(path, tmp_path / "plan.json", bench=False)
    assert again.model.SerializeToString() == result.model.SerializeToString()


def test_a_plan_without_weights_in_bodies_keeps_its_format() -> None:
    net = NETS["branches that read a layer before them"].model()
    result = onnxprune.prune(net, 0.5, recover="none", bench=False)
    assert json.loads(result.plan.to_json())["format"] == "onnxprune-plan/1"


def test_a_budget_holds_over_all_branches() -> None:
    report = onnxprune.prune(switch(), macs="40%", align="none", recover="none", bench=False).report
    assert 0.38 < report.macs.kept <= 0.4


@pytest.mark.parametrize("name", ["an If in a branch", "a normalisation in a branch", "a loop that carries a state"])
def test_rounds_and_recovery_leave_bodies_as_they_are(name: str) -> None:
    """The layer before a node without a name gains nodes or not; the weights in its bodies keep their names."""
    net = within(NETS[name].model())
    noise = replace(random_data(net, 16), made=None)
    result = onnxprune.prune(net, 0.5, align="none", rounds=2, bench=False, data=noise)
    kept = {name: axes for name, axes in json.loads(result.plan.to_json())["kept"].items() if name.startswith("#")}
    assert kept
    pruned, original = stored(result.model), stored(net)
    for weight, axes in kept.items():
        expected = onnx.numpy_helper.to_array(original[weight])
        for axis, positions in axes.items():
            expected = np.take(expected, positions, int(axis))
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(pruned[weight]), expected)
    assert any("which recovery leaves as they are" in note for note in result.report.notes)


COUNTS = {
    "a network in each branch, with equal names": 2 * 2 * 36 * (27 * 8 + 8 * 4),
    "a loop that carries a state": 3 * 2 * 36 * (4 * 8 + 8 * 4),
    "a loop of open length": 2 * 36 * (4 * 8 + 8 * 4),
    "a cell that scans over time": 5 * 2 * (12 * 16 + 16 * 8),
    "an If in a loop": 3 * 2 * 36 * (2 * 4 * 8 + 2 * 4 * 6),
}


@pytest.mark.parametrize("name", COUNTS)
def test_macs_count_all_branches_and_all_iterations(name: str) -> None:
    net = NETS[name].model()
    coupled = analyse(read_graph(net)).coupled
    whole = macs_model(coupled).of(np.zeros(len(coupled.roots), bool))
    assert cost(net).macs == whole == COUNTS[name]
    assert sum(row.before for row in layer_changes(net, net, {})) == COUNTS[name]
    assert abs(sum(row.macs for row in inspect(analyse(read_graph(net)), "n").layers) - 1) < 1e-9


def test_a_branch_that_is_never_taken_has_no_macs() -> None:
    net = model("""g (float[2,3,8,8] x, float[8,3,3,3] w1, float[8,1,3,3] w2) => (float[] y) <int64 n = {3}, int64 one = {1}> {
        s = Shape(x)  c = Gather(s, one)  k = Equal(c, n)
        y = If (k) <then_branch = t () => (a) { a = Conv(x, w1) }, else_branch = e () => (b) { b = Conv(x, w2) }> }""")
    assert cost(net).macs == 2 * 36 * 8 * 27


def test_parameters_in_bodies_count() -> None:
    assert cost(switch()).params == sum(int(np.prod(t.dims)) for t in stored(switch()).values())


def test_inspection_lists_the_groups_and_pins_of_bodies() -> None:
    found = inspect(analyse(read_graph(switch())), "switch")
    assert [(g.name, g.channels) for g in found.groups] == [
        (f"gate/{w}", 16) for w in ("then_branch/w1", "then_branch/w2", "else_branch/w4", "else_branch/w5")
    ]
    [pin] = found.pins
    assert (pin.reason, pin.channels) == ("If 'gate' returns them from its body, whose outputs are kept", 8)
    assert pin.weights == ("gate/then_branch/w3", "gate/else_branch/w6")


def test_tensors_of_bodies_are_explained() -> None:
    coupled = analyse(read_graph(within(NETS["a loop that carries a state"].model()))).coupled
    free, _, _, _ = explain(coupled, "#0/body/w1")
    assert (free.free, free.partners) == (8, ("#0/body/w2[1]",))
    assert about(coupled, "#0/body/s") == "#0/body/s: fed by Loop 'y', read by Conv '#0/body/p'"
    assert explain(coupled, "#0/body/s")[1].reason == "it is fed by Loop 'y'"


def test_the_command_line_takes_names_in_bodies(tmp_path: Path, capsys: Capture) -> None:
    path = saved(switch(), tmp_path)
    assert run(["explain", str(path), "gate/then_branch/w2"]) == 0
    assert "all can be removed" in capsys.readouterr().out
    picture = tmp_path / "net.svg"
    assert run([str(path), "--ratio", "0.5", "--include", "gate/else*", "--picture", str(picture), *FAST]) == 0
    kept = json.loads((tmp_path / "net.pruned.plan.json").read_text())["kept"]
    assert {name.rpartition("/")[0] for name in kept} == {"gate/else_branch"}
    assert "gate/else_branch" in picture.read_text()
    capsys.readouterr()
    assert "gate/else_branch/w4" in refused([str(path), "--ratio", "0.5", "--include", "gate/els", *FAST, "--force"], capsys)


def test_the_default_command_ends_well(tmp_path: Path) -> None:
    """Its made-up inputs have a scalar that is true or false."""
    path = saved(within(NETS["a network in each branch, with equal names"].model()), tmp_path)
    assert run([str(path), "--ratio", "0.5", "--no-bench"]) == 0


@pytest.mark.parametrize("factor", ["ones", "twos"])
def test_layers_share_constants_with_bodies_through_copies(factor: str) -> None:
    net = within(
        model(
            """g (float[2,3,8,8] x, bool k, float[8,3,1,1] w1, float[8,8,1,1] w2, float[4,8,1,1] w3, float[8,4,1,1] w4,
            float[4,8,1,1] w5) => (float[] y)
            <float[8,1,1] ones = {1,1,1,1,1,1,1,1}, float[8,1,1] twos = {2,2,2,2,2,2,2,2}> {
            a = Conv(x, w1)  b = Mul(a, ones)  c = Conv(b, w2)  d = Add(c, ones)  e = Conv(d, w3)
            y = If (k) <then_branch = t () => (float[2,4,8,8] h) { f = Conv(e, w4)  g = Mul(f, FACTOR)  h = Conv(g, w5) },
            else_branch = u () => (float[2,4,8,8] i) { i = Neg(e) }> }""".replace("FACTOR", factor)
        )
    )
    found = analyse(read_graph(net))
    assert found.coupled.graph.copies
    assert found.prunable == (24 if factor == "twos" else 16)
    result = onnxprune.prune(net, 0.5, align="none", recover="none", bench=False)
    assert result.report.macs.kept < 0.6
    check_law(net, result.model, json.loads(result.plan.to_json())["kept"])
