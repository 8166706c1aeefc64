# SPDX-License-Identifier: Apache-2.0
"""What was asked, what was reached, and what held it back: plain values, to be rendered in any format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from onnxprune.benchmark import Benchmark, Cost
from onnxprune.verify import Verification


@dataclass(frozen=True, slots=True)
class GroupRow:
    """One group of channels: its width before and after, and the (weight, axis) it lives in."""

    name: str
    before: int
    after: int
    members: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PinRow:
    """Channels that cannot be cut: how many, who needs them and why, and which weights make them."""

    channels: int
    reason: str
    weights: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """A figure before and after."""

    before: float
    after: float

    @property
    def kept(self) -> float:
        """after / before."""
        return self.after / self.before if self.before else 1.0


@dataclass(frozen=True)
class Report:
    """The whole story of one pruning.

    Attributes:
        model, output: where it came from and where it went; empty where there is no file.
        asked: the options that decide the cut.
        align_reason: why widths are rounded to `asked["align"]`.
        prunable: channels that could be removed; `removed` of them were.
        macs, params, bytes: cost before and after.
        inputs: the input shapes that MACs and latency are for.
        verification, benchmark: None where left out.
        accuracy: top-1 before and after on `samples` samples of the user's data.
        groups, pins: widths; what cannot be cut, largest first.
        notes, warnings: sentences for the reader; a warning says that something fell short.
    """

    model: str
    output: str
    asked: Mapping[str, Any]
    align_reason: str
    prunable: int
    removed: int
    macs: Change
    params: Change
    bytes: Change
    inputs: Mapping[str, tuple[int, ...]]
    groups: tuple[GroupRow, ...]
    pins: tuple[PinRow, ...]
    verification: Verification | None = None
    benchmark: Benchmark | None = None
    accuracy: Change | None = None
    samples: int = 0
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    missed: bool = field(default=False)

    @property
    def ratio(self) -> float:
        """The fraction of prunable channels that was removed."""
        return self.removed / self.prunable if self.prunable else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with the derived ratios."""
        found = asdict(self)
        found["reached"] = {"ratio": self.ratio}
        for name in ("macs", "params", "bytes"):
            found[name]["kept"] = getattr(self, name).kept
        return found


def cost_changes(before: Cost, after: Cost) -> dict[str, Change]:
    """The costs of two models side by side."""
    return {name: Change(getattr(before, name), getattr(after, name)) for name in ("macs", "params", "bytes")}
