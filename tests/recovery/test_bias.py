# SPDX-License-Identifier: Apache-2.0
"""Constant channels that are dropped are absorbed into a bias."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

import onnxprune
from onnxprune.recovery.batch_norm import reestimate
from onnxprune.recovery.bias import absorb
from tests.cases.nets import small
from tests.cases.recovery import CONSTANT, batches_for, drop, error
from tests.cases.text import model


@pytest.mark.parametrize("measured", [True, False])
def test_a_constant_channel_is_fully_absorbed_into_the_bias(measured: bool) -> None:
    net = model(CONSTANT)
    for t in net.graph.initializer:
        if t.name == "ws":  # with a zero scale these channels equal their shift for every input
            gamma = onnx.numpy_helper.to_array(t).copy()
            gamma[:3] = 0
            t.CopyFrom(onnx.numpy_helper.from_array(gamma, "ws"))
    p = drop(net, "w1", [0, 1, 2])
    assert error(net, p.pruned, p.batches) > 1e-2
    assert error(net, absorb(p.coupled, p.dropped, p.pruned, p.batches if measured else ()).model, p.batches) < 1e-6


def test_means_are_per_channel_even_if_the_tensor_has_another_consumer() -> None:
    """With a second consumer and samples of two widths, channels are not confused with columns."""
    net = model("""g (float[N,3,6,W] x, float[8,3,1,1] w1, float[8] wb, float[5,8,1,1] w2, float[5,8,1,1] w3) =>
        (float[N,5,6,W] y) { a = Conv(x, w1, wb)  r = Relu(a)  b = Conv(r, w2)  t = Tanh(r)  c = Conv(t, w3)
        y = Add(b, c) }""")
    p = drop(net, "w1", [0, 1, 2])
    batches = [{"x": x["x"][..., :width]} for width in (4, 9) for x in batches_for(net, 2)]
    found = absorb(p.coupled, p.dropped, p.pruned, batches).model
    assert error(net, found, batches[:2]) < 0.9 * error(net, p.pruned, batches[:2])


def test_means_of_activations_follow_from_batch_norm() -> None:
    """DFQ's closed form for ReLU, against the measured mean of a batch that really has BatchNormalization's statistics."""
    net = model(CONSTANT)
    batches = batches_for(net, 8, 64)
    reestimated = reestimate(*drop(net, "w1", [])[:3], batches).model
    p = drop(reestimated, "w1", [0, 1, 2, 3])
    closed, measured = (absorb(p.coupled, p.dropped, p.pruned, given).model for given in ((), batches))
    fresh = batches_for(net, seed=1)
    assert error(measured, closed, fresh) < 0.05
    assert error(reestimated, closed, fresh) < 0.8 * error(reestimated, p.pruned, fresh)


def test_a_window_larger_than_the_simulated_positions_tells_nothing() -> None:
    """It leaves no values, and their mean would be NaN."""
    net = model("""g (float[1,3,8,8] x, float[6,3,1,1] w1, float[6] ws, float[6] wt, float[6] wm, float[6] wvar,
        float[4,6,1,1] w2) => (float[] y) {
        a = Conv(x, w1)  b = BatchNormalization(a, ws, wt, wm, wvar)  c = AveragePool <kernel_shape = [2,2]> (b)
        y = Conv(c, w2) }""")
    p = drop(net, "w1", [0, 1])
    assert absorb(p.coupled, p.dropped, p.pruned).model == p.pruned


def test_a_bias_that_is_added_to_a_file_in_which_weights_are_inputs_is_an_input_too(tmp_path: Path) -> None:
    net = small()
    net.ir_version = 3
    for t in net.graph.initializer:
        net.graph.input.append(onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims))
    onnx.save(net, tmp_path / "old.onnx")
    found = onnxprune.prune(tmp_path / "old.onnx", 0.5, recover="bias", bench=False)
    names = {v.name for v in found.model.graph.input}
    assert {t.name for t in found.model.graph.initializer} <= names
    assert any(name.endswith("_refit") for name in names)
    found.save(tmp_path / "new.onnx", tmp_path / "new.json")
    onnxprune.verify_files(tmp_path / "old.onnx", tmp_path / "new.onnx", tmp_path / "new.json")
