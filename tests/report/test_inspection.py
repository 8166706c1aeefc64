# SPDX-License-Identifier: Apache-2.0
"""The results of `inspect`: shares of the MACs add up, and every pin has its node, operator and reason."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from onnxprune.analysis.analyse import analyse
from onnxprune.cli.app import run
from onnxprune.cost.size import cost
from onnxprune.ir.facts import read_graph
from onnxprune.report.inspection import Inspection, inspect
from onnxprune.report.render.json import to_json
from tests.cases import zoo
from tests.cases.commands import Capture
from tests.cases.nets import small, write
from tests.cases.text import model

# 8 channels are free, 6 are pinned by a sort, 4 by the output
PINNED = """g (float[2,3,8,8] x, float[8,3,1,1] w1, float[6,8,1,1] w2, float[4,6,1,1] w3) => (float[2,4,8,8] y)
    <int64[1] k = {6}> { a = Conv(x, w1)  b = Conv(a, w2)  c, i = TopK <axis = 1> (b, k)  y = Conv(c, w3) }"""


def inspection() -> Inspection:
    return inspect(analyse(read_graph(model(PINNED))), "pinned")


def test_every_pin_has_its_operator_node_and_reason() -> None:
    found = {p.op: p for p in inspection().pins}
    assert set(found) == {"TopK", "output"}
    sort, output = found["TopK"], found["output"]
    assert (sort.node, sort.why, sort.reason) == ("c", "sorts this axis", "TopK 'c' sorts this axis")
    assert (sort.channels, sort.weights, sort.made_by) == (6, ("w2",), ("Conv 'b'",))
    assert (output.channels, output.weights, output.made_by) == (4, ("w3",), ("Conv 'y'",))


def test_channels_that_are_always_zero_are_counted(tmp_path: Path, capsys: Capture) -> None:
    text = "g (float[1,3,8,8] x, float[6,3,1,1] w1, float[4,6,1,1] w2) => (float[] y) { a = Conv(x, w1)  y = Conv(a, w2) }"
    net = model(text)
    values = onnx.numpy_helper.to_array(net.graph.initializer[0]).copy()
    values[:2] = 0
    net.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(values, "w1"))
    assert inspect(analyse(read_graph(net)), "net").dead == 2
    assert run(["inspect", str(write(tmp_path, net))]) == 0
    assert "2 channels of them provably always zero" in " ".join(capsys.readouterr().out.split())


def test_channels_that_are_always_the_same_are_counted(tmp_path: Path, capsys: Capture) -> None:
    net = model("""g (float[1,3,8,8] x, float[6,3,1,1] w1, float[6] w1b, float[4,6,1,1] w2) => (float[] y) {
        a = Conv(x, w1, w1b)  y = Conv(a, w2) }""")
    values = onnx.numpy_helper.to_array(net.graph.initializer[0]).copy()
    values[:2] = 0
    net.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(values, "w1"))
    found = inspect(analyse(read_graph(net)), "net")
    assert (found.dead, found.constant) == (0, 2)
    assert run(["inspect", str(write(tmp_path, net))]) == 0
    assert "2 channels of them provably always the same, but not zero" in " ".join(capsys.readouterr().out.split())


def test_shares_of_the_macs_add_up_to_one() -> None:
    found, space = inspection(), 2 * 8 * 8
    first, second, third = (space * n for n in (8 * 3, 6 * 8, 4 * 6))
    total = first + second + third
    assert found.macs == total
    assert found.macs == cost(model(PINNED)).macs
    assert found.held_macs == pytest.approx((second + third) / total)
    # without the eight channels neither the first nor the second convolution has anything to multiply
    assert found.fixed_macs == pytest.approx(third / total)
    assert [(r.op, r.node) for r in found.rest] == [("Conv", "y")]
    assert "TopK 'c' sorts this axis" in found.rest[0].why
    assert [g.macs for g in found.groups] == [pytest.approx((first + second) / total)]
    assert sum(layer.macs for layer in found.layers) == pytest.approx(1)
    assert [(layer.free, layer.held) for layer in found.layers] == [(8, 0), (0, 6), (0, 4)]


def test_json_is_complete(tmp_path: Path, capsys: Capture) -> None:
    assert run(["inspect", str(write(tmp_path)), "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["nodes"] == len(small().graph.node)
    assert found["prunable"] == 28
    assert set(found["pins"][0]) == {"op", "node", "why", "reason", "channels", "weights", "made_by", "macs"}
    spine = found["groups"][0]
    assert set(spine) == {"name", "channels", "each", "made_by", "members", "macs", "blocks"}
    assert (spine["name"], spine["channels"], spine["made_by"]) == ("w1", 16, ["Conv 'c1'", "Conv 'c3'"])
    assert {"w1[0]", "ws1[0]", "w2[1]", "w3[0]", "w4[1]"} <= set(spine["members"])
    assert {"macs", "inputs", "held_macs", "fixed_macs", "rest", "layers"} <= set(found)


@pytest.mark.parametrize("name", ["timm_test_vit.ts_bn", "timm_resnest14d.dy_bn", "ssdlite320_mobilenet_v3_large.ts_fold"])
def test_inspections_of_real_networks_add_up(name: str) -> None:
    found = inspect(analyse(read_graph(zoo.read(name))), name)
    assert 0 <= found.fixed_macs <= 1
    assert 0 <= found.held_macs <= 1
    assert sum(layer.macs for layer in found.layers) == pytest.approx(1)
    assert sum(r.macs for r in found.rest) == pytest.approx(found.fixed_macs)
    assert all(0 <= g.macs <= 1 and g.made_by for g in found.groups)
    assert all(p.reason and p.node and p.op for p in found.pins)
    assert all(layer.free or layer.why for layer in found.layers)
    assert json.loads(to_json(found))["model"] == name
