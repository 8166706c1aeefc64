# SPDX-License-Identifier: Apache-2.0
"""Layers fitted with their blocks: the structure is exact, and nothing is worse than the plain projection."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from onnxprune.compression.blocks import FREE, SHARED, ZERO, Blocks
from onnxprune.compression.compensation import Layer, _row_blocks, block_losses, compensated, descended
from onnxprune.compression.division import Division
from tests.cases.blocks import Array

KINDS = {
    "shared": (SHARED,),
    "shared and zero": (SHARED, ZERO),
    "shared and free": (SHARED, FREE),
    "zero and free": (ZERO, FREE),
    "all kinds": (SHARED, ZERO, FREE),
}
CODED = {"codes": (FREE,), "shared and codes": (SHARED, FREE), "all kinds and codes": (SHARED, ZERO, FREE)}
RUNS = [(4, 1), (4, 4), (5, 2), (12, 6), (1, 3)]
"""Inputs x outputs of a block, in a matrix of 12 inputs and 6 outputs."""


def layer(runs: tuple[int, int], kinds: tuple[int, ...], seed: int = 0, scaled: bool = False) -> Layer:
    """A layer of 12 inputs that depend on each other, and 6 outputs."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((200, 12)) @ (np.eye(12) + 0.4 * rng.standard_normal((12, 12)))
    blocks = Blocks((12, 6), runs)
    scale = rng.uniform(0.5, 2.0, 6) * rng.choice([-1, 1], 6) if scaled else np.ones(6)
    return Layer(
        rng.standard_normal((12, 6)) * scale,
        x.T @ x / len(x),
        blocks.numbers,
        rng.choice(kinds, blocks.count),
        np.broadcast_to(scale, (12, 6)),
    )


def error(of: Layer, w: Array) -> float:
    """What the layer computes differently, squared, per row of inputs."""
    off = w - of.matrix
    return float((off * (of.moments @ off)).sum())


def projected(of: Layer) -> Array:
    """The nearest weights with the structure: in stored numbers, each weight counts by the square of its output's scale."""
    found = of.matrix.copy()
    for k, action in enumerate(of.actions):
        mine = of.numbers == k
        sizes = np.abs(of.scale[mine])
        shared = (np.abs(of.matrix[mine]) * sizes).sum() / (sizes**2).sum() * sizes * np.where(of.matrix[mine] < 0, -1, 1)
        found[mine] = {SHARED: shared, ZERO: 0.0, FREE: of.matrix[mine]}[int(action)]
    return found


def assert_in_blocks(of: Layer, w: Array) -> None:
    """What is stored, w / scale, has one magnitude in each shared block and only zeros in each zero block."""
    stored = np.abs(w / of.scale)
    for k, action in enumerate(of.actions):
        block = stored[of.numbers == k]
        if action == SHARED:
            np.testing.assert_allclose(block, block[0], rtol=1e-9)
        if action == ZERO:
            assert not block.any()


@pytest.mark.parametrize("runs", RUNS)
@pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("scaled", [False, True], ids=["", "scaled"])
def test_every_block_is_what_was_decided_and_the_error_is_less_than_that_of_the_projection(
    runs: tuple[int, int], kinds: tuple[int, ...], scaled: bool
) -> None:
    for seed in range(3):
        mine = layer(runs, kinds, seed, scaled)
        found = compensated(mine)
        assert_in_blocks(mine, found)
        assert error(mine, found) <= error(mine, projected(mine)) + 1e-12


@pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)
def test_blocks_of_inputs_lose_much_less_than_their_projection(kinds: tuple[int, ...]) -> None:
    layers = [layer((4, 1), kinds, seed) for seed in range(5)]
    assert sum(error(x, compensated(x)) for x in layers) < 0.75 * sum(error(x, projected(x)) for x in layers)


@pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)
def test_one_pass_that_moves_errors_to_later_inputs_is_better_than_the_projection(
    kinds: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxprune.compression.compensation.descended", lambda _, start, rows: start)
    layers = [layer((4, 1), kinds, seed) for seed in range(5)]
    assert sum(error(x, compensated(x)) for x in layers) < 0.95 * sum(error(x, projected(x)) for x in layers)


@pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("runs", RUNS)
def test_descent_never_adds_to_the_error_and_keeps_the_structure(runs: tuple[int, int], kinds: tuple[int, ...]) -> None:
    mine = layer(runs, kinds, 7, scaled=True)
    start = projected(mine)
    found = descended(mine, start, _row_blocks(mine))
    assert error(mine, found) <= error(mine, start) + 1e-12
    assert_in_blocks(mine, found)


@pytest.mark.parametrize("runs", RUNS)
def test_with_every_block_free_the_matrix_is_returned(runs: tuple[int, int]) -> None:
    mine = layer(runs, (FREE,))
    np.testing.assert_allclose(compensated(mine), mine.matrix, atol=1e-9)


def multiples(block: Array, levels: int) -> bool:
    """Whether numbers are whole multiples of one step, to rounding."""
    block = np.abs(block.astype(np.float64))
    steps = block.max() / np.arange(1, levels + 1)
    return bool(min(np.abs(block - step * np.rint(block / (step or 1))).max() for step in steps) <= 1e-9 * block.max())


@pytest.mark.parametrize("runs", RUNS)
@pytest.mark.parametrize("kinds", CODED.values(), ids=CODED)
@pytest.mark.parametrize("scaled", [False, True], ids=["", "scaled"])
def test_free_blocks_of_codes_are_multiples_of_a_step_and_nearer_than_their_rounding(
    runs: tuple[int, int], kinds: tuple[int, ...], scaled: bool
) -> None:
    fitted, plain = 0.0, 0.0
    for seed in range(3):
        numbers = layer(runs, kinds, seed, scaled)
        mine = replace(numbers, levels=7)
        found = compensated(mine)
        assert_in_blocks(mine, found)
        free = [found[mine.numbers == k] / mine.scale[mine.numbers == k] for k in np.flatnonzero(mine.actions == FREE)]
        assert all(multiples(block, 7) for block in free)
        blocks = Blocks((12, 6), runs)
        near = Division(blocks, mine.actions, 7).projected(projected(numbers) / mine.scale) * mine.scale
        fitted, plain = fitted + error(mine, found), plain + error(mine, near)
    assert fitted < plain


def test_a_layer_that_has_its_codes_is_kept() -> None:
    mine = replace(layer((4, 2), (SHARED, FREE), scaled=True), levels=7)
    exact = Division(Blocks((12, 6), (4, 2)), mine.actions, 7).projected(mine.matrix / mine.scale) * mine.scale
    np.testing.assert_allclose(compensated(replace(mine, matrix=exact)), exact, atol=1e-9)


def test_weights_in_no_block_are_free() -> None:
    mine = layer((4, 1), (SHARED,))
    apart = replace(mine, numbers=np.where(np.arange(12)[:, None] < 8, mine.numbers, -1))
    found = compensated(apart)
    assert_in_blocks(replace(mine, actions=np.where(np.arange(len(mine.actions)) < 12, mine.actions, FREE)), found)
    assert error(mine, found) < error(mine, compensated(mine))


def test_free_weights_are_nearly_the_best_that_the_others_allow() -> None:
    mine = layer((4, 1), (SHARED, FREE))
    best = compensated(mine)
    found = error(mine, best)
    for column in range(6):
        free = mine.done_to[:, column] == FREE
        slope = (mine.moments @ (best - mine.matrix))[free, column]
        best[free, column] -= np.linalg.solve(mine.moments[np.ix_(free, free)], slope)
    assert 0.98 * found < error(mine, best) <= found


def test_a_matrix_that_has_the_structure_is_kept() -> None:
    mine = layer((4, 2), (SHARED, ZERO), scaled=True)
    exact = replace(mine, matrix=projected(mine))
    np.testing.assert_allclose(compensated(exact), exact.matrix, atol=1e-9)


def test_independent_inputs_of_unit_size_leave_nothing_to_compensate() -> None:
    mine = replace(layer((4, 1), (SHARED, ZERO)), moments=np.eye(12))
    np.testing.assert_allclose(compensated(mine), projected(mine), atol=1e-9)


@pytest.mark.parametrize("runs", RUNS)
def test_a_changed_block_loses_the_least_that_all_other_weights_leave(runs: tuple[int, int]) -> None:
    of, rng = layer(runs, (SHARED,)), np.random.default_rng(7)
    change, h = rng.standard_normal((12, 6)), of.moments
    found = block_losses(h, change, of.numbers, len(of.actions))
    for block in range(len(of.actions)):
        least = 0.0
        for output in np.flatnonzero((of.numbers == block).any(0)):
            mine = of.numbers[:, output] == block
            error = np.where(mine, change[:, output], 0.0)
            others = np.flatnonzero(~mine)
            error[others] = -np.linalg.lstsq(h[np.ix_(others, others)], h[others] @ error, rcond=None)[0]
            least += float(error @ h @ error)
        assert found[block] == pytest.approx(least)
