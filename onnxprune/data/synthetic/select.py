# SPDX-License-Identifier: Apache-2.0
"""Samples whose mean is nearest to zero: kernel herding (Chen, Welling and Smola, 2010) with exchanges."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnxprune.types import Array


def herd(products: Array, size: int, rounds: int = 2) -> NDArray[np.intp]:
    """Which `size` of n vectors have a mean of nearly the least norm.

    Vectors are taken one by one, always the one that makes the sum smallest; then, `rounds` times, each gives its place to a
    better one.

    Args:
        products: inner products of the vectors (n, n).
        size: how many to choose, at most n.
        rounds: how often each chosen one is reconsidered.

    Returns:
        Sorted positions.
    """
    norms = np.diag(products).astype(np.float64)
    sums, free = np.zeros(len(norms)), np.ones(len(norms), bool)
    chosen: list[int] = []
    for step in range(size * (1 + rounds)):
        if step >= size:
            gone = chosen.pop(0)
            free[gone] = True
            sums -= products[gone]
        best = int(np.where(free, 2 * sums + norms, np.inf).argmin())
        free[best] = False
        sums += products[best]
        chosen.append(best)
    return np.sort(np.array(chosen))


def norm_of_mean(products: Array, chosen: NDArray[np.intp]) -> float:
    """The squared norm of the mean of the chosen vectors."""
    return float(products[np.ix_(chosen, chosen)].mean(dtype=np.float64))
