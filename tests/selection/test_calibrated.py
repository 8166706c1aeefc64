# SPDX-License-Identifier: Apache-2.0
"""Criteria that use activations, against hand-written numpy."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto

from onnxprune.analysis.couple import couple
from onnxprune.analysis.coupling import Coupled
from onnxprune.analysis.groups import find_groups
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
