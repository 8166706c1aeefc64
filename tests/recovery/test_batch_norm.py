# SPDX-License-Identifier: Apache-2.0
"""Statistics of the pruned network."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import ModelProto

from onnxprune.evaluation.structure import check_contract, only_weights
from onnxprune.ort import session
from onnxprune.recovery.batch_norm import reestimate
from tests.cases.recovery import CONSTANT, Batches, drop
from tests.cases.text import model


def test_statistics_are_those_of_the_pruned_network() -> None:
    net = model(
        CONSTANT.replace("y = Conv(r, w2)", "c = Conv(r, w2)  y = BatchNormalization(c, ws2, wt2, wm2, wvar2)").replace(
            "float[5,8,1,1] w2", "float[5,8,1,1] w2, float[5] ws2, float[5] wt2, float[5] wm2, float[5] wvar2"
        )
    )
    p = drop(net, "w1", [0, 1, 2])
    found = reestimate(p.coupled, p.dropped, p.pruned, p.batches).model
    (y,) = session(found.SerializeToString()).run(None, {"x": np.concatenate([b["x"] for b in p.batches])})
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in found.graph.initializer}
    np.testing.assert_allclose(y.mean((0, 2, 3)), weights["wt2"], atol=1e-3)
    np.testing.assert_allclose(y.std((0, 2, 3)), np.abs(weights["ws2"]), rtol=1e-2)


def assert_same_statistics(a: ModelProto, b: ModelProto, batches: Batches) -> None:
    """Compare the mean and standard deviation of every output channel."""
    x = {"x": np.concatenate([batch["x"] for batch in batches])}
    old, new = (session(m.SerializeToString()).run(None, x)[0] for m in (a, b))
    np.testing.assert_allclose(new.mean((0, 2, 3)), old.mean((0, 2, 3)), atol=1e-3)
    np.testing.assert_allclose(new.std((0, 2, 3)), old.std((0, 2, 3)), rtol=1e-2)


def test_layers_without_batch_norm_get_the_originals_statistics() -> None:
    text = """g (float[N,3,8,8] x, float[8,3,3,3] w1, float[8] wb1, float[5,8,3,3] w2, float[5] wb2) => (float[N,5,4,4] y) {
        a = Conv(x, w1, wb1)  r = Relu(a)  y = Conv(r, w2, wb2) }"""
    p = drop(model(text), "w1", [0, 1, 2])
    found = reestimate(p.coupled, p.dropped, p.pruned, p.batches).model
    assert_same_statistics(p.coupled.graph.model, found, p.batches)


def test_folded_layers_are_matched_next_to_layers_with_batch_norm() -> None:
    text = """g (float[N,3,8,8] x, float[8,3,3,3] w1, float[8] ws, float[8] wt, float[8] wm, float[8] wvar, float[8,8,1,1] w2,
        float[8] wb2, float[5,8,3,3] w3, float[5] wb3) => (float[N,5,4,4] y) { a = Conv(x, w1)
        b = BatchNormalization(a, ws, wt, wm, wvar)  r = Relu(b)  c = Conv(r, w2, wb2)  s = Relu(c)  y = Conv(s, w3, wb3) }"""
    p = drop(model(text), "w1", [0, 1, 2])
    found = reestimate(p.coupled, p.dropped, p.pruned, p.batches).model
    assert_same_statistics(p.coupled.graph.model, found, p.batches)
    check_contract(p.pruned, found, only_weights())
