# SPDX-License-Identifier: Apache-2.0
"""The cuts that a selection can choose from: the number of units each group keeps, and the labels that this drops."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from onnxprune.analysis.coupling import Coupled
from onnxprune.analysis.groups import Group
from onnxprune.cost.model import CostModel, of_original
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
        units: for each group, what it drops at a time, and in which order.
        sizing: how widths are chosen.
    """

    coupled: Coupled = field(repr=False)
    groups: tuple[Group, ...]
    units: tuple[Units, ...] = field(repr=False)
    sizing: Sizing

    def by_ratio(self, ratio: float) -> Widths:
        """The widths if the fraction `ratio` (0 to 1) of all atoms is dropped."""
        return widths_for(self.groups, self.units, ratio, self.sizing)

    def ladders(self, relaxed: int = 0) -> list[list[int]]:
        """The allowed widths of each group, ascending; each step of `relaxed` halves the multiple they are rounded to."""
        return alignment.ladders(self.groups, self.units, self.sizing, relaxed)

    def dropped(self, widths: Sequence[int]) -> Mask:
        """The labels (n_labels,) that are dropped if each group keeps its best units; no axis becomes empty."""
        dropped, scores = np.zeros(len(self.coupled.roots), bool), np.zeros(len(self.coupled.roots))
        for group, units, width in zip(self.groups, self.units, widths, strict=True):
            dropped[group.roots[~units.best(width)]] = True
            scores[group.roots] = units.scores[units.of]
        empty = [roots for roots in self.coupled.spans() if dropped[roots].all()]
        known = {int(root): float(scores[root]) for roots in empty for root in roots}
        dropped[self._whole(keep_one_everywhere(empty, known))] = False
        return dropped[self.coupled.roots]

    def _whole(self, classes: Iterable[int]) -> list[int]:
        """These classes, with all other classes of their units."""
        found: list[int] = []
        for root in classes:
            for group, units in zip(self.groups, self.units, strict=True):
                found += group.roots[np.isin(units.of, units.of[group.roots == root])].tolist()
        return found

    def per(self, cost: CostModel) -> Space:
        """Divide scores by the cost of an atom: if scores are errors, this minimises the error per unit of cost saved."""
        whole = of_original(cost, len(self.coupled.roots))
        found = []
        for group, units in zip(self.groups, self.units, strict=True):
            saved = (whole - cost.of(np.isin(self.coupled.roots, group.roots))) / len(group)
            found.append(replace(units, scores=units.scores / max(saved, cost.resolution)))
        return replace(self, units=tuple(found))


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
