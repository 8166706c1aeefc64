# SPDX-License-Identifier: Apache-2.0
"""How a weight is divided into blocks, compared with plain loops over slices."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest

from onnxprune.compression.blocks import SHARED, ZERO, Blocks, BlockShape, divided
from onnxprune.compression.division import Division
from onnxprune.errors import OptionError
from tests.cases.blocks import pieces

CONV, PRODUCT = (0, 1), (1, 0)
"""Axes of outputs and inputs: of Conv and Gemm with transB, and of the other products and ConvTranspose."""


@pytest.mark.parametrize(
    ("text", "sizes"),
    [("16", (1, 16)), ("4x4", (4, 4)), ("1x8x3x3", (1, 8, 3, 3)), ("1x1x3", (1, 1, 3)), ("2x1x1x1x3", (2, 1, 1, 1, 3))],
)
def test_a_size_is_inputs_or_outputs_x_inputs_or_with_the_kernel(text: str, sizes: tuple[int, ...]) -> None:
    found = BlockShape.parse(text)
    assert (found.outputs, found.inputs, *found.kernel) == sizes
    assert str(found) == text


NO_SIZES = ["", "0", "-4", "x", "4x", "x4", "4x0", "4 x 4", "4*4", "16.0", "1e2", "16\n", "big", "9" * 10]


@pytest.mark.parametrize("text", NO_SIZES)
def test_a_text_that_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="expected sizes such as 16"):
        BlockShape.parse(text)


@pytest.mark.parametrize("text", ["1", "1x1", "1x1x1x1"])
def test_a_block_of_one_weight_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="a block of one saves nothing"):
        BlockShape.parse(text)


WEIGHTS = [((12, 8, 3, 3), CONV), ((5, 20), CONV), ((6, 4, 5, 5), CONV)]


@pytest.mark.parametrize("text", ["12", "20", "100", "12x20", "1x8x3x3", "12x8x5x5", "1x1x1x5"])
def test_a_block_that_some_axis_can_hold_is_accepted(text: str) -> None:
    BlockShape.parse(text).check(WEIGHTS)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("101", "got 101, 101 inputs, but the largest weight of this model has 100"),
        ("13x4", "got 13x4, 13 outputs, but the largest weight of this model has 12"),
        ("1x9x3x3", "9 inputs, but the largest weight of this model has 8"),
        ("1x8x6x1", "6 kernel positions, but the largest weight of this model has 5"),
        ("1x8x3", "got 1x8x3, 3 sizes, but the weights of this model have 2, 4 axes"),
        ("1x8x3x3x3", "5 sizes, but the weights of this model have 2, 4 axes"),
    ],
)
def test_a_block_that_no_axis_can_hold_is_refused(text: str, says: str) -> None:
    with pytest.raises(OptionError, match=says):
        BlockShape.parse(text).check(WEIGHTS)


@pytest.mark.parametrize(
    ("block", "shape", "axes", "groups", "runs"),
    [
        ("16", (32, 64, 3, 3), CONV, 1, (1, 16, 1, 1)),
        ("4x4", (32, 64, 3, 3), CONV, 1, (4, 4, 1, 1)),
        ("1x8x3x3", (32, 64, 3, 3), CONV, 1, (1, 8, 3, 3)),
        ("16", (32, 8, 3, 3), CONV, 1, (1, 8, 1, 2)),  # too few inputs: positions of the kernel fill the block
        ("16", (32, 3, 3, 3), CONV, 1, (1, 3, 1, 3)),
        ("16", (32, 1, 3, 3), CONV, 32, (1, 1, 3, 3)),  # depthwise
        ("16", (32, 1, 7), CONV, 32, (1, 1, 7)),
        ("2x4", (32, 1, 3, 3), CONV, 32, (1, 1, 1, 3)),  # an output is a whole group of a depthwise convolution
        ("4x4", (24, 4, 3, 3), CONV, 3, (4, 4, 1, 1)),
        ("3x4", (24, 4, 3, 3), CONV, 3, (2, 4, 1, 1)),  # 3 does not divide the 8 outputs of a group
        ("16", (12, 8, 2, 2), PRODUCT, 3, (4, 1, 2, 2)),  # ConvTranspose: the inputs lie on the first axis
        ("16", (64, 8, 2, 2), PRODUCT, 1, (16, 1, 1, 1)),
        ("16", (10, 64), CONV, 1, (1, 16)),  # Gemm with transB
        ("16", (64, 10), PRODUCT, 1, (16, 1)),  # Gemm without, MatMul
        ("4x4", (64, 10), PRODUCT, 1, (4, 4)),
        ("4x99", (10, 10), CONV, 1, (4, 10)),
    ],
)
def test_blocks_lie_along_the_axes_that_the_operator_reads(
    block: str, shape: tuple[int, ...], axes: tuple[int, int], groups: int, runs: tuple[int, ...]
) -> None:
    found = divided(shape, axes, groups, BlockShape.parse(block))
    assert found is not None
    assert (found.shape, found.runs) == (shape, runs)


@pytest.mark.parametrize(
    ("block", "shape", "groups"), [("16", (32, 1, 1, 1), 32), ("4x1", (32, 1, 3, 3), 32), ("1x8x3", (32, 8, 3, 3), 1)]
)
def test_a_weight_that_holds_no_block_of_two_is_not_divided(block: str, shape: tuple[int, ...], groups: int) -> None:
    assert divided(shape, CONV, groups, BlockShape.parse(block)) is None


@pytest.mark.parametrize("groups", [1, 2, 3, 4, 6, 8, 12, 24])
@pytest.mark.parametrize("asked", [1, 2, 3, 4, 5, 7, 16, 24])
@pytest.mark.parametrize("axes", [CONV, PRODUCT])
def test_no_block_crosses_groups(groups: int, asked: int, axes: tuple[int, int]) -> None:
    found = divided((24, 6, 3, 1), axes, groups, BlockShape(asked, asked))
    if found is None:
        assert asked == 1 or groups == 24
        return
    group = np.broadcast_to((np.arange(24) // (24 // groups)).reshape(-1, 1, 1, 1), found.shape)
    assert all(len({*group[found.numbers == k]}) == 1 for k in range(found.count))


SHAPES = [
    *[((7, 10), (1, 4)), ((7, 10), (3, 4)), ((3, 4), (1, 1))],
    *[((4, 6, 3, 3), (2, 4, 1, 3)), ((5, 3, 2), (5, 3, 2)), ((9,), (2,))],
]
"""Shapes, and the runs on their axes."""


@pytest.mark.parametrize(("shape", "runs"), SHAPES)
def test_numbers_sizes_and_magnitudes_are_those_of_the_slices(shape: tuple[int, ...], runs: tuple[int, ...]) -> None:
    w = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    blocks, slices = Blocks(shape, runs), [*pieces(shape, runs)]
    assert blocks.count == prod(blocks.grid) == len(slices)
    for k, piece in enumerate(slices):
        assert (blocks.numbers[piece] == k).all()
    parts = [np.abs(w[piece]) for piece in slices]
    assert blocks.sizes.tolist() == [part.size for part in parts]
    np.testing.assert_allclose(blocks.magnitudes(w), [part.mean(dtype=np.float64) for part in parts])
    np.testing.assert_array_equal(blocks.largest(w), [part.max() for part in parts])
    np.testing.assert_array_equal(-blocks.largest(w, -1), [part.min() for part in parts])


def test_a_shared_magnitude_keeps_signs_and_that_of_zero_is_plus() -> None:
    w = np.array([[1.0, -2.0, 0.0, -0.0]])
    np.testing.assert_array_equal(Blocks((1, 4), (1, 4)).shared(np.array([0.75]), w), [[0.75, -0.75, 0.75, 0.75]])


@pytest.mark.parametrize(("shape", "runs"), SHAPES)
def test_no_other_magnitude_is_nearer_to_a_block_than_its_projection(shape: tuple[int, ...], runs: tuple[int, ...]) -> None:
    w = np.random.default_rng(1).standard_normal(shape)
    blocks = Blocks(shape, runs)
    near = Division(blocks, np.full(blocks.count, SHARED)).projected(w)
    for piece in pieces(shape, runs):
        others = np.linspace(0, np.abs(w[piece]).max(), 300).reshape(-1, *(1,) * len(shape))
        signed = others * np.where(w[piece] < 0, -1, 1)
        least = np.square(w[piece] - signed).sum(tuple(range(1, signed.ndim))).min()
        assert np.square(w[piece] - near[piece]).sum() <= least + 1e-12


def test_a_block_of_several_magnitudes_or_not_of_zeros_is_counted_as_wrong() -> None:
    blocks = Blocks((4, 4), (1, 4))
    division = Division(blocks, np.array([SHARED, SHARED, ZERO, ZERO]))
    w = division.projected(np.random.default_rng(2).standard_normal((4, 4)).astype(np.float32))
    assert division.wrong(w) == 0
    for k, (row, value) in enumerate([(0, 9.0), (1, 0.0), (2, 1e-9)], 1):
        w[row, 1] = value
        assert division.wrong(w) == k
    w[0, 1] = -w[0, 0]
    assert division.wrong(w) == 2
