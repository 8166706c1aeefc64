# SPDX-License-Identifier: Apache-2.0
"""What was asked, what was reached, and what held it back: plain values, to be rendered in any format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from onnxprune.cost.benchmark import Benchmark
from onnxprune.evaluation.evaluator import Judgement
from onnxprune.evaluation.verification import Verification
from onnxprune.recovery.methods import Attempt


@dataclass(frozen=True, slots=True)
class GroupRow:
    """One group of channels: its width before and after, and the (weight, axis) it lives in."""

    name: str
    before: int
    after: int
    members: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PinRow:
    """Channels that cannot be cut: how many, who needs them and why, which weights make them, at what share of all MACs."""

    channels: int
    reason: str
    weights: tuple[str, ...]
    macs: float


@dataclass(frozen=True, slots=True)
class MixRow:
    """A node that works on channels together, and how many of them before and after, where it works on what is left."""

    node: str
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class Change:
    """A figure before and after."""

    before: float
    after: float

    @property
    def kept(self) -> float:
        """after / before."""
        return self.after / self.before if self.before else 1.0


@dataclass(frozen=True, slots=True)
class RecoveryRow:
    """What was tried to keep accuracy.

    Attributes:
        method: what was kept; `none` where nothing did better.
        attempts: everything that was tried, judged on held-out samples.
        before: the original on the same samples.
        fitted, judged: how many samples were fitted to, and judged by; none is in both.
        source: where they came from.
    """

    method: str
    attempts: tuple[Attempt, ...]
    before: Judgement
    fitted: int
    judged: int
    source: str

    @property
    def cut(self) -> Judgement | None:
        """The cut alone."""
        return self.attempts[0].judgement

    @property
    def chosen(self) -> Judgement | None:
        """What was kept."""
        return next((a.judgement for a in self.attempts if a.name == self.method), None)


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
        accuracy: before the cut and at the end, on `samples` held-out samples of the user's data.
        accuracy_cut: the same after the cut, before recovery.
        recovery: what was tried to keep accuracy, and how it did; None where there were no inputs.
        measure: what accuracy means: top-1, or the name of the user's metric.
        groups, pins: widths; what cannot be cut, largest first.
        renormalising: nodes that now work on the channels that are left, so that the cut is not the masked original.
        notes, warnings: sentences for the reader; a warning says that something fell short.
        missed: whether the asked ratio was missed by more than two percent, or the asked budget at all.
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
    renormalising: tuple[MixRow, ...] = ()
    verification: Verification | None = None
    benchmark: Benchmark | None = None
    accuracy: Change | None = None
    accuracy_cut: float | None = None
    recovery: RecoveryRow | None = None
    samples: int = 0
    measure: str = "top-1"
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    missed: bool = False

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
