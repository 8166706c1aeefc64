# SPDX-License-Identifier: Apache-2.0
"""From a ratio to the number of units each group keeps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxprune.analysis.groups import Group
from onnxprune.selection.alignment import aligned_widths
from onnxprune.selection.sizing import Sizing
from onnxprune.selection.units import Units, room

Widths = list[int]
"""The number of units each group keeps."""


def widths_for(groups: Sequence[Group], units: Sequence[Units], ratio: float, sizing: Sizing) -> Widths:
    """The number of units each group keeps if the fraction `ratio` (0 to 1) of all atoms is dropped."""
    free = free_widths(units, ratio, sizing)
    return aligned_widths(groups, units, free, sizing) if sizing.align > 1 else free


def free_widths(units: Sequence[Units], ratio: float, sizing: Sizing) -> Widths:
    """The number of units each group keeps without alignment; the total is the requested one unless floors prevent it."""
    remove = round(ratio * sum(int(u.sizes.sum()) for u in units))
    rooms = [room(u, sizing.floor) for u in units]
    lost = _remove_evenly(units, rooms, remove, ratio) if sizing.scope == "local" else _remove_lowest(units, rooms, remove)
    return [len(u.scores) - n for u, n in zip(units, lost, strict=True)]


def _remove_evenly(units: Sequence[Units], rooms: list[int], remove: int, ratio: float) -> list[int]:
    """Remove the same fraction of every group, rounded by largest remainder."""
    removed = [u.dropped for u in units]
    exact = [min(int(g[r]), ratio * int(g[-1])) for g, r in zip(removed, rooms, strict=True)]
    lost = [int(np.searchsorted(g, x + 1e-9, "right")) - 1 for g, x in zip(removed, exact, strict=True)]
    by_remainder = sorted(range(len(units)), key=lambda k: int(removed[k][lost[k]]) - exact[k])
    short = remove - sum(int(g[n]) for g, n in zip(removed, lost, strict=True))
    for k in by_remainder:
        step = int(removed[k][min(lost[k] + 1, rooms[k])] - removed[k][lost[k]])
        if 0 < step < 2 * short:  # closer to the total with this step than without
            lost[k], short = lost[k] + 1, short - step
    return lost


def _remove_lowest(units: Sequence[Units], rooms: list[int], remove: int) -> list[int]:
    """Remove the lowest-scored units of the whole model, as far as the groups' room and the total allow."""
    lowest = [u.ranked[::-1][:r] for u, r in zip(units, rooms, strict=True)]
    owner = np.concatenate([np.full(len(x), k) for k, x in enumerate(lowest)] or [np.zeros(0, int)])
    ranked = np.concatenate([*(u.scores[x] for u, x in zip(units, lowest, strict=True)), np.zeros(0)])
    sizes = np.concatenate([*(u.sizes[x] for u, x in zip(units, lowest, strict=True)), np.zeros(0, int)])
    order = np.argsort(ranked, kind="stable")
    fit = int(np.searchsorted(np.cumsum(sizes[order]), remove, "right"))
    lost: list[int] = np.bincount(owner[order[:fit]], minlength=len(units)).tolist()
    short, full = remove - int(sizes[order[:fit]].sum()), set[int]()
    # the next unit is too large; smaller units of other groups may fill the remainder
    for k in order[fit:].tolist() if short else ():
        if sizes[k] > short:
            full.add(int(owner[k]))
        elif int(owner[k]) not in full:
            lost[owner[k]], short = lost[owner[k]] + 1, short - int(sizes[k])
    return lost
