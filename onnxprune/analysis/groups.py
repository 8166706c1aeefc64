# SPDX-License-Identifier: Apache-2.0
"""Atoms (channels that are kept or dropped together) and groups of atoms that are comparable with each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from onnxprune.analysis.coupling import Coupled
from onnxprune.analysis.labels import Even, Pin, distinct
from onnxprune.ir.products import macs_of
from onnxprune.ir.semantics import PRODUCERS
from onnxprune.types import Indices


@dataclass(frozen=True, eq=False)
class Group:
    """Atoms that own slices of the same weights and axes: they share one width.

    Attributes:
        name: the first weight that produces these channels.
        roots: the class of each atom (n_atoms,), in the order of the channels.
        members: (weight, axis) of every slice.
        producers: indices into `Coupled.uses` of the convolutions and matrix products that produce these channels.
        channels: the number of output channels of the first producer per atom.
        blocks: arrays (n_blocks, size) of atom indices: the same number must be kept in every row, and the choice is free.
    """

    name: str
    roots: Indices = field(repr=False)
    members: tuple[tuple[str, int], ...]
    producers: tuple[int, ...]
    channels: int
    blocks: tuple[Indices, ...] = field(default=(), repr=False)

    def __len__(self) -> int:
        """Number of atoms."""
        return len(self.roots)


def find_groups(coupled: Coupled) -> tuple[Group, ...]:
    """All groups of free atoms, in graph order.

    Channels that no convolution or matrix product produces or reads are left out: keeping them costs nothing.
    """
    in_products = np.zeros(len(coupled.roots), bool)
    for use in coupled.uses:
        if use.op in PRODUCERS:
            in_products[coupled.roots[use.labels]] = True
    label = np.flatnonzero(coupled.free & (coupled.owner_of >= 0) & in_products[coupled.roots])
    # one number per pair sorts much faster than pairs do
    root, owner = np.divmod(distinct(coupled.roots[label] * len(coupled.owners) + coupled.owner_of[label]), len(coupled.owners))
    bounds = np.flatnonzero(np.diff(root, prepend=-1, append=-1))
    roots = root[bounds[:-1]]
    by_owners: dict[bytes, list[int]] = {}
    for k in range(len(roots)):
        by_owners.setdefault(owner[bounds[k] : bounds[k + 1]].tobytes(), []).append(k)
    uses_of = _producers_by_class(coupled)
    found = [_group(coupled, roots[np.array(ks)], np.frombuffer(owners, np.int64), uses_of) for owners, ks in by_owners.items()]
    found = [_with_blocks(g, coupled.evens) for g in found]
    order = {name: k for k, name in enumerate(coupled.graph.weights)}
    return tuple(sorted(found, key=lambda g: (g.producers[0] if g.producers else len(coupled.uses), order[g.members[0][0]])))


def _with_blocks(group: Group, evens: Sequence[Even]) -> Group:
    """The group with the demands on its atoms."""
    mine = [e.labels for e in evens if np.isin(e.labels.ravel()[0], group.roots)]
    order = np.argsort(group.roots)
    return replace(group, blocks=tuple(order[np.searchsorted(group.roots, rows, sorter=order)] for rows in mine))


def _producers_by_class(coupled: Coupled) -> dict[int, list[int]]:
    """Class -> uses that produce its channels. A bias is not a producer."""
    found: dict[int, list[int]] = {}
    for k, use in enumerate(coupled.uses):
        if use.produces and use.op in PRODUCERS and use.operand != 2:
            for root in distinct(coupled.roots[use.labels]).tolist():
                found.setdefault(root, []).append(k)
    return found


def _group(coupled: Coupled, roots: Indices, owners: Indices, uses_of: dict[int, list[int]]) -> Group:
    members = tuple((coupled.owners[k].weight, coupled.owners[k].axis) for k in owners.tolist())
    producers = tuple(sorted({u for root in roots.tolist() for u in uses_of.get(root, ())}))
    if producers:
        use = coupled.uses[producers[0]]
        name = coupled.owners[coupled.owner_of[use.labels[0]]].weight
        channels = int(np.isin(coupled.roots[use.labels], roots).sum()) // len(roots)
    else:
        name, channels = members[0][0], 1
    return Group(name, roots, members, producers, max(1, channels))


@dataclass(frozen=True, slots=True)
class Pinned:
    """Channels that cannot be cut, and why.

    Attributes:
        pin: what needs them.
        channels: the number of output channels of convolutions and matrix products that it pins.
        weights: the weights that produce them.
        macs: the share of the model's multiply-accumulates that produces them, 0 to 1.
    """

    pin: Pin
    channels: int
    weights: tuple[str, ...]
    macs: float


def find_pinned(coupled: Coupled) -> tuple[Pinned, ...]:
    """Pinned channels by pin, most channels first. Channels of one weight with the same pin are counted once."""
    counts: dict[Pin, int] = {}
    macs: dict[Pin, float] = {}
    weights: dict[Pin, dict[str, None]] = {}
    facts = coupled.sizes
    total = max(1, sum(macs_of(n, facts) for n in coupled.graph.elementary))
    for use in coupled.uses:
        if not use.produces or use.operand == 2 or use.op not in PRODUCERS:
            continue
        pinned = distinct(use.labels[~coupled.free[use.labels]])
        parts = coupled.graph.parts_of(coupled.graph.nodes[use.node])
        each = sum(macs_of(part, facts) for part in parts) / total / len(use.labels)
        for root, count in zip(*np.unique(coupled.roots[pinned], return_counts=True), strict=True):
            pin = coupled.first_pin[int(root)]
            counts[pin] = counts.get(pin, 0) + int(count)
            macs[pin] = macs.get(pin, 0.0) + int(count) * each
            owner = coupled.owner_of[pinned[0]]
            weights.setdefault(pin, {})[coupled.owners[owner].weight if owner >= 0 else "?"] = None
    rows = [Pinned(pin, n, tuple(weights[pin]), macs[pin]) for pin, n in counts.items()]
    return tuple(sorted(rows, key=lambda h: -h.channels))
