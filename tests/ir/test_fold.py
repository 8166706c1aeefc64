# SPDX-License-Identifier: Apache-2.0
"""Weights that the graph computes from other weights are stored under their own names, and cut as any weight."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto

import onnxprune
from onnxprune.cli.app import run
from onnxprune.errors import OptionError
from onnxprune.ir.files import load
from onnxprune.ir.fold import fold
from onnxprune.ir.graph import read_weights
from onnxprune.ir.saving import save
from tests.cases.commands import Capture, refused
from tests.cases.nets import pruned, write
from tests.cases.running import random_feeds, runner
from tests.cases.text import model

HEAD = "g (float[2,3,8,8] x, float[16,3,3,3] w1, float[16,1,1,1] w1g, float[5,16,1,1] w2{more}) => (float[] y) <{stored}>"
TAIL = "a = Conv(x, k)  r = Relu(a)  y = Conv(r, w2)"
TWO = "float two = {2}, float eps = {0.001}, int64[3] axes = {1,2,3}"
COMPUTED: dict[str, tuple[str, str]] = {
    "weight normalisation": ("", "n = ReduceL2 <axes = [1,2,3]> (w1)  d = Div(w1, n)  k = Mul(d, w1g)"),
    "weight normalisation in small steps": (
        "",
        "p = Pow(w1, two)  s = ReduceSum(p, axes)  n = Sqrt(s)  d = Div(w1, n)  k = Mul(w1g, d)",
    ),
    "spectral normalisation": (
        ", float[16] wu, float[27] wv",
        "f = Flatten(w1)  m = MatMul(f, wv)  p = Mul(m, wu)  s = ReduceSum <keepdims = 0> (p)  k = Div(w1, s)",
    ),
    "standardised weights": (
        "",
        """m = ReduceMean <axes = [1,2,3]> (w1)  c = Sub(w1, m)  q = Mul(c, c)  v = ReduceMean <axes = [1,2,3]> (q)
        e = Add(v, eps)  s = Sqrt(e)  k = Div(c, s)""",
    ),
    "scaled weights": ("", "k = Mul(w1, two)"),
    "a merged adapter": (
        ", float[16,2] wb, float[2,27] wa",
        "d = MatMul(wb, wa)  e = Shape(w1)  f = Reshape(d, e)  k = Add(w1, f)",
    ),
    "float16, then scaled": (", float16[16,3,3,3] wh", "c = Cast <to = 1> (wh)  k = Mul(c, two)"),
}


def computed(more: str, body: str, tail: str = TAIL) -> ModelProto:
    head = HEAD.format(more=more, stored=TWO)
    return model(f"{head} {{ {body}  {tail} }}")


@pytest.mark.parametrize(("more", "body"), COMPUTED.values(), ids=COMPUTED)
def test_a_computed_weight_is_stored_and_cut(more: str, body: str, tmp_path: Path) -> None:
    made = computed(more, body)
    plain, _ = fold(made)
    onnx.checker.check_model(plain)
    assert [n.op_type for n in plain.graph.node] == ["Conv", "Relu", "Conv"]
    needed = {name for n in made.graph.node for name in n.input} - {"x"}
    assert needed & {t.name for t in plain.graph.initializer} == {"k", "w2"}
    feeds = random_feeds(made, np.random.default_rng(0), 2)
    np.testing.assert_allclose(runner(plain)(feeds)[0], runner(made)(feeds)[0], rtol=1e-5, atol=1e-6)
    result = pruned(write(tmp_path, made), 0.5, align="none")
    assert result.report.ratio == 0.5
    assert result.plan.kept["k"].keys() == {0}
    assert result.plan.folded == ("k",)
    assert result.report.verification is not None


def test_a_plan_that_names_a_computed_weight_is_applied_and_verified(tmp_path: Path) -> None:
    source, plan, out = write(tmp_path, computed(*COMPUTED["weight normalisation"])), tmp_path / "p.json", tmp_path / "o.onnx"
    pruned(source, 0.5, align="none").save(out, plan)
    assert '"onnxprune-plan/2"' in plan.read_text()
    again = onnxprune.apply_plan(source, plan, bench=False)
    assert again.model == onnx.load(out)
    assert again.plan.folded == ("k",)
    assert onnxprune.verify_files(source, out, plan).error < 1e-5


def test_a_plan_for_weights_of_the_file_has_the_first_format(tmp_path: Path) -> None:
    assert '"onnxprune-plan/1"' in pruned(write(tmp_path), 0.5).plan.to_json()


STAY: dict[str, tuple[str, str]] = {
    "a weight that is only moved": ("", "t = Transpose <perm = [1,0,2,3]> (w1)  k = Transpose <perm = [1,0,2,3]> (t)"),
    "a weight that is only moved, to a computed size": (
        "",
        "s = Shape(w1)  t = Abs(s)  k = Reshape(w1, t)",
    ),
    "a weight that is only cast": (", float16[16,3,3,3] wh", "k = Cast <to = 1> (wh)"),
    "a quantized weight": (", int8[16,3,3,3] wq", "k = DequantizeLinear(wq, two)"),
    "a quantized weight, by hand": (", int8[16,3,3,3] wq", "f = Cast <to = 1> (wq)  k = Mul(f, two)"),
    "random numbers": ("", "n = RandomNormalLike(w1)  k = Mul(n, two)"),
    "a weight that another node needs too": (
        "",
        "k = Mul(w1, two)  o = Conv(x, w1)  p = ReduceSum <keepdims = 0> (o)  z = Mul(p, two)",
    ),
}


@pytest.mark.parametrize(("more", "body"), STAY.values(), ids=STAY)
def test_other_weights_stay_as_they_are(more: str, body: str) -> None:
    made = computed(more, body)
    assert fold(made)[0] is made


def test_a_small_factor_is_not_stored_as_the_large_tensor_that_it_fills() -> None:
    made = model("""g (float[1,4,64,64] x, float[16,4,1,1] w1, float[5,16,1,1] w2, float[1,16,1,1] wc) => (float[] y)
        <int64[4] shape = {1,16,64,64}, float two = {2}> {
        s = Mul(wc, two)  k = Expand(s, shape)  a = Conv(x, w1)  b = Add(a, k)  y = Conv(b, w2) }""")
    assert fold(made)[0] is made
    assert pruned(made, 0.5).report.ratio == 0.5


def test_a_scaled_table_that_is_used_twice_is_not_duplicated() -> None:
    made = model("""g (int64[1,8] i, float[100,16] w1, float[16,16] w2) => (float[] y) <float two = {2}> {
        k = Mul(w1, two)  e = Gather(k, i)  h = MatMul(e, w2)  r = Relu(h)  t = Transpose(w1)  y = MatMul(r, t) }""")
    assert fold(made)[0] is made


def test_weights_with_one_source_are_stored_once_per_room_that_becomes_free() -> None:
    """Adapters over one weight would multiply it."""
    body = "  ".join(f"k{i} = Add(w1, w2_{i})  h{i} = MatMul(x, k{i})" for i in range(8))
    more = ", ".join(f"float[1,64] w2_{i}" for i in range(8))
    made = model(f"""g (float[2,64] x, float[64,64] w1, {more}) => (float[] y) {{ {body}
        y = Sum({", ".join(f"h{i}" for i in range(8))}) }}""")
    assert sum(1 for t in fold(made)[0].graph.initializer if t.name.startswith("k")) <= 2


def test_a_packed_weight_is_stored_in_its_parts() -> None:
    made = model(
        """g (float[2,8] x, float[8,24] w1, float[12,5] w2) => (float[] y) <float two = {2}> {
        s = Mul(w1, two)  p, q = Split <axis = 1> (s)  a = MatMul(x, p)  b = MatMul(x, q)  c = Mul(a, b)
        r = Relu(c)  y = MatMul(r, w2) }""",
        13,
    )
    plain, _ = fold(made)
    assert {"p", "q"} < {t.name for t in plain.graph.initializer}
    assert "Split" not in {n.op_type for n in plain.graph.node}
    assert pruned(made, 0.5, align="none").report.ratio == 0.5


def test_a_weight_that_is_quantized_in_the_graph_is_stored_quantized() -> None:
    made = model("""g (float[2,3,8,8] x, float[16,3,3,3] w1, float[5,16,1,1] w2) => (float[] y)
        <float s = {0.01}, int8 z = {0}> {
        q = QuantizeLinear(w1, s, z)  k = DequantizeLinear(q, s, z)  a = Conv(x, k)  r = Relu(a)  y = Conv(r, w2) }""")
    weights = read_weights(fold(made)[0])
    assert weights["q"].tensor.data_type == TensorProto.INT8
    assert "w1" not in weights
    assert pruned(made, 0.5, align="none").report.ratio == 0.5


def test_an_old_file_keeps_its_initializers_among_the_inputs() -> None:
    made = model(
        """g (float[2,3,8,8] x, float[16,3,3,3] w1, float[5,16,1,1] w2) => (float[] y) {
        m = Exp(w1)  a = Conv(x, m)  r = Relu(a)  y = Conv(r, w2) }""",
        9,
    )
    made.ir_version = 3
    made.graph.input.extend(onnx.helper.make_tensor_value_info(t.name, 1, t.dims) for t in made.graph.initializer)
    plain, _ = fold(made)
    onnx.checker.check_model(plain)
    assert [v.name for v in plain.graph.input] == ["x", "w2", "m"]
    onnx.checker.check_model(pruned(made, 0.5, align="none").model)


def test_a_model_in_memory_is_not_changed() -> None:
    made = computed(*COMPUTED["scaled weights"])
    before = made.SerializeToString(deterministic=True)
    pruned(made, 0.5)
    assert made.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("name", ["w1", "d"])
def test_explain_says_which_weight_a_tensor_served(name: str, tmp_path: Path, capsys: Capture) -> None:
    path = write(tmp_path, computed(*COMPUTED["weight normalisation"]))
    assert f"'{name}' only serves to compute 'k', which is cut in its place" in refused(["explain", str(path), name], capsys)
    assert run(["explain", str(path), "k"]) == 0
    assert "k: a weight, read by Conv 'a'" in capsys.readouterr().out


def test_other_outputs_of_a_node_stay_computed() -> None:
    made = model(
        """g (float[2,8] x, float[8,24] w1) => (float[8,12] q, float[] y) <float two = {2}> {
        s = Mul(w1, two)  p, q = Split <axis = 1> (s)  y = MatMul(x, p) }""",
        13,
    )
    plain, _ = fold(made)
    assert ["(stored)" in name for name in plain.graph.node[1].output] == [True, False]
    feeds = random_feeds(made, np.random.default_rng(0), 2)
    for a, b in zip(runner(plain)(feeds), runner(made)(feeds), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_cut_file_is_compared_as_it_is(tmp_path: Path) -> None:
    """What was too large to store in the original may be small enough in the result: that must not look like a change."""
    path = tmp_path / "m.onnx"
    save(computed(*COMPUTED["scaled weights"]), path)
    assert any(n.op_type == "Mul" for n in load(path, folds=False).model.graph.node)


def test_errors_name_what_is_stored(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="matches no weight"):
        pruned(write(tmp_path, computed(*COMPUTED["scaled weights"])), 0.5, include="nothing*")
