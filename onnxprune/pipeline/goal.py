# SPDX-License-Identifier: Apache-2.0
"""What a cut must reach, read from the options. A further cost that can be limited is one more entry of `COSTS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
from onnx import ModelProto

from onnxprune.analysis.coupling import Coupled
from onnxprune.cost.footprint import file_size_model, memory_model, params_model
from onnxprune.cost.macs import macs_model
from onnxprune.cost.model import CostModel, of_original
from onnxprune.options import SelectionOptions
from onnxprune.selection.budget import Amount
from onnxprune.selection.strategy import NEAR, Limit
from onnxprune.types import Mask

EXPONENTIAL, LINEAR = "exponential", "linear"
SCHEDULES = (EXPONENTIAL, LINEAR)
"""How several cuts share what must go: each shrinks the network by the same factor, or by the same amount."""


def remaining(end: float, share: float, schedule: str) -> float:
    """What remains after the fraction `share` of the way, relative to the start; `end` remains at its end.

    >>> remaining(0.25, 0.5, "exponential"), remaining(0.25, 0.5, "linear")
    (0.5, 0.625)
    """
    return end**share if schedule == EXPONENTIAL else 1 - (1 - end) * share


@dataclass(frozen=True)
class Budget:
    """What may remain of one cost.

    Attributes:
        model: the analysis of a model -> the cost of its cuts.
        amount: what may remain.
        asked: the same as the user stated it, such as "50%"; for messages.
        target: the option that states it; empty for costs that have none.
        later: the cost of cuts after a later step, if that is what is limited; `amount` is one of the original.
        measured: a cut model -> its cost after that step.
        near: how close to the limit is close enough, as a fraction of it.
        learned: a cost, the labels that a cut drops, and what was measured of it -> the cost, corrected.
    """

    model: Callable[[Coupled], CostModel]
    amount: Amount
    asked: str = ""
    target: str = ""
    later: Callable[[Coupled], CostModel] | None = None
    measured: Callable[[ModelProto], float] | None = None
    near: float = NEAR
    learned: Callable[[CostModel, Mask, float], CostModel] | None = None

    def limit(self, coupled: Coupled) -> Limit:
        """The limit on cuts of one model."""
        cost = self.model(coupled)
        most = self.amount.of(of_original(cost, len(coupled.roots)))
        cost = self.later(coupled) if self.later else cost
        return Limit(cost, most, self.asked, self.target, self.measured, self.near, self.learned)

    def part(self, share: float, original: Coupled, schedule: str = EXPONENTIAL) -> Budget:
        """What may remain after the fraction `share` of the way."""
        whole = of_original(self.model(original), len(original.roots))
        return replace(self, amount=Amount(whole * remaining(self.amount.of(whole) / whole, share, schedule), False))


@dataclass(frozen=True)
class Goal:
    """What a cut must reach: a ratio or budgets.

    Attributes:
        ratio: fraction of the prunable channels to remove, 0 to 1; None if there are budgets.
        budgets: what may remain of each limited cost; all must hold.
    """

    ratio: float | None
    budgets: tuple[Budget, ...] = ()

    def of(self, original: Coupled) -> Goal:
        """The same goal as amounts, for models with fewer nodes."""
        return replace(self, budgets=tuple(budget.part(1.0, original) for budget in self.budgets))

    def limits(self, coupled: Coupled) -> tuple[Limit, ...]:
        """The limits on cuts of one model."""
        return tuple(budget.limit(coupled) for budget in self.budgets)

    def part(self, share: float, original: Coupled, channels: int, left: int, schedule: str = EXPONENTIAL) -> Goal:
        """The goal of a cut after the fraction `share` of the way.

        Args:
            channels: number of channels of the original that may be removed.
            left: how many of them are left before this cut.
            schedule: one of `SCHEDULES`.
        """
        if self.ratio is None:
            return Goal(None, tuple(budget.part(share, original, schedule) for budget in self.budgets))
        kept = channels * remaining(1 - self.ratio, share, schedule)
        return Goal(float(np.clip(1 - kept / max(left, 1), 0.0, 0.999)))


COSTS: Mapping[str, Callable[[Coupled], CostModel]] = MappingProxyType(
    {"macs": macs_model, "params": params_model, "size": file_size_model, "memory": memory_model}
)
"""The costs that options limit and that need no measurement, by the name of the option."""


def goal_of(selection: SelectionOptions) -> Goal:
    """The goal that the options state."""
    found = ((name, amount) for name, amount in selection.targets().items() if name in COSTS)
    return Goal(selection.ratio, tuple(Budget(COSTS[n], amount, str(getattr(selection, n)), n) for n, amount in found))
