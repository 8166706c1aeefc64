# SPDX-License-Identifier: Apache-2.0
"""Sums of products, and least squares on them."""

from __future__ import annotations

import numpy as np

from onnxprune.calibration.moments import Moments, fitted, solve, squared_error


def test_moments_suffice_for_least_squares() -> None:
    rng = np.random.default_rng(0)
    x, true = rng.standard_normal((2, 200, 5)), rng.standard_normal((2, 5, 3))
    y = x @ true + 0.5 + 0.01 * rng.standard_normal((2, 200, 3))
    m = Moments.of(x[:, :80], y[:, :80]) + Moments.of(x[:, 80:], y[:, 80:])
    found = solve(m, np.zeros_like(true), 1e-9)
    np.testing.assert_allclose(found.matrix, true, atol=5e-3)
    np.testing.assert_allclose(found.offset, 0.5, atol=5e-3)
    residual = y - x @ found.matrix - found.offset[:, None]
    np.testing.assert_allclose(squared_error(m, found), (residual**2).sum(1), rtol=1e-6)


def test_the_ridge_is_the_one_that_predicts_best() -> None:
    """With few rows of noise the start predicts best, with many rows of signal the fit does."""
    rng = np.random.default_rng(0)
    start, true = np.zeros((1, 30, 1)), rng.standard_normal((1, 30, 1))

    def folds(rows: int, noise: float) -> list[Moments]:
        xs = [rng.standard_normal((1, rows, 30)) for _ in range(2)]
        return [Moments.of(x, x @ true * (1 - noise) + noise * 20 * rng.standard_normal((1, rows, 1))) for x in xs]

    ridges = (1e-4, 1e4)
    assert np.abs(fitted(folds(20, 1.0), start, None, ridges).matrix).max() < 0.01
    np.testing.assert_allclose(fitted(folds(500, 0.0), start, None, ridges).matrix, true, atol=0.01)
