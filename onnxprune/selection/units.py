# SPDX-License-Identifier: Apache-2.0
"""What a group gives up at a time: one atom, or of every block one where the same number must stay in each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from onnxprune.analysis.groups import Group
from onnxprune.types import Indices, Mask, Vector


@dataclass(frozen=True, eq=False)
class Units:
    """What a group gives up at a time: an atom, or of every block one, where the same number must stay in each.

    Attributes:
        scores: of each unit, the mean over its atoms (n_units,).
        sizes: how many atoms it has (n_units,).
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
    def gone(self) -> Indices:
        """How many atoms go with the 0, 1, 2, ... lowest units (n_units + 1,)."""
        return np.concatenate([[0], np.cumsum(self.sizes[self.ranked[::-1]])])

    @cached_property
    def kept(self) -> Indices:
        """How many atoms stay with the 0, 1, 2, ... best units (n_units + 1,)."""
        return np.asarray((self.gone[-1] - self.gone)[::-1])


def units_of(group: Group, scores: Vector) -> Units:
    """The units of a group. The best atoms of all blocks make one, the second best another, and so on."""
    if not group.blocks:
        return Units(scores, np.ones(len(group), np.int64), np.arange(len(group)))
    name = np.arange(len(group))
    for rows in group.blocks:
        ranked = np.take_along_axis(rows, np.argsort(-scores[rows], axis=1, kind="stable"), 1)
        name[ranked] = ranked.min(0)
    _, of, sizes = np.unique(name, return_inverse=True, return_counts=True)
    return Units(np.bincount(of, scores) / sizes, sizes, of)


def least(size: int, floor: float) -> int:
    """The fewest atoms that a group of `size` keeps."""
    return max(1, math.ceil(size * floor - 1e-9))


def room(units: Units, floor: float) -> int:
    """The most units that a group may lose."""
    most = units.gone[-1] - least(int(units.gone[-1]), floor)
    return min(int(np.searchsorted(units.gone, most, "right")) - 1, len(units.scores) - 1)
