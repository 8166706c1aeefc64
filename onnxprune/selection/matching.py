# SPDX-License-Identifier: Apache-2.0
"""A ratio counts channels. Scores that are errors would spare those that cost most: the network would hardly get faster.

So errors are divided by a power of what a channel saves: with 0, channels go by their error alone, with 1 by their error for
each multiply-accumulate. The power is that at which about as much of the cost remains as with another order of channels, at any
ratio: it depends on the model, not on the ratio, so that cuts remain nested.
"""

from __future__ import annotations

import numpy as np

from onnxprune.cost.model import CostModel
from onnxprune.selection.space import Space
from onnxprune.types import Vector

POWERS = np.linspace(0.0, 1.5, 13)
RATIOS = np.linspace(0.1, 0.8, 8)


def matched(space: Space, other: Space, cost: CostModel) -> Space:
    """The space whose cuts by ratio leave about as much of a cost as those of another space of the same groups."""
    wanted = _remaining(other, cost)
    candidates = [space.per(cost, power) for power in POWERS.tolist()]
    return min(candidates, key=lambda s: float(np.abs(np.log(_remaining(s, cost) / wanted)).max()))


def _remaining(space: Space, cost: CostModel) -> Vector:
    """The cost that remains at each of `RATIOS`."""
    return np.array([max(cost.of(space.dropped(space.by_ratio(r))), cost.resolution) for r in RATIOS.tolist()])
