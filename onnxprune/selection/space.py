# SPDX-License-Identifier: Apache-2.0
"""All cuts that a selection can choose from: how many units each group keeps, and which labels that drops."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from onnxprune.analysis.coupling import Coupled
from onnxprune.analysis.groups import Group
from onnxprune.cost.model import CostModel
from onnxprune.selection import alignment
from onnxprune.selection.sizing import Sizing
from onnxprune.selection.units import Units
from onnxprune.selection.widths import Widths, widths_for
from onnxprune.types import Indices, Mask


@dataclass(frozen=True)
class Space:
    """The cuts that can be chosen: a width for each group.

    Attributes:
        coupled: the analysis of the original.
        groups: the groups that may shrink.
        units: for each of them what it gives up at a time, and in which order.
        sizing: how widths are chosen.
    """

    coupled: Coupled = field(repr=False)
    groups: tuple[Group, ...]
    units: tuple[Units, ...] = field(repr=False)
    sizing: Sizing

    def by_ratio(self, ratio: float) -> Widths:
        """The widths if the fraction `ratio` of all atoms is dropped, 0 to 1."""
        return widths_for(self.groups, self.units, ratio, self.sizing)

    def ladders(self, relaxed: int = 0) -> list[list[int]]:
        """The widths that each group may have, ascending; each step of `relaxed` halves the multiple that they are of."""
        return alignment.ladders(self.groups, self.units, self.sizing, relaxed)

    def dropped(self, widths: Sequence[int]) -> Mask:
        """The labels (n_labels,) that are dropped if each group keeps its best units; no axis loses everything."""
        dropped, scores = np.zeros(len(self.coupled.roots), bool), np.zeros(len(self.coupled.roots))
        for group, units, width in zip(self.groups, self.units, widths, strict=True):
            dropped[group.roots[~units.best(width)]] = True
            scores[group.roots] = units.scores[units.of]
        empty = [roots for roots in self.coupled.spans() if dropped[roots].all()]
        known = {int(root): float(scores[root]) for roots in empty for root in roots}
        dropped[self._whole(keep_one_everywhere(empty, known))] = False
        return dropped[self.coupled.roots]

    def _whole(self, classes: Iterable[int]) -> list[int]:
        """These classes, each with all others of its unit."""
        found: list[int] = []
        for root in classes:
            for group, units in zip(self.groups, self.units, strict=True):
                found += group.roots[np.isin(units.of, units.of[group.roots == root])].tolist()
        return found

    def per(self, cost: CostModel) -> Space:
        """Scores by what an atom costs: where scores are errors, the least error is made for each unit of cost saved."""
        whole = cost.of(np.zeros(len(self.coupled.roots), bool))
        found = []
        for group, units in zip(self.groups, self.units, strict=True):
            saved = (whole - cost.of(np.isin(self.coupled.roots, group.roots))) / len(group)
            found.append(replace(units, scores=units.scores / max(saved, 1.0)))
        return replace(self, units=tuple(found))


def keep_one_everywhere(spans: Sequence[Indices], dropped: dict[int, float]) -> set[int]:
    """Classes to bring back so that no axis of any tensor loses everything.

    Args:
        spans: the classes on each axis.
        dropped: class -> score of those to be dropped.
    """
    back: set[int] = set()
    for roots in spans:
        listed = roots.tolist()
        if all(r in dropped and r not in back for r in listed):
            back.add(max(listed, key=lambda r: dropped[r]))
    return back
