# SPDX-License-Identifier: Apache-2.0
"""Samples whose mean is near zero: kernel herding (Chen, Welling and Smola, 2010) with exchanges."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnxprune.types import Array


def herd(products: Array, size: int, rounds: int = 2) -> NDArray[np.intp]:
    """Choose `size` of n vectors such that the norm of their mean is nearly minimal.

    Vectors are chosen one by one, each to minimise the norm of the sum; then, `rounds` times, each chosen vector is exchanged
    for the best one available.

    Args:
        products: inner products of the vectors (n, n).
        size: number of vectors to choose, at most n.
        rounds: how often each chosen vector is reconsidered.

    Returns:
        Sorted positions.
    """
    norms = np.diag(products).astype(np.float64)
    sums, free = np.zeros(len(norms)), np.ones(len(norms), bool)
    chosen: list[int] = []
    for step in range(size * (1 + rounds)):
        if step >= size:
            removed = chosen.pop(0)
            free[removed] = True
            sums -= products[removed]
        best = int(np.where(free, 2 * sums + norms, np.inf).argmin())
        free[best] = False
        sums += products[best]
        chosen.append(best)
    return np.sort(np.array(chosen))


def norm_of_mean(products: Array, chosen: NDArray[np.intp]) -> float:
    """The squared norm of the mean of the chosen vectors."""
    return float(products[np.ix_(chosen, chosen)].mean(dtype=np.float64))
