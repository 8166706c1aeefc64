# SPDX-License-Identifier: Apache-2.0
"""The neighbours of unification: codes are what files store, compensation helps, and the table can be printed."""

import numpy as np
import onnx
import pytest
from blocks import Case, Sizes, spread, table
from neighbours.carrying import with_codes
from neighbours.grids import Coded, Layer, best_sizes, compensated, nearest
from neighbours.ways import Rounded, Unified, Way, by_output, task_of, tiled
from onnx import ModelProto, numpy_helper

from onnxprune.compression.blocks import FREE, SHARED, Blocks
from onnxprune.compression.carrier import KINDS
from onnxprune.data.load import load_data
from onnxprune.data.samples import Data
from onnxprune.evaluation.evaluator import Evaluator
from onnxprune.ir.graph import read_weights
from onnxprune.ort import session
from onnxprune.types import Array, Vector

NET = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N, 3, 6, 6] x) => (float[N, 5, 6, 6] y)
{
  a = Conv<kernel_shape = [1, 1]>(x, u)
  b = Relu(a)
  c = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(b, w)
  d = Relu(c)
  y = Conv<kernel_shape = [1, 1]>(d, v)
}
"""


def network() -> ModelProto:
    rng, model = np.random.default_rng(0), onnx.parser.parse_model(NET)
    for name, shape in {"u": (20, 3, 1, 1), "w": (12, 20, 3, 3), "v": (5, 12, 1, 1)}.items():
        value = rng.standard_normal(shape).astype(np.float32) / 4
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    return model


def samples(model: ModelProto) -> Data:
    return load_data({"x": np.random.default_rng(1).standard_normal((40, 3, 6, 6)).astype(np.float32)}, model)


def answer(model: ModelProto) -> Array:
    x = np.random.default_rng(2).standard_normal((2, 3, 6, 6)).astype(np.float32)
    return np.asarray(session(model.SerializeToString()).run(None, {"x": x})[0])


def layer(most: int, numbers: Array) -> Layer:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((400, 12)) @ rng.standard_normal((12, 12))
    return Layer(rng.standard_normal((12, 4)), x.T @ x / 400, numbers, most)


def error(one: Layer, w: Vector) -> float:
    return float(((w - one.matrix) * (one.moments @ (w - one.matrix))).sum())


COLUMNS = np.tile(np.arange(4), (12, 1))
"""A block for each output."""
HALVES = COLUMNS + 4 * (np.arange(12) >= 6)[:, None]


@pytest.mark.parametrize("numbers", [COLUMNS, HALVES], ids=["columns", "halves"])
@pytest.mark.parametrize("most", [1, 7])
def test_compensated_weights_are_on_their_grid_and_nearer_than_rounded_ones(numbers: Array, most: int) -> None:
    one = layer(most, numbers)
    found, sizes = compensated(one)
    codes = found / sizes
    np.testing.assert_allclose(codes, np.rint(codes), atol=1e-9)
    assert np.abs(codes).max() <= most + 1e-9
    plain = best_sizes(one.matrix, numbers, most)
    rounded = np.clip(np.rint(one.matrix / plain), -most, most) * plain
    assert error(one, found) < 0.8 * error(one, rounded)


def test_rows_without_a_grid_make_up_for_the_others() -> None:
    numbers = np.where(np.arange(12)[:, None] < 9, COLUMNS, -1)
    one = layer(1, numbers)
    found, _ = compensated(one)
    kept = found.copy()
    kept[9:] = one.matrix[9:]
    assert error(one, found) < error(one, kept)


def test_weights_on_a_grid_are_exact() -> None:
    w = np.random.default_rng(4).integers(-7, 8, (6, 5)).astype(np.float32)
    w[:, 0] = 7  # the scale is 1
    assert np.array_equal(nearest(w, Blocks((6, 5), (1, 5)), 7).values, w)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("runs", [(1, 16, 1, 1), (1, 20, 3, 3)], ids=["padded", "by output"])
def test_a_file_computes_what_its_codes_say(kind: object, runs: tuple[int, ...]) -> None:
    model = network()
    w = read_weights(model)["w"].array
    coded = nearest(w, Blocks(w.shape, runs), 1)
    plain = network()
    place = next(k for k, t in enumerate(plain.graph.initializer) if t.name == "w")
    plain.graph.initializer[place].CopyFrom(numpy_helper.from_array(coded.values.astype(np.float32), "w"))
    found = with_codes(model, {"w": coded}, next(k for k in KINDS if k is kind))
    np.testing.assert_allclose(answer(found), answer(plain), rtol=1e-5, atol=1e-6)


def test_small_scales_are_not_stored_in_half_precision() -> None:
    w = np.full((2, 4), 1e-6, np.float32)
    found = Coded.of(Blocks((2, 4), (1, 4)), w, np.full((2, 4), 1e-6), 1)
    assert found.scales.dtype == np.float32
    np.testing.assert_allclose(found.values, w)


def test_every_super_block_keeps_its_share() -> None:
    blocks = Blocks((8, 32, 3, 3), (1, 16, 1, 1))
    losses = np.arange(blocks.count, dtype=float)
    actions = tiled(blocks, losses, 0.5, 4).reshape(8, 2, 3, 3)
    for outputs in (slice(0, 4), slice(4, 8)):
        assert ((actions[outputs] == SHARED).sum((0, 1)) == 4).all()  # of 4 x 2 blocks at each position of the kernel
    assert (actions[0] == SHARED).all() and (actions[3] == FREE).all()


@pytest.mark.parametrize(
    ("shape", "runs", "found"), [((12, 20, 3, 3), (1, 16, 1, 1), (1, 20, 3, 3)), ((32, 8), (16, 1), (32, 1))]
)
def test_a_block_by_output_holds_all_of_its_inputs(shape: tuple[int, ...], runs: tuple[int, ...], found: object) -> None:
    assert by_output(Blocks(shape, runs)).runs == found


def test_compensation_does_not_lose_what_codes_can_say() -> None:
    model = network()
    case = Case(model, samples(model), Evaluator(model, samples(model)))
    for way in (Rounded("", 7), Unified("", {"unify": "4x4"})):
        plain, fitted = (way.made(task_of(model, case.fit, 0), compensate)["INT8"] for compensate in (False, True))
        assert case.figure(fitted) > case.figure(plain)


def test_the_table_can_be_printed() -> None:
    model = network()
    case = Case(model, samples(model), Evaluator(model, samples(model)))
    ways: tuple[Way, ...] = (Rounded("codes", 7, "16"), Unified("in tiles", {"unify": "16", "share": 0.5}, tiles=4))
    lines = "\n".join(table(case, ways, seeds=1, processes=1)).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert [line.split(" | ")[0] for line in lines[3:]] == ["| codes", "| in tiles"]


def test_bits_are_counted_beyond_the_rest_of_the_file() -> None:
    sizes = Sizes.of(network())
    assert sizes.weights == 12 * 20 * 9
    assert sizes.cells({"INT8": network()})[4].startswith("32.")


def test_a_spread_needs_several_values() -> None:
    assert (spread([1.0]), spread([3.0, 1.0, 2.0])) == ("1.00", "2.00 (1.00-3.00)")
