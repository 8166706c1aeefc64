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
        """Its name in messages, as in "the budget of 50% MACs"."""

    @property
    def resolution(self) -> float:
        """The smallest saving that counts, in the unit of the cost."""

    def of(self, dropped: Mask) -> float:
        """The cost of the model without the labels `dropped` (n_labels,)."""

    def text(self, value: float) -> str:
        """A value of this cost with its unit, for messages."""


def of_original(cost: CostModel, labels: int) -> float:
    """The cost of a model with this number of labels if nothing is dropped."""
    return cost.of(np.zeros(labels, bool))
