# SPDX-License-Identifier: Apache-2.0
"""Choices of channels to drop: at random, or for a ratio."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from onnxprune.analysis.coupling import Coupled
from onnxprune.analysis.groups import Group
from onnxprune.selection.order import order_of
from onnxprune.selection.sizing import Sizing
from onnxprune.selection.units import units_of
from onnxprune.types import Mask, Vector


def choose(coupled: Coupled, groups: Sequence[Group], rng: np.random.Generator, fraction: float) -> NDArray[np.bool_]:
    """Labels (n_labels,) to drop: random atoms, the same number in each block of a group, with at least one kept in every group
    and on every axis of every tensor."""
    dropped = np.zeros(len(coupled.roots), bool)
    for group in groups:
        drop = rng.random(len(group)) < fraction
        drop[rng.integers(len(group))] = False
        dropped[group.roots[drop]] = True
        for rows in group.blocks:
            drop_evenly(dropped, group.roots[rows], rng, rng.binomial(rows.shape[1], fraction))
    if not dropped.any():
        for group in groups:
            dropped[group.roots[1:2]] = True
            for rows in group.blocks:
                drop_evenly(dropped, group.roots[rows], rng, 1)
    for roots in coupled.spans():
        if dropped[roots].all():
            dropped[rng.choice(roots)] = False
    for group in groups:
        for rows in group.blocks:
            even_out(dropped, group.roots[rows], rng)
    return dropped[coupled.roots]


def drop_evenly(dropped: NDArray[np.bool_], blocks: NDArray[np.int64], rng: np.random.Generator, count: int) -> None:
    """Drop `count` random classes of every row, and keep the others, at least one."""
    dropped[blocks] = False
    for row in blocks:
        dropped[rng.permutation(row)[: min(count, len(row) - 1)]] = True


def even_out(dropped: NDArray[np.bool_], blocks: NDArray[np.int64], rng: np.random.Generator) -> None:
    """Keep more classes, until every row loses as many as the one that loses fewest."""
    fewest = int(dropped[blocks].sum(1).min())
    for row in blocks:
        lost = rng.permutation(row[dropped[row]])
        dropped[lost[fewest:]] = False


def select(groups: list[Group], scores: list[Vector], ratio: float, sizing: Sizing) -> list[Mask]:
    """Which atoms of each group are kept (n_atoms,)."""
    units = [units_of(g, s) for g, s in zip(groups, scores, strict=True)]
    order, total = order_of(groups, units, sizing), sum(map(len, groups))
    widths = order.widths(order.nearest(round(ratio * total), total))
    return [u.best(n) for u, n in zip(units, widths, strict=True)]


def groups_of(sizes: list[int]) -> list[Group]:
    """Groups of these sizes that share nothing."""
    starts = np.cumsum([0, *sizes])
    return [Group(f"g{k}", np.arange(starts[k], starts[k + 1]), ((f"w{k}", 0),), (), 1) for k in range(len(sizes))]


def scores_of(sizes: list[int], seed: int) -> list[Vector]:
    """Random scores, of a random size for each group."""
    rng = np.random.default_rng(seed)
    return [rng.random(n) * rng.uniform(0.1, 2) for n in sizes]
