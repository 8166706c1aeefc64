# SPDX-License-Identifier: Apache-2.0
"""How widths are chosen, whatever the ratio or the limit."""

from __future__ import annotations

from dataclasses import dataclass

FLOOR = 0.1
"""Smallest fraction of a group that is always kept, so that no layer collapses."""


@dataclass(frozen=True, slots=True)
class Sizing:
    """How widths are chosen.

    Attributes:
        scope: "global" ranks all channels of the model together; "local" takes the same fraction of every group.
        align: widths are multiples of this number of channels where that keeps the total; 1 = free.
        floor: fraction of each group that is always kept.
    """

    scope: str = "global"
    align: int = 1
    floor: float = FLOOR
