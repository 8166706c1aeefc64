# SPDX-License-Identifier: Apache-2.0
"""Widths as a multiple-choice knapsack whose costs depend on the widths on both sides of a layer.

The best cut is that whose groups lose least in sum (`Space.lost`). One binary x[group, width] is 1 for each group. What a layer
costs depends on the groups on both of its sides: y[i, j] >= 0, whose row sums are x of one group and column sums x of the
other, has the cost of each two widths. HiGHS solves it (Huangfu & Hall, 2018). Costs are only asked for, cut by cut, so that
any `CostModel` will do; those that are no sums over pairs of groups are met by tightening the limits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise

import numpy as np

from onnxprune.selection.order import Widths
from onnxprune.selection.space import Space
from onnxprune.selection.strategy import Chosen, Limit, filled, fullness, greedy
from onnxprune.types import Array, Vector

CHOICES = 8
"""The number of widths of a group to choose from at a time: first spread over all, then around those that were chosen."""
PAIRS = 40_000
"""The largest number of pairs of widths that a problem may have: beyond it, the greedy way decides."""
SECONDS, GAP = 10.0, 5e-3
"""How long HiGHS may take, and how far from the bound a solution may be."""
TIGHTER = 3
"""How many times a problem is solved, with tighter limits where the costs are no sums over pairs."""
APART = 1e-9
"""Groups have no cost in common if costs that are added differ by at most this fraction of the whole."""


@dataclass(frozen=True)
class Solution:
    """The widths that were found, and how far from the bound what they lose may be, as a fraction of it."""

    widths: Widths
    gap: float


@dataclass(frozen=True)
class Problem:
    """A multiple-choice knapsack.

    Attributes:
        choices: for each group, the widths to choose from.
        lost: for each group, what is lost with each of them (n_choices,).
        fixed: the costs that do not depend on the choice (n_limits,).
        single: for each group, the costs of each width beyond those (n_limits, n_choices).
        pairs: for pairs of groups, the costs of each two widths beyond those (n_limits, n_choices, n_choices).
    """

    choices: Sequence[Sequence[int]]
    lost: Sequence[Vector] = field(repr=False)
    fixed: Vector
    single: Sequence[Array] = field(repr=False)
    pairs: Mapping[tuple[int, int], Array] = field(repr=False)

    def solved(self, most: Vector) -> Solution | None:
        """The widths that lose least within some limits (n_limits,); None if none are found in time."""
        from scipy.optimize import Bounds, LinearConstraint, milp  # on demand, for a quick start

        starts = np.cumsum([0, *map(len, self.choices)])
        costs = np.concatenate([t.reshape(len(most), -1) for t in (*self.single, *self.pairs.values())], 1)
        rows, right = self._consistent(starts, costs.shape[1])
        room = np.maximum(np.abs(most - self.fixed), 1e-30)
        lost = np.zeros(costs.shape[1])
        lost[: starts[-1]] = np.concatenate(self.lost)
        found = milp(
            lost / max(float(lost.max()), 1e-30),
            integrality=np.arange(len(lost)) < starts[-1],
            bounds=Bounds(0, 1),
            constraints=[
                LinearConstraint(rows, right, right),
                LinearConstraint(costs / room[:, None], -np.inf, (most - self.fixed) / room),
            ],
            options={"time_limit": SECONDS, "mip_rel_gap": GAP},
        )
        if found.x is None:
            return None
        best = [int(found.x[a:b].argmax()) for a, b in pairwise(starts)]
        return Solution([c[k] for c, k in zip(self.choices, best, strict=True)], float(found.mip_gap))

    def _consistent(self, starts: Array, variables: int) -> tuple[Array, Vector]:
        """Equations (n_equations, n_variables) and their right sides: one width per group, and pairs that agree with them."""
        from scipy.sparse import coo_array

        entries = [(k, v, 1.0) for k, (a, b) in enumerate(pairwise(starts.tolist())) for v in range(a, b)]
        count, at = len(self.choices), int(starts[-1])
        for (a, b), table in self.pairs.items():
            places = np.arange(at, at + table[0].size).reshape(table[0].shape)
            for group, lines in ((a, places), (b, places.T)):
                for k, line in enumerate(lines):
                    entries += [(count, int(v), 1.0) for v in line]
                    entries.append((count, int(starts[group]) + k, -1.0))
                    count += 1
            at += places.size
        right = np.zeros(count)
        right[: len(self.choices)] = 1
        row, column, value = (np.array(x) for x in zip(*entries, strict=True))
        return coo_array((value, (row, column)), (count, variables)).tocsr(), right


def knapsack(space: Space, limits: Sequence[Limit]) -> Chosen:
    """A `Strategy`: the cut within the limits whose groups lose least in sum, from the greedy one on.

    The greedy one is kept if no better one is found in time, if it cannot meet the limits, or if groups have too many costs in
    common.
    """
    start = greedy(space, limits)
    cost, lost, ladders = fullness(space, limits), space.lost(), space.ladders()
    if space.sizing.scope != "global" or not limits or cost(start.widths) > 1:
        return start
    widths, gap = start.widths, 0.0
    for around in (_spread, _near):
        choices = [around(ladder, width) for ladder, width in zip(ladders, widths, strict=True)]
        problem = problem_of(space, limits, widths, choices)
        if problem is None:
            return start
        found = _within(problem, space, limits)
        if found is not None and _sum(lost, found.widths) < _sum(lost, widths):
            widths, gap = found.widths, max(gap, found.gap)
    near = min(limit.near for limit in limits)
    widths = filled(widths, ladders, lambda k, a, b: float(lost[k][a] - lost[k][b]), cost, 1.0, near)
    after, before = _sum(lost, widths), _sum(lost, start.widths)
    if after >= before:
        return start
    late = f", after {SECONDS:g} s" if gap > GAP else ""
    return Chosen(
        widths, f"widths by a knapsack: {1 - after / before:.1%} less lost than in order of score (gap {gap:.1%}{late})"
    )


def _sum(lost: Sequence[Vector], widths: Sequence[int]) -> float:
    return float(sum(x[w] for x, w in zip(lost, widths, strict=True)))


def _within(problem: Problem, space: Space, limits: Sequence[Limit]) -> Solution | None:
    """A solution whose true costs are within the limits; None if none is found."""
    cost, most = fullness(space, limits), np.array([limit.most for limit in limits])
    for _ in range(TIGHTER):
        found = problem.solved(most)
        if found is None or (fullest := cost(found.widths)) <= 1:
            return found
        most = most / fullest
    return None


def _spread(ladder: Sequence[int], width: int) -> list[int]:
    """Some widths, evenly spread, and `width`."""
    places = np.unique(np.linspace(0, len(ladder) - 1, CHOICES).round().astype(int))
    return sorted({*(ladder[k] for k in places), width})


def _near(ladder: Sequence[int], width: int) -> list[int]:
    """The widths around one."""
    return sorted({*sorted(ladder, key=lambda w: abs(w - width))[:CHOICES], width})


def problem_of(space: Space, limits: Sequence[Limit], start: Widths, choices: Sequence[Sequence[int]]) -> Problem | None:
    """The choice between some widths of each group, with the costs around the widths `start`; None if it is too large."""

    def costs(changes: Iterable[tuple[int, int]]) -> Vector:
        widths = list(start)
        for k, width in changes:
            widths[k] = width
        dropped = space.dropped(widths)
        return np.array([limit.cost.of(dropped) for limit in limits])

    fixed = costs(())
    single = [np.stack([costs([(k, w)]) - fixed for w in c], 1) for k, c in enumerate(choices)]

    def common(a: int, i: int, b: int, j: int) -> Vector:
        """The costs of two widths together beyond what they cost alone."""
        found: Vector = costs([(a, choices[a][i]), (b, choices[b][j])]) - fixed - single[a][:, i] - single[b][:, j]
        return found

    far = [int(np.abs(np.array(c) - w).argmax()) for c, w in zip(choices, start, strict=True)]
    apart = APART * np.abs(fixed)
    pairs = [(a, b) for a, b in combinations(range(len(choices)), 2) if (np.abs(common(a, far[a], b, far[b])) > apart).any()]
    if sum(len(choices[a]) * len(choices[b]) for a, b in pairs) > PAIRS:
        return None
    tables = {(a, b): _table(common, a, len(choices[a]), b, len(choices[b]), len(limits)) for a, b in pairs}
    lost = [x[np.array(c)] for x, c in zip(space.lost(), choices, strict=True)]
    return Problem(choices, lost, fixed, single, tables)


def _table(common: Callable[[int, int, int, int], Vector], a: int, rows: int, b: int, columns: int, limits: int) -> Array:
    """What each two widths of two groups have in common (n_limits, n_choices, n_choices)."""
    found = np.empty((limits, rows, columns))
    for i, j in np.ndindex(rows, columns):
        found[:, i, j] = common(a, i, b, j)
    return found
