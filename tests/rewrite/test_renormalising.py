# SPDX-License-Identifier: Apache-2.0
"""Cuts that renormalise: more is free, nothing is put back, and the proof compares with an original that sees what is left."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto

import onnxprune
from onnxprune.analysis.couple import couple
from onnxprune.analysis.policy import Policy
from onnxprune.cli.app import run
from onnxprune.errors import PlanError, VerificationError
from onnxprune.ir.facts import read_graph
from onnxprune.rewrite.plan import Plan
from tests.models import cut_some, free_atoms, model
from tests.nets import pruned, write
from tests.test_ops import CASES
from tests.test_random_graphs import LAYERS, network
from tests.test_topologies import NETS

ALLOWED = Policy(allow_renormalising=True)

FAST = ("--no-bench", "--recover", "none")


@dataclass(frozen=True)
class Mixes:
    """A body between two products, from `a` to `b`, which leaves so many atoms free by default and where renormalising is
    allowed."""

    body: str
    exact: int
    allowed: int
    inputs: str = ""
    opset: int = 17
    space: bool = False


APART = "m = ReduceMax <axes = [-1]> (x)  e = Sub(a, m)"  # removed channels hold what depends on the input
MIXES = {
    "layer norm": Mixes(f"{APART}  b = LayerNormalization(e, w3, w4)", 8, 8, "float[8] w3, float[8] w4"),
    "layer norm of zeros": Mixes("b = LayerNormalization(a, w3, w4)", 8, 8, "float[8] w3, float[8] w4"),
    "rms norm": Mixes("m = ReduceMax(x, k)  e = Sub(a, m)  b = RMSNormalization(e, w3)", 8, 8, "float[8] w3", 23),
    "softmax": Mixes(f"{APART}  b = Softmax(e)", 0, 8),
    "log of softmax": Mixes("s = Softmax(a)  b = Log(s)", 8, 8),
    "softmax written out": Mixes(f"{APART}  p = Exp(e)  s = ReduceSum <keepdims = 1> (p, k)  b = Div(p, s)", 8, 8),
    "mean": Mixes("s = Sigmoid(a)  m = ReduceMean <axes = [-1]> (s)  b = Mul(a, m)", 8, 8),
    "maximum": Mixes(f"{APART}  m2 = ReduceMax <axes = [1,2]> (e)  b = Mul(a, m2)", 8, 8),
    "maximum of what differs": Mixes(
        "c = MatMul(x, w3)  d = ReduceLogSumExp <axes = [2]> (c)  b = Mul(a, d)", 8, 16, "float[6,8] w3"
    ),
    "lp norm": Mixes("s = Sigmoid(a)  b = LpNormalization <axis = -1> (s)", 0, 8),
    "running sum": Mixes("s = Sigmoid(a)  b = CumSum(s, k)", 0, 8),
    "a product of two": Mixes("s = Exp(a)  t = Transpose <perm = [0,2,1]> (s)  c = MatMul(s, t)  b = MatMul(c, a)", 0, 8),
    "group norm": Mixes(
        "b = GroupNormalization <num_groups = 2> (a, w3, w4)", 2, 8, "float[8] w3, float[8] w4", 21, space=True
    ),
    "group norm written out": Mixes(
        "r = Reshape(a, q)  i = InstanceNormalization(r, w3, w4)  b = Reshape(i, p)",
        4,
        4,
        "float[2] w3, float[2] w4",
        space=True,
    ),
    "a product over channels stays": Mixes("p = ReduceProd <axes = [-1]> (a)  b = Mul(a, p)", 0, 0),
    "the largest of channels stays": Mixes("i = ArgMax <axis = -1> (a)  c = Cast <to = 1> (i)  b = Mul(a, c)", 0, 0),
}


def net(mixes: Mixes) -> ModelProto:
    more = f", {mixes.inputs}" if mixes.inputs else ""
    if mixes.space:
        return model(
            f"g (float[2,3,4,4] x, float[8,3,1,1] w1, float[4,8,1,1] w2{more}) => (float[] y)"
            f" <int64[3] q = {{0,2,-1}}, int64[4] p = {{0,8,4,4}}> {{ a = Conv(x, w1)\n{mixes.body}\n y = Conv(b, w2) }}",
            mixes.opset,
        )
    return model(
        f"g (float[2,5,6] x, float[6,8] w1, float[8,4] w2{more}) => (float[] y) <int64[1] k = {{-1}}> {{"
        f" a = MatMul(x, w1)\n{mixes.body}\n y = MatMul(b, w2) }}",
        mixes.opset,
    )


@pytest.mark.parametrize("mixes", MIXES.values(), ids=list(MIXES))
def test_more_is_free_and_every_cut_is_right(mixes: Mixes) -> None:
    assert free_atoms(net(mixes)) == mixes.exact
    for seed in range(3):
        found = cut_some(net(mixes), seed, 0.5, policy=ALLOWED)
        assert found.atoms == mixes.allowed
        assert not found.renormalises or found.by_hand or mixes.space


@pytest.mark.parametrize("mixes", [m for m in MIXES.values() if m.allowed], ids=[k for k, m in MIXES.items() if m.allowed])
def test_nothing_is_put_back(mixes: Mixes) -> None:
    original = net(mixes)
    pruned = cut_some(original, 0, 0.5, policy=ALLOWED).pruned
    assert [n.op_type for n in pruned.graph.node] == [n.op_type for n in original.graph.node]


SAMPLES = {name: model(s.text, s.opset) for name, s in CASES if not s.refused}
SAMPLES |= {name: model(n.text, n.opset, functions=n.functions) for name, n in NETS.items()}
MIXING = {name: m for name, m in SAMPLES.items() if couple(read_graph(m), policy=ALLOWED).mixed}


@pytest.mark.parametrize("name", MIXING)
def test_cut_law(name: str) -> None:
    cut_some(MIXING[name], 1, 0.5, policy=ALLOWED)


def test_most_samples_are_also_proven_by_hand() -> None:
    found = [cut_some(m, 0, 0.5, policy=ALLOWED) for m in [*MIXING.values()][::4]]
    assert sum(f.renormalises for f in found) > 10
    assert sum(f.by_hand for f in found) > 0.7 * sum(f.renormalises for f in found)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.lists(st.integers(0, len(LAYERS) - 1), min_size=1, max_size=9), st.integers(0, 2**20))
def test_cut_law_on_random_networks(layers: list[int], seed: int) -> None:
    cut_some(network(layers, seed), seed, policy=ALLOWED)


def normalised() -> ModelProto:
    return net(MIXES["layer norm"])


def test_the_report_names_what_renormalises(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, net(MIXES["softmax"]))
    assert run([str(path), "--ratio", "0.5", *FAST]) == 2
    assert "has no prunable channel" in capsys.readouterr().err
    path = write(tmp_path, normalised())
    command = [str(path), "--ratio", "0.5", "--align", "none", "--force", *FAST]
    assert run([*command, "--allow-renormalising", "--format", "json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["renormalising"] == [{"node": "LayerNormalization 'b'", "before": 8, "after": 4}]
    assert report["asked"]["allow_renormalising"] is True
    assert report["verification"]["renormalising"] == 1
    assert run([*command, "--allow-renormalising"]) == 0
    table = capsys.readouterr().out
    assert "renormalising allowed" in table
    assert "8 -> 4" in table
    assert "zeroed, in which 1 node works on the channels that are left, error" in table


def test_pins_name_the_way_out() -> None:
    ways = {
        name: "--allow-renormalising" in str(onnxprune.analyze(net(m)).held[0].pin) for name, m in MIXES.items() if not m.exact
    }
    assert ways == {name: MIXES[name].allowed > 0 for name in ways}


def test_an_exact_cut_says_nothing_of_it() -> None:
    report = pruned(net(MIXES["layer norm of zeros"]), 0.5, align="none").report
    assert report.renormalising == ()
    assert report.verification is not None
    assert report.verification.renormalising == 0
    assert "allow_renormalising" not in report.asked


def test_apply_and_verify_know_it_from_the_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out, plan = write(tmp_path, normalised()), tmp_path / "net.pruned.onnx", tmp_path / "net.pruned.plan.json"
    assert run([str(path), "--ratio", "0.5", "--allow-renormalising", *FAST]) == 0
    assert json.loads(plan.read_text())["policy"] == {"allow_renormalising": True}
    assert run(["verify", str(path), str(out), str(plan)]) == 0
    assert "in which 1 node works" in capsys.readouterr().out
    assert run(["apply", str(path), str(plan), "-o", str(tmp_path / "again.onnx"), "--no-bench"]) == 0
    assert onnx.load(tmp_path / "again.onnx") == onnx.load(out)


def test_an_exact_plan_does_not_fit_a_cut_that_renormalises() -> None:
    """Channels that both ways can cut: the same plan, but the one cut puts back what the other leaves out."""
    original = net(MIXES["layer norm of zeros"])
    free = pruned(original, 0.5, align="none", allow_renormalising=True)
    exact = pruned(original, 0.5, align="none")
    assert free.plan.kept == exact.plan.kept
    assert len(free.model.graph.node) < len(exact.model.graph.node)
    for cut, plan in ((free.model, exact.plan), (exact.model, free.plan)):
        with pytest.raises(VerificationError):
            onnxprune.verify_files(original, cut, plan)
    data = json.loads(pruned(normalised(), 0.5, align="none", allow_renormalising=True).plan.to_json())
    del data["policy"]
    with pytest.raises(PlanError, match="removed ones would leave a trace"):
        onnxprune.apply_plan(normalised(), Plan.from_json(data), bench=False)


@pytest.mark.parametrize("name", ["w1", "w2", "w3"])
def test_a_wrong_weight_is_noticed(name: str) -> None:
    result = pruned(normalised(), 0.5, align="none", allow_renormalising=True)
    for t in result.model.graph.initializer:
        if t.name == name:
            axis = 1 if name == "w1" else 0
            array = np.roll(onnx.numpy_helper.to_array(t), 1, axis)
            t.CopyFrom(onnx.numpy_helper.from_array(array, t.name))
    with pytest.raises(VerificationError, match="differ"):
        onnxprune.verify_files(normalised(), result.model, result.plan)
