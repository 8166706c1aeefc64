# SPDX-License-Identifier: Apache-2.0
"""Criteria that use activations, against hand-written numpy."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto

from onnxprune.analysis.couple import couple
from onnxprune.analysis.coupling import Coupled
from onnxprune.analysis.groups import find_groups
from onnxprune.effort import Clock, Effort
from onnxprune.ir.facts import read_graph
from onnxprune.ort import session
from onnxprune.recovery.reconstruct import reconstruct
from onnxprune.selection.criteria import calibrated
from tests.cases.recovery import COPIES, Batches, batches_for, drop, with_copies
from tests.cases.text import model


def obs_of(net: ModelProto, batches: Batches) -> tuple[NDArray[np.float64], Coupled]:
    coupled = couple(read_graph(net))
    (group,) = find_groups(coupled)
    return calibrated.obs(group, calibrated.readers_of(group, calibrated.Statistics(batches).read(coupled))), coupled


def test_obs_ranks_copies_lowest_and_one_of_each_pair_high() -> None:
    net = with_copies(model(COPIES["gemm"]), 0)
    scores, _ = obs_of(net, batches_for(net, 4, 64))
    low = np.argsort(scores)[:4]
    assert sorted(low % 4) == [0, 1, 2, 3]
    assert scores[low].max() < 0.2 * np.sort(scores)[4:].min()


def test_obs_predicts_the_error_that_a_refit_leaves() -> None:
    """The score of the first dropped channel is the relative squared error of the layer that reads it, after least squares."""
    net = model(COPIES["gemm"])
    batches = batches_for(net, 4, 500)
    scores, coupled = obs_of(net, batches)
    first = int(scores.argmin())
    p = drop(net, "w1", [first])
    found = reconstruct(p.coupled, p.dropped, p.pruned, batches).model
    y, z = (np.concatenate([session(m.SerializeToString()).run(None, b)[0] for b in batches]) for m in (net, found))
    remaining = ((y - z) ** 2).sum() / ((y - y.mean(0)) ** 2).sum()
    assert 0.5 * remaining < scores[first] < 2 * remaining + 1e-3
    assert len(coupled.roots) > 0


FLATTENED = """g (float[N,3,4,4] x, float[8,3,1,1] w1, float[128,5] w2) => (float[N,5] y) {
    a = Conv (x, w1)  r = Relu(a)  f = Flatten(r)  y = MatMul(f, w2) }"""
WIDE = {"conv": (COPIES["conv"], 9), "transposed": (COPIES["transposed"], 4), "flattened": (FLATTENED, 16)}
"""Networks, and the number of inputs that each channel has where it is read."""


@pytest.mark.parametrize(("text", "places"), WIDE.values(), ids=WIDE)
def test_inputs_of_wide_layers_are_taken_to_depend_alike_at_all_positions(
    text: str, places: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = with_copies(model(text), 0)
    batches = batches_for(net, 4, 64)
    exact = calibrated.Statistics(batches).read(couple(read_graph(net)))[0]
    monkeypatch.setattr(calibrated, "LARGE", 0)
    scores, coupled = obs_of(net, batches)
    low = np.argsort(scores)[:4]
    assert sorted(low % 4) == [0, 1, 2, 3]
    assert scores[low].max() < 0.2 * np.sort(scores)[4:].min()
    found = calibrated.Statistics(batches).read(coupled)[0]
    assert found.matrix.shape[:2] == (8, places)
    channels, positions = found.factors()
    np.testing.assert_allclose(np.trace(channels) * np.trace(positions), np.trace(exact.factors()[0]), rtol=1e-3)
    group = find_groups(coupled)[0]
    for name in ("activation", "apoz"):
        few = [calibrated.CALIBRATED[name](group, [reader]) for reader in (exact, found)]
        np.testing.assert_allclose(few[0], few[1], rtol=1e-3)


def test_statistics_use_as_many_batches_as_there_is_time_for_and_the_same_ones_when_repeated() -> None:
    net = model(COPIES["gemm"])
    batches, coupled = batches_for(net, 6), couple(read_graph(net))
    effort = Effort(Clock(0.0))
    short = calibrated.Statistics(batches, effort=effort).read(coupled)[0]
    assert effort.done == {"batches for scores": 2}
    again = calibrated.Statistics(batches, effort=Effort(repeated=effort.done)).read(coupled)[0]
    np.testing.assert_array_equal(short.second, again.second)
    whole = calibrated.Statistics(batches).read(coupled)[0]
    assert not np.array_equal(short.second, whole.second)


def test_activation_and_apoz_match_values_computed_by_hand() -> None:
    net = model(COPIES["gemm"])
    batches = batches_for(net, 2, 50)
    coupled = couple(read_graph(net))
    (group,) = find_groups(coupled)
    readers = calibrated.Statistics(batches).read(coupled)
    w = onnx.numpy_helper.to_array(next(t for t in net.graph.initializer if t.name == "w1"))
    r = np.maximum(np.concatenate([b["x"] for b in batches]) @ w.T, 0)
    for name, expected in (("activation", r.mean(0)), ("apoz", (r > 0).mean(0))):
        found = calibrated.CALIBRATED[name](group, readers)
        np.testing.assert_allclose(found, expected / expected.mean(), rtol=1e-4)


def test_subset_fidelity_is_one_for_the_only_channel_in_use() -> None:
    net = model(COPIES["gemm"])
    for t in net.graph.initializer:
        if t.name == "w2":
            w = np.zeros((5, 8), "f")
            w[:, 2] = 1
            t.CopyFrom(onnx.numpy_helper.from_array(w, "w2"))
    coupled = couple(read_graph(net))
    found = calibrated._fidelity(calibrated.Statistics(batches_for(net)).read(coupled)[0], np.arange(8), 8)
    np.testing.assert_allclose(found, np.eye(8)[2], atol=1e-6)


def found_by(name: str, net: ModelProto, batches: Batches) -> list[NDArray[np.float64]]:
    coupled = couple(read_graph(net))
    readers = calibrated.Statistics(batches, ranks=name == "hrank").read(coupled)
    return [calibrated.CALIBRATED[name](g, calibrated.readers_of(g, readers)) for g in find_groups(coupled)]


def stored(net: ModelProto) -> dict[str, NDArray[np.float64]]:
    return {t.name: onnx.numpy_helper.to_array(t).astype(np.float64) for t in net.graph.initializer}


def test_thinet_takes_the_set_whose_contributions_add_up_to_least() -> None:
    net = model(COPIES["gemm"])
    batches, w = batches_for(net, 4, 64), stored(net)
    r = np.maximum(np.concatenate([b["x"] for b in batches]).astype(np.float64) @ w["w1"].T, 0)
    parts = r[:, :, None] * w["w2"].T  # of each channel, to each output
    energy = (r @ w["w2"].T).var(0).sum()
    removed, order, added, before = np.zeros(parts.shape[::2]), list[int](), list[float](), 0.0
    for _ in range(parts.shape[1]):
        errors = [
            np.inf if j in order else ((removed + parts[:, j]) ** 2).sum(1).mean() / energy for j in range(parts.shape[1])
        ]
        best = int(np.argmin(errors))
        removed += parts[:, best]
        added.append(errors[best] - before)
        order, before = [*order, best], errors[best]
    [found] = found_by("thinet", net, batches)
    assert np.argsort(found, kind="stable").tolist() == order
    np.testing.assert_allclose(np.sort(found), np.maximum.accumulate(added), rtol=1e-3)


CHAIN = """g (float[N,6] x, float[6,8] w1, float[8,7] w2, float[7,4] w3) => (float[N,4] y) {
    a = MatMul(x, w1)  b = Relu(a)  c = MatMul(b, w2)  d = Relu(c)  y = MatMul(d, w3) }"""


def test_nisp_is_propagated_through_absolute_weights_from_the_spread_of_the_responses() -> None:
    net = model(CHAIN)
    batches, w = batches_for(net, 2, 50), stored(net)
    x = np.concatenate([b["x"] for b in batches]).astype(np.float64)
    y = np.maximum(np.maximum(x @ w["w1"], 0) @ w["w2"], 0) @ w["w3"]
    last = np.abs(w["w3"]) @ (y.std(0) / y.std(0).mean())
    first = np.abs(w["w2"]) @ (last / last.mean())
    for found, expected in zip(found_by("nisp", net, batches), (first, last), strict=True):
        np.testing.assert_allclose(found, expected / expected.mean(), rtol=1e-3)


def test_hrank_is_the_mean_rank_of_a_map() -> None:
    net = model("""g (float[N,3,6,6] x, float[4,3,1,1] w1, float[5,4,1,1] w2) => (float[N,5,6,6] y) {
        a = Conv(x, w1)  y = Conv(a, w2) }""")
    for t in net.graph.initializer:
        if t.name == "w1":  # the first two channels copy inputs of rank 1 and 2, the third adds them, the last is 0
            w = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 0]], np.float32)
            t.CopyFrom(onnx.numpy_helper.from_array(w[:, :, None, None], "w1"))
    rng = np.random.default_rng(0)
    low = [[rng.standard_normal((6, k)) @ rng.standard_normal((k, 6)) for k in (1, 2, 3)] for _ in range(8)]
    [found] = found_by("hrank", net, [{"x": np.array(low, np.float32)}])
    expected = np.array([1.0, 2.0, 3.0, 0.0])
    np.testing.assert_allclose(found, expected / expected.mean(), rtol=1e-6)
