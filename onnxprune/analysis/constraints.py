# SPDX-License-Identifier: Apache-2.0
"""Blocks of channels that must all keep the same number of channels, while the choice within each block is free.

A grouped convolution computes its outputs block by block: it remains a grouped convolution if every block loses the same
number of channels, whichever they are. Such demands are kept beside the ties. Demands that contradict each other become ties:
the same position of every block is then one channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np

from onnxprune.analysis.labels import Even, Labels, distinct
from onnxprune.types import Indices, Mask


@dataclass(frozen=True, slots=True)
class Demand:
    """A demand, and the classes of its blocks (n_blocks, size), each class once."""

    even: Even
    rows: Indices

    def partition(self) -> frozenset[frozenset[int]]:
        """The blocks, unordered."""
        return frozenset(frozenset(row.tolist()) for row in self.rows)


def settle(labels: Labels, evens: Sequence[Even], owner_of: Indices) -> tuple[Even, ...]:
    """The demands that hold, as classes: free, disjoint, each within channels that own slices of the same weights.

    All others become ties.

    Args:
        owner_of: for each label, the weight axis that owns it, -1 for none (n_labels,).
    """
    evens = list(evens)
    while evens:
        roots = labels.root(np.arange(labels.count))
        free = labels.free()
        demands, failed = [], []
        for even in evens:
            rows = _blocks(roots[even.labels])
            if rows is None or not free[rows].all():
                failed.append(even)
            elif len(rows) > 1:
                demands.append(Demand(even, rows))
        demands, contradicted = _without_contradictions(labels, demands)
        demands, mixed = _of_one_kind(demands, roots, owner_of)
        failed += mixed + contradicted
        if not failed:
            return tuple(Even(d.rows, d.even.node) for d in demands)
        for even in failed:
            labels.tie(even.labels[:1], even.labels, even.node)
        evens = [d.even for d in demands]
    return ()


def _blocks(grid: Indices) -> Indices | None:
    """The distinct classes of each block; identical blocks once. None if blocks overlap in any other way."""
    counted = [np.unique(row, return_counts=True) for row in grid]
    times = {int(n) for _, counts in counted for n in counts}
    sizes = {len(classes) for classes, _ in counted}
    if len(sizes) > 1 or len(times) > 1:
        return None
    rows = np.unique(np.stack([classes for classes, _ in counted]), axis=0)
    return rows if len(np.unique(rows)) == rows.size else None


def _of_one_kind(demands: Sequence[Demand], roots: Indices, owner_of: Indices) -> tuple[list[Demand], list[Even]]:
    """Demands on channels that own slices of the same weights, and the others, whose channels are not comparable."""
    demand_of = np.full(len(roots), -1)
    for k, demand in enumerate(demands):
        demand_of[demand.rows] = k
    mine = np.flatnonzero((demand_of[roots] >= 0) & (owner_of >= 0))
    n_owners = int(owner_of.max(initial=0)) + 1
    root, owner = np.divmod(distinct(roots[mine] * n_owners + owner_of[mine]), n_owners)
    kinds: list[set[bytes]] = [set() for _ in demands]
    counts = [0] * len(demands)
    bounds = np.flatnonzero(np.diff(root, prepend=-1, append=-1))
    for start, end in pairwise(bounds.tolist()):
        k = int(demand_of[root[start]])
        kinds[k].add(owner[start:end].tobytes())
        counts[k] += 1
    one = [len(kind) == 1 and n == d.rows.size for d, kind, n in zip(demands, kinds, counts, strict=True)]
    return [d for d, ok in zip(demands, one, strict=True) if ok], [d.even for d, ok in zip(demands, one, strict=True) if not ok]


def _without_contradictions(labels: Labels, demands: list[Demand]) -> tuple[list[Demand], list[Even]]:
    """Drop demands that another one implies; of two that contradict each other, drop the one whose ties cost less."""
    dropped: set[int] = set()
    contradicted: list[Even] = []
    for (i, a), (j, b) in combinations(enumerate(demands), 2):
        if i in dropped or j in dropped or not np.isin(a.rows, b.rows).any():
            continue
        if _implies(a, b):
            dropped.add(j)
        elif _implies(b, a):
            dropped.add(i)
        else:
            both = np.concatenate([a.rows.ravel(), b.rows.ravel()])
            atoms = [labels.atoms_left([(d.even.labels[:1], d.even.labels)], both) for d in (a, b)]
            dropped.add(i if atoms[0] >= atoms[1] else j)
            contradicted.append(a.even if atoms[0] >= atoms[1] else b.even)
    return [d for k, d in enumerate(demands) if k not in dropped], contradicted


def _implies(a: Demand, b: Demand) -> bool:
    """Whether every block of `b` consists of whole blocks of `a`."""
    blocks = a.partition()
    return all(sum(len(x) for x in blocks if x <= row) == len(row) for row in (frozenset(r.tolist()) for r in b.rows))


def uneven_blocks(even: Even, dropped: Mask) -> str:
    """What is wrong with a cut that keeps more in one block than in another; empty if the blocks are even."""
    kept = (~dropped[even.labels]).sum(1)
    if (kept == kept[0]).all():
        return ""
    return (
        f"needs the same number of channels in each of its {len(kept)} blocks, but {kept.min()} to {kept.max()} would be kept"
    )
