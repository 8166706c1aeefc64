# SPDX-License-Identifier: Apache-2.0
"""Strategies: from a space of cuts and limits on their cost to the chosen widths.

The cost of a cut follows from the labels that it drops. No model is built to compute it, so a strategy can try hundreds of cuts
per second.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from onnx import ModelProto

from onnxprune.cost.macs import macs_model
from onnxprune.cost.model import CostModel
from onnxprune.selection.alignment import relaxations
from onnxprune.selection.order import Order, Widths
from onnxprune.selection.space import Space
from onnxprune.types import Mask

NEAR = 0.99
"""A cost within one percent below the limit is close enough."""


@dataclass(frozen=True)
class Limit:
    """The maximum cost of a cut.

    Attributes:
        cost: the cost of any cut.
        most: what may remain, in the unit of `cost`.
        asked: the same as the user stated it, such as "50%"; for messages.
        target: the option that states it; empty for costs that have none.
        measured: a cut model -> its cost, if that is measured, or the cost after a later step.
        near: how close to the limit a measured cost must come, as a fraction of it.
        learned: a cost, the labels that a cut drops, and what was measured of it -> the cost, corrected.
        first: the cost before it was corrected; None: it was not.
    """

    cost: CostModel
    most: float
    asked: str = ""
    target: str = ""
    measured: Callable[[ModelProto], float] | None = None
    near: float = NEAR
    learned: Callable[[CostModel, Mask, float], CostModel] | None = None
    first: CostModel | None = None

    @property
    def price(self) -> CostModel:
        """The cost that errors are compared with: always the same, so that corrections lead along one order of cuts."""
        return self.first or self.cost

    def corrected(self, dropped: Mask, found: float) -> Limit:
        """The same limit after a cut without the labels `dropped` (n_labels,) turned out to cost `found`."""
        return replace(self, cost=self.learned(self.cost, dropped, found), first=self.price) if self.learned else self


@dataclass(frozen=True)
class Chosen:
    """The chosen widths, and what the report says about the choice; empty: nothing."""

    widths: Widths
    note: str = ""


Strategy = Callable[[Space, Sequence[Limit]], Chosen]
"""From the cuts that can be chosen, and limits that must all hold, to the chosen widths; the deepest cut if no cut meets the
limits."""


def fullness(space: Space, limits: Sequence[Limit]) -> Callable[[Widths], float]:
    """Widths -> the cost in units of the tightest limit."""

    def cost(widths: Widths) -> float:
        dropped = space.dropped(widths)
        return max(limit.cost.of(dropped) / limit.most for limit in limits)

    return cost


def greedy(space: Space, limits: Sequence[Limit]) -> Chosen:
    """The shallowest cut that meets the limits, in the order in which channels go, widened as close to them as possible.

    Errors are compared with what they save of the first cost.
    """
    space = space.per(limits[0].price) if space.additive else space
    ranked, cost = [u.scores[u.ranked] for u in space.units], fullness(space, limits)

    def worth(group: int, width: int, wider: int) -> float:
        # as in the order of channels: scores decide in the global scope, the kept fraction of each group in the local one
        by_score = space.sizing.scope == "global"
        return float(ranked[group][width:wider].mean()) if by_score else -wider / len(ranked[group])

    # alignment is given up only as far as needed: a latency that is near enough would be lost with it
    near = min(limit.near for limit in limits)
    widths = shallowest(space.order, cost, 1.0, near)
    for relaxed in range(relaxations(space.sizing.align)):
        widths = filled(widths, space.ladders(relaxed), worth, cost, 1.0, near)
    return Chosen(widths)


def by_work(space: Space, limits: Sequence[Limit]) -> Chosen:
    """The same; errors are compared with the multiply-accumulates that they save, whatever is limited."""
    return greedy(space.per(macs_model(space.coupled)) if space.additive else space, limits)


def evenly(space: Space, limits: Sequence[Limit]) -> Chosen:
    """The same; all groups lose the same fraction."""
    return greedy(replace(space, sizing=replace(space.sizing, scope="local"), given=None, additive=False), limits)


def shallowest(order: Order, cost: Callable[[Widths], float], limit: float, near: float = NEAR) -> Widths:
    """The first widths in an order whose cost is at most `limit`; the deepest cut if there are none.

    Alignment is relaxed only as far as needed to come close to the limit.

    Args:
        cost: widths -> cost, which falls from each cut to the next.
        near: how close to the limit is close enough, as a fraction of it.
    """
    widths = order.widths(0)
    if cost(widths) <= limit:
        return widths
    for stops in order.stops():
        found = bisect_left(stops, True, key=lambda count: cost(order.widths(count)) <= limit)
        widths = order.widths(int(stops[min(found, len(stops) - 1)]))
        if near * limit <= cost(widths) <= limit:
            break
    return widths


def filled(
    widths: Widths,
    ladders: Sequence[Sequence[int]],
    worth: Callable[[int, int, int], float],
    cost: Callable[[Widths], float],
    limit: float,
    near: float = NEAR,
) -> Widths:
    """Widen groups, the most valuable first, while the cost stays within `limit` and is not close to it.

    Args:
        ladders: the allowed widths of each group, ascending.
        worth: (group, width, wider) -> value of the step.
        near: how close to the limit is close enough, as a fraction of it.
    """
    widths, found, stuck = list(widths), cost(widths), set()
    while found < near * limit:
        steps = [(worth(k, widths[k], w), k, w) for k, w in _next(widths, ladders) if k not in stuck]
        if not steps:
            break
        _, k, wider = max(steps)
        trial = [*widths[:k], wider, *widths[k + 1 :]]
        if (cost_of_trial := cost(trial)) <= limit:
            widths, found = trial, cost_of_trial
        else:
            stuck.add(k)
    return widths


def _next(widths: Widths, ladders: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """For each group that can be widened, the next allowed width."""
    found = [(k, [w for w in ladder if w > widths[k]]) for k, ladder in enumerate(ladders)]
    return [(k, wider[0]) for k, wider in found if wider]
