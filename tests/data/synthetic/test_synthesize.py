# SPDX-License-Identifier: Apache-2.0
"""Made-up inputs: what they look like, and that they cause the activations that BatchNorm remembers."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper

import onnxprune
from onnxprune.data.load import load_data, random_data
from onnxprune.data.samples import Data
from onnxprune.data.synthetic.textures import FAMILIES, bred, coloured, grid
from onnxprune.data.synthetic.inputs import Signal, Still, Tokens, normalised, read_inputs
from onnxprune.data.synthetic.select import herd, norm_of_mean
from onnxprune.data.synthetic.statistics import fit, misfit, norm_layers, probing
from onnxprune.data.synthetic.synthesize import synthesize
from onnxprune.errors import DataError
from onnxprune.evaluation.evaluator import Evaluator
from tests.models import Array, model, runner
from tests.nets import small

TRAINED = Path(__file__).parent.parent / "models" / "resnet20-fashion-mnist.onnx"
CONV = """g (float[N,{c},12,12] x, float[8,{c},3,3] w1, float[8] ws1, float[8] wt1, float[8] wm1, float[8] wvar1,
    float[8,8,3,3] w2, float[8] ws2, float[8] wt2, float[8] wm2, float[8] wvar2) => (float[N,8,8,8] y) {{
    c1 = Conv(x, w1)  n1 = BatchNormalization(c1, ws1, wt1, wm1, wvar1)  r1 = Relu(n1)
    c2 = Conv(r1, w2)  y = BatchNormalization(c2, ws2, wt2, wm2, wvar2) }}"""


def trained_on(x: Array, channels: int) -> ModelProto:
    """Two convolutions with BatchNorm whose running statistics are those of some inputs."""
    net = model(CONV.format(c=channels))
    for tensor, mean, variance in (("c1", "wm1", "wvar1"), ("c2", "wm2", "wvar2")):
        probe = onnx.ModelProto.FromString(net.SerializeToString())
        probe.graph.output.append(onnx.helper.make_empty_tensor_value_info(tensor))
        activations = runner(probe)({"x": x})[1]
        stored = {t.name: t for t in net.graph.initializer}
        for name, value in ((mean, activations.mean((0, 2, 3))), (variance, activations.var((0, 2, 3)))):
            stored[name].CopyFrom(numpy_helper.from_array(value, name))
    return net


def pictures(count: int, channels: int, low: float = 0.0, high: float = 1.0, seed: int = 5) -> Array:
    rng = np.random.default_rng(seed)
    at = grid((12, 12))
    x = np.stack([coloured(rng, at, channels, name) for name in ("things", "strokes", "blobs") for _ in range(count // 3)])
    return (low + (high - low) * x).astype(np.float32)


@pytest.mark.parametrize("sizes", [(50,), (24, 30), (6, 14, 15)], ids=["sound", "image", "film"])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_fills_any_grid_with_numbers_from_0_to_1(name: str, sizes: tuple[int, ...]) -> None:
    at = grid(sizes)
    made = [np.stack([coloured(np.random.default_rng([s, k]), at, 3, name) for k in range(8)]) for s in (0, 0, 1)]
    assert made[0].shape == (8, 3, *sizes)
    assert np.isfinite(made[0]).all()
    assert made[0].min() >= -1e-6
    assert made[0].max() <= 1 + 1e-6
    assert np.array_equal(made[0], made[1])
    assert not np.array_equal(made[0], made[2])
    assert made[0].std() > 0.02


def test_children_stay_in_range_and_take_after_their_parents() -> None:
    rng, at = np.random.default_rng(0), grid((20, 20))
    a, b = (coloured(rng, at, 1, name) for name in ("blobs", "checks"))
    children = np.stack([bred(rng, at, a, b) for _ in range(60)])
    assert children.min() >= -1e-6
    assert children.max() <= 1 + 1e-6
    likeness = [max(abs(np.corrcoef(c.ravel(), p.ravel())[0, 1]) for p in (a, b)) for c in children]
    assert np.median(likeness) > 0.5


def test_herding_finds_the_best_subset_or_nearly() -> None:
    rows = np.random.default_rng(0).standard_normal((12, 3)).astype(np.float32)
    products = rows @ rows.T
    best = min(norm_of_mean(products, np.array(c)) for c in combinations(range(12), 4))
    found = norm_of_mean(products, herd(products, 4))
    middling = float(np.median([norm_of_mean(products, np.array(c)) for c in combinations(range(12), 4)]))
    assert best <= found < best + 0.1 * middling
    assert sorted(set(herd(products, 12))) == list(range(12))


def test_moments_are_those_of_the_activations() -> None:
    net = model(CONV.format(c=2))
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


def test_the_inputs_of_the_training_fit_and_others_do_not() -> None:
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
    assert warning.startswith("these inputs are unlike those of the training: over 2 layers, means are off by ")


def test_dead_channels_are_not_looked_at() -> None:
    net = trained_on(pictures(90, 1), 1)
    stored = {t.name: t for t in net.graph.initializer}
    variance = numpy_helper.to_array(stored["wvar2"]).copy()
    variance[3] = 0
    stored["wvar2"].CopyFrom(numpy_helper.from_array(variance, "wvar2"))
    assert norm_layers(net)[1].alive.tolist() == [0, 1, 2, 4, 5, 6, 7]


RANGES = {"0 to 1": (0.0, 1.0), "-1 to 1": (-1.0, 1.0), "bytes": (0.0, 255.0)}


@pytest.mark.parametrize(("low", "high"), RANGES.values(), ids=RANGES)
def test_synthetic_inputs_fit_and_find_the_range_of_values(low: float, high: float) -> None:
    net = trained_on(pictures(90, 1, low, high), 1)
    data = synthesize(net, 48, seed=1)
    x = data.chunks[0]["x"]
    assert x.shape == (48, 1, 12, 12)
    assert (x.min(), x.max()) == (low, high)
    found, noise = fit(net, data), fit(net, random_data(net, 48))
    assert found is not None
    assert noise is not None
    assert found.mismatch < 0.1 < noise.mismatch
    assert data.notes[0].startswith("48 synthetic inputs, fitted to the BatchNorm statistics: over 2 layers")


def test_an_unusual_range_is_found_too() -> None:
    net = trained_on(pictures(90, 1, 10.0, 14.0), 1)
    found = fit(net, synthesize(net, 48))
    assert found is not None
    assert found.mismatch < 0.3


def test_on_a_trained_network_synthetic_inputs_come_near_to_real_ones() -> None:
    net = onnx.load(TRAINED)
    data = load_data("synthetic", net, samples=32)
    found, noise = fit(net, data), fit(net, random_data(net, 32))
    real = fit(net, load_data(TRAINED.with_suffix(".npz"), net))
    assert found is not None and noise is not None and real is not None
    assert real.mismatch < found.mismatch < 0.25
    assert noise.mismatch > 2
    classes = runner(net)(data.chunks[0])[0].argmax(1)
    assert len(np.unique(classes)) >= 8


def test_synthetic_inputs_are_seeded() -> None:
    net = trained_on(pictures(30, 1), 1)
    a, b, c = (synthesize(net, 8, seed).chunks[0]["x"] for seed in (0, 0, 1))
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


def test_without_statistics_a_mixture_is_made_and_the_loss_is_said() -> None:
    net = model("g (float[N,3,8,8] x, float[4,3,3,3] w1) => (float[N,4,6,6] y) { y = Conv(x, w1) }")
    data = synthesize(net, 10)
    assert len(data) == 10
    assert "has no BatchNorm statistics" in data.notes[0]
    assert fit(net, data) is None
    assert misfit(net, data) is None


def inputs(text: str, **shapes: tuple[int, ...]) -> Any:
    return read_inputs(model(text), shapes)


def test_what_inputs_are_like() -> None:
    (image,) = inputs("g (float[N,3,20,30] x, float[4,3,3,3] w1) => (float[N,4,18,28] y) { y = Conv(x, w1) }")
    assert isinstance(image, Signal)
    assert (image.channel, image.sizes) == (0, (20, 30))
    assert (image.low, image.high) == normalised((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    (last,) = inputs("g (float[1,20,30,3] x) => (float[1,3,20,30] y) { y = Transpose <perm = [0,3,1,2]> (x) }")
    assert (last.channel, last.sizes, last.shape) == (2, (20, 30), (20, 30, 3))
    (sound,) = inputs("g (float[N,2,99] x, float[4,2,3] w1) => (float[N,4,97] y) { y = Conv(x, w1) }")
    assert (sound.channel, sound.sizes) == (0, (99,))
    (words,) = inputs("g (float[N,7,16] x, float[16,8] w1) => (float[N,7,8] y) { y = MatMul(x, w1) }")
    assert (words.channel, words.sizes) == (1, (7,))
    (film,) = inputs("g (float[N,3,4,9,9] x, float[4,3,1,1,1] w1) => (float[N,4,4,9,9] y) { y = Conv(x, w1) }")
    assert (film.channel, film.sizes) == (0, (4, 9, 9))
    (numbers,) = inputs("g (float[N,13] x, float[13,5] w1) => (float[N,5] y) { y = MatMul(x, w1) }")
    assert (numbers.channel, numbers.sizes, numbers.channels) == (None, (13,), 1)
    (digits,) = inputs("g (float[N,784] x, float[784,5] w1) => (float[N,5] y) { y = MatMul(x, w1) }")
    assert digits.sizes == (28, 28)
    for signal in (image, last, sound, words, film, numbers, digits):
        fed = signal.fed(np.stack([signal.make(np.random.default_rng(k), signal.at) for k in range(3)]))
        assert fed.shape == (3, *signal.shape)
        assert fed.dtype == np.float32


def test_what_a_model_does_first_tells_the_range() -> None:
    begun = "g (float[N,1,8,8] x) => (float[N,1,8,8] y) <float s = {%s}> { y = %s(x, s) }"
    assert [inputs(begun % v)[0].high for v in (("255.0", "Div"), ("0.0039", "Mul"), ("0.286", "Sub"))] == [
        (255,),
        (255,),
        (1,),
    ]
    quantized = "g (float[N,1,8,8] x) => (uint8[N,1,8,8] y) <float s = {0.02}, uint8 z = {100}> { y = QuantizeLinear(x, s, z) }"
    (found,) = inputs(quantized)
    assert (found.low, found.high) == (pytest.approx((-2.0,)), pytest.approx((3.1,)))
    (pixels,) = inputs("g (uint8[N,3,8,8] x) => (float[N,3,8,8] y) { y = Cast <to = 1> (x) }")
    assert pixels.high == (255, 255, 255)
    fed = pixels.fed(np.stack([pixels.make(np.random.default_rng(k), pixels.at) for k in range(8)]))
    assert fed.dtype == np.uint8
    assert fed.max() > 100


BERT = """g (int64[N,T] input_ids, int64[N,T] attention_mask, int64[N,T] token_type_ids, float[50,6] w1) => (float[N,T,6] y) {
    e = Gather(w1, input_ids)  m = Cast <to = 1> (attention_mask)  t = Cast <to = 1> (token_type_ids)  s = Add(m, t)
    u = Unsqueeze <axes = [2]> (s)  y = Mul(e, u) }"""


def test_tokens_lie_in_their_table_and_masks_let_all_through() -> None:
    net = model(BERT, opset=11)
    kinds = read_inputs(net, {"input_ids": (1, 9)})
    assert [type(kind) for kind in kinds] == [Tokens, Still, Still]
    data = synthesize(net, 40, shapes={"input_ids": (1, 9)})
    chunk = data.chunks[0]
    assert chunk["input_ids"].shape == (40, 9)
    assert 0 <= chunk["input_ids"].min() < chunk["input_ids"].max() < 50
    assert chunk["attention_mask"].all()
    assert not chunk["token_type_ids"].any()
    tokens = kinds[0]
    parents = [tokens.make(np.random.default_rng(k), tokens.at) for k in range(2)]
    child = tokens.child(np.random.default_rng(3), tokens.at, *parents)
    assert child.shape == (9,)
    assert 0 <= child.min() <= child.max() < 50


def test_sizes_and_factors_beside_an_image() -> None:
    text = """g (float[1,3,32,48] image, float[1,2] im_shape, float[1,2] scale_factor) => (float[1,3,32,48] y) {
        a = ReduceSum <keepdims = 0> (im_shape)  b = ReduceSum <keepdims = 0> (scale_factor)
        c = Add(a, b)  y = Mul(image, c) }"""
    chunk = synthesize(model(text), 3).chunks[0]
    assert chunk["im_shape"].tolist() == [[32, 48]] * 3
    assert chunk["scale_factor"].tolist() == [[1, 1]] * 3


def test_batches_of_a_fixed_size_and_none() -> None:
    fixed = model("g (float[4,3,8,8] x) => (float[4,3,8,8] y) { y = Relu(x) }")
    assert [len(b["x"]) for b in synthesize(fixed, 6).batches(64)] == [4, 4]
    none = model("g (float[5] x, float s) => (float[5] y) { y = Mul(x, s) }")
    data = synthesize(none, 3)
    assert len(data) == 3
    assert next(data.batches(1))["x"].shape == (5,)


def test_normalised_rows_that_are_frames_of_one_sample() -> None:
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


def test_inputs_that_nothing_can_be_made_up_for() -> None:
    with pytest.raises(DataError, match="'x' holds object, for which nothing can be made up; give `data`"):
        synthesize(model("g (string[N] x) => (string[N] y) { y = Identity(x) }"), 2)


def test_layers_that_normalise_weights_are_left_out_and_shared_statistics_found() -> None:
    text = """g (float[N,3,8,8] x, float[4,3,3,3] w1, float[3] ws, float[3] wt, float[3] wm, float[3] wvar, float[4] ws2,
        float[4] wm2, float[4] wvar2) => (float[N,4,6,6] y) { n = BatchNormalization(w1, ws, wt, wm, wvar)  c = Conv(x, n)
        v = Identity(wvar2)  y = BatchNormalization(c, ws2, wm2, wm2, v) }"""
    assert [layer.tensor for layer in norm_layers(model(text))] == ["c"]


def test_inputs_that_cannot_be_made_to_fit_are_said_to_be_far() -> None:
    note = synthesize(model(CONV.format(c=3)), 8).notes[0]
    assert note.endswith("that is far, so results should be judged by real inputs")


def test_a_model_with_statistics_that_the_file_computes() -> None:
    net = small()
    for name in ("wm1", "wvar1"):
        tensor = next(t for t in net.graph.initializer if t.name == name)
        net.graph.initializer.remove(tensor)
        tensor.name = f"{name}_stored"
        net.graph.initializer.append(tensor)
        net.graph.node.insert(0, onnx.helper.make_node("Neg", [tensor.name], [name]))
    assert norm_layers(net) == []


def test_without_data_a_cut_is_recovered_on_made_up_inputs() -> None:
    x = pictures(90, 1)
    net = trained_on(x, 1)
    plain, recovered = (
        onnxprune.prune(net, 0.4, recover=name, criterion="l2", align="none", bench=False) for name in ("none", "reconstruct")
    )
    assert recovered.report.recovery is not None
    assert recovered.report.recovery.source == "synthetic"
    judge = Evaluator(net, Data(({"x": pictures(30, 1, seed=6)},)))
    errors = [judge.judge(result.model).error for result in (plain, recovered)]
    assert errors[1] < 0.7 * errors[0]
