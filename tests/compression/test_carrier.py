# SPDX-License-Identifier: Apache-2.0
"""Files that carry weights as codes and magnitudes: nothing is lost, and onnxruntime computes them once, at load."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper

from onnxprune.compression.blocks import FREE, SHARED, ZERO, Blocks
from onnxprune.compression.carrier import KINDS, Codes, carried, codes_for, fusible, restored
from onnxprune.compression.division import Division, fits_half, rounded
from onnxprune.errors import OptionError
from tests.cases.blocks import Array, in_blocks, operators, optimised, weight
from tests.cases.releases import has, needs
from tests.cases.running import random_feeds, runner
from tests.cases.text import model

INT8, INT4, INT2 = KINDS
FLOATS = ("float16", "float", "double")
KINDS_OF_BLOCKS = {"shared": (SHARED,), "zero": (ZERO,), "shared, zero": (SHARED, ZERO), "all": (FREE, SHARED, ZERO)}
RELEASES = {"onnx": "1.20", "onnxruntime": "1.24"}
SMALL = needs(**RELEASES)
"""What loads opset 25, and codes of fewer than eight bits."""
WAYS = [(codes, opset) for codes in KINDS for opset in (9, 10, 13, 17, 21, 25) if opset >= codes.opset]
NEWER = {way: way[0] != INT8 or way[1] == 25 for way in WAYS}


def product(kind: str = "float", opset: int = 21, sizes: str = "10,6") -> ModelProto:
    """One matrix product."""
    inputs, outputs = sizes.split(",")
    return model(f"g ({kind}[N,{inputs}] x, {kind}[{sizes}] w1) => ({kind}[N,{outputs}] y) {{ y = MatMul(x, w1) }}", opset)


def mixed(
    net: ModelProto, name: str, runs: tuple[int, ...], kinds: tuple[int, ...], levels: int = 0
) -> tuple[ModelProto, Division]:
    """A model in which one weight has blocks of all of these kinds."""
    count = Blocks(weight(net, name).shape, runs).count
    return in_blocks(net, name, runs, [kinds[k % len(kinds)] for k in range(count)], levels)


def outputs(net: ModelProto) -> Array:
    return np.asarray(runner(net)(random_feeds(net, np.random.default_rng(0), 3))[0])


@pytest.mark.parametrize(
    ("codes", "opset"),
    [pytest.param(*way, marks=[SMALL] if NEWER[way] else []) for way in WAYS],
    ids=lambda x: getattr(x, "name", str(x)),
)
@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("actions", KINDS_OF_BLOCKS.values(), ids=KINDS_OF_BLOCKS)
@pytest.mark.parametrize("coded", [False, True], ids=["free blocks are numbers", "free blocks are codes"])
def test_every_bit_comes_back_and_onnxruntime_folds_all_that_a_carrier_adds(
    codes: Codes, opset: int, kind: str, actions: tuple[int, ...], coded: bool, tmp_path: Path
) -> None:
    levels = codes.levels if coded and kind != "float16" else 0
    net, division = mixed(product(kind, opset), "w1", (4, 1), actions, levels)
    file = carried(net, {"w1": division}, codes)
    onnx.checker.check_model(file, full_check=True)
    plain, names = restored(file)
    assert names == {"w1"}
    assert weight(plain, "w1").tobytes() == weight(net, "w1").tobytes()
    assert operators(plain) == operators(net)
    assert sorted(operators(optimised(file, tmp_path))) == sorted(operators(optimised(net, tmp_path)))


@st.composite
def divided_weights(draw: st.DrawFn) -> tuple[Array, Division]:
    """Any weight with any blocks."""
    shape = tuple(draw(st.lists(st.integers(1, 7), min_size=1, max_size=4)))
    blocks = Blocks(shape, tuple(draw(st.integers(1, n)) for n in shape))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    size = draw(st.sampled_from([1e-9, 1e-3, 1.0, 1e3]))
    kind = draw(st.sampled_from([np.float16, np.float32, np.float64]))
    actions = draw(st.lists(st.sampled_from([FREE, SHARED, ZERO]), min_size=blocks.count, max_size=blocks.count))
    division = Division(blocks, np.array(actions), draw(st.sampled_from([0, 7, 127])) if kind != np.float16 else 0)
    w: Array = np.asarray(size * rng.standard_normal(shape)).astype(kind)
    return division.projected(w), division


def reader(w: Array, opset: int) -> ModelProto:
    """A model that reads a weight of any shape."""
    kind = helper.np_dtype_to_tensor_dtype(w.dtype)
    graph = helper.make_graph(
        [helper.make_node("Identity", ["w"], ["y"])],
        "g",
        [],
        [helper.make_tensor_value_info("y", kind, list(w.shape))],
        [numpy_helper.from_array(w, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


@settings(max_examples=150, deadline=None)
@given(divided_weights(), st.sampled_from([way for way in WAYS if has(**RELEASES) or not NEWER[way]]))
def test_any_weight_in_any_blocks_comes_back(made: tuple[Array, Division], way: tuple[Codes, int]) -> None:
    w, division = made
    codes, opset = way
    if (division.actions == FREE).all():
        division = Division(division.blocks, np.where(np.arange(division.blocks.count), FREE, ZERO))
        w = division.projected(w)
    if division.levels > codes.levels:
        codes = INT8
    if division.levels:
        w = rounded(w, division)
    file = carried(reader(w, opset), {"w": division}, codes)
    onnx.checker.check_model(file)
    found = weight(restored(file)[0], "w")
    # a step that float16 cannot hold is known as well as the largest weight of its block
    exact = not division.levels or fits_half(division.steps(w))
    assert np.array_equal(found, w) if exact else np.allclose(found, w, rtol=1e-6, atol=0)


@settings(max_examples=150, deadline=None)
@given(divided_weights())
def test_a_projection_has_its_structure_and_so_has_its_rounding(made: tuple[Array, Division]) -> None:
    w, division = made
    for found in (w, rounded(w, division), rounded(w, division, 4)):
        assert division.wrong(found) == 0
        np.testing.assert_array_equal(rounded(found, division), rounded(rounded(found, division), division))


@pytest.mark.parametrize(("levels", "least"), [(7, 0.9), (127, 0.999)])
def test_steps_of_a_free_block_are_at_least_as_good_as_those_that_reach_its_largest_weight(levels: int, least: float) -> None:
    w: Array = np.random.default_rng(0).standard_normal((50, 16)).astype(np.float32)
    division = Division(Blocks((50, 16), (1, 16)), np.full(50, FREE), levels)
    found = division.projected(w)
    largest = np.abs(w).max(1, keepdims=True)
    plain = np.rint(w / largest * levels) / levels * largest
    assert (np.square(found - w).sum(1) <= np.square(plain - w).sum(1) * (1 + 1e-4) + 1e-12).all()
    assert np.square(found).sum() > least * np.square(w).sum()
    assert all(len(np.unique(np.abs(row))) <= levels + 1 for row in found)


def test_a_free_block_with_a_weight_between_two_steps_is_wrong() -> None:
    w = np.array([[0.7, 0.1, -0.3, 0.2]], np.float32)
    division = Division(Blocks((1, 4), (1, 4)), np.array([FREE]), 7)
    assert division.wrong(w) == 0
    assert division.wrong(w + np.array([[0, 0.04, 0, 0]], np.float32)) == 1
    assert replace(division, levels=0).wrong(w + np.array([[0, 0.04, 0, 0]], np.float32)) == 0


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("size", [1e-9, 1e-3, 1.0, 3e4])
def test_rounding_keeps_the_structure_the_signs_and_three_digits(kind: type, size: float) -> None:
    w: Array = np.clip(size * np.random.default_rng(0).standard_normal((6, 10)), -6e4, 6e4).astype(kind)
    division = Division(Blocks((6, 10), (1, 4)), np.arange(18) % 3)
    near = division.projected(w)
    found = rounded(near, division)
    assert found.dtype == kind
    assert division.wrong(found) == 0
    free = division.actions[division.blocks.numbers] == FREE
    before, after = (x.astype(np.float64) for x in (near, found))
    np.testing.assert_allclose(after[~free], before[~free], rtol=1e-3)
    np.testing.assert_allclose(after[free], before[free], rtol=1e-3, atol=0 if size < 1e-6 else 2**-25)  # half a subnormal
    np.testing.assert_array_equal(rounded(found, division), found)


def test_magnitudes_of_few_bits_are_the_nearest() -> None:
    w = np.array([[-1.04, 1.04], [0.33, 0.33], [-5e-3, 5e-3], [0.77, -0.2]], np.float32)
    division = Division(Blocks((4, 2), (1, 2)), np.array([SHARED, SHARED, SHARED, FREE]))
    found = np.abs(rounded(w, division, 4))
    grid = [2.0**e * (1 + k / 16) for e in range(-9, 2) for k in range(16)]
    for before, after in zip(np.abs(w[:3, 0]), found[:3], strict=True):
        assert after.tolist() == [min(grid, key=lambda g: abs(g - before))] * 2
    np.testing.assert_array_equal(found[3], np.abs(w[3]).astype(np.float16))


def test_a_magnitude_that_is_too_small_for_float16_does_not_become_zero() -> None:
    w = np.array([[1, 1], [1e-9, -1e-9], [0, 0]], np.float32)
    found = rounded(w, Division(Blocks((3, 2), (1, 2)), np.array([SHARED, SHARED, SHARED])))
    np.testing.assert_array_equal(found, np.array([[1, 1], [2**-24, -(2**-24)], [0, 0]], np.float32))


def test_free_blocks_of_numbers_take_two_bytes_a_weight() -> None:
    w: Array = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    division = Division(Blocks((64, 64), (1, 16)), np.arange(256) % 2)
    near = rounded(division.projected(w), division)
    stored = {t.name: t for t in carried(reader(near, 17), {"w": division}).graph.initializer}
    assert (stored["w_free"].data_type, list(stored["w_free"].dims)) == (TensorProto.FLOAT16, [128, 16])
    exact = {t.name: t for t in carried(reader(division.projected(w), 17), {"w": division}).graph.initializer}
    assert exact["w_free"].data_type == TensorProto.FLOAT


def magnitudes(file: ModelProto) -> TensorProto:
    return next(t for t in file.graph.initializer if t.name == "w1_magnitudes")


@pytest.mark.parametrize(("size", "stored"), [(1.0, TensorProto.FLOAT16), (1e-6, TensorProto.FLOAT), (1e6, TensorProto.FLOAT)])
def test_magnitudes_that_float16_cannot_hold_stay_float32(size: float, stored: int) -> None:
    net = product()
    net.graph.initializer[0].CopyFrom(numpy_helper.from_array(size * weight(net, "w1"), "w1"))
    net, division = mixed(net, "w1", (4, 1), (SHARED, ZERO))
    file = carried(net, {"w1": division})
    assert magnitudes(file).data_type == stored
    assert weight(restored(file)[0], "w1").tobytes() == weight(net, "w1").tobytes()


def test_weights_that_were_not_rounded_keep_their_magnitudes() -> None:
    net = product()
    division = Division(Blocks((10, 6), (4, 1)), np.full(18, SHARED))
    w = division.projected(weight(net, "w1"))
    net.graph.initializer[0].CopyFrom(numpy_helper.from_array(w, "w1"))
    file = carried(net, {"w1": division})
    assert magnitudes(file).data_type == TensorProto.FLOAT
    assert weight(restored(file)[0], "w1").tobytes() == w.tobytes()


def test_the_model_that_is_carried_is_not_changed_and_one_without_carriers_is_its_own_restoration() -> None:
    net, division = mixed(product(), "w1", (4, 1), (SHARED,))
    before = net.SerializeToString(deterministic=True)
    carried(net, {"w1": division}, INT4)
    assert net.SerializeToString(deterministic=True) == before
    assert restored(net) == (net, frozenset())


TWO = """g (float[N,8] x, float[8,8] w1, float[8,8] w2, float[8,8] w3) => (float[N,8] y) {
    a = MatMul(x, w1)  b = MatMul(a, w2)  y = MatMul(b, w3) }"""


def test_each_of_several_weights_comes_back_and_others_stay() -> None:
    net, first = mixed(model(TWO), "w1", (4, 1), (SHARED, FREE))
    net, second = mixed(net, "w3", (2, 4), (SHARED, ZERO))
    file = carried(net, {"w1": first, "w3": second})
    plain, names = restored(file)
    assert names == {"w1", "w3"}
    assert all(weight(plain, name).tobytes() == weight(net, name).tobytes() for name in ("w1", "w2", "w3"))
    np.testing.assert_allclose(outputs(file), outputs(net), rtol=1e-3, atol=1e-5)


CLASHES = """g (bool c, float[N,8] x, float[8,8] w1, float[8] w1_magnitudes) => (float[N,8] y) {
    w1_codes = MatMul(x, w1)  w1_mul = Add(w1_codes, w1_magnitudes)
    y = If (c) <
        then_branch = t () => (w1_cast) { w1_cast = Relu(w1_mul) },
        else_branch = e () => (w1_shape) { w1_reshape = Neg(w1_mul)  w1_shape = Abs(w1_reshape) }> }"""


@pytest.mark.parametrize("actions", KINDS_OF_BLOCKS.values(), ids=KINDS_OF_BLOCKS)
def test_new_names_are_taken_neither_in_the_graph_nor_in_bodies(actions: tuple[int, ...]) -> None:
    net, division = mixed(model(CLASHES), "w1", (3, 1), actions)
    file = carried(net, {"w1": division})
    onnx.checker.check_model(file, full_check=True)
    before = {t.name for t in net.graph.initializer} | {o for n in net.graph.node for o in n.output}
    before |= {o for n in net.graph.node for a in n.attribute for inner in a.g.node for o in inner.output}
    new = [t.name for t in file.graph.initializer if t.name not in {"w1_magnitudes"}]
    new += [o for n in file.graph.node for o in n.output if o != "w1" and o not in before]
    assert len(new) == len({*new})
    assert before.isdisjoint(new)
    assert weight(restored(file)[0], "w1").tobytes() == weight(net, "w1").tobytes()


def test_a_weight_in_a_constant_node_is_carried_too() -> None:
    net, division = mixed(product(), "w1", (4, 1), (SHARED,))
    [tensor] = net.graph.initializer
    net.graph.node.insert(0, helper.make_node("Constant", [], ["w1"], value=tensor))
    expected = outputs(net)
    del net.graph.initializer[:]
    file = carried(net, {"w1": division})
    onnx.checker.check_model(file, full_check=True)
    np.testing.assert_allclose(outputs(file), expected, rtol=1e-3, atol=1e-5)
    assert "Constant" not in operators(file)


def test_a_weight_that_an_old_file_lists_as_an_input_is_none_afterwards() -> None:
    net, division = mixed(product(), "w1", (4, 1), (SHARED,))
    net.graph.input.append(helper.make_tensor_value_info("w1", TensorProto.FLOAT, [10, 6]))
    file = carried(net, {"w1": division})
    onnx.checker.check_model(file, full_check=True)
    assert [value.name for value in file.graph.input] == ["x"]


@SMALL
@pytest.mark.parametrize("codes", [INT4, INT2], ids=["INT4", "INT2"])
@pytest.mark.parametrize("kind", ["float", "float16"])
def test_a_weight_for_a_fused_product_is_the_same_weight(codes: Codes, kind: str) -> None:
    net, division = mixed(product(kind, 25, "64,8"), "w1", (16, 1), (SHARED, ZERO))
    file = carried(net, {"w1": division}, codes, ("w1",))
    onnx.checker.check_model(file, full_check=True)
    assert operators(file) == ["DequantizeLinear", "MatMul"]
    plain, names = restored(file)
    assert names == {"w1"}
    assert weight(plain, "w1").tobytes() == weight(net, "w1").tobytes()
    np.testing.assert_allclose(outputs(file), outputs(net), rtol=1e-3, atol=1e-5)


FUSIBLE = """g (float[N,64] x, float[64,48] w1, float[64,48] w2, float[48,48] w3, float[5,64] w4, float[64,64] w5) =>
    (float[N,48] y, float[N,5] z) { a = MatMul(x, w5)  b = MatMul(a, w1)  c = MatMul(b, w3)  d = MatMul(x, w2)  y = Add(c, d)
    z = Gemm <transB = 1> (x, w4) }"""


def test_products_are_fused_only_if_their_blocks_lie_along_the_inputs_and_none_is_free() -> None:
    net = model(FUSIBLE, 25)
    kinds = {"w1": ((16, 1), (SHARED, ZERO)), "w2": ((16, 1), (SHARED, FREE)), "w3": ((4, 4), (SHARED,))}
    kinds |= {"w4": ((1, 16), (SHARED,)), "w5": ((8, 1), (SHARED,))}
    divisions = {name: mixed(net, name, *kind)[1] for name, kind in kinds.items()}
    assert fusible(net, divisions, INT8) == []
    assert fusible(net, divisions, INT4) == fusible(net, divisions, INT2) == ["w1"]


def test_codes_are_the_smallest_that_a_runtime_loads() -> None:
    asked = (None, "1.20", "1.23.9", "1.24", "1.31", "1.32.1", "2.0")
    assert [codes_for(v).name for v in asked] == ["INT8", "INT8", "INT8", "INT4", "INT4", "INT2", "INT2"]


@pytest.mark.parametrize(("version", "says"), [("1.10", "1.20 or newer"), ("abc", "such as 1.24"), ("1", "such as 1.24")])
def test_a_runtime_that_was_not_tried_or_is_no_version_is_refused(version: str, says: str) -> None:
    with pytest.raises(OptionError, match=says):
        codes_for(version)
