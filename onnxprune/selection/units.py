# SPDX-License-Identifier: Apache-2.0
"""Units: what a group drops at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from onnxprune.analysis.groups import Group
from onnxprune.types import Indices, Mask, Vector


@dataclass(frozen=True, eq=False)
class Units:
    """What a group drops at a time: one atom, or one per block if all blocks must keep the same number.

    Attributes:
        scores: for each unit, the mean over its atoms (n_units,).
        sizes: the number of atoms of each unit (n_units,).
        of: the unit of each atom (n_atoms,).
    """

    scores: Vector
    sizes: Indices
    of: Indices

    @cached_property
    def ranked(self) -> Indices:
        """The units from the highest score to the lowest, ties broken by position (n_units,)."""
        return np.argsort(-self.scores, kind="stable")

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


def units_of(group: Group, scores: Vector) -> Units:
    """The units of a group. The best atoms of all blocks form one unit, the second best another, and so on."""
    if not group.blocks:
        return Units(scores, np.ones(len(group), np.int64), np.arange(len(group)))
    name = np.arange(len(group))
    for rows in group.blocks:
        ranked = np.take_along_axis(rows, np.argsort(-scores[rows], axis=1, kind="stable"), 1)
        name[ranked] = ranked.min(0)
    _, of, sizes = np.unique(name, return_inverse=True, return_counts=True)
    return Units(np.bincount(of, scores) / sizes, sizes, of)


def least(size: int, floor: float) -> int:
    """The smallest number of atoms that a group of `size` keeps."""
    return max(1, math.ceil(size * floor - 1e-9))


def room(units: Units, floor: float) -> int:
    """The largest number of units that a group may drop."""
    most = units.dropped[-1] - least(int(units.dropped[-1]), floor)
    return min(int(np.searchsorted(units.dropped, most, "right")) - 1, len(units.scores) - 1)
