# SPDX-License-Identifier: Apache-2.0
"""The order in which a model loses its channels. It depends on no ratio and no limit: every cut is a beginning of it, so that a
deeper cut keeps a subset of what a shallower one keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import numpy as np

from onnxprune.analysis.groups import Group
from onnxprune.selection.alignment import relaxations, relaxed_of
from onnxprune.selection.sizing import Sizing
from onnxprune.selection.units import Units
from onnxprune.types import Indices, Mask, Vector

Widths = list[int]
"""The number of units each group keeps."""
CLOSE = 0.01
"""Aligned widths suffice if they miss the total by at most this fraction of all atoms (and ten times that of those to drop)."""


@dataclass(frozen=True, eq=False)
class Order:
    """The sequence in which units are dropped.

    Attributes:
        sizes: the number of units of each group (n_groups,).
        owner: the group that loses the first unit, the second, ... (n_droppable,).
        removed: the number of atoms dropped with the first 0, 1, 2, ... units (n_droppable + 1,).
        relaxed: how far the alignment is relaxed after the first 0, 1, 2, ... units; 0 = all widths are aligned.
        due: the number of units that are dropped in any case.
    """

    sizes: Indices = field(repr=False)
    owner: Indices = field(repr=False)
    removed: Indices = field(repr=False)
    relaxed: Indices = field(repr=False)
    due: int = 0

    def widths(self, count: int) -> Widths:
        """The widths without the first `count` units, and without those that are due."""
        lost = np.bincount(self.owner[: max(count, self.due)], minlength=len(self.sizes))
        found: Widths = (self.sizes - lost).tolist()
        return found

    def stops(self) -> list[Indices]:
        """Where the sequence may end: first only where all widths are aligned, last after any unit (numbers of units)."""
        return [np.flatnonzero(self.relaxed <= level) for level in np.unique(self.relaxed)]

    def nearest(self, remove: int, total: int) -> int:
        """The number of units whose atoms come closest to `remove` of `total`; alignment is relaxed only as far as needed."""
        count, most = 0, min(remove, int(self.removed[-1]))
        for stops in self.stops():
            count = int(stops[np.abs(self.removed[stops] - most).argmin()])
            if abs(int(self.removed[count]) - most) <= CLOSE * min(total, 10 * most):
                break
        return count


def order_of(groups: Sequence[Group], units: Sequence[Units], sizing: Sizing, kinds: Sequence[int] = ()) -> Order:
    """The order in which units are dropped: whole aligned steps, that of the least harm first.

    Steps from widths that a group may not keep come before all others.

    In the global scope the harm of a step is the mean score of the atoms that it drops; in the local scope the next step is
    that of the group which is furthest behind, so that all groups lose the same fraction (Webster's method). Ties of one are
    broken by the other. In the isomorphic scope, groups of one structure rank together, and structures lose the same fraction.
    Once every group has its smallest aligned width, the alignment is relaxed by one more step.

    Args:
        kinds: the structure of each group, for the isomorphic scope.
    """
    steps = steps_of(groups, units, sizing)
    share = _together(steps, units, np.array(kinds)) if sizing.scope == "isomorphic" else steps.share
    ranks = (share, steps.harm) if sizing.scope == "global" else (steps.harm, share)
    return in_order(steps.take(np.lexsort((*ranks, steps.relaxed, ~steps.due))), groups, units, sizing)


def _together(steps: Steps, units: Sequence[Units], kinds: Indices) -> Vector:
    """For each step, the fraction that its structure has lost halfway through, if its groups are ranked together (n_steps,)."""
    found, sizes = np.zeros(len(steps.group)), np.array([u.kept[-1] for u in units])
    for kind in np.unique(kinds):
        mine = np.flatnonzero(kinds[steps.group] == kind)
        order = mine[np.lexsort((steps.share[mine], steps.harm[mine], steps.relaxed[mine], ~steps.due[mine]))]
        gone = np.cumsum(steps.atoms[order]) - steps.atoms[order] / 2
        found[order] = gone / sizes[kinds == kind].sum()
    return found


def in_order(steps: Steps, groups: Sequence[Group], units: Sequence[Units], sizing: Sizing) -> Order:
    """The order in which units are dropped if steps are taken one after the other, each group's from wide to narrow.

    Those that are due come first.
    """
    drops = steps.wide - steps.narrow
    owner = np.repeat(steps.group, drops)
    reached = np.repeat(steps.wide - 1 + np.cumsum(drops) - drops, drops) - np.arange(len(owner))
    removed, relaxed = np.zeros(len(owner) + 1, np.int64), np.zeros(len(owner) + 1, np.int64)
    levels = _flat([relaxed_of(g, u, sizing) for g, u in zip(groups, units, strict=True)], owner, reached)
    relaxed[1:] = np.maximum(np.repeat(steps.relaxed, drops), levels)
    removed[1:] = np.cumsum(_flat([u.sizes[u.ranked] for u in units], owner, reached))
    sizes = np.array([len(u.scores) for u in units], np.int64)
    return Order(sizes, owner, removed, relaxed, int(drops[steps.due].sum()))


def _flat(tables: Sequence[Indices], rows: Indices, columns: Indices) -> Indices:
    """`tables[row][column]` for every row and column."""
    starts = np.cumsum([0, *map(len, tables)])[:-1]
    return np.asarray(np.concatenate([np.zeros(0, np.int64), *tables])[starts[rows] + columns])


@dataclass(frozen=True, slots=True)
class Steps:
    """Steps of groups from one width to the next, as parallel arrays (n_steps,).

    Attributes:
        group: the group that shrinks.
        wide, narrow: its number of units before and after.
        relaxed: how far the alignment must be relaxed for it.
        atoms: the number of atoms that are dropped.
        harm: the mean score of the atoms that are dropped.
        share: the fraction of the group that is gone halfway through.
        due: whether the group may not keep the width before.
    """

    group: Indices
    wide: Indices
    narrow: Indices
    relaxed: Indices
    atoms: Indices
    harm: Vector
    share: Vector
    due: Mask

    def take(self, index: Indices) -> Steps:
        """The steps in another order."""
        return Steps(*(getattr(self, f.name)[index] for f in fields(self)))


def steps_of(groups: Sequence[Group], units: Sequence[Units], sizing: Sizing) -> Steps:
    """The steps of all groups, each group's in the order in which they must be taken."""
    found = [_steps_of(k, g, u, sizing) for k, (g, u) in enumerate(zip(groups, units, strict=True))]
    whole, real = np.zeros(0, np.int64), np.zeros(0)
    none = Steps(whole, whole, whole, whole, whole, real, real, np.zeros(0, bool))
    return Steps(*(np.concatenate([getattr(s, f.name) for s in (none, *found)]) for f in fields(Steps)))


def _steps_of(index: int, group: Group, units: Units, sizing: Sizing) -> Steps:
    """The steps of one group."""
    level = relaxed_of(group, units, sizing)
    size = len(units.scores)
    stops, relaxed, least = [np.array([size])], [np.zeros(0, np.int64)], size
    for k in range(relaxations(sizing.align)):
        widths = np.flatnonzero(level[:least] <= k)[::-1]
        widths = widths[widths >= units.lowest]
        stops.append(widths)
        relaxed.append(np.full(len(widths), k))
        least = int(widths[-1]) if len(widths) else least
    width = np.concatenate(stops)
    wide, narrow = width[:-1], width[1:]
    gone = units.kept[wide] - units.kept[narrow]
    # summed from the lowest score, which the highest would drown; single precision: rounding errors must not order equal scores
    beyond = np.append(np.cumsum((units.scores * units.sizes)[units.ranked][::-1])[::-1], 0.0)
    harm = ((beyond[narrow] - beyond[wide]) / gone).astype(np.float32)
    share = (1 - (units.kept[wide] + units.kept[narrow]) / (2 * units.kept[-1])).astype(np.float32)
    harm, due = np.maximum.accumulate(harm), wide > units.most
    return Steps(np.full(len(wide), index), wide, narrow, np.concatenate(relaxed), gone, harm, share, due)
