# SPDX-License-Identifier: Apache-2.0
"""Widths for which the runtime is fast, and the nearest such widths that preserve the total."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from onnxprune.analysis.groups import Group
from onnxprune.selection.sizing import Sizing
from onnxprune.selection.units import Units, room


@dataclass(frozen=True, slots=True)
class Alignment:
    """The multiple that widths are rounded to, and why."""

    multiple: int
    reason: str


@lru_cache(1)
def auto_alignment() -> Alignment:
    """The multiple for onnxruntime's CPU kernels: blocked convolutions work on 16 floats with AVX-512, on 8 otherwise."""
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


def widths_allowed(size: int, unit: int, lowest: int, relaxed: int = 0) -> list[int]:
    """The allowed widths of a group of `size` atoms, ascending: multiples of `unit`, or of less if the group is narrow.

    A group of `unit` atoms may also have half of them, and a narrower one multiples of a quarter of `unit`: alignment must
    never prevent a cut. Each step of `relaxed` halves the multiple, in wide groups one step later than in narrow ones.

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


def ladders(groups: Sequence[Group], units: Sequence[Units], sizing: Sizing, relaxed: int = 0) -> list[list[int]]:
    """The allowed widths of each group, in units, ascending."""
    found = []
    for group, u in zip(groups, units, strict=True):
        multiple = max(1, sizing.align // (group.channels * int(u.sizes.max())))
        size = len(u.scores)
        found.append(widths_allowed(size, multiple, size - room(u, sizing.floor), relaxed))
    return found


def aligned_widths(groups: Sequence[Group], units: Sequence[Units], free: list[int], sizing: Sizing) -> list[int]:
    """Aligned widths whose total number of atoms is as close as possible to that of the free widths.

    If aligned widths cannot come within one percent of that total, the alignment is relaxed step by step until they can.
    """
    total, target = sum(len(u.of) for u in units), sum(int(u.kept[n]) for u, n in zip(units, free, strict=True))
    widths = free
    for relaxed in range(sizing.align.bit_length() + 2):
        widths = _rounded(ladders(groups, units, sizing, relaxed), units, free, sizing)
        if abs(sum(int(u.kept[n]) for u, n in zip(units, widths, strict=True)) - target) <= 0.01 * total:
            break
    return widths


def _rounded(allowed: list[list[int]], units: Sequence[Units], free: list[int], sizing: Sizing) -> list[int]:
    """Round free widths to allowed ones.

    Each group starts at the allowed width closest to its free one. Then the group that loses least by it (or gains most) moves
    one step, again and again, until the total cannot come closer.
    """
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
                # global scope: scores decide which group moves; local scope: the one then closest to its free width
                worth = -step * float(ranked[g][low:high].mean()) if sizing.scope == "global" else 0.0
                moves.append((away + worth, g))
        if not moves:
            return [widths[k] for widths, k in zip(allowed, at, strict=True)]
        at[min(moves)[1]] += step
