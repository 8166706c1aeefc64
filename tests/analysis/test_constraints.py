# SPDX-License-Identifier: Apache-2.0
"""The same number of channels in every block of a grouped convolution or normalisation, not the same positions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto

import onnxprune
from onnxprune.analysis.couple import couple
from onnxprune.analysis.coupling import Coupled
from onnxprune.analysis.groups import Group, find_groups
from onnxprune.analysis.policy import Policy
from onnxprune.cli.app import run
from onnxprune.errors import CutError, PlanError, VerificationError
from onnxprune.evaluation.verification import verify
from onnxprune.ir.facts import read_graph
from onnxprune.rewrite.cut import cut
from onnxprune.rewrite.plan import Plan
from tests.cases.law import cut_some
from tests.cases.nets import grouped, pruned, write
from tests.cases.text import model

ALLOWED = Policy(allow_renormalising=True)


def evens(net: ModelProto, policy: Policy | None = None) -> list[tuple[int, ...]]:
    """The demands on a model, as (blocks, size)."""
    return [e.labels.shape for e in couple(read_graph(net), policy=policy).evens]


def kept_of(plan: Plan, weight: str, size: int, axis: int = 0) -> list[list[int]]:
    """Kept positions of a weight, block by block."""
    kept = np.array(plan.kept[weight][axis])
    return [(kept[kept // size == k] % size).tolist() for k in range(kept.max() // size + 1)]


def test_each_block_keeps_its_own_best() -> None:
    net = grouped()
    assert evens(net) == [(3, 8)]
    rng = np.random.default_rng(0)
    scores = {"w2": rng.random(24)}
    result = pruned(net, 0.5, scores=scores, scope="local", align="none")
    kept = kept_of(result.plan, "w2", 8)
    assert kept == [sorted(np.argsort(-row)[:4].tolist()) for row in scores["w2"].reshape(3, 8)]
    assert len({tuple(k) for k in kept}) > 1, "the same positions in every block would test nothing"
    assert result.plan.kept["w2"][0] == result.plan.kept["w3"][1] == result.plan.kept["w2b"][0]


@pytest.mark.parametrize("seed", range(6))
def test_a_cut_of_any_members_is_exact(seed: int) -> None:
    assert cut_some(grouped(), seed, (0.2, 0.5, 0.8)[seed % 3], names=["w3"]).dropped % 3 == 0


def test_the_inputs_of_a_grouped_transposed_convolution_are_cut_evenly() -> None:
    net = model("""g (float[N,3,4,4] x, float[24,3,1,1] w1, float[24,2,2,2] w2, float[5,6,1,1] w3) => (float[] y) {
        a = Conv(x, w1)  b = ConvTranspose <group = 3, strides = [2,2]> (a, w2)  y = Conv(b, w3) }""")
    assert evens(net) == [(3, 8)]
    result = pruned(net, 0.5, scope="local", align="none")
    assert [len(k) for k in kept_of(result.plan, "w2", 8)] == [4, 4, 4]
    for seed in range(3):
        cut_some(net, seed, 0.5)


@pytest.mark.parametrize("budget", [{"ratio": 0.3}, {"ratio": 0.7}, {"macs": "50%"}])
@pytest.mark.parametrize("align", ["none", 4])
@pytest.mark.parametrize("scope", ["global", "local"])
def test_every_budget_keeps_the_same_number_in_every_block(budget: dict[str, float], align: str | int, scope: str) -> None:
    result = pruned(grouped(), scope=scope, align=align, **budget)
    assert len({len(k) for k in kept_of(result.plan, "w2", 8)}) == 1
    again = onnxprune.apply_plan(grouped(), result.plan, bench=False)
    assert again.model == result.model


def two(a: int, b: int) -> ModelProto:
    """The sum of two grouped convolutions of 24 outputs, one with `a` and one with `b` groups of six inputs."""
    return model(f"""g (float[N,3,6,6] x, float[{6 * a},3,1,1] w1, float[{6 * b},3,1,1] w2, float[24,6,3,3] w3,
        float[24,6,3,3] w4, float[5,24,1,1] w5) => (float[] y) {{
        p = Conv(x, w1)  q = Conv(x, w2)  r = Conv <group = {a}> (p, w3)  s = Conv <group = {b}> (q, w4)
        t = Add(r, s)  y = Conv(t, w5) }}""")


def part(rest: str, more: str = "", outs: str = "") -> ModelProto:
    """Three blocks of eight; the first is also used alone."""
    return model(f"""g (float[N,3,6,6] x, float[12,3,1,1] w1, float[24,4,3,3] w2, float[5,24,1,1] w3{more}) => (float[] y{outs})
        <int64[1] s = {{0}}, int64[1] e = {{8}}, int64[1] k = {{1}}> {{
        a = Conv(x, w1)  b = Conv <group = 3> (a, w2)  c = Slice(b, s, e, k)  {rest}  y = Conv(b, w3) }}""")


ADDED = """g (float[N,3,6,6] x, float[12,3,1,1] w1, float[24,3,3,3] w2, float[5,12,1,1] w3) => (float[] y)
    <int64[2] s = {12,12}> {
    a = Conv(x, w1)  b = Conv <group = 4> (a, w2)  c, d = Split <axis = 1> (b, s)  e = Add(c, d)  y = Conv(e, w3) }"""
DEMANDS: dict[str, tuple[ModelProto, list[tuple[int, int]]]] = {
    "two of the same": (two(3, 3), [(3, 8)]),
    "a coarser one is implied": (two(2, 4), [(4, 6)]),
    "in either order": (two(4, 2), [(4, 6)]),
    "crosswise ones become ties": (two(2, 3), []),
    "an output pins a block": (part("d = Exp(c)", outs=", float[N,8,4,4] d"), []),
    "blocks of different kinds become ties": (part("z = Conv(c, w4)", ", float[4,8,1,1] w4", ", float[] z"), []),
    "blocks that are added are one": (model(ADDED), [(2, 6)]),
}


@pytest.mark.parametrize("name", DEMANDS)
def test_demands_are_merged_or_become_ties(name: str) -> None:
    net, expected = DEMANDS[name]
    assert evens(net) == expected
    for seed in range(3):
        cut_some(net, seed, 0.5)


def test_group_normalization_that_renormalises_keeps_the_same_number_of_every_group() -> None:
    net = model(
        """g (float[2,3,4,4] x, float[24,3,1,1] w1, float[24] w3, float[24] w4, float[4,24,1,1] w2) => (float[] y) {
        a = Conv(x, w1)  b = GroupNormalization <num_groups = 2> (a, w3, w4)  y = Conv(b, w2) }""",
        21,
    )
    assert evens(net) == []
    assert evens(net, ALLOWED) == [(2, 12)]
    result = pruned(net, 0.5, allow_renormalising=True, align="none")
    kept = kept_of(result.plan, "w1", 12)
    assert [len(k) for k in kept] == [6, 6]
    assert kept[0] != kept[1]


def analysis(net: ModelProto) -> tuple[Coupled, Group]:
    coupled = couple(read_graph(net))
    return coupled, next(g for g in find_groups(coupled) if g.blocks)


def dropping(coupled: Coupled, group: Group, atoms: list[int]) -> NDArray[np.bool_]:
    return np.isin(coupled.roots, group.roots[atoms])


def test_uneven_cuts_are_refused_and_would_be_detected() -> None:
    coupled, group = analysis(grouped())
    even, uneven = dropping(coupled, group, [0, 9, 18]), dropping(coupled, group, [0, 1, 18])
    verify(coupled, even, cut(coupled, even))
    with pytest.raises(CutError, match="needs the same number of channels in each of its 3 blocks, but 6 to 8 would be kept"):
        cut(coupled, uneven)
    with pytest.raises((CutError, VerificationError)):
        verify(coupled, uneven, cut(replace(coupled, evens=()), uneven))


def test_uneven_plans_are_refused() -> None:
    plan = pruned(grouped(), 0.5, align="none", verify=False).plan
    data = json.loads(plan.to_json())
    for weight, axis in (("w2", "0"), ("w2b", "0"), ("w3", "1")):
        positions = data["kept"][weight][axis]
        data["kept"][weight][axis] = sorted({*positions[1:], *[p for p in range(16, 24) if p not in positions][:1]})
    with pytest.raises(PlanError, match="needs the same number of channels in each of its 3 blocks"):
        onnxprune.apply_plan(grouped(), Plan.from_json(data), bench=False)


def test_inspect_and_explain_report_equal_blocks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, grouped())
    assert run(["inspect", str(path), "--format", "json"]) == 0
    groups = {g["name"]: g for g in json.loads(capsys.readouterr().out)["groups"]}
    assert (groups["w2"]["channels"], groups["w2"]["blocks"]) == (24, [3])
    assert run(["inspect", str(path)]) == 0
    assert "24 in 3 equal blocks" in capsys.readouterr().out
    assert run(["explain", str(path), "w3"]) == 0
    assert "Conv 'b' needs the same number of them in each of its 3 blocks" in capsys.readouterr().out
