# SPDX-License-Identifier: Apache-2.0
"""Units: what a group drops at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from onnxprune.analysis.groups import Group
from onnxprune.types import Indices, Mask, Vector

FLOOR = 0.1
"""Fraction of each group that is always kept, so that no layer collapses."""


@dataclass(frozen=True, eq=False)
class Units:
    """What a group drops at a time: one atom, or one per block if all blocks must keep the same number.

    Attributes:
        scores: for each unit, the mean over its atoms (n_units,).
        sizes: the number of atoms of each unit (n_units,).
        of: the unit of each atom (n_atoms,).
        always: which units are always kept (n_units,).
        share: the largest fraction of the atoms that may be kept.
    """

    scores: Vector
    sizes: Indices
    of: Indices
    always: Mask
    share: float = 1.0

    @cached_property
    def ranked(self) -> Indices:
        """The units from the last to be dropped to the first: by score, ties broken by position (n_units,)."""
        return np.lexsort((-self.scores, ~self.always))

    @property
    def lowest(self) -> int:
        """The smallest number of units that the group keeps."""
        return int(self.always.sum())

    @property
    def most(self) -> int:
        """The largest number of units that the group keeps."""
        allowed = int(np.searchsorted(self.kept, self.share * self.kept[-1] + 1e-9, "right")) - 1
        return max(self.lowest, allowed)

    def best(self, count: int) -> Mask:
        """The atoms (n_atoms,) of the `count` best units."""
        keep = np.zeros(len(self.scores), bool)
        keep[self.ranked[:count]] = True
        return keep[self.of]

    @cached_property
    def dropped(self) -> Indices:
        """The number of atoms in the 0, 1, 2, ... lowest units (n_units + 1,)."""
        return np.concatenate([[0], np.cumsum(self.sizes[self.ranked[::-1]])])

    @cached_property
    def kept(self) -> Indices:
        """The number of atoms in the 0, 1, 2, ... best units (n_units + 1,)."""
        return np.asarray((self.dropped[-1] - self.dropped)[::-1])


def units_of(group: Group, scores: Vector, floor: float = FLOOR, ceiling: float = 1.0) -> Units:
    """The units of a group. The best atoms of all blocks form one unit, the second best another, and so on.

    Args:
        floor: fraction of the atoms that is always kept.
        ceiling: largest fraction that may be kept.
    """
    of = _members(group, scores) if group.blocks else np.arange(len(group))
    sizes = np.bincount(of)
    mean = np.bincount(of, scores) / sizes
    best = np.argsort(-mean, kind="stable")
    always = np.zeros(len(sizes), bool)
    always[best[: 1 + int(np.searchsorted(np.cumsum(sizes[best]), least(len(group), floor)))]] = True
    return Units(mean, sizes, of, always, ceiling)


def _members(group: Group, scores: Vector) -> Indices:
    """The unit of each atom (n_atoms,): atoms of equal rank in their blocks share one, others are units by themselves."""
    name = np.arange(len(group))
    for rows in group.blocks:
        ranked = np.take_along_axis(rows, np.argsort(-scores[rows], axis=1, kind="stable"), 1)
        name[ranked] = ranked.min(0)
    return np.unique(name, return_inverse=True)[1]


def least(size: int, floor: float) -> int:
    """The smallest number of atoms that a group of `size` keeps."""
    return max(1, math.ceil(size * floor - 1e-9))
