# SPDX-License-Identifier: Apache-2.0
"""Latency over width, and the multiples of channels at which a runtime gains, derived from it.

Kernels work on whole vectors or blocks of channels, so that latency does not grow with every channel but by steps. A width
between two steps costs what the next step costs, or more where a kernel cannot be used at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from onnxprune.types import Vector

FINEST, COARSEST = 1, 32
"""Multiples that are looked for: powers of two from the one to the other."""
FREE = 0.25
"""Rounding a width up is free if it costs less than this fraction of what a latency without steps would grow by."""
GROWTH = 0.1
"""The least exponent with which latency must grow with the width to show steps: below, something else takes the time."""


@dataclass(frozen=True)
class Curve:
    """What short stacks of equal layers take, by the width of these layers.

    Attributes:
        kind: of the layers, one of `stacks.KINDS`.
        precision: "float" or "int8".
        size: height and width of the feature maps; of products, the number of rows.
        milliseconds: width (channels; of grouped convolutions, channels of a group) -> the time of one run.
    """

    kind: str
    precision: str
    size: int
    milliseconds: Mapping[int, float] = field(repr=False)

    @cached_property
    def smooth(self) -> Mapping[int, float]:
        """Width -> milliseconds without steps: a + b width + c width^2 with a, b, c >= 0, by the least relative errors."""
        from scipy.optimize import nnls  # on demand, for a quick start

        widths = np.array([*self.milliseconds], np.float64)
        powers = (widths / widths.max())[:, None] ** np.arange(3)
        times: Vector = np.array([*self.milliseconds.values()], np.float64)
        costs, _ = nnls(powers / times[:, None], np.ones(len(times)))
        return dict(zip(self.milliseconds, (powers @ costs).tolist(), strict=True))

    def steps(self, multiple: int, start: int) -> Iterator[tuple[float, float]]:
        """What rounding up to multiples costs, from each width that is a multiple of `start`, but not of `multiple`.

        Yields:
            Logarithms of the factors by which the latency grows: measured, and without steps.
        """
        for width in self.milliseconds:
            wider = -(-width // multiple) * multiple
            if width % start == 0 and width != wider and wider in self.milliseconds:
                measured = self.milliseconds[wider] / self.milliseconds[width]
                yield float(np.log(measured)), float(np.log(self.smooth[wider] / self.smooth[width]))


def multiple_of(curves: Sequence[Curve]) -> int:
    """The largest multiple to which widths can be rounded up for nothing; 1 if there is none.

    For nothing means at less than a quarter (`FREE`) of what a latency without steps would grow by, on average, both from any
    width and from the multiples of half as much. The second rules out what only avoids the slow widths between: if widths off
    a multiple of 8 are slow, rounding up to 32 is better than staying there, but rounding up to 8 is as good.
    """
    found = FINEST
    multiple = 2 * FINEST
    while multiple <= COARSEST:
        if max(_cost(curves, multiple, FINEST), _cost(curves, multiple, multiple // 2)) < FREE:
            found = multiple
        multiple *= 2
    return found


def _cost(curves: Sequence[Curve], multiple: int, start: int) -> float:
    """What rounding up costs, as a fraction of what it would cost without steps; 1 if latency hardly grows with the width."""
    steps = [step for curve in curves for step in curve.steps(multiple, start)]
    widening = [np.log(-(-w // multiple) * multiple / w) for c in curves for w in c.milliseconds if w % start == 0]
    grown, smooth = (sum(part) for part in zip(*steps, strict=True)) if steps else (0.0, 0.0)
    return grown / smooth if smooth > GROWTH * sum(widening) else 1.0
