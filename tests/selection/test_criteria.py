# SPDX-License-Identifier: Apache-2.0
"""Criteria against hand-written numpy, and joint scores of a group."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

from onnxprune.analysis.couple import couple
from onnxprune.analysis.groups import find_groups
from onnxprune.errors import DataError, OptionError
from onnxprune.ir.facts import read_graph
from onnxprune.selection.criteria import NAMES, Scorer
from onnxprune.selection.criteria.given import scores_from_file
from onnxprune.selection.criteria.names import CALIBRATED
from tests.cases.nets import TRAINED, pruned, small
from tests.cases.text import model

BN_NET = """g (float[N,3,8,8] x, float[6,3,3,3] w1, float[6] ws, float[6] wt, float[6] wm, float[6] wvar, float[4,6,1,1] w2)
    => (float[N,4,6,6] y) { a = Conv(x, w1)  b = BatchNormalization(a, ws, wt, wm, wvar)  c = Relu(b)  y = Conv(c, w2) }"""


def scores(net: ModelProto, criterion: str) -> dict[str, Any]:
    coupled = couple(read_graph(net))
    groups = find_groups(coupled)
    found = Scorer(criterion).score(coupled, groups).scores
    return {g.name: s for g, s in zip(groups, found, strict=True)}


def weights(net: ModelProto) -> dict[str, NDArray[np.float64]]:
    return {t.name: onnx.numpy_helper.to_array(t).astype(np.float64) for t in net.graph.initializer}


def unit(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(x / x.mean())


def test_criteria_match_values_computed_by_hand() -> None:
    net = model(BN_NET)
    w = weights(net)
    l1, gamma = np.abs(w["w1"]).sum((1, 2, 3)), np.abs(w["ws"])
    by_hand = {
        "l1": l1,
        "l2": np.sqrt((w["w1"] ** 2).sum((1, 2, 3))),
        "bn_scale": gamma,
        "ccprune.product": unit(l1) * unit(gamma),
        "ccprune.sum": (unit(l1) + unit(gamma)) / 2,
        "ccprune.folded": l1 * gamma / np.sqrt(w["wvar"] + 1e-5),
        "bn_shift": np.sqrt(gamma**2 + w["wt"] ** 2),
        "fpgm": np.array([sum(np.sqrt(((a - b) ** 2).sum()) for b in w["w1"]) for a in w["w1"]]),
        "group_norm": ((w["w1"] ** 2).sum((1, 2, 3)) + gamma**2 + (w["w2"] ** 2).sum((0, 2, 3))) / 3,
    }
    s, g = (w["w1"] ** 2).sum((1, 2, 3)), gamma**2
    as_they_are = {
        "lamp": np.array([x / s[s >= x].sum() for x in s]),
        "optimal_threshold": np.array([g[g <= x].sum() / g.sum() for x in g]),
    }
    assert set(NAMES) == {*by_hand, *as_they_are, *CALIBRATED, "ccprune", "random"}
    for name, expected in by_hand.items():
        np.testing.assert_allclose(scores(net, name)["w1"], unit(expected), rtol=1e-5, err_msg=name)
    for name, expected in as_they_are.items():
        np.testing.assert_allclose(scores(net, name)["w1"], expected, rtol=1e-5, err_msg=name)
    np.testing.assert_array_equal(scores(net, "ccprune")["w1"], scores(net, "ccprune.product")["w1"])


def replaced(net: ModelProto, **arrays: NDArray[np.float64]) -> ModelProto:
    for t in net.graph.initializer:
        if t.name in arrays:
            t.CopyFrom(onnx.numpy_helper.from_array(arrays[t.name].astype(np.float32), t.name))
    return net


def test_the_folded_score_ignores_the_scale_of_a_convolution() -> None:
    net = model(BN_NET)
    w, scale = weights(net), np.array([1, 2, 0.5, 4, 1, 3.0])
    rescaled = replaced(
        model(BN_NET),
        w1=w["w1"] * scale[:, None, None, None],
        wm=w["wm"] * scale,
        wvar=(w["wvar"] + 1e-5) * scale**2 - 1e-5,
    )
    np.testing.assert_allclose(scores(rescaled, "ccprune.folded")["w1"], scores(net, "ccprune.folded")["w1"], rtol=1e-4)
    assert not np.allclose(scores(rescaled, "ccprune.product")["w1"], scores(net, "ccprune.product")["w1"], rtol=1e-2)


def test_every_branch_of_a_residual_spine_counts() -> None:
    net = small()
    w = weights(net)
    first, last = np.abs(w["w1"]).sum((1, 2, 3)), np.abs(w["w3"]).sum((1, 2, 3))
    np.testing.assert_allclose(scores(net, "l1")["w1"], (unit(first) + unit(last)) / 2, rtol=1e-5)


def test_random_depends_on_the_seed_alone() -> None:
    plans = [pruned(small(), 0.5, criterion="random", seed=s, verify=False).plan for s in (1, 1, 2)]
    assert plans[0] == plans[1]
    assert plans[0].kept != plans[2].kept


def test_the_report_notes_groups_without_batch_norm() -> None:
    [note] = pruned(small(), 0.5, verify=False).report.notes
    assert "1 of 2 groups have no BatchNormalization" in note
    assert "folded" not in note
    assert pruned(small(), 0.5, criterion="l1", verify=False).report.notes == ()


BIASED = """g (float[1,3,8,8] x, float[16,3,3,3] w1, float[16] w1b, float[5,16,1,1] w2) => (float[] y) {
    a = Conv(x, w1, w1b)  b = Relu(a)  y = Conv(b, w2) }"""


@pytest.mark.parametrize(
    ("text", "size", "folded"),
    [
        (BIASED, 0.3, True),
        (BIASED, 0.05, False),
        (BIASED.replace(", w1b)", ")"), 0.3, False),
        (BIASED.replace("b = Relu(a)", "b = InstanceNormalization(a, w1b, w1b)"), 0.3, False),
    ],
    ids=["large biases", "small biases", "no biases", "another normalisation"],
)
def test_advice_on_exporting_comes_only_where_batch_norm_seems_folded(text: str, size: float, folded: bool) -> None:
    net = model(text)
    for tensor in net.graph.initializer:
        if tensor.name == "w1b":
            tensor.CopyFrom(numpy_helper.from_array(np.full(16, size, np.float32), "w1b"))
    [note] = [n for n in pruned(net, 0.5, verify=False).report.notes if "no BatchNormalization" in n]
    assert ("PRESERVE" in note) == folded


def test_a_network_whose_batch_norm_onnxruntime_folded_is_recognised(tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "folded.onnx")
    onnxruntime.InferenceSession(str(TRAINED), options)
    notes = pruned(tmp_path / "folded.onnx", 0.5, verify=False).report.notes
    assert any("seems to be folded" in n for n in notes)
    assert not any("no BatchNormalization" in n for n in pruned(TRAINED, 0.5, verify=False).report.notes)


def test_given_scores_decide_what_is_kept(tmp_path: Path) -> None:
    order = np.arange(12.0)[::-1]
    np.savez(tmp_path / "s.npz", w2=order)
    result = pruned(small(), 0.5, scores=tmp_path / "s.npz", scope="local", align="none")
    assert result.plan.kept == {"w2": {0: (0, 1, 2, 3, 4, 5)}, "w3": {1: (0, 1, 2, 3, 4, 5)}}


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"w99": np.ones(4)}, "'w99' does not make prunable channels; weights that do: w1"),
        ({"w1": np.ones(4)}, r"'w1' has shape \(4,\), expected \(16,\)"),
        ({"w1": np.ones((16, 1))}, r"expected \(16,\)"),
        ({"w1": np.full(16, np.nan)}, "finite numbers"),
        ({"w4": np.ones(5)}, "'w4' does not make prunable channels"),
    ],
)
def test_given_scores_that_do_not_fit_are_refused(given: dict[str, NDArray[Any]], why: str) -> None:
    coupled = couple(read_graph(small()))
    with pytest.raises(DataError, match=why):
        scores_from_file(coupled, find_groups(coupled), given)


def test_an_unknown_criterion_is_refused() -> None:
    with pytest.raises(OptionError, match="expected one of"):
        scores(small(), "best")


FOLDED = """g (float[N,3,8,8] x, float[6,3,3,3] w1, float[6] w1b, float[4,6,1,1] w2) => (float[N,4,6,6] y)
    { a = Conv(x, w1, w1b)  b = Relu(a)  y = Conv(b, w2) }"""
UNFOLDED = """g (float[N,3,8,8] x, float[6,3,3,3] w1, float[6] wp, float[1,1,1,6] wq, float[1,1,1,6] wr, float[6] wt,
    float[4,6,1,1] w2) => (float[N,4,6,6] y) { a = Conv(x, w1, wp)  b = Transpose <perm = [0,2,3,1]> (a)
    c = Sub(b, wq)  d = Mul(c, wr)  e = Add(d, wt)  f = Relu(e)  g = Transpose <perm = [0,3,1,2]> (f)  y = Conv(g, w2) }"""
PRODUCT = """g (float[N,3] x, float[3,6] w1, float[6,4] w2) => (float[N,4] y)
    { a = MatMul(x, w1)  b = Relu(a)  y = MatMul(b, w2) }"""
SCALED = """g (float[N,3] x, float[3,6] w1, float[6] wr, float[6,4] w2) => (float[N,4] y)
    { a = MatMul(x, w1)  s = Mul(a, wr)  b = Relu(s)  y = MatMul(b, w2) }"""


@pytest.mark.parametrize("criterion", ["ccprune", "ccprune.folded", "ccprune.sum", "l1", "l2", "bn_scale"])
@pytest.mark.parametrize(("folded", "written_out"), [(FOLDED, UNFOLDED), (PRODUCT, SCALED)])
def test_a_normalisation_that_is_written_out_scores_as_if_it_were_folded(folded: str, written_out: str, criterion: str) -> None:
    scale = np.array([1, -2, 0.5, 4, 1, 3.0])
    net = model(written_out)
    shapes = {t.name: tuple(t.dims) for t in net.graph.initializer}
    net = replaced(net, wr=scale.reshape(shapes["wr"]))
    w1 = weights(net)["w1"]
    other = replaced(model(folded), w1=w1 * (scale if w1.ndim == 2 else scale[:, None, None, None]))
    np.testing.assert_allclose(scores(net, criterion)["w1"], scores(other, criterion)["w1"], rtol=1e-5)


def test_a_batch_norm_is_found_in_another_layout() -> None:
    there_and_back = "s = Transpose <perm = [0,2,3,1]> (a)  u = Transpose <perm = [0,3,1,2]> (s)"
    moved = BN_NET.replace("b = BatchNormalization(a", f"{there_and_back}  b = BatchNormalization(u")
    np.testing.assert_array_equal(scores(model(moved), "ccprune")["w1"], scores(model(BN_NET), "ccprune")["w1"])
