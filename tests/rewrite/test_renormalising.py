# SPDX-License-Identifier: Apache-2.0
"""Renormalising cuts: more channels are free, nothing is put back, and the reference sees the kept channels only."""

from __future__ import annotations

import json
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
from tests.cases.commands import FAST
from tests.cases.law import cut_some, free_atoms
from tests.cases.nets import pruned, write
from tests.cases.operators import PLAIN_CASES
from tests.cases.random_networks import LAYERS, network
from tests.cases.renormalising import MIXES, Mixes
from tests.cases.topologies import NETS

ALLOWED = Policy(allow_renormalising=True)


@pytest.mark.parametrize("mixes", MIXES.values(), ids=list(MIXES))
def test_more_channels_are_free_and_every_cut_is_right(mixes: Mixes) -> None:
    assert free_atoms(mixes.model()) == mixes.exact
    for seed in range(3):
        found = cut_some(mixes.model(), seed, 0.5, policy=ALLOWED)
        assert found.atoms == mixes.allowed
        assert not found.renormalises or found.by_hand or mixes.space


@pytest.mark.parametrize("mixes", [m for m in MIXES.values() if m.allowed], ids=[k for k, m in MIXES.items() if m.allowed])
def test_no_node_is_added(mixes: Mixes) -> None:
    original = mixes.model()
    pruned = cut_some(original, 0, 0.5, policy=ALLOWED).pruned
    assert [n.op_type for n in pruned.graph.node] == [n.op_type for n in original.graph.node]


SAMPLES = {name: s.model() for name, s in PLAIN_CASES if not s.refused} | {name: n.model() for name, n in NETS.items()}
MIXING = {name: m for name, m in SAMPLES.items() if couple(read_graph(m), policy=ALLOWED).mixed}


@pytest.mark.parametrize("name", MIXING)
def test_a_sample_whose_renormalising_cut_is_wrong_is_detected(name: str) -> None:
    cut_some(MIXING[name], 1, 0.5, policy=ALLOWED)


def test_most_samples_are_also_verified_by_hand() -> None:
    found = [cut_some(m, 0, 0.5, policy=ALLOWED) for m in [*MIXING.values()][::4]]
    assert sum(f.renormalises for f in found) > 10
    assert sum(f.by_hand for f in found) > 0.7 * sum(f.renormalises for f in found)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.lists(st.integers(0, len(LAYERS) - 1), min_size=1, max_size=9), st.integers(0, 2**20))
def test_a_random_network_whose_renormalising_cut_is_wrong_is_detected(layers: list[int], seed: int) -> None:
    cut_some(network(layers, seed), seed, policy=ALLOWED)


def normalised() -> ModelProto:
    return MIXES["layer norm"].model()


def test_the_report_lists_the_renormalising_nodes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, MIXES["softmax"].model())
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
    assert "zeroed, in which 1 node works on the kept channels only, largest relative difference" in table


def test_a_pin_names_the_option_exactly_where_it_helps() -> None:
    hints = {
        name: "--allow-renormalising" in str(onnxprune.analyze(m.model()).pinned[0].pin)
        for name, m in MIXES.items()
        if not m.exact
    }
    assert hints == {name: MIXES[name].allowed > 0 for name in hints}


def test_an_exact_cut_does_not_mention_renormalising() -> None:
    report = pruned(MIXES["layer norm of zeros"].model(), 0.5, align="none").report
    assert report.renormalising == ()
    assert report.verification is not None
    assert report.verification.renormalising == 0
    assert "allow_renormalising" not in report.asked


def test_apply_and_verify_read_the_policy_from_the_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out, plan = write(tmp_path, normalised()), tmp_path / "net.pruned.onnx", tmp_path / "net.pruned.plan.json"
    assert run([str(path), "--ratio", "0.5", "--allow-renormalising", *FAST]) == 0
    assert json.loads(plan.read_text())["policy"] == {"allow_renormalising": True}
    assert run(["verify", str(path), str(out), str(plan)]) == 0
    assert "in which 1 node works" in capsys.readouterr().out
    assert run(["apply", str(path), str(plan), "-o", str(tmp_path / "again.onnx"), "--no-bench"]) == 0
    assert onnx.load(tmp_path / "again.onnx") == onnx.load(out)


def test_an_exact_plan_does_not_fit_a_renormalising_cut() -> None:
    """Both policies can cut these channels, with the same positions, but one cut puts back what the other drops."""
    original = MIXES["layer norm of zeros"].model()
    free = pruned(original, 0.5, align="none", allow_renormalising=True)
    exact = pruned(original, 0.5, align="none")
    assert free.plan.kept == exact.plan.kept
    assert len(free.model.graph.node) < len(exact.model.graph.node)
    for cut, plan in ((free.model, exact.plan), (exact.model, free.plan)):
        with pytest.raises(VerificationError):
            onnxprune.verify_files(original, cut, plan)
    pinned = MIXES["softmax"].model()
    data = json.loads(pruned(pinned, 0.5, align="none", allow_renormalising=True).plan.to_json())
    del data["policy"]
    with pytest.raises(PlanError, match="so removing any would change the result"):
        onnxprune.apply_plan(pinned, Plan.from_json(data), bench=False)


@pytest.mark.parametrize("name", ["w1", "w2", "w3"])
def test_a_wrong_weight_is_detected(name: str) -> None:
    result = pruned(normalised(), 0.5, align="none", allow_renormalising=True)
    for t in result.model.graph.initializer:
        if t.name == name:
            axis = 1 if name == "w1" else 0
            array = np.roll(onnx.numpy_helper.to_array(t), 1, axis)
            t.CopyFrom(onnx.numpy_helper.from_array(array, t.name))
    with pytest.raises(VerificationError, match="differ"):
        onnxprune.verify_files(normalised(), result.model, result.plan)
