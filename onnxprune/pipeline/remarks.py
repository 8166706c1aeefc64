# SPDX-License-Identifier: Apache-2.0
"""Sentences on how far a cut is from what was asked, and what kept it from there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxprune.analysis.coupling import Coupled
from onnxprune.analysis.groups import Group
from onnxprune.cost.model import CostModel, of_original
from onnxprune.selection.strategy import Limit
from onnxprune.types import Indices, Mask

FLOORS = "every group keeps at least a tenth of its channels, and every layer at least one"
SHOWN = 3


def unaligned(groups: Sequence[Group], dropped: Mask, align: int) -> tuple[str, ...]:
    """A note on groups whose new width is no multiple of what the user asked for."""
    widths = [(g, int((~dropped[g.roots]).sum())) for g in groups]
    found = [(g, n) for g, n in widths if n < len(g) and n * g.channels % align]
    if not found:
        return ()
    narrow = sum(len(g) * g.channels <= align for g, _ in found)
    why = [f"{narrow} because they have at most {align} channels"] if narrow else []
    why += [f"{len(found) - narrow} to come close to the total"] if narrow < len(found) else []
    shown = _some([f"{g.name} {len(g) * g.channels} -> {n * g.channels}" for g, n in found])
    what = f"{len(found)} of {len(groups)} groups have a width that is no multiple of it"
    return (f"--align {align}: {what}, {', '.join(why)}: {shown}",)


def missed_ratio(asked: float | None, removed: int, prunable: int, most: int | None) -> str:
    """What was reached instead of the ratio, and why; empty if they differ by at most a hundredth of all channels.

    Args:
        asked: fraction of the channels that should be removed.
        most: number of channels that the deepest cut removes; None if unknown.
    """
    reached = removed / max(prunable, 1)
    if asked is None or abs(reached - asked) <= 0.01:
        return ""
    instead = f"removed {reached:.1%} of the channels instead of {100 * asked:.4g}%"
    if reached < asked and (most is None or removed >= most):
        return f"{instead}: {FLOORS}"
    other = "more" if reached < asked else "less"
    return f"{instead}: channels are removed in whole steps, and one step {other} would be further off"


def missed_limit(
    limit: Limit,
    remaining: float,
    share: float,
    coupled: Coupled,
    dropped: Mask,
    kept: Sequence[Group] = (),
    options: str = "",
) -> str:
    """Why a limit is exceeded; empty if it is met.

    Args:
        remaining: the cost of the result.
        share: the same relative to the original.
        kept: groups that could shrink, but that options do not allow to.
        options: these options.
    """
    cost = limit.cost
    if remaining <= limit.most:
        return ""
    reached = f"{share:.1%} ({cost.text(remaining)})"
    why = [FLOORS, _kept(cost, coupled, kept, options), _pinned(cost, coupled)]
    return f"the budget of {limit.asked} {cost.name} cannot be reached, {reached} remain: {'; '.join(filter(None, why))}"


def far_below(limit: Limit, remaining: float, share: float, dropped: Mask) -> str:
    """What was reached instead of a limit, if the nearest cut is far below it; empty otherwise."""
    if remaining >= limit.near * limit.most or not dropped.any():
        return ""
    reached = f"{share:.1%} ({limit.cost.text(remaining)}) of the {limit.cost.name} remain instead of {limit.asked}"
    return f"{reached}: with one step less, more would remain than allowed"


def _kept(cost: CostModel, coupled: Coupled, groups: Sequence[Group], options: str) -> str:
    """The part of a cost that options keep."""
    if not groups:
        return ""
    share = _share(cost, coupled, np.concatenate([g.roots for g in groups]))
    return f"{options} keeps groups that account for {share:.1%} of the {cost.name}: {_some([g.name for g in groups])}"


def _pinned(cost: CostModel, coupled: Coupled) -> str:
    """The part of a cost that channels which cannot be cut account for, and what holds the largest part of them."""
    by_pin: dict[str, list[int]] = {}
    for root, pin in coupled.first_pin.items():
        by_pin.setdefault(str(pin), []).append(root)
    if not by_pin:
        return ""
    share = _share(cost, coupled, np.flatnonzero(~coupled.free))
    worst = max(by_pin, key=lambda pin: _share(cost, coupled, np.array(by_pin[pin])))
    return f"channels that cannot be cut account for {share:.1%} of the {cost.name}, mostly because {worst}"


def _share(cost: CostModel, coupled: Coupled, classes: Indices) -> float:
    """The share of a cost that is saved without these classes."""
    without = np.isin(coupled.roots, classes)
    return 1 - cost.of(without) / max(of_original(cost, len(without)), cost.resolution)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
