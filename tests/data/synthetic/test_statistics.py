# SPDX-License-Identifier: Apache-2.0
"""Activations compared with the statistics stored in BatchNorm."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from onnxprune.data.load import load_data
from onnxprune.data.samples import Data
from onnxprune.data.synthetic.statistics import fit, misfit, norm_layers, probing
from tests.cases.nets import small
from tests.cases.pictures import TWO_NORMS, pictures, trained_on
from tests.cases.running import runner
from tests.cases.text import model


def test_moments_match_the_activations() -> None:
    net = model(TWO_NORMS.format(c=2))
    x = np.random.default_rng(0).standard_normal((5, 2, 12, 12)).astype(np.float32)
    layers = norm_layers(net)
    assert [layer.tensor for layer in layers] == ["c1", "c2"]
    copy = onnx.ModelProto.FromString(net.SerializeToString())
    copy.graph.output.extend(onnx.helper.make_empty_tensor_value_info(layer.tensor) for layer in layers)
    activations = runner(copy)({"x": x})[1:]
    with probing(net, layers, ["y"]) as probe:
        (moments, outputs), *rest = probe(Data(({"x": x},)))
    assert not rest
    assert outputs[0].shape == (5, 8, 8, 8)
    for layer, found, a in zip(layers, moments, activations, strict=True):
        z = (a - layer.mean[:, None, None]) / np.sqrt(layer.variance)[:, None, None]
        np.testing.assert_allclose(found[:, 0], z.mean((2, 3)), rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(found[:, 1], (z**2).mean((2, 3)), rtol=1e-3, atol=1e-4)


def test_training_inputs_fit_and_others_do_not() -> None:
    x = pictures(90, 3)
    net = trained_on(x, 3)
    found = fit(net, Data(({"x": x},)))
    assert found is not None
    assert len(found.layers) == 2
    assert found.mismatch < 1e-3
    assert misfit(net, Data(({"x": x},))) is None
    for other in (3 * x - 1, -x, x + 2):
        wrong = fit(net, Data(({"x": other},)))
        assert wrong is not None
        assert wrong.mismatch > 0.6
    (warning,) = load_data({"x": x + 2}, net).warnings
    assert warning.startswith(
        "these inputs differ from the training inputs according to the BatchNorm statistics: over 2 layers, means are off by "
    )


def test_channels_with_zero_variance_are_ignored() -> None:
    net = trained_on(pictures(90, 1), 1)
    stored = {t.name: t for t in net.graph.initializer}
    variance = numpy_helper.to_array(stored["wvar2"]).copy()
    variance[3] = 0
    stored["wvar2"].CopyFrom(numpy_helper.from_array(variance, "wvar2"))
    assert norm_layers(net)[1].alive.tolist() == [0, 1, 2, 4, 5, 6, 7]


def test_moments_of_frames_merged_into_the_batch_axis_are_per_sample() -> None:
    text = """g (float[N,4,2,6,6] x, float[8,2,3,3] w1, float[8] ws1, float[8] wt1, float[8] wm1, float[8] wvar1)
        => (float[M,8,4,4] y) <int64[4] f = {-1, 2, 6, 6}> {
        r = Reshape(x, f)  c = Conv(r, w1)  y = BatchNormalization(c, ws1, wt1, wm1, wvar1) }"""
    net = model(text)
    layers = norm_layers(net)
    x = np.random.default_rng(0).standard_normal((6, 4, 2, 6, 6)).astype(np.float32)
    with probing(net, layers) as probe:
        alone = np.concatenate([next(probe(Data(({"x": x[k : k + 1]},))))[0][0] for k in range(6)])
        together = next(probe(Data(({"x": x},))))[0][0]
    np.testing.assert_allclose(alone, together, rtol=1e-4, atol=1e-5)


def test_layers_that_normalise_weights_are_skipped_and_shared_statistics_are_found() -> None:
    text = """g (float[N,3,8,8] x, float[4,3,3,3] w1, float[3] ws, float[3] wt, float[3] wm, float[3] wvar, float[4] ws2,
        float[4] wm2, float[4] wvar2) => (float[N,4,6,6] y) { n = BatchNormalization(w1, ws, wt, wm, wvar)  c = Conv(x, n)
        v = Identity(wvar2)  y = BatchNormalization(c, ws2, wm2, wm2, v) }"""
    assert [layer.tensor for layer in norm_layers(model(text))] == ["c"]


def test_statistics_that_the_graph_computes_are_not_used() -> None:
    net = small()
    for name in ("wm1", "wvar1"):
        tensor = next(t for t in net.graph.initializer if t.name == name)
        net.graph.initializer.remove(tensor)
        tensor.name = f"{name}_stored"
        net.graph.initializer.append(tensor)
        net.graph.node.insert(0, onnx.helper.make_node("Neg", [tensor.name], [name]))
    assert norm_layers(net) == []
