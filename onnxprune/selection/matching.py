# SPDX-License-Identifier: Apache-2.0
"""A ratio counts channels. Scores that are errors would spare those that cost most: the network would hardly get faster.

So errors are divided by a power of what a channel saves: with 0, channels go by their error alone, with 1 by their error for
each multiply-accumulate. The order of the channels is made in stages, and the power of each stage is chosen so that about as
much of the cost remains as with another order of channels after as many of them. No stage depends on the ratio: cuts stay
nested.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf, log

import numpy as np

from onnxprune.cost.model import CostModel
from onnxprune.selection.order import Steps, Widths, in_order, steps_of
from onnxprune.selection.space import Space
from onnxprune.types import Indices, Vector

POWERS = tuple(1 + sign * k / 4 for k in range(13) for sign in (1, -1))
"""Powers to try, -2 to 4: those near 1 first, because errors for each multiply-accumulate do best at equal cost
(docs/criteria.md)."""
CLOSE = 0.03
"""Deviation of the logarithm of the cost at which no other power is tried."""
STAGES = 32


def matched(space: Space, other: Space, cost: CostModel) -> Space:
    """The space, with an order whose beginnings leave about as much of a cost as those of another space of the same groups."""
    steps, saved = steps_of(space.groups, space.units, space.sizing), space.saved(cost)
    atoms, most = sum(map(len, space.groups)), int(steps.atoms.sum())
    rest, taken = np.flatnonzero(~steps.due), np.flatnonzero(steps.due)
    taken = taken[np.lexsort((steps.share[taken], steps.relaxed[taken]))]
    for stage in range(1, STAGES + 1):
        goal = most * stage // STAGES
        count = goal - int(steps.atoms[taken].sum())
        best, least = taken, inf
        for power in POWERS if count > 0 else ():
            tried = np.append(taken, _next(steps, rest, saved, power, count))
            remains = cost.of(space.dropped(_widths(steps, tried, space)))
            wanted = cost.of(other.dropped(other.by_ratio(int(steps.atoms[tried].sum()) / atoms)))
            missed = abs(log(max(remains, cost.resolution) / max(wanted, cost.resolution)))
            if missed < least:
                best, least = tried, missed
            if missed < CLOSE:
                break
        taken = best
        rest = np.setdiff1d(rest, taken)
    return replace(space, given=in_order(steps.take(taken), space.groups, space.units, space.sizing))


def _next(steps: Steps, rest: Indices, saved: Vector, power: float, count: int) -> Indices:
    """The steps of `rest` that come first by their harm for what they save, and drop at least `count` atoms together."""
    harm = steps.harm[rest] / saved[steps.group[rest]] ** power
    ranked = rest[np.lexsort((steps.share[rest], harm, steps.relaxed[rest]))]
    return ranked[: 1 + int(np.searchsorted(np.cumsum(steps.atoms[ranked]), count))]


def _widths(steps: Steps, taken: Indices, space: Space) -> Widths:
    """The number of units that each group keeps after some steps."""
    lost = np.bincount(steps.group[taken], steps.wide[taken] - steps.narrow[taken], len(space.units))
    return [len(u.scores) - int(n) for u, n in zip(space.units, lost, strict=True)]
