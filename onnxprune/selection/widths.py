# SPDX-License-Identifier: Apache-2.0
"""Scores and a budget -> which atoms stay.

Three steps: how many each group would keep if widths were free (`free_widths`), the nearest widths that the runtime is fast
at with the same total (`aligned_widths`), and within each group the atoms with the highest scores. Where the same number of
atoms must stay in every block of a group, one of each goes at a time (`Units`).
"""

from __future__ import annotations

import math
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from onnxprune.analysis.groups import Group
from onnxprune.types import Indices, Mask, Vector

FLOOR = 0.1
"""Smallest fraction of a group that is always kept, so that no layer collapses."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What was asked for.

    Attributes:
        ratio: fraction of prunable channels to remove, 0 <= ratio < 1.
        scope: "global" ranks all channels of the model together; "local" takes the same fraction of every group.
        align: widths are multiples of this number of channels where that keeps the total; 1 = free.
        floor: fraction of each group that is always kept.
    """

    ratio: float
    scope: str = "global"
    align: int = 1
    floor: float = FLOOR


@dataclass(frozen=True, eq=False)
class Units:
    """What a group gives up at a time: an atom, or of every block one, where the same number must stay in each.

    Attributes:
        scores: of each unit, the mean over its atoms (n_units,).
        sizes: how many atoms it has (n_units,).
        of: the unit of each atom (n_atoms,).
    """

    scores: Vector
    sizes: Indices
    of: Indices

    @cached_property
    def ranked(self) -> Indices:
        """The units from the highest score to the lowest, ties broken by position (n_units,)."""
        return np.argsort(-self.scores, kind="stable")

    def best(self, count: int) -> Mask:
        """The atoms (n_atoms,) of the `count` best units."""
        keep = np.zeros(len(self.scores), bool)
        keep[self.ranked[:count]] = True
        return keep[self.of]

    @cached_property
    def gone(self) -> Indices:
        """How many atoms go with the 0, 1, 2, ... lowest units (n_units + 1,)."""
        return np.concatenate([[0], np.cumsum(self.sizes[self.ranked[::-1]])])

    @cached_property
    def kept(self) -> Indices:
        """How many atoms stay with the 0, 1, 2, ... best units (n_units + 1,)."""
        return np.asarray((self.gone[-1] - self.gone)[::-1])


def units_of(group: Group, scores: Vector) -> Units:
    """The units of a group. The best atoms of all blocks make one, the second best another, and so on."""
    if not group.blocks:
        return Units(scores, np.ones(len(group), np.int64), np.arange(len(group)))
    name = np.arange(len(group))
    for rows in group.blocks:
        ranked = np.take_along_axis(rows, np.argsort(-scores[rows], axis=1, kind="stable"), 1)
        name[ranked] = ranked.min(0)
    _, of, sizes = np.unique(name, return_inverse=True, return_counts=True)
    return Units(np.bincount(of, scores) / sizes, sizes, of)


def select(groups: Sequence[Group], scores: Sequence[Vector], budget: Budget) -> list[Mask]:
    """Which atoms of each group stay (n_atoms,): the best-scored, with the same number in all of its blocks."""
    units = [units_of(g, s) for g, s in zip(groups, scores, strict=True)]
    return [u.best(n) for u, n in zip(units, widths_for(groups, units, budget), strict=True)]


def widths_for(groups: Sequence[Group], units: Sequence[Units], budget: Budget) -> list[int]:
    """How many units each group keeps."""
    free = free_widths(units, budget)
    return aligned_widths(groups, units, free, budget) if budget.align > 1 else free


def least(size: int, floor: float) -> int:
    """The fewest atoms that a group of `size` keeps."""
    return max(1, math.ceil(size * floor - 1e-9))


def room(units: Units, floor: float) -> int:
    """The most units that a group may lose."""
    most = units.gone[-1] - least(int(units.gone[-1]), floor)
    return min(int(np.searchsorted(units.gone, most, "right")) - 1, len(units.scores) - 1)


def free_widths(units: Sequence[Units], budget: Budget) -> list[int]:
    """How many units each group keeps when widths are free; the total of atoms is the asked one unless floors forbid."""
    remove = round(budget.ratio * sum(int(u.sizes.sum()) for u in units))
    rooms = [room(u, budget.floor) for u in units]
    lost = (
        _remove_evenly(units, rooms, remove, budget.ratio) if budget.scope == "local" else _remove_lowest(units, rooms, remove)
    )
    return [len(u.scores) - n for u, n in zip(units, lost, strict=True)]


def _remove_evenly(units: Sequence[Units], rooms: list[int], remove: int, ratio: float) -> list[int]:
    """The same fraction of every group, with the rounding settled by largest remainder."""
    gone = [u.gone for u in units]
    exact = [min(int(g[r]), ratio * int(g[-1])) for g, r in zip(gone, rooms, strict=True)]
    lost = [int(np.searchsorted(g, x + 1e-9, "right")) - 1 for g, x in zip(gone, exact, strict=True)]
    by_remainder = sorted(range(len(units)), key=lambda k: int(gone[k][lost[k]]) - exact[k])
    short = remove - sum(int(g[n]) for g, n in zip(gone, lost, strict=True))
    for k in by_remainder:
        step = int(gone[k][min(lost[k] + 1, rooms[k])] - gone[k][lost[k]])
        if 0 < step < 2 * short:  # nearer with it than without
            lost[k], short = lost[k] + 1, short - step
    return lost


def _remove_lowest(units: Sequence[Units], rooms: list[int], remove: int) -> list[int]:
    """The lowest-scored units of the whole model, as far as each group has room and the total leaves it."""
    lowest = [u.ranked[::-1][:r] for u, r in zip(units, rooms, strict=True)]
    owner = np.concatenate([np.full(len(x), k) for k, x in enumerate(lowest)] or [np.zeros(0, int)])
    ranked = np.concatenate([*(u.scores[x] for u, x in zip(units, lowest, strict=True)), np.zeros(0)])
    sizes = np.concatenate([*(u.sizes[x] for u, x in zip(units, lowest, strict=True)), np.zeros(0, int)])
    order = np.argsort(ranked, kind="stable")
    fit = int(np.searchsorted(np.cumsum(sizes[order]), remove, "right"))
    lost: list[int] = np.bincount(owner[order[:fit]], minlength=len(units)).tolist()
    short, full = remove - int(sizes[order[:fit]].sum()), set[int]()
    for k in order[fit:].tolist() if short else ():  # the next is too large; smaller ones of other groups may fill the rest
        if sizes[k] > short:
            full.add(int(owner[k]))
        elif int(owner[k]) not in full:
            lost[owner[k]], short = lost[owner[k]] + 1, short - int(sizes[k])
    return lost


def widths_allowed(size: int, unit: int, lowest: int, relaxed: int = 0) -> list[int]:
    """The widths that suit a group of `size` atoms, ascending: multiples of `unit`, or of less where the group is narrow.

    A group of one unit may also take half of it, a narrower one multiples of a quarter: a preference for round widths must
    never turn a cut into none. Each step of `relaxed` halves the multiple, in wide groups one step later than in narrow ones.

    >>> widths_allowed(64, 16, 7)
    [16, 32, 48, 64]
    >>> widths_allowed(24, 16, 3), widths_allowed(16, 16, 2), widths_allowed(12, 16, 2)
    ([16, 24], [8, 16], [4, 8, 12])
    >>> widths_allowed(16, 16, 2, relaxed=1)
    [4, 8, 12, 16]
    """
    step = unit if size > unit else unit // 2 if size == unit else unit // 4
    step = max(1, step >> max(0, relaxed - (size >= 2 * unit)))
    return [w for w in range(step, size, step) if w >= lowest] + [size]


def ladders(groups: Sequence[Group], units: Sequence[Units], budget: Budget, relaxed: int = 0) -> list[list[int]]:
    """The widths, in units, that each group may have, ascending."""
    found = []
    for group, u in zip(groups, units, strict=True):
        multiple = max(1, budget.align // (group.channels * int(u.sizes.max())))
        size = len(u.scores)
        found.append(widths_allowed(size, multiple, size - room(u, budget.floor), relaxed))
    return found


def aligned_widths(groups: Sequence[Group], units: Sequence[Units], free: list[int], budget: Budget) -> list[int]:
    """Widths that suit the runtime, with as nearly as possible the same total of atoms as the free ones.

    Where round widths cannot come within one percent of the asked total, they are relaxed step by step until they can.
    """
    total, target = sum(len(u.of) for u in units), sum(int(u.kept[n]) for u, n in zip(units, free, strict=True))
    widths = free
    for relaxed in range(budget.align.bit_length() + 2):
        widths = _rounded(ladders(groups, units, budget, relaxed), units, free, budget)
        if abs(sum(int(u.kept[n]) for u, n in zip(units, widths, strict=True)) - target) <= 0.01 * total:
            break
    return widths


def _rounded(allowed: list[list[int]], units: Sequence[Units], free: list[int], budget: Budget) -> list[int]:
    """Each group takes the allowed width next to its free one; then, one step at a time, the group that loses least by it
    (or gains most) gives or takes until the total cannot come nearer."""
    at = [int(np.argmin([abs(w - f) for w in widths])) for widths, f in zip(allowed, free, strict=True)]
    kept = [u.kept.tolist() for u in units]
    target = sum(k[n] for k, n in zip(kept, free, strict=True))
    ranked = [u.scores[u.ranked] for u in units]
    while True:
        excess = sum(k[widths[i]] for k, widths, i in zip(kept, allowed, at, strict=True)) - target
        step = -1 if excess > 0 else 1
        moves = []
        for g, (widths, k) in enumerate(zip(allowed, at, strict=True)):
            if not 0 <= k + step < len(widths):
                continue
            change = kept[g][widths[k + step]] - kept[g][widths[k]]
            if abs(excess + change) < abs(excess):
                low, high = sorted((widths[k], widths[k + step]))
                away = step * (widths[k + step] - free[g]) / len(units[g].scores)
                # globally the scores decide who gives; locally whoever then is least far from its free width
                worth = -step * float(ranked[g][low:high].mean()) if budget.scope == "global" else 0.0
                moves.append((away + worth, g))
        if not moves:
            return [widths[k] for widths, k in zip(allowed, at, strict=True)]
        at[min(moves)[1]] += step


def keep_one_everywhere(spans: Sequence[Indices], gone: dict[int, float]) -> set[int]:
    """Classes to bring back so that no axis of any tensor loses everything.

    Args:
        spans: the classes on each axis.
        gone: class -> score of those to be removed.
    """
    back: set[int] = set()
    for roots in spans:
        listed = roots.tolist()
        if all(r in gone and r not in back for r in listed):
            back.add(max(listed, key=lambda r: gone[r]))
    return back


@dataclass(frozen=True, slots=True)
class Alignment:
    """How widths are rounded, and where the number comes from."""

    multiple: int
    reason: str


@lru_cache(1)
def auto_alignment() -> Alignment:
    """What onnxruntime's CPU kernels are fast at: its blocked convolutions work on 16 floats with AVX-512, on 8 otherwise."""
    machine = platform.machine().lower()
    if machine in ("x86_64", "amd64", "i386", "i686"):
        wide = "avx512f" in _cpu_flags()
        return Alignment(16, "x86-64 with AVX-512") if wide else Alignment(8, "x86-64 without AVX-512")
    return Alignment(8, f"{machine or 'unknown machine'}")


def _cpu_flags() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
