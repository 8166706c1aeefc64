# SPDX-License-Identifier: Apache-2.0
"""The interface of a cost to selection: a number for any cut, computed without making the cut."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from onnxprune.types import Mask


class CostModel(Protocol):
    """The cost of any cut of one model."""

    @property
    def name(self) -> str:
        """The name of the cost in reports."""

    def of(self, dropped: Mask) -> float:
        """The cost of the model without the labels `dropped` (n_labels,)."""


def share_kept(cost: CostModel, dropped: Mask) -> float:
    """The fraction of a cost that remains without the labels `dropped` (n_labels,), 0 to 1."""
    return cost.of(dropped) / max(1.0, cost.of(np.zeros_like(dropped)))
