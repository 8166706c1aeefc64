# SPDX-License-Identifier: Apache-2.0
"""What a result loses on held-out samples, and the deepest cut that loses no more than is allowed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from onnxprune.effort import Effort
from onnxprune.evaluation.evaluator import Judgement
from onnxprune.pipeline.decide import Decision
from onnxprune.report.values import LossRow

if TYPE_CHECKING:
    from onnxprune.recovery.methods import Recovery

ROUNDING = 1e-9
SURE = 1.96
"""Standard errors on each side of a 95 % interval."""
TRIES, LEAST = 6, 0.02
"""How many cuts are tried, and the least share of the multiply-accumulates that is aimed at."""


@dataclass(frozen=True)
class Loss:
    """What was lost.

    Attributes:
        value: in points of accuracy, relative to the original's metric, or as the share of answers that changed.
        low, high: the 95 % interval; None if it is unknown.
        what: what is lost.
        samples: number of held-out samples.
    """

    value: float
    low: float | None
    high: float | None
    what: str
    samples: int

    def holds(self, most: float) -> bool:
        """Whether no more than `most` is lost."""
        return self.value <= most + ROUNDING

    def row(self, asked: str, most: float) -> LossRow:
        """What the report says."""
        return LossRow(asked, most, self.value, self.holds(most), self.low, self.high, self.what, self.samples)


def loss_of(found: Judgement, before: Judgement, measure: str) -> Loss:
    """What a model loses of accuracy or of the user's metric; without either, how many answers are no longer the original's.

    Args:
        found, before: the model and the original on the same samples.
        measure: what accuracy means: top-1, or the name of a metric.
    """
    n = found.samples
    if found.accuracy is not None and before.accuracy is not None:
        value = before.accuracy - found.accuracy
        if measure != "top-1":
            return Loss(value / abs(before.accuracy) if before.accuracy else value, None, None, f"of {measure}", n)
        changed = 2 - before.accuracy - found.accuracy if found.agreement is None else 1 - found.agreement
        changed = (changed * n + 1) / (n + 1)  # one more than was seen: none among few does not mean never
        error = SURE * math.sqrt(max(changed - value**2, 0.0) / n)
        return Loss(value, value - error, value + error, "points of accuracy", n)
    if found.agreement is not None:
        return Loss(1 - found.agreement, *wilson(1 - found.agreement, n), "of the original's answers", n)
    return Loss(found.lost, None, None, "of what the original's outputs tell about the inputs", n)


def wilson(share: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a share that was seen among n samples (Wilson, 1927).

    >>> [round(x, 3) for x in wilson(0.0, 100)]
    [0.0, 0.037]
    """
    middle = (share + SURE**2 / (2 * n)) / (1 + SURE**2 / n)
    half = SURE / (1 + SURE**2 / n) * math.sqrt(share * (1 - share) / n + SURE**2 / (4 * n**2))
    return max(0.0, middle - half), min(1.0, middle + half)


Cut = tuple[Decision, "Recovery | None"]


def deepest(
    attempt: Callable[[float, Effort], Cut], loss: Callable[[Recovery | None], Loss], most: float, effort: Effort
) -> Cut:
    """The cut that leaves the fewest multiply-accumulates and loses at most `most`, by bisection; if none does, the mildest.

    All attempts are judged on the same samples, so that the one that is kept looks a little better than it is.

    Args:
        attempt: (share of the multiply-accumulates that may remain, time) -> the cut and its recovery.
        loss: what a recovered cut loses on held-out samples.
    """
    holds, fails, kept, tried = 1.0, LEAST, None, list[tuple[float, float, Cut]]()
    for k in range(TRIES):
        share = (holds + fails) / 2
        found = attempt(share, effort.within(1 / (TRIES - k), f"attempt {k + 1}: "))
        lost = loss(found[1])
        tried.append((share, lost.value, found))
        if lost.holds(most):
            holds, kept = share, found
            if not _reached(found[0]):
                break  # nothing deeper is possible
        else:
            fails = share
    best = kept or max(tried, key=lambda t: t[0])[2]
    return replace(best[0], limits=(), notes=(*best[0].notes, _story(tried))), best[1]


def _reached(decision: Decision) -> bool:
    return all(limit.cost.of(decision.dropped) <= limit.most for limit in decision.limits)


def _story(tried: Sequence[tuple[float, float, Cut]]) -> str:
    steps = ", ".join(f"{share:.0%} of the MACs {lost:.2%}" for share, lost, _ in sorted(tried, key=lambda t: -t[0]))
    return f"tried, and what was lost on held-out samples: {steps}"
