# SPDX-License-Identifier: Apache-2.0
"""Which blocks are zeroed and shared: those that cost least, in the shares that were asked for."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.compression.blocks import FREE, SHARED, ZERO, Blocks
from onnxprune.compression.choice import Losses, Shares, chosen
from onnxprune.errors import OptionError
from tests.cases.blocks import Array, pieces


def losses_of(*sizes: int, seed: int = 0) -> dict[str, Losses]:
    """Random losses of weights with these numbers of blocks."""
    rng = np.random.default_rng(seed)
    return {f"w{k}": Losses(rng.random(n), rng.random(n)) for k, n in enumerate(sizes)}


def together(actions: dict[str, Array]) -> Array:
    return np.concatenate([*actions.values()])


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"shared": 1.1}, "--share: got 1.1, expected a share of all blocks, between 0 and 1"),
        ({"shared": -0.1}, "--share: got -0.1"),
        ({"shared": float("nan")}, "--share: got nan"),
        ({"zero": 1.5, "shared": 0.0}, "--zero: got 1.5"),
        ({"shared": 0.8, "zero": 0.3}, "--share and --zero: got 1.1 together"),
        ({"shared": 0.0, "zero": 0.0}, "--share and --zero: got 0 together, expected more than 0"),
        ({"scope": "layer"}, "--scope: got 'layer', expected global or local"),
    ],
)
def test_shares_that_cannot_be_taken_are_refused(given: dict[str, float], says: str) -> None:
    with pytest.raises(OptionError) as e:
        Shares(**given)  # type: ignore[arg-type]
    assert says in e.value.message


PAIRS = [(shared, zero) for shared in (0.0, 0.25, 0.5, 0.9, 1.0) for zero in (0.0, 0.1, 0.5, 1.0) if 0 < shared + zero <= 1]


@pytest.mark.parametrize(("shared", "zero"), PAIRS)
def test_shares_are_exact_to_a_block(shared: float, zero: float) -> None:
    actions = together(chosen(losses_of(37, 4, 60), Shares(shared, zero)))
    assert (actions == ZERO).sum() == round(101 * zero)
    assert (actions == SHARED).sum() == (101 - round(101 * zero) if shared + zero == 1 else round(101 * shared))


@pytest.mark.parametrize("total", range(1, 12))
@pytest.mark.parametrize("zero", [0.1, 0.25, 0.3, 0.5, 0.7])
@pytest.mark.parametrize("scope", ["global", "local"])
def test_no_block_stays_free_if_the_shares_are_everything(total: int, zero: float, scope: str) -> None:
    actions = together(chosen(losses_of(total, 5), Shares(1 - zero, zero, scope)))
    assert (actions != FREE).all()


def test_the_cheapest_blocks_are_zeroed_and_then_the_cheapest_of_the_rest_shared() -> None:
    losses = Losses(np.array([5.0, 1.0, 2.0, 9.0, 8.0]), np.array([4.0, 0.0, 3.0, 1.0, 2.0]))
    assert chosen({"w": losses}, Shares(0.4, 0.4))["w"].tolist() == [FREE, ZERO, ZERO, SHARED, SHARED]


@pytest.mark.parametrize("scope", ["global", "local"])
def test_no_free_block_costs_less_than_one_that_was_chosen(scope: str) -> None:
    losses = losses_of(30, 50, seed=3)
    found = chosen(losses, Shares(0.4, 0.3, scope))
    names = [[*losses]] if scope == "global" else [[name] for name in losses]
    for some in names:
        actions = np.concatenate([found[name] for name in some])
        zero, shared = (np.concatenate([getattr(losses[name], what) for name in some]) for what in ("zero", "shared"))
        assert zero[actions == ZERO].max() <= zero[actions != ZERO].min()
        assert shared[actions == SHARED].max() <= shared[actions == FREE].min()


def test_local_shares_are_those_of_each_weight_and_global_ones_of_all_together() -> None:
    cheap, dear = Losses(np.zeros(10), np.zeros(10)), Losses(np.ones(10), np.ones(10))
    losses = {"cheap": cheap, "dear": dear}
    alike = chosen(losses, Shares(0.5, 0.0, "local"))
    assert [(a == SHARED).sum() for a in alike.values()] == [5, 5]
    ranked = chosen(losses, Shares(0.5, 0.0, "global"))
    assert [(a == SHARED).sum() for a in ranked.values()] == [10, 0]


def test_without_inputs_a_shared_magnitude_loses_the_variance_and_zero_the_energy_of_a_block() -> None:
    w = np.random.default_rng(4).standard_normal((6, 10))
    blocks, whole = Blocks((6, 10), (2, 4)), float((w**2).sum())
    losses, parts = Losses.of(blocks, w), [np.abs(w[piece]) for piece in pieces((6, 10), (2, 4))]
    np.testing.assert_allclose(losses.shared * whole, [part.size * part.var() for part in parts], atol=1e-12)
    np.testing.assert_allclose(losses.zero * whole, [(part**2).sum() for part in parts])
    assert losses.zero.sum() == pytest.approx(1)


def test_a_weight_of_zeros_loses_nothing() -> None:
    losses = Losses.of(Blocks((2, 2), (1, 2)), np.zeros((2, 2), np.float32))
    assert not losses.zero.any()
    assert not losses.shared.any()
