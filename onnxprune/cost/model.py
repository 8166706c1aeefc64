# SPDX-License-Identifier: Apache-2.0
"""What a cost is to a selection: a number for any cut, told without making it."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from onnxprune.types import Mask


class CostModel(Protocol):
    """What any cut of one model costs."""

    @property
    def name(self) -> str:
        """What is counted, as reports name it."""

    def of(self, dropped: Mask) -> float:
        """The cost of the model without the labels `dropped` (n_labels,)."""


def share_kept(cost: CostModel, dropped: Mask) -> float:
    """The share of a cost that remains without the labels `dropped` (n_labels,), 0 to 1."""
    return cost.of(dropped) / max(1.0, cost.of(np.zeros_like(dropped)))
