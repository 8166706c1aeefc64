# SPDX-License-Identifier: Apache-2.0
"""The user's choice of what carries the channels of a split. Every choice is exact, and a plan stores it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

import onnxprune
from onnxprune.analysis.couple import couple
from onnxprune.analysis.groups import find_groups
from onnxprune.analysis.policy import Policy, read_carrier
from onnxprune.cli.app import run
from onnxprune.errors import OptionError, PlanError
from onnxprune.ir.facts import read_graph
from onnxprune.rewrite.plan import Plan, dropped_by
from tests.cases.law import cut_some
from tests.cases.nets import pruned, small, write
from tests.cases.text import model
from tests.cases.topologies import NETS

HEADS, SIZE = 3, 4
BLOCK = """q1_K = MatMul(a_K, wq_K)  k1_K = MatMul(a_K, wk_K)  v1_K = MatMul(a_K, wv_K)
    q2_K = Reshape(q1_K, s)  k2_K = Reshape(k1_K, s)  v2_K = Reshape(v1_K, s)
    q_K = Transpose <perm = [0,2,1,3]> (q2_K)  k_K = Transpose <perm = [0,2,3,1]> (k2_K)
    v_K = Transpose <perm = [0,2,1,3]> (v2_K)
    z_K = MatMul(q_K, k_K)  p_K = Softmax(z_K)  o_K = MatMul(p_K, v_K)  t_K = Transpose <perm = [0,2,1,3]> (o_K)
    r_K = Reshape(t_K, f)  b_K = MatMul(r_K, wo_K)"""


def attention() -> ModelProto:
    """Two blocks in sequence, with three heads of size four each."""
    weights = ", ".join(f"float[6,12] wq_{k}, float[6,12] wk_{k}, float[6,12] wv_{k}, float[12,6] wo_{k}" for k in "12")
    blocks = f"a_1 = Relu(x)\n{BLOCK.replace('_K', '_1')}\na_2 = Add(x, b_1)\n{BLOCK.replace('_K', '_2')}\ny = Add(a_2, b_2)"
    return model(
        f"g (float[N,5,6] x, {weights}) => (float[N,5,6] y) <int64[4] s = {{0,0,3,4}}, int64[3] f = {{0,0,-1}}> {{ {blocks} }}"
    )


def widths(net: ModelProto, *carrier: str) -> dict[str, int]:
    """Name of each group -> its atoms."""
    return {g.name: len(g) for g in find_groups(couple(read_graph(net), policy=Policy(read_carrier(carrier))))}


def whole_heads(kept: tuple[int, ...]) -> bool:
    """Whether every head is kept completely or not at all."""
    mask = np.isin(np.arange(HEADS * SIZE), kept).reshape(HEADS, SIZE)
    return bool((mask.all(1) | ~mask.any(1)).all())


def same_in_every_head(kept: tuple[int, ...]) -> bool:
    mask = np.isin(np.arange(HEADS * SIZE), kept).reshape(HEADS, SIZE)
    return bool((mask == mask[0]).all())


def test_attention_is_cut_by_heads_or_by_their_size() -> None:
    each = {f"w{k}_{b}" for k in "qv" for b in "12"}
    assert widths(attention()) == dict.fromkeys(each, SIZE)
    assert widths(attention(), "auto") == widths(attention(), "inner") == widths(attention())
    assert widths(attention(), "outer") == {"wq_1": HEADS, "wq_2": HEADS}


@pytest.mark.parametrize("carrier", ["auto", "outer", "inner", "*_2=outer"])
def test_every_carrier_is_exact(carrier: str, tmp_path: Path) -> None:
    result = pruned(attention(), 0.5, carrier=carrier, scope="local", align="none")
    assert result.report.verification is not None
    for name, axes in result.plan.kept.items():
        heads = carrier == "outer" or (carrier == "*_2=outer" and name.endswith("_2"))
        for kept in axes.values():
            assert len(kept) < HEADS * SIZE
            assert whole_heads(kept) if heads else same_in_every_head(kept)
    result.plan.save(tmp_path / "p.json")
    again = onnxprune.apply_plan(attention(), tmp_path / "p.json", bench=False)
    assert again.model == result.model
    assert onnxprune.verify_files(attention(), result.model, tmp_path / "p.json").error < 1e-5


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("carrier", ["outer", "inner"])
def test_a_carrier_whose_cut_differs_from_the_masked_original_is_detected(name: str, carrier: str) -> None:
    net = NETS[name].model()
    policy = Policy(read_carrier(carrier))
    if find_groups(couple(read_graph(net), policy=policy)):
        cut_some(net, 1, 0.5, policy=policy)


def test_packed_products_are_cut_by_heads_not_by_q_k_and_v() -> None:
    net = NETS["packed qkv"].model()
    assert widths(net) == {"wq": 4}
    assert widths(net, "outer") == {"wq": 3}


def test_a_carrier_that_would_leave_nothing_to_cut_is_ignored() -> None:
    net = NETS["depthwise, squeeze and excite"].model()
    assert widths(net, "inner") == widths(net, "outer") == widths(net)


def test_the_last_pattern_counts() -> None:
    assert Policy(read_carrier(["outer", "a*=inner"])).carries({"a1", "b"}) == "inner"
    assert Policy(read_carrier(["a*=inner", "outer"])).carries({"a1", "b"}) == "outer"
    assert Policy(read_carrier(["a*=inner"])).carries({"b"}) == "auto"


@pytest.mark.parametrize("text", ["heads", "outer=", "=outer", "wq*=whole", ""])
def test_an_invalid_carrier_is_reported_in_one_line(text: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run([str(write(tmp_path)), "--ratio", "0.5", "--carrier", text]) == 2
    assert "--carrier: got" in capsys.readouterr().err


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    with pytest.raises(OptionError, match=r"`carrier`: 'attn\*' matches no weight"):
        pruned(small(), 0.5, carrier="attn*=outer")


def test_a_plan_without_its_policy_is_refused(tmp_path: Path) -> None:
    result = pruned(attention(), 0.5, carrier="outer", align="none", verify=False)
    data = json.loads(result.plan.to_json())
    assert data["policy"] == {"carrier": ["*=outer"]}
    coupled = couple(read_graph(attention()))
    with pytest.raises(PlanError, match=r"analyse with `plan\.policy`"):
        dropped_by(coupled, result.plan)
    del data["policy"]
    with pytest.raises(PlanError, match="cuts channels tied to it"):
        onnxprune.apply_plan(attention(), Plan.from_json(data), bench=False)
    policies: tuple[Any, ...] = ({"carrier": ["sideways"]}, {"more": 1}, [], {"carrier": 3})
    for wrong in policies:
        (tmp_path / "p.json").write_text(json.dumps(data | {"policy": wrong}))
        with pytest.raises(PlanError, match="not a plan"):
            Plan.load(tmp_path / "p.json")


def test_inspect_and_explain_follow_the_carrier(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, attention())
    for options, count in (((), 16), (("--carrier", "outer"), 6), (("--carrier", "*_2=outer"), 11)):
        assert run(["inspect", str(path), "--format", "json", *options]) == 0
        assert json.loads(capsys.readouterr().out)["prunable"] == count
    assert run(["explain", str(path), "wq_1", "--carrier", "outer"]) == 0
    assert "wv_1[1]" in capsys.readouterr().out
