# SPDX-License-Identifier: Apache-2.0
"""What may remain of a cost, and the smallest cut that gets there.

The multiply-accumulates of a cut follow from how many labels it leaves on each axis; no model is made for that (`Meter` in
`macs.py`), so that a search may try hundreds of cuts a second.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.analysis.couple import Coupled
from onnxprune.errors import OptionError
from onnxprune.types import Mask

PROBES = 16
"""Halvings of the ratio: a hundredth of a percent of all channels."""
NEAR = 0.99
"""Within one percent below the limit is near enough."""
UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


@dataclass(frozen=True, slots=True)
class Amount:
    """What may remain: `number`, or where `relative` that fraction of what there was."""

    number: float
    relative: bool

    def of(self, whole: float) -> float:
        """The limit, for a model that costs `whole`."""
        return self.number * whole if self.relative else self.number


def amount(text: str | float, option: str) -> Amount:
    """Read `50%`, `300M`, `1.5G` or a plain number, as given to `option`.

    Raises:
        OptionError: it is none of these, or nothing could remain of it.

    >>> amount("50%", "--macs"), amount("300M", "--macs").number
    (Amount(number=0.5, relative=True), 300000000.0)
    """
    read = re.fullmatch(r"(\d+\.?\d*(?:e\d+)?|\.\d+)\s*([KMGT%]?)", str(text).strip(), re.IGNORECASE)
    found = read and Amount(float(read[1]) * (0.01 if read[2] == "%" else UNITS[read[2].upper()]), read[2] == "%")
    if not found or found.number <= 0 or (not found.relative and found.number < 1):
        raise OptionError(f"{option}: got '{text}', expected what may remain: a share such as 50%, or an amount such as 300M")
    return found


def macs_kept(coupled: Coupled, dropped: Mask) -> float:
    """The share of the multiply-accumulates that is left without the labels `dropped` (n_labels,), 0 to 1.

    At the input sizes that the report shows. Pure, and a matter of microseconds after the first call for an analysis.
    """
    return coupled.meter.macs(dropped) / max(1.0, coupled.meter.macs(np.zeros_like(dropped)))


Widths = list[int]


def smallest(make: Callable[[float], Widths], cost: Callable[[Widths], float], limit: float) -> Widths:
    """The widths by the smallest ratio whose cost is at most `limit`, by halving; the deepest cut where none is.

    Args:
        make: ratio to remove, 0 to 1 -> widths of the groups; more ratio, less cost, by and large.
        cost: widths -> cost.
    """
    whole, best = make(0.0), make(1.0)
    if cost(whole) <= limit:
        return whole
    if (nearest := cost(best)) > limit:
        return best
    low, high = 0.0, 1.0
    for _ in range(PROBES):
        middle = (low + high) / 2
        widths = make(middle)
        found = cost(widths)
        if found > limit:
            low = middle
            continue
        high = middle
        if found > nearest:
            best, nearest = widths, found
    return best


def filled(
    widths: Widths,
    ladders: Sequence[Sequence[int]],
    worth: Callable[[int, int, int], float],
    cost: Callable[[Widths], float],
    limit: float,
) -> Widths:
    """Widen groups, the worthiest first, while the cost stays within `limit` and is not near it.

    Args:
        ladders: the widths that each group may have, ascending.
        worth: (group, width, wider) -> how much the step is wanted.
    """
    widths, found, stuck = list(widths), cost(widths), set()
    while found < NEAR * limit:
        steps = [(worth(k, widths[k], w), k, w) for k, w in _next(widths, ladders) if k not in stuck]
        if not steps:
            break
        _, k, wider = max(steps)
        trial = [*widths[:k], wider, *widths[k + 1 :]]
        if (cost_of_trial := cost(trial)) <= limit:
            widths, found = trial, cost_of_trial
        else:
            stuck.add(k)
    return widths


def _next(widths: Widths, ladders: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """For each group that can be wider, the next of its widths."""
    found = [(k, [w for w in ladder if w > widths[k]]) for k, ladder in enumerate(ladders)]
    return [(k, wider[0]) for k, wider in found if wider]
