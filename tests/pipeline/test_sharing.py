# SPDX-License-Identifier: Apache-2.0
"""Constants that layers share although they have nothing else in common."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto

import onnxprune
from onnxprune.analysis.analyse import analyse
from onnxprune.errors import OptionError
from onnxprune.ir.facts import read_graph
from onnxprune.ir.graph import read_weights
from tests.cases.nets import pruned
from tests.cases.running import Array, runner
from tests.cases.text import model

ONES = "float[8] ones = {1, 1, 1, 1, 1, 1, 1, 1}, float[8] noughts = {0, 0, 0, 0, 0, 0, 0, 0}"
# the last layer is an output: it holds its own copies only
CHAIN = f"""g (float[1,3,8,8] x, float[8,3,3,3] w1, float[8,8,3,3] w2, float[8,8,3,3] w3) => (float[] y) <{ONES}> {{
    a = Conv(x, w1)  b = InstanceNormalization(a, ones, noughts)  c = Relu(b)
    d = Conv(c, w2)  e = InstanceNormalization(d, ones, noughts)  f = Relu(e)
    h = Conv(f, w3)  y = InstanceNormalization(h, ones, noughts) }}"""


def shapes(net: ModelProto) -> dict[str, tuple[int, ...]]:
    return {name: w.shape for name, w in read_weights(net).items()}


def zeroed(net: ModelProto, kept: dict[str, dict[int, tuple[int, ...]]]) -> ModelProto:
    """The original with zeros wherever the plan removes something, tensor by tensor, as its file has them."""
    masked = onnx.ModelProto()
    masked.CopyFrom(net)
    for name, weight in read_weights(masked).items():
        array = weight.array.copy()
        for axis, positions in kept.get(name, {}).items():
            gone = np.setdiff1d(np.arange(array.shape[axis]), positions)
            array[(slice(None),) * axis + (gone,)] = 0
        weight.tensor.CopyFrom(onnx.numpy_helper.from_array(array, weight.tensor.name))
    return masked


def check_exact(net: ModelProto, result: onnxprune.Result, feeds: dict[str, Array]) -> None:
    want = runner(zeroed(net, dict(result.plan.kept)))(feeds)  # type: ignore[arg-type]
    for a, b in zip(want, runner(result.model)(feeds), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5)


def image(rng: int = 0) -> Array:
    return np.random.default_rng(rng).standard_normal((1, 3, 8, 8)).astype(np.float32)


def test_layers_that_share_ones_and_zeros_are_cut_apart(tmp_path: Path) -> None:
    net = model(CHAIN)
    found = pruned(net, 0.5, align="none", scope="local")
    assert shapes(found.model)["w2"] == (4, 4, 3, 3)
    # what the plan does not name is as in the original, and equal copies are stored once
    assert found.plan.kept.keys() == {"w1", "w2", "w3"}
    assert sorted(s for n, s in shapes(found.model).items() if "ones" in n) == [(4,), (8,)]
    assert shapes(found.model)["ones"] == (8,)
    check_exact(net, found, {"x": image()})
    found.save(tmp_path / "small.onnx")
    assert onnxprune.verify_files(net, tmp_path / "small.onnx", found.plan).error < 1e-5
    assert onnxprune.apply_plan(net, found.plan, bench=False).model == found.model


SHARED: dict[str, tuple[str, int]] = {
    "a blur": (
        """g (float[1,3,8,8] x, float[8,3,3,3] w1, float[8,8,3,3] w2, float[4,8,1,1] w3) => (float[] y)
        <float[8,1,1,2] blur = {1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2}> {
        a = Conv(x, w1)  r = Relu(a)  b = Conv <group = 8> (r, blur)  c = Conv <pads = [1,1,1,1]> (b, w2)
        d = Conv <group = 8> (c, blur)  m = ReduceMean <axes = [1], keepdims = 1> (d)  e = Mul(d, m)  y = Conv(e, w3) }""",
        16,
    ),
    "a node": (
        """g (float[1,5,6] x, float[6,8] w1, float[8,8] w2, float[8,4] w3) => (float[] y) {
        ones = Constant <value = float[8] {1, 1, 1, 1, 1, 1, 1, 1}> ()
        a = MatMul(x, w1)  b = LayerNormalization(a, ones, ones)  c = MatMul(b, w2)  d = LayerNormalization(c, ones)
        y = MatMul(d, w3) }""",
        16,
    ),
    "a body": (
        f"""g (float[2,6] x, bool c, float[6,8] w1, float[8,8] w2) => (float[] y) <{ONES}> {{
        a = MatMul(x, w1)  b = Add(a, ones)  r = Relu(b)  d = MatMul(r, w2)
        y = If (c) <then_branch = t () => (p) {{ p = Mul(d, ones) }}, else_branch = e () => (q) {{ q = Add(d, ones) }}> }}""",
        8,
    ),
}


@pytest.mark.parametrize(("text", "free"), SHARED.values(), ids=SHARED)
def test_every_user_has_channels_of_its_own(text: str, free: int) -> None:
    net = model(text)
    assert analyse(read_graph(net)).prunable == free
    found = pruned(net, 0.5, align="none", scope="local")
    feeds: dict[str, Array] = {"x": image()} if "Conv" in text else {"x": image().ravel()[:30].reshape(1, 5, 6)}
    if "If" in text:
        feeds = {"x": image().ravel()[:12].reshape(2, 6), "c": np.array(True)}
    check_exact(net, found, feeds)
    assert onnxprune.verify_files(net, found.model, found.plan).error < 1e-5


def test_zero_points_merged_into_one_tensor_tie_nothing() -> None:
    quantized = "".join(f"  k{i} = DequantizeLinear <axis = 0> (w{i}, scale{i}, points)" for i in (1, 2))
    net = model(f"""g (float[1,3,8,8] x, int8[8,3,3,3] w1, int8[8,8,3,3] w2, float[4,8,1,1] w3) => (float[] y)
        <int8[8] points = {{0, 0, 0, 0, 0, 0, 0, 0}}, float[8] scale1 = {{1, 2, 3, 4, 5, 6, 7, 8}},
        float[8] scale2 = {{1, 2, 3, 4, 5, 6, 7, 8}}> {{
        {quantized}  a = Conv(x, k1)  b = Relu(a)  c = Conv(b, k2)  d = Relu(c)  y = Conv(d, w3) }}""")
    assert analyse(read_graph(net)).prunable == 16


def test_a_branch_that_is_used_twice_stays_one() -> None:
    """Its kernel ties both uses, so its uniform scale stays one tensor, which the plan names."""
    twin = "".join(
        f"  a{i} = Conv(x{i}, w1)  b{i} = InstanceNormalization(a{i}, ones, noughts)  y{i} = Conv(b{i}, w2)" for i in (1, 2)
    )
    net = model(
        f"g (float[1,3,8,8] x1, float[1,3,8,8] x2, float[8,3,3,3] w1, float[4,8,1,1] w2) => (y1, y2) <{ONES}> {{{twin} }}"
    )
    found = pruned(net, 0.5, align="none")
    assert found.plan.kept.keys() == {"w1", "w2", "ones", "noughts"}
    assert shapes(found.model)["ones"] == (4,)


def test_a_shared_weight_that_is_not_uniform_stays_tied() -> None:
    net = model(CHAIN.replace("ones = {1, 1,", "ones = {1, 2,").replace("noughts = {0, 0,", "noughts = {0, 1,"))
    assert analyse(read_graph(net)).prunable == 0


def test_shared_constants_are_excluded_by_their_name() -> None:
    with pytest.raises(OptionError, match="no prunable channel remains"):
        pruned(model(CHAIN), 0.5, exclude=["ones"])
    with pytest.raises(OptionError, match="matches no weight"):
        pruned(model(CHAIN), 0.5, exclude=["twos"])


@pytest.mark.parametrize("options", [{"recover": "reconstruct"}, {"recover": "bias"}, {"rounds": 2, "recover": "reconstruct"}])
def test_a_recovered_model_with_shared_constants_keeps_its_contract(options: dict[str, object], tmp_path: Path) -> None:
    net = model(CHAIN)
    found = pruned(net, 0.5, data={"x": np.concatenate([image(k) for k in range(24)])}, align="none", **options)
    found.save(tmp_path / "small.onnx")
    assert onnxprune.verify_files(net, tmp_path / "small.onnx", found.plan).error < 1e-4
