# SPDX-License-Identifier: Apache-2.0
"""How limits are met: from a space of cuts and what they may cost to the widths that are taken.

The cost of a cut follows from which labels it drops; no model is made for that, so that a strategy may try hundreds of cuts a
second.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from onnxprune.cost.model import CostModel
from onnxprune.selection.space import Space
from onnxprune.selection.widths import Widths

PROBES = 16
"""Halvings of the ratio: a hundredth of a percent of all channels."""
NEAR = 0.99
"""Within one percent below the limit is near enough."""


@dataclass(frozen=True)
class Limit:
    """The most that a cut may cost."""

    cost: CostModel
    most: float


Strategy = Callable[[Space, Sequence[Limit]], Widths]
"""From the cuts that can be chosen, and limits that must all hold, to the widths that are taken; the deepest cut where no cut
keeps within them."""


def greedy(space: Space, limits: Sequence[Limit]) -> Widths:
    """The widths by the smallest ratio that the limits allow, and then as near to them as widths can be."""
    ranked = [u.scores[u.ranked] for u in space.units]

    def cost(widths: Widths) -> float:
        """In units of the limit that is tightest."""
        dropped = space.dropped(widths)
        return max(limit.cost.of(dropped) / limit.most for limit in limits)

    def worth(group: int, width: int, wider: int) -> float:
        # as in the selection by ratio: globally the scores decide, locally what is kept of each group
        by_score = space.sizing.scope == "global"
        return float(ranked[group][width:wider].mean()) if by_score else -wider / len(ranked[group])

    widths = smallest(space.by_ratio, cost, 1.0)
    for relaxed in range(space.sizing.align.bit_length() + 2):
        widths = filled(widths, space.ladders(relaxed), worth, cost, 1.0)
    return widths


def smallest(make: Callable[[float], Widths], cost: Callable[[Widths], float], limit: float) -> Widths:
    """The widths by the smallest ratio whose cost is at most `limit`, by halving; the deepest cut where none is.

    Args:
        make: ratio to remove, 0 to 1 -> widths of the groups; more ratio, less cost, by and large.
        cost: widths -> cost.
    """
    whole, best = make(0.0), make(1.0)
    if cost(whole) <= limit:
        return whole
    if (nearest := cost(best)) > limit:
        return best
    low, high = 0.0, 1.0
    for _ in range(PROBES):
        middle = (low + high) / 2
        widths = make(middle)
        found = cost(widths)
        if found > limit:
            low = middle
            continue
        high = middle
        if found > nearest:
            best, nearest = widths, found
    return best


def filled(
    widths: Widths,
    ladders: Sequence[Sequence[int]],
    worth: Callable[[int, int, int], float],
    cost: Callable[[Widths], float],
    limit: float,
) -> Widths:
    """Widen groups, the worthiest first, while the cost stays within `limit` and is not near it.

    Args:
        ladders: the widths that each group may have, ascending.
        worth: (group, width, wider) -> how much the step is wanted.
    """
    widths, found, stuck = list(widths), cost(widths), set()
    while found < NEAR * limit:
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
    """For each group that can be wider, the next of its widths."""
    found = [(k, [w for w in ladder if w > widths[k]]) for k, ladder in enumerate(ladders)]
    return [(k, wider[0]) for k, wider in found if wider]
