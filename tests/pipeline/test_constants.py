# SPDX-License-Identifier: Apache-2.0
"""Channels that are always the same go beside what is asked, and biases make up for them: nothing changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto

import onnxprune
from onnxprune.cli.app import run
from onnxprune.errors import PlanError
from onnxprune.ir.files import load
from onnxprune.pipeline import depth
from onnxprune.recovery.editor import OffsetSlot
from onnxprune.rewrite.plan import Plan
from tests.cases.laws import with_values
from tests.cases.nets import TRAINED, pruned, write
from tests.cases.running import random_feeds, runner
from tests.cases.text import model

BN = "float[{n}] ws{k}, float[{n}] wt{k}, float[{n}] wm{k}, float[{n}] wvar{k}"
HEAD = f"float[N,3,8,8] x, float[6,3,3,3] w1, {BN.format(n=6, k=1)}"
START = "a = Conv(x, w1)  b = BatchNormalization(a, ws1, wt1, wm1, wvar1)  c = Relu(b)"


def net(inputs: str, nodes: str, start: str = START, shifts: Any = (0.5, 2.0), **values: Any) -> ModelProto:
    """Two of six channels are always the same, `shifts`, at the end of `start`."""
    made = model(f"g ({HEAD}{', ' * bool(inputs)}{inputs}) => (float[] y) {{ {start}  {nodes} }}")
    return with_values(made, ws1=[0.0] * len(shifts), wt1=list(shifts), **values)


POINTWISE = net("float[4,6,1,1] w2", "y = Conv(c, w2)")
PADDED = net("float[4,6,3,3] w2", "y = Conv <pads = [1,1,1,1]> (c, w2)")
LESS: dict[str, Any] = {"recover": "bias", "align": "none"}


def difference(before: ModelProto, after: ModelProto) -> float:
    """The largest difference of outputs on random inputs, relative to the largest output."""
    worst = 0.0
    for seed in range(3):
        feeds = random_feeds(before, np.random.default_rng(seed), 2)
        for p, q in zip(runner(before)(feeds), runner(after)(feeds), strict=True):
            worst = max(worst, float(np.abs(p - q).max() / np.abs(p).max()))
    return worst


def gone(net: ModelProto) -> int:
    """The number of channels that went, where that changes nothing."""
    result = pruned(net, 0.0, **LESS)
    assert difference(net, result.model) < 1e-5
    again = onnxprune.apply_plan(net, result.plan, bench=False)
    assert difference(net, again.model) < 1e-5
    assert (again.report.constant, again.plan.constant) == (result.report.constant, result.plan.constant)
    return result.report.constant


GO = {
    "a 1x1 convolution": POINTWISE,
    "a 3x3 convolution without padding": net("float[4,6,3,3] w2", "y = Conv(c, w2)"),
    "one with a bias": net("float[4,6,1,1] w2, float[4] w2b", "y = Conv(c, w2, w2b)"),
    "one before BatchNormalization": net(
        f"float[4,6,1,1] w2, {BN.format(n=4, k=2)}", "d = Conv(c, w2)  y = BatchNormalization(d, ws2, wt2, wm2, wvar2)"
    ),
    "one in strides": net("float[4,6,1,1] w2", "y = Conv <strides = [2,2]> (c, w2)"),
    "Gemm behind a mean": net("float[5,6] w2", "d = GlobalAveragePool(c)  e = Flatten(d)  y = Gemm <transB = 1> (e, w2)"),
    "Gemm on all positions": net("float[216,5] w2, float[5] w2b", "e = Flatten(c)  y = Gemm(e, w2, w2b)"),
    "MatMul before Add": net(
        "float[6,5] w2, float[5] w2b", "d = Transpose <perm = [0,2,3,1]> (c)  e = MatMul(d, w2)  y = Add(e, w2b)"
    ),
    "pooling": net("float[4,6,1,1] w2", "d = MaxPool <kernel_shape = [3,3], pads = [1,1,1,1]> (c)  y = Conv(d, w2)"),
    "pooling without pads": net("float[4,6,1,1] w2", "d = AveragePool <kernel_shape = [2,2]> (c)  y = Conv(d, w2)"),
    "a depthwise convolution without padding": net(
        "float[6,1,3,3] w2, float[6] w2b, float[4,6,1,1] w3", "d = Conv <group = 6> (c, w2, w2b)  y = Conv(d, w3)"
    ),
    "several layers": net(
        "float[4,6,1,1] w2, float[4,6,1,1] w3, float[4] w3b", "d = Conv(c, w2)  e = Conv(c, w3, w3b)  y = Add(d, e)"
    ),
    "layers that share a bias": net(
        "float[4,6,1,1] w2, float[4,6,1,1] w3, float[4] wb",
        "d = Conv(c, w2, wb)  e = Conv(c, w3, wb)  y = Concat <axis = 1> (d, e)",
    ),
    "layers that share a bias of zeros": net(
        "float[4,6,1,1] w2, float[4,6,1,1] w3, float[4] wb",
        "d = Conv(c, w2, wb)  e = Conv(c, w3, wb)  y = Concat <axis = 1> (d, e)",
        wb=[0.0] * 4,
    ),
    "layers that share a weight": net(
        "float[4,6,1,1] w2", "d = Conv(c, w2)  t = Tanh(c)  e = Conv(t, w2)  y = Concat <axis = 1> (d, e)"
    ),
    "a sum of channels that are all the same": net(
        f"float[6,3,3,3] w2, {BN.format(n=6, k=2)}, float[4,6,1,1] w3",
        "d = Conv(x, w2)  e = BatchNormalization(d, ws2, wt2, wm2, wvar2)  f = Add(c, e)  y = Conv(f, w3)",
        ws2=[0.0, 0.0],
        wt2=[-0.25, 1.0],
    ),
    "one that makes others that are always the same": net(
        "float[4,6,1,1] w2, float[4] w2b, float[3,4,1,1] w3",
        "d = Conv(c, w2, w2b)  e = Relu(d)  y = Conv(e, w3)",
        w2=np.zeros((1, 6, 1, 1)).tolist(),
        w2b=[1.5],
    ),
}
STAY = {
    "padding": PADDED,
    "padding of a size": net("float[4,6,3,3] w2", 'y = Conv <auto_pad = "SAME_UPPER"> (c, w2)'),
    "a padded depthwise convolution": net(
        "float[6,1,3,3] w2, float[4,6,1,1] w3", "d = Conv <group = 6, pads = [1,1,1,1]> (c, w2)  y = Conv(d, w3)"
    ),
    "pooling that counts its padding": net(
        "float[4,6,1,1] w2",
        "d = AveragePool <kernel_shape = [3,3], pads = [1,1,1,1], count_include_pad = 1> (c)  y = Conv(d, w2)",
    ),
    "Pad": net(
        "float[4,6,1,1] w2",
        'd = Pad <mode = "constant"> (c, p)  y = Conv(d, w2)',
        f"p = Constant <value = int64[8] {{0,0,1,1,0,0,1,1}}> () {START}",
    ),
    "a sum with others": net("float[6,3,3,3] w2, float[4,6,1,1] w3", "d = Conv(x, w2)  e = Add(c, d)  y = Conv(e, w3)"),
    "a product with others": net("float[6,3,3,3] w2, float[4,6,1,1] w3", "d = Conv(x, w2)  e = Mul(c, d)  y = Conv(e, w3)"),
    "one of several layers": net("float[4,6,1,1] w2, float[4,6,3,3] w3", """d = Conv(c, w2)
        e = Conv <pads = [1,1,1,1]> (c, w3)  y = Concat <axis = 1> (d, e)"""),
    "a grouped convolution": net("float[4,3,1,1] w2, float[4,4,1,1] w3", "d = Conv <group = 2> (c, w2)  y = Conv(d, w3)"),
    "a transposed convolution": net("float[6,4,3,3] w2", "y = ConvTranspose(c, w2)"),
    "a product without a bias": net("float[6,5] w2", "d = Transpose <perm = [0,2,3,1]> (c)  y = MatMul(d, w2)"),
    "normalisation": net(
        "float[6] wl, float[6,5] w2, float[5] w2b",
        """d = Transpose <perm = [0,2,3,1]> (c)  l = LayerNormalization(d, wl)  e = MatMul(l, w2)  y = Add(e, w2b)""",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GO)
def test_they_go_where_layers_can_add_what_they_contribute(name: str) -> None:
    assert gone(GO[name]) == 2 + ("others" in name)


@pytest.mark.parametrize("name", STAY)
def test_they_stay_where_that_is_not_the_same_everywhere(name: str) -> None:
    assert gone(STAY[name]) == 0


def test_a_zero_behind_padding_goes_although_it_is_a_number_elsewhere() -> None:
    """0.5 for one layer, clipped to zero for the padded one."""
    both = net(
        "float[4,6,1,1] w2, float[4,6,3,3] w3",
        "d = Conv(c, w2)  z = Neg(c)  r = Relu(z)  e = Conv <pads = [1,1,1,1]> (r, w3)  y = Concat <axis = 1> (d, e)",
    )
    assert gone(both) == 2


def test_one_of_each_axis_stays() -> None:
    alike = net("float[4,6,1,1] w2", "y = Conv(c, w2)", shifts=(0.5, 1, -1, 2, 3, 4))
    result = pruned(alike, 0.0, **LESS)
    assert (result.report.constant, result.report.dead) == (4, 1)
    assert difference(alike, result.model) < 1e-5


def test_they_are_told_from_channels_that_are_zero() -> None:
    result = pruned(net("float[4,6,1,1] w2", "y = Conv(c, w2)", shifts=(0.5, -1.0, 2.0)), 0.0, **LESS)
    report = result.report
    assert (report.removed, report.dead, report.constant, report.prunable, report.ratio) == (0, 1, 2, 3, 0.0)
    what = "always the same and removed besides, biases make up for them"
    assert [n for n in report.notes if "provably" in n] == [
        "1 channel is provably always zero and removed besides, without any change (1 of w1)",
        f"2 channels are provably {what}, without any change (2 of w1)",
    ]
    assert result.plan.format == "onnxprune-plan/4"
    assert result.plan.constant["w1"] == {0: (0, 2)}
    assert result.plan.constant["w2"] == {1: (0, 2)}
    assert report.verification is not None


@pytest.mark.parametrize(
    "more", [{"ratio": 0.5}, {"macs": "60%"}, {"ratio": 0.5, "rounds": 2, "criterion": "obs"}, {"params": "50%"}], ids=str
)
def test_they_count_beside_what_is_asked_and_the_cut_is_that_of_a_model_without_them(more: dict[str, Any]) -> None:
    feeds = {"x": np.random.default_rng(0).standard_normal((20, 3, 8, 8)).astype(np.float32)}
    result = pruned(POINTWISE, **LESS, data=feeds, **more)
    assert (result.report.prunable, result.report.constant) == (4, 2)
    if "ratio" in more:
        assert result.report.removed == 2
    assert set(result.plan.kept["w1"][0]) <= {2, 3, 4, 5}
    assert not result.report.missed


def test_without_recovery_no_weight_that_is_kept_changes_so_they_stay() -> None:
    result = pruned(POINTWISE, 0.0)
    assert (result.report.constant, result.plan.constant, result.plan.kept) == (0, {}, {})
    assert "2 channels are provably always the same, but not zero, and kept" in result.report.notes[0]


def test_what_could_not_be_verified_is_not_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OffsetSlot, "add", lambda *_: None)
    result = pruned(POINTWISE, 0.0, **LESS)
    assert result.report.constant == 0
    assert "could not be verified" in result.report.notes[0]
    assert difference(POINTWISE, result.model) == 0


def test_the_file_that_is_written_is_verified_and_the_plan_is_read_again(tmp_path: Path, capsys: Any) -> None:
    path, out = write(tmp_path, POINTWISE), tmp_path / "out.onnx"
    for more in (["--ratio", "0"], ["--ratio", "0.5"]):
        assert run(["prune", str(path), *more, "-o", str(out), "--recover", "bias", "--no-bench", "--force"][1:]) == 0
        assert "those that are always the same apart" in " ".join(capsys.readouterr().out.split())
        plan = out.with_suffix(".plan.json")
        assert json.loads(plan.read_text())["constant"]["w1"] == {"0": [0, 1]}
        assert run(["verify", str(path), str(out), str(plan)]) == 0
        assert "those that are always the same apart" in " ".join(capsys.readouterr().out.split())


RETRAINED = with_values(net("float[4,6,1,1] w2", "y = Conv(c, w2)"), ws1=[0.0, 0.7], wt1=[1.25, 2.0])
"""The first channel is another number, the second is not always the same any more."""


def test_a_retrained_copy_takes_its_own_numbers_and_says_what_is_not_the_same_any_more() -> None:
    plan = pruned(POINTWISE, 0.0, **LESS).plan
    result = onnxprune.apply_plan(RETRAINED, plan, bench=False)
    said = "1 channel that the plan takes for always the same is not, here; what they contribute is lost"
    assert any(said in n for n in result.report.notes)
    assert (result.report.constant, result.report.removed) == (1, 1)
    assert result.plan.constant["w1"] == {0: (0,)}
    zeroed = with_values(ModelProto.FromString(RETRAINED.SerializeToString()), ws1=[0.0, 0.0], wt1=[1.25, 0.0])
    assert difference(zeroed, result.model) < 1e-5
    assert difference(RETRAINED, result.model) > 1e-2


def test_verify_refuses_an_original_in_which_they_vary(tmp_path: Path) -> None:
    result = pruned(POINTWISE, 0.0, **LESS)
    result.save(tmp_path / "out.onnx", tmp_path / "out.plan.json")
    plan = Plan.load(tmp_path / "out.plan.json")
    onnx.save(RETRAINED, tmp_path / "other.onnx")
    with pytest.raises(PlanError, match="1 channel that the plan takes for always the same is not"):
        onnxprune.verify_files(tmp_path / "other.onnx", tmp_path / "out.onnx", plan)


def test_most_plans_stay_as_they_are() -> None:
    """No format that older releases cannot read without need."""
    found = pruned(load(TRAINED).model, 0.3, recover="bias", verify=False).plan
    assert (found.constant, found.format) == ({}, "onnxprune-plan/1")


def test_a_cut_of_a_cut_is_one_cut_of_the_original() -> None:
    first = Plan("", {"w": {0: (1, 3, 5)}}, constant={"w": {0: (0,)}})
    later = Plan("", {"w": {0: (0, 2)}}, constant={"w": {0: (1,)}})
    both = first.then(later)
    assert (both.kept, both.constant, both.format) == ({"w": {0: (1, 5)}}, {"w": {0: (0, 3)}}, "onnxprune-plan/4")
    assert Plan.from_json(json.loads(both.to_json())) == both


BRANCHED = net(
    "float[6,6,1,1] w2, float[6,6,1,1] w3, float[6] ws3, float[6] wt3, float[6] wm3, float[6] wvar3, float[6,6,1,1] w4, "
    "float[5,6] wf, float[6] w2b",
    """d = Conv(c, w2, w2b)  e = Relu(d)  f = Conv(e, w3)  g3 = BatchNormalization(f, ws3, wt3, wm3, wvar3)  h = Relu(g3)
    i = Conv(h, w4)  j = Add(e, i)  k = Relu(j)  l = GlobalAveragePool(k)  m = Flatten(l)  y = Gemm <transB = 1> (m, wf)""",
    ws3=[0.0],
    wt3=[1.5],
)
"""Two channels before a residual branch, one inside it."""
INPUTS = {"x": np.random.default_rng(0).standard_normal((40, 3, 8, 8)).astype(np.float32)}


def test_whole_branches_go_with_the_numbers_in_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(depth, "sizes_of", lambda order: (1,))
    result = pruned(BRANCHED, macs="50%", depth=True, data=INPUTS, time_budget=10, **LESS)
    assert len(result.plan.removed) == 1
    assert result.report.constant == 2
    result.save(tmp_path / "out.onnx", tmp_path / "out.plan.json")
    onnx.save(BRANCHED, tmp_path / "net.onnx")
    found = onnxprune.verify_files(tmp_path / "net.onnx", tmp_path / "out.onnx", tmp_path / "out.plan.json")
    assert found.error < 1e-5
    again = onnxprune.apply_plan(tmp_path / "net.onnx", result.plan, bench=False)
    assert again.report.macs == result.report.macs


def test_weights_in_blocks_are_those_of_the_model_without_them(tmp_path: Path) -> None:
    result = pruned(BRANCHED, 0.0, data=INPUTS, recover="auto", unify="2", align="none", time_budget=10)
    assert result.report.constant == 3
    result.save(tmp_path / "out.onnx", tmp_path / "out.plan.json")
    onnx.save(BRANCHED, tmp_path / "net.onnx")
    assert onnxprune.verify_files(tmp_path / "net.onnx", tmp_path / "out.onnx", tmp_path / "out.plan.json").error < 1e-5
    assert onnxprune.apply_plan(tmp_path / "net.onnx", result.plan, bench=False).report.constant == 3


def test_recovery_with_data_does_not_add_them_twice(tmp_path: Path) -> None:
    for method in ("auto", "reconstruct", "bias"):
        result = pruned(BRANCHED, 0.0, data=INPUTS, recover=method, align="none", time_budget=10)
        assert result.report.constant == 3
        assert difference(BRANCHED, result.model) < 1e-4


def test_what_is_excluded_stays() -> None:
    assert pruned(BRANCHED, 0.0, exclude="w1", **LESS).report.constant == 1


def random_net(seed: int) -> ModelProto:
    """A few layers with BatchNormalization, some of whose scales are zero; here and there residual sums and padding."""
    rng = np.random.default_rng(seed)
    width = int(rng.integers(4, 9))
    inputs, nodes, last = [], [], "x"
    for k in range(int(rng.integers(2, 5))):
        size, read = int(rng.choice([1, 1, 3])), 3 if last == "x" else width
        pads = 1 if size == 3 and rng.random() < 0.5 else 0
        pads, size = (0, 1) if size == 3 and not pads and k > 1 else (pads, size)
        inputs += [f"float[{width},{read},{size},{size}] w{k}, {BN.format(n=width, k=k)}"]
        nodes += [f"c{k} = Conv <pads = [{','.join([str(pads)] * 4)}]> ({last}, w{k})"]
        nodes += [f"n{k} = BatchNormalization(c{k}, ws{k}, wt{k}, wm{k}, wvar{k})"]
        kept = size == 1 or pads
        summed = last != "x" and kept and rng.random() < 0.4
        nodes += [f"s{k} = Add(n{k}, {last})" if summed else f"s{k} = Identity(n{k})"]
        nodes += [f"r{k} = {rng.choice(['Relu', 'HardSwish', 'Tanh', 'Abs', 'Gelu'])}(s{k})"]
        last = f"r{k}"
    nodes += [f"p = GlobalAveragePool({last})  f = Flatten(p)  y = Gemm(f, wf)"]
    made = model(f"g (float[2,3,8,8] x, {', '.join(inputs)}, float[{width},5] wf) => (float[] y) {{ {'  '.join(nodes)} }}", 20)
    for tensor in made.graph.initializer:
        if tensor.name.startswith("ws"):
            values = onnx.numpy_helper.to_array(tensor) * (rng.random(width) < 0.5)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float32), tensor.name))
    return made


def test_random_networks_stay_as_they_are() -> None:
    found = 0
    for seed in range(30):
        made = random_net(seed)
        result = pruned(made, 0.0, **LESS)
        assert difference(made, result.model) < 1e-5, seed
        found += result.report.constant
    assert found > 60
