# SPDX-License-Identifier: Apache-2.0
"""Scores and a budget -> which atoms stay.

Three steps: how many each group would keep if widths were free (`free_widths`), the nearest widths that the runtime is fast
at with the same total (`aligned_widths`), and within each group the atoms with the highest scores.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onnxprune.groups import Group

Vector = NDArray[np.float64]
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


def select(groups: Sequence[Group], scores: Sequence[Vector], budget: Budget) -> list[NDArray[np.bool_]]:
    """Which atoms of each group stay (n_atoms,); the best-scored of each group, ties broken by position."""
    return [best(s, n) for s, n in zip(scores, widths_for(groups, scores, budget), strict=True)]


def widths_for(groups: Sequence[Group], scores: Sequence[Vector], budget: Budget) -> list[int]:
    """How many atoms each group keeps."""
    free = free_widths(scores, budget)
    return aligned_widths(groups, scores, free, budget) if budget.align > 1 else free


def best(scores: Vector, count: int) -> NDArray[np.bool_]:
    """The `count` atoms with the highest scores (n_atoms,), ties broken by position."""
    keep = np.zeros(len(scores), bool)
    keep[np.argsort(-scores, kind="stable")[:count]] = True
    return keep


def least(size: int, floor: float) -> int:
    """The fewest atoms that a group of `size` keeps."""
    return max(1, math.ceil(size * floor - 1e-9))


def free_widths(scores: Sequence[Vector], budget: Budget) -> list[int]:
    """How many atoms each group keeps when widths are free; the total is the asked one unless floors forbid."""
    sizes = [len(s) for s in scores]
    remove = round(budget.ratio * sum(sizes))
    room = [n - least(n, budget.floor) for n in sizes]
    gone = (
        _remove_evenly(sizes, room, remove, budget.ratio) if budget.scope == "local" else _remove_lowest(scores, room, remove)
    )
    return [n - g for n, g in zip(sizes, gone, strict=True)]


def _remove_evenly(sizes: list[int], room: list[int], remove: int, ratio: float) -> list[int]:
    """The same fraction of every group, with the rounding settled by largest remainder."""
    exact = [min(r, ratio * n) for n, r in zip(sizes, room, strict=True)]
    gone = [math.floor(x) for x in exact]
    by_remainder = sorted(range(len(sizes)), key=lambda k: gone[k] - exact[k])
    short = remove - sum(gone)
    for k in by_remainder:
        if short > 0 and gone[k] < room[k]:
            gone[k], short = gone[k] + 1, short - 1
    return gone


def _remove_lowest(scores: Sequence[Vector], room: list[int], remove: int) -> list[int]:
    """The lowest-scored atoms of the whole model, as far as each group has room."""
    ranked = [np.sort(s)[:r] for s, r in zip(scores, room, strict=True)]
    owner = np.concatenate([np.full(len(r), k) for k, r in enumerate(ranked)] or [np.zeros(0, int)])
    order = np.argsort(np.concatenate([*ranked, np.zeros(0)]), kind="stable")[:remove]
    counts: list[int] = np.bincount(owner[order], minlength=len(scores)).tolist()
    return counts


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


def ladders(groups: Sequence[Group], budget: Budget, relaxed: int = 0) -> list[list[int]]:
    """The widths that each group may have, ascending."""
    units = [max(1, budget.align // g.channels) for g in groups]
    return [widths_allowed(len(g), u, least(len(g), budget.floor), relaxed) for g, u in zip(groups, units, strict=True)]


def aligned_widths(groups: Sequence[Group], scores: Sequence[Vector], free: list[int], budget: Budget) -> list[int]:
    """Widths that suit the runtime, with as nearly as possible the same total as the free ones.

    Where round widths cannot come within one percent of the asked total, they are relaxed step by step until they can.
    """
    total, target = sum(len(g) for g in groups), sum(free)
    widths = free
    for relaxed in range(budget.align.bit_length() + 2):
        widths = _rounded(groups, scores, free, budget, relaxed)
        if abs(sum(widths) - target) <= 0.01 * total:
            break
    return widths


def _rounded(groups: Sequence[Group], scores: Sequence[Vector], free: list[int], budget: Budget, relaxed: int) -> list[int]:
    """Each group takes the allowed width next to its free one; then, one step at a time, the group that loses least by it
    (or gains most) gives or takes until the total cannot come nearer."""
    allowed = ladders(groups, budget, relaxed)
    at = [int(np.argmin([abs(w - f) for w in widths])) for widths, f in zip(allowed, free, strict=True)]
    target = sum(free)
    ranked = [np.sort(s)[::-1] for s in scores]
    while True:
        excess = sum(widths[k] for widths, k in zip(allowed, at, strict=True)) - target
        step = -1 if excess > 0 else 1
        moves = []
        for g, (widths, k) in enumerate(zip(allowed, at, strict=True)):
            if not 0 <= k + step < len(widths):
                continue
            change = widths[k + step] - widths[k]
            if abs(excess + change) < abs(excess):
                low, high = sorted((widths[k], widths[k + step]))
                away = step * (widths[k + step] - free[g]) / len(groups[g])
                # globally the scores decide who gives; locally whoever then is least far from its free width
                worth = -step * float(ranked[g][low:high].mean()) if budget.scope == "global" else 0.0
                moves.append((away + worth, g))
        if not moves:
            return [widths[k] for widths, k in zip(allowed, at, strict=True)]
        at[min(moves)[1]] += step


def keep_one_everywhere(spans: Sequence[NDArray[np.int64]], gone: dict[int, float]) -> set[int]:
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
