# SPDX-License-Identifier: Apache-2.0
"""How widths are chosen, independent of the ratio or the limit."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sizing:
    """How widths are chosen.

    Attributes:
        scope: "global" ranks all channels of the model together; "local" takes the same fraction of every group; "isomorphic"
            takes the same fraction of all groups of one structure, which are ranked together.
        align: widths are multiples of this number of channels where that preserves the total; 1 = any width.
    """

    scope: str = "global"
    align: int = 1
