# SPDX-License-Identifier: Apache-2.0
"""Widths -> the labels that go, and the widths that keep within a limit of multiply-accumulates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxprune.analysis.couple import Coupled
from onnxprune.analysis.groups import Group
from onnxprune.selection.budget import Amount, filled, smallest
from onnxprune.selection.widths import Budget, Units, keep_one_everywhere, ladders, widths_for
from onnxprune.types import Mask


@dataclass(frozen=True)
class Ballot:
    """Groups, and what they give up at a time."""

    coupled: Coupled
    groups: list[Group]
    units: list[Units]

    def dropped(self, widths: Sequence[int]) -> Mask:
        """The labels (n_labels,) that go if each group keeps its best units; no axis loses everything."""
        dead, scores = np.zeros(len(self.coupled.roots), bool), np.zeros(len(self.coupled.roots))
        for group, units, width in zip(self.groups, self.units, widths, strict=True):
            dead[group.roots[~units.best(width)]] = True
            scores[group.roots] = units.scores[units.of]
        empty = [roots for roots in self.coupled.spans() if dead[roots].all()]
        gone = {int(root): float(scores[root]) for roots in empty for root in roots}
        dead[self._whole(keep_one_everywhere(empty, gone))] = False
        return dead[self.coupled.roots]

    def _whole(self, classes: Iterable[int]) -> list[int]:
        """These classes, each with all others of its unit."""
        found: list[int] = []
        for root in classes:
            for group, units in zip(self.groups, self.units, strict=True):
                found += group.roots[np.isin(units.of, units.of[group.roots == root])].tolist()
        return found

    def per_mac(self) -> Ballot:
        """Scores by what an atom costs: where scores are errors, the least error goes for each multiply-accumulate saved."""
        meter, none = self.coupled.meter, np.zeros(len(self.coupled.roots), bool)
        found = []
        for group, units in zip(self.groups, self.units, strict=True):
            without = np.isin(self.coupled.roots, group.roots)
            saved = (meter.macs(none) - meter.macs(without)) / len(group)
            found.append(replace(units, scores=units.scores / max(saved, 1.0)))
        return replace(self, units=found)


def within(limit: Amount, ballot: Ballot, budget: Budget) -> list[int]:
    """The widths by the smallest ratio that the limit of MACs allows, and then as near to it as widths can be."""
    meter = ballot.coupled.meter
    allowed = limit.of(meter.macs(np.zeros(len(ballot.coupled.roots), bool)))
    ranked = [u.scores[u.ranked] for u in ballot.units]

    def make(ratio: float) -> list[int]:
        return widths_for(ballot.groups, ballot.units, replace(budget, ratio=ratio))

    def cost(widths: Sequence[int]) -> float:
        return meter.macs(ballot.dropped(widths))

    def worth(group: int, width: int, wider: int) -> float:
        # as in the selection by ratio: globally the scores decide, locally what is left of each group
        return float(ranked[group][width:wider].mean()) if budget.scope == "global" else -wider / len(ranked[group])

    widths = smallest(make, cost, allowed)
    for relaxed in range(budget.align.bit_length() + 2):
        widths = filled(widths, ladders(ballot.groups, ballot.units, budget, relaxed), worth, cost, allowed)
    return widths
