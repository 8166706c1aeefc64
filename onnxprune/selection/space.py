# SPDX-License-Identifier: Apache-2.0
"""The cuts that a selection can choose from: the number of units each group keeps, and the labels that this drops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from onnxprune.analysis.coupling import Coupled
from onnxprune.analysis.groups import Group
from onnxprune.cost.model import CostModel, of_original
from onnxprune.selection.alignment import ladder, within
from onnxprune.selection.bounds import ANY, Bounds
from onnxprune.selection.order import Order, Widths, order_of
from onnxprune.selection.sizing import Sizing
from onnxprune.selection.structure import structures
from onnxprune.selection.units import Units, units_of
from onnxprune.types import Indices, Mask, Vector

LEAST = 1e-6
"""The smallest fraction of a score that counts as kept."""


@dataclass(frozen=True)
class Space:
    """The cuts that can be chosen: a width for each group.

    Attributes:
        coupled: the analysis of the original.
        groups: the groups that may shrink.
        units: for each group, what it drops at a time, and in which order.
        sizing: how widths are chosen.
        given: the order in which units are dropped, if it does not follow from their scores.
        bounds: for each group, the smallest and the largest fraction that it keeps; empty: those of all groups.
        additive: whether scores are errors, which add up, so that what a cut loses is the sum over what it drops.
        dead: labels that are dropped in any case (n_labels,); no group has them.
    """

    coupled: Coupled = field(repr=False)
    groups: tuple[Group, ...]
    units: tuple[Units, ...] = field(repr=False)
    sizing: Sizing
    given: Order | None = field(default=None, repr=False)
    bounds: tuple[Bounds, ...] = ()
    additive: bool = False
    dead: Mask | None = field(default=None, repr=False)

    @cached_property
    def order(self) -> Order:
        """The order in which units are dropped."""
        kinds = structures(self.coupled, self.groups) if self.sizing.scope == "isomorphic" else ()
        return self.given or order_of(self.groups, self.units, self.sizing, kinds)

    def by_ratio(self, ratio: float) -> Widths:
        """The widths if the fraction `ratio` (0 to 1) of all atoms is dropped; a larger ratio keeps a subset of them."""
        total = sum(map(len, self.groups))
        return self.order.widths(self.order.nearest(round(ratio * total), total))

    def ladders(self, relaxed: int = 0) -> list[list[int]]:
        """The allowed widths of each group, ascending; each step of `relaxed` halves the multiple they are rounded to."""
        pairs = zip(self.groups, self.units, strict=True)
        return [within(ladder(g, u, self.sizing, relaxed), u) for g, u in pairs]

    def dropped(self, widths: Sequence[int]) -> Mask:
        """The labels (n_labels,) that are dropped if each group keeps its best units; no axis becomes empty."""
        dropped = _none(self.coupled) if self.dead is None else self.dead.copy()
        for group, units, width in zip(self.groups, self.units, widths, strict=True):
            dropped[group.roots[~units.best(width)]] = True
        return dropped[self.coupled.roots]

    def kept(self) -> list[Vector]:
        """For each group, the sum of the scores of its 0, 1, 2, ... best units' atoms (n_units + 1,)."""
        return [np.concatenate([[0.0], np.cumsum((u.scores * u.sizes)[u.ranked])]) for u in self.units]

    def lost(self) -> list[Vector]:
        """For each group, what it loses with its 0, 1, 2, ... best units (n_units + 1,).

        It is the whole score times -log of the fraction that is kept: the sum of what goes while little goes, and without
        bound as nothing is left. By plain sums, single layers were starved.
        """
        return [-k[-1] * np.log(np.maximum(k / max(float(k[-1]), 1e-30), LEAST)) for k in self.kept()]

    def per(self, cost: CostModel, power: float = 1.0) -> Space:
        """Divide scores by a power of the cost of an atom: by the cost itself, errors become errors per unit of cost saved."""
        saved = self.saved(cost)
        found = [replace(u, scores=u.scores / each**power) for u, each in zip(self.units, saved.tolist(), strict=True)]
        return replace(self, units=tuple(found), additive=False)

    def saved(self, cost: CostModel) -> Vector:
        """The cost of an atom of each group (n_groups,): what dropping the whole group saves, divided by its atoms."""
        whole = of_original(cost, len(self.coupled.roots))
        each = [(whole - cost.of(np.isin(self.coupled.roots, g.roots))) / len(g) for g in self.groups]
        return np.maximum(np.array(each, np.float64), cost.resolution, dtype=np.float64)


def _none(coupled: Coupled) -> Mask:
    return np.zeros(len(coupled.roots), bool)


def space_of(
    coupled: Coupled,
    groups: Sequence[Group],
    scores: Sequence[Vector],
    sizing: Sizing,
    bounds: Sequence[Bounds] = (),
    dead: Mask | None = None,
) -> Space:
    """The cuts of `groups`, in the order of their scores. Units without which the deepest cut empties an axis stay."""
    limits = bounds or [ANY] * len(groups)
    units = [units_of(g, s, b.least, b.most) for g, s, b in zip(groups, scores, limits, strict=True)]
    dropped, score = _none(coupled) if dead is None else dead.copy(), np.zeros(len(coupled.roots))
    for group, u in zip(groups, units, strict=True):
        dropped[group.roots[~u.always[u.of]]] = True
        score[group.roots] = u.scores[u.of]
    given = _none(coupled) if dead is None else dead
    empty = [roots[~given[roots]] for roots in coupled.spans() if dropped[roots].all()]
    needed = [*keep_one_everywhere(empty, {int(root): float(score[root]) for roots in empty for root in roots})]
    for k, (group, u) in enumerate(zip(groups, units, strict=True)):
        mine = u.of[np.isin(group.roots, needed)]
        if len(mine):
            units[k] = replace(u, always=u.always | np.isin(np.arange(len(u.scores)), mine))
    return Space(coupled, tuple(groups), tuple(units), sizing, bounds=tuple(bounds), dead=dead)


def keep_one_everywhere(spans: Sequence[Indices], dropped: dict[int, float]) -> set[int]:
    """Classes to restore so that no axis of any tensor becomes empty.

    Args:
        spans: the classes on each axis.
        dropped: class to drop -> its score.
    """
    restored: set[int] = set()
    for roots in spans:
        listed = roots.tolist()
        if all(r in dropped and r not in restored for r in listed):
            restored.add(max(listed, key=lambda r: dropped[r]))
    return restored
