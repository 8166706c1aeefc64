# SPDX-License-Identifier: Apache-2.0
"""Widths for which the runtime is fast."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from onnxprune.analysis.groups import Group
from onnxprune.cost.machine import features_here
from onnxprune.cost.profile import Profile
from onnxprune.selection.sizing import Sizing
from onnxprune.selection.units import Units
from onnxprune.types import Indices


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
        wide = "avx512f" in features_here()
        return Alignment(16, "x86-64 with AVX-512") if wide else Alignment(8, "x86-64 without AVX-512")
    return Alignment(8, f"{machine or 'unknown machine'}")


def measured_alignment(profile: Profile) -> Alignment:
    """The multiple at which the measured convolutions gain."""
    return Alignment(profile.multiple, f"measured on {profile.machine.processor}")


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


def relaxations(align: int) -> int:
    """The number of ways to relax an alignment to multiples of `align`, from not at all to any width."""
    return align.bit_length() + 2


def ladder(group: Group, units: Units, sizing: Sizing, relaxed: int = 0) -> list[int]:
    """The allowed widths of a group, in units, ascending."""
    multiple = max(1, sizing.align // (group.channels * int(units.sizes.max())))
    return widths_allowed(len(units.scores), multiple, units.lowest, relaxed)


def within(widths: Sequence[int], units: Units) -> list[int]:
    """Those of some widths that the group may keep; the narrowest of them in any case."""
    return [w for w in widths if w <= units.most] or list(widths[:1])


def relaxed_of(group: Group, units: Units, sizing: Sizing) -> Indices:
    """How far the alignment must be relaxed for each width, from 0 units to all (n_units + 1,)."""
    count = relaxations(sizing.align)
    found = np.full(len(units.scores) + 1, count)
    for relaxed in reversed(range(count)):
        found[ladder(group, units, sizing, relaxed)] = relaxed
    return found
