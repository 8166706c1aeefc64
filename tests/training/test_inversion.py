# SPDX-License-Identifier: Apache-2.0
"""Gradient descent on synthetic inputs brings them closer to the statistics of BatchNorm, or does not change them."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper

from onnxprune.data.samples import Data
from onnxprune.data.synthetic.statistics import fit
from onnxprune.data.synthetic.synthesize import synthesize
from onnxprune.effort import Clock, Effort
from onnxprune.pipeline.samples import refinement
from onnxprune.training.inversion import invert
from tests.cases.pictures import pictures, trained_on
from tests.cases.running import Array
from tests.cases.text import model, stored


def mismatch(net: ModelProto, data: Data) -> float:
    found = fit(net, data)
    assert found is not None
    return found.mismatch


def steps(number: int) -> Effort:
    """As many steps as an earlier run."""
    return Effort(repeated={"gradient steps planned": number, "gradient steps to make inputs": number})


def noise(n: int = 32) -> Array:
    return np.random.default_rng(0).random((n, 1, 12, 12)).astype(np.float32)


def test_inputs_get_closer_and_keep_their_range() -> None:
    net = trained_on(pictures(90, 1), 1)
    before = Data(({"x": noise()},))
    after = invert(net, before, steps(20))
    assert mismatch(net, after) < 0.7 * mismatch(net, before)
    x = after.chunks[0]["x"]
    assert x.dtype == np.float32
    assert (x.min(), x.max()) == (noise().min(), noise().max())
    assert np.array_equal(before.chunks[0]["x"], noise()), "the given inputs were changed"


def test_splitting_inputs_to_fit_into_memory_makes_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    net, data = trained_on(pictures(90, 1), 1), Data(({"x": noise(50)},))
    whole = invert(net, data, steps(3)).chunks[0]["x"]
    assert not np.array_equal(whole, noise(50))
    monkeypatch.setattr("onnxprune.training.inversion.MOST", 8)
    np.testing.assert_allclose(invert(net, data, steps(3)).chunks[0]["x"], whole, atol=1e-3)


def test_the_range_of_values_makes_no_difference() -> None:
    plain, bytes_ = trained_on(pictures(90, 1), 1), trained_on(pictures(90, 1, high=255.0), 1)
    small, large = (mismatch(n, invert(n, Data(({"x": k * noise()},)), steps(20))) for n, k in ((plain, 1), (bytes_, 255)))
    assert large == pytest.approx(small, rel=0.2)


@pytest.mark.parametrize("dtype", ["float16", "double"])
def test_other_float_types_are_kept(dtype: str) -> None:
    text = """g (F[N,6] x, F[8,6] w1, F[8] ws, F[8] wt, F[8] wm, F[8] wvar) => (F[] y) {
        c = Gemm <transB = 1> (x, w1)  y = BatchNormalization(c, ws, wt, wm, wvar) }"""
    net = model(text.replace("F[", f"{dtype}["))
    known = stored(net)
    x = np.random.default_rng(0).standard_normal((16, 6)).astype({"double": "float64"}.get(dtype, dtype))
    made = x @ numpy_helper.to_array(known["w1"]).T
    for name, value in (("wm", made.mean(0)), ("wvar", made.var(0))):
        known[name].CopyFrom(numpy_helper.from_array(value.astype(x.dtype), name))
    after = invert(net, Data(({"x": x / 2},)), steps(10)).chunks[0]["x"]
    assert after.dtype == x.dtype
    assert not np.array_equal(after, x / 2)


def test_the_given_inputs_are_returned_if_a_step_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: object) -> None:
        raise RuntimeError("not enough memory")

    monkeypatch.setattr("torch.Tensor.backward", full)
    data = Data(({"x": noise(8)},))
    assert invert(trained_on(pictures(90, 1), 1), data, steps(3)) is data


TWO = """g (float[N,1,12,12] x, float[N,1,1,1] size, int64[N,12] k, float[8,1,3,3] w1, float[8] ws, float[8] wt, float[8] wm,
    float[8] wvar) => (float[] y) <int64[2] axes = {1, 2}> {
    z = Mul(x, size)  kf = Cast <to = 1> (k)  ku = Unsqueeze(kf, axes)  zk = Add(z, ku)  c = Conv(zk, w1)
    y = BatchNormalization(c, ws, wt, wm, wvar) }"""


def test_integers_and_constant_inputs_are_kept() -> None:
    net = model(TWO)
    given = {"x": noise(8), "size": np.ones((8, 1, 1, 1), np.float32), "k": np.arange(96).reshape(8, 12) % 3}
    after = invert(net, Data((given,)), steps(5)).chunks[0]
    assert not np.array_equal(after["x"], given["x"])
    assert np.array_equal(after["size"], given["size"])
    assert np.array_equal(after["k"], given["k"])


UNMOVED = {
    "no BatchNorm": "c = Conv(x, w1)  y = Relu(c)",
    "a step without a gradient": "q = QuantizeLinear(x, s, o)  d = DequantizeLinear(q, s, o)  c = Conv(d, w1)"
    "  y = BatchNormalization(c, ws, wt, wm, wvar)",
}


@pytest.mark.parametrize("body", UNMOVED.values(), ids=UNMOVED)
def test_the_given_inputs_are_returned_if_no_step_is_possible(body: str) -> None:
    net = model(
        f"""g (float[N,1,12,12] x, float[8,1,3,3] w1, float[8] ws, float[8] wt, float[8] wm, float[8] wvar) => (float[] y)
        <float s = {{0.01}}, uint8 o = {{0}}> {{ {body} }}"""
    )
    data = Data(({"x": noise(8)},))
    assert invert(net, data, steps(3)) is data
    assert invert(net, replace(data, chunks=data.chunks * 2), steps(3)).chunks == data.chunks * 2


def test_refined_synthetic_inputs_are_closer(monkeypatch: pytest.MonkeyPatch) -> None:
    net = trained_on(pictures(90, 1), 1)
    unrefined, refined = synthesize(net, 24), synthesize(net, 24, refine=refinement())
    assert mismatch(net, refined) < mismatch(net, unrefined)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # without torch
    assert refinement() is None


def test_a_broken_pytorch_counts_as_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    net = trained_on(pictures(90, 1), 1)
    unrefined = synthesize(net, 24)
    monkeypatch.setitem(sys.modules, "onnxprune.training.inversion", None)  # importing it fails
    assert np.array_equal(synthesize(net, 24).chunks[0]["x"], unrefined.chunks[0]["x"])


def test_steps_end_when_the_time_is_up() -> None:
    """However many were planned: on a busy machine a step takes longer than it was measured to."""
    net = trained_on(pictures(90, 1), 1)
    hurry = Effort(Clock(0.0), {"gradient steps planned": 20})
    invert(net, Data(({"x": noise(8)},)), hurry)
    assert hurry.done["gradient steps to make inputs"] <= 1
