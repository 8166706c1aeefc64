# SPDX-License-Identifier: Apache-2.0
"""What a cut must reach, read from the options. A further cost that can be limited is one more `Budget` in `goal_of`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from onnxprune.analysis.coupling import Coupled
from onnxprune.cost.macs import macs_model
from onnxprune.cost.model import CostModel, of_original
from onnxprune.options import SelectionOptions
from onnxprune.selection.budget import Amount
from onnxprune.selection.strategy import Limit


@dataclass(frozen=True)
class Budget:
    """What may remain of one cost.

    Attributes:
        model: the analysis of a model -> the cost of its cuts.
        amount: what may remain.
        asked: the same as the user stated it, such as "50%"; for messages.
    """

    model: Callable[[Coupled], CostModel]
    amount: Amount
    asked: str = ""

    def limit(self, coupled: Coupled) -> Limit:
        """The limit on cuts of one model."""
        cost = self.model(coupled)
        return Limit(cost, self.amount.of(of_original(cost, len(coupled.roots))), self.asked)

    def part(self, share: float, original: Coupled) -> Budget:
        """What may remain after the fraction `share` of the way, if every step shrinks the cost by the same factor."""
        whole = of_original(self.model(original), len(original.roots))
        return replace(self, amount=Amount(whole * (self.amount.of(whole) / whole) ** share, False))


@dataclass(frozen=True)
class Goal:
    """What a cut must reach: a ratio or budgets.

    Attributes:
        ratio: fraction of the prunable channels to remove, 0 to 1; None if there are budgets.
        budgets: what may remain of each limited cost; all must hold.
    """

    ratio: float | None
    budgets: tuple[Budget, ...] = ()

    def limits(self, coupled: Coupled) -> tuple[Limit, ...]:
        """The limits on cuts of one model."""
        return tuple(budget.limit(coupled) for budget in self.budgets)

    def part(self, share: float, original: Coupled, channels: int, left: int) -> Goal:
        """The goal of a cut after the fraction `share` of the way; every step shrinks the model by the same factor.

        Args:
            channels: number of channels of the original that may be removed.
            left: how many of them are left before this cut.
        """
        if self.ratio is None:
            return Goal(None, tuple(budget.part(share, original) for budget in self.budgets))
        kept = channels * (1 - self.ratio) ** share
        return Goal(float(np.clip(1 - kept / max(left, 1), 0.0, 0.999)))


def goal_of(selection: SelectionOptions) -> Goal:
    """The goal that the options state."""
    macs = selection.limit()
    return Goal(selection.ratio, () if macs is None else (Budget(macs_model, macs, str(selection.macs)),))
