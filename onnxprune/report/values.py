# SPDX-License-Identifier: Apache-2.0
"""What was requested, what was reached and what limited it: plain values, to be rendered in any format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from onnxprune.cost.benchmark import Benchmark
from onnxprune.data.samples import MadeUp
from onnxprune.evaluation.evaluator import Judgement
from onnxprune.evaluation.verification import Verification

if TYPE_CHECKING:
    from onnxprune.recovery.methods import Attempt


KEEPING = (
    "export again with onnxprune.training.export, or with torch.onnx.export in eval mode and training=TrainingMode.PRESERVE "
    "(dynamo=False) or optimize=False (dynamo=True)"
)
"""How to export from PyTorch with BatchNormalization kept."""


@dataclass(frozen=True, slots=True)
class GroupRow:
    """One group of channels: its width before and after, and its weight axes (`weight[axis]`)."""

    name: str
    before: int
    after: int
    members: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PinRow:
    """Channels that cannot be cut: their number, what needs them and why, the weights that produce them, the share of MACs."""

    channels: int
    reason: str
    weights: tuple[str, ...]
    macs: float


@dataclass(frozen=True, slots=True)
class MixRow:
    """A renormalising node, and the number of channels it works on before and after the cut."""

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
class TargetRow:
    """A limit on what may remain.

    Attributes:
        name: of the cost: macs, params, size or memory.
        asked: the limit as the user stated it.
        most: the same in multiply-accumulates, parameters or bytes.
        reached: what remains.
        met: whether that is within the limit.
        kept: what remains relative to the original.
    """

    name: str
    asked: str
    most: float
    reached: float
    met: bool
    kept: float


@dataclass(frozen=True, slots=True)
class LossRow:
    """A limit on what may be lost on held-out samples.

    Attributes:
        asked: the limit as the user stated it.
        most: the same as a fraction.
        reached: what is lost; `met`: whether that is within the limit.
        low, high: its 95 % confidence interval; None if it is unknown.
        what: what is lost: points of accuracy, a share of the metric, or of the original's answers.
        samples: number of held-out samples.
    """

    asked: str
    most: float
    reached: float
    met: bool
    low: float | None
    high: float | None
    what: str
    samples: int


@dataclass(frozen=True, slots=True)
class RecoveryRow:
    """What was tried to recover accuracy.

    Attributes:
        method: the method that was kept; `none` if no other did better.
        attempts: all methods that were tried; those with a judgement were judged on held-out samples.
        before: the original on the same samples; None if nothing was judged.
        fitted, judged: number of samples fitted to, and judged on; none is in both.
        source: where the samples come from.
        by: the measure by which methods were compared: `lost`, or what accuracy means.
        made: what made-up samples are like; None for the user's own. What was measured on them says nothing about accuracy.
    """

    method: str
    attempts: tuple[Attempt, ...]
    before: Judgement | None
    fitted: int
    judged: int
    source: str
    by: str = "lost"
    made: MadeUp | None = None

    @property
    def cut(self) -> Judgement | None:
        """How the cut alone performs."""
        return self.attempts[0].judgement

    @property
    def chosen(self) -> Judgement | None:
        """How the kept method performs."""
        return next((a.judgement for a in self.attempts if a.name == self.method), None)


@dataclass(frozen=True, slots=True)
class BlockRow:
    """One weight: its shape, the sizes of its blocks on each axis, and how many of them share, are zero, and are free."""

    name: str
    shape: tuple[int, ...]
    block: tuple[int, ...]
    shared: int
    zero: int
    free: int


@dataclass(frozen=True, slots=True)
class CarrierRow:
    """How a file stores blocks, and how close it is to one that stores the same weights as numbers.

    Attributes:
        codes: the type of the codes.
        runtime: the oldest onnxruntime that loads them.
        error: largest difference of an output, relative to its largest value, without graph optimisation.
        optimised_error: the same with onnxruntime's default optimisations.
        inputs: number of seeded inputs.
        fused: number of weights that are carried for fused matrix products.
    """

    codes: str
    runtime: str
    error: float
    optimised_error: float
    inputs: int
    fused: int = 0


@dataclass(frozen=True, slots=True)
class UnificationRow:
    """What was unified.

    Attributes:
        block: size of the blocks.
        weights: what was unified; `left` names the weights of linear nodes that were not.
        bytes: size of the file with its weights as numbers, and as written.
        packed: size of the written file under Zstandard's level 19.
        bits: bits that each unified weight takes in the packed file: codes, magnitudes and free blocks.
        carrier: how the file stores blocks.
        method: how weights were fitted; `none`: only projected.
        recovery: what was tried, and how it performed on held-out samples; None if nothing was judged.
    """

    block: str
    weights: tuple[BlockRow, ...]
    bytes: Change
    packed: int
    bits: float
    carrier: CarrierRow
    left: tuple[str, ...] = ()
    method: str = "none"
    recovery: RecoveryRow | None = None

    @property
    def counts(self) -> tuple[int, int, int]:
        """Number of blocks that share a magnitude, are zero, and are free."""
        rows = self.weights
        return sum(r.shared for r in rows), sum(r.zero for r in rows), sum(r.free for r in rows)


@dataclass(frozen=True)
class Report:
    """The full report of one pruning.

    Attributes:
        model, output, plan: the model's file and the written files; empty if there is none.
        asked: the options that decide the cut.
        align_reason: why widths are rounded to `asked["align"]`.
        prunable: number of channels that could be removed; `removed` of them were.
        dead: number of channels that are provably always zero, and went besides.
        constant: number of channels that are provably always the same, but not zero, and went besides.
        macs, params, bytes, memory: cost before and after; memory is that of weights and activations, computed.
        targets: what was asked of these costs, and what was reached.
        loss: what was allowed to be lost, and what is; None if nothing was asked.
        inputs: the input shapes at which MACs and latency were determined.
        verification, benchmark: None if skipped.
        peak: measured peak memory of loading and running, in bytes; None if skipped or unknown.
        accuracy: before the cut and at the end, on `samples` held-out samples of the user's data.
        accuracy_cut: the same after the cut, before recovery.
        recovery: what was tried to recover accuracy, and how it performed; None if there were no inputs.
        unknown: why nothing is known about accuracy, and what to do; empty if something was measured on the user's data.
        work: what time decided: name -> number of samples, rounds or steps.
        measure: what accuracy means: top-1, or the name of the user's metric.
        groups, pins: the widths; the channels that cannot be cut, largest first.
        renormalising: nodes that now work on the kept channels, so that the cut is not the masked original.
        notes, warnings: sentences for the reader; a warning states that something fell short.
        unification: which weights share magnitudes in blocks; None if none do.
        missed: whether the requested ratio was missed by more than two percentage points, or the requested budget at all.
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
    memory: Change
    groups: tuple[GroupRow, ...]
    pins: tuple[PinRow, ...]
    targets: tuple[TargetRow, ...] = ()
    dead: int = 0
    constant: int = 0
    loss: LossRow | None = None
    renormalising: tuple[MixRow, ...] = ()
    verification: Verification | None = None
    benchmark: Benchmark | None = None
    peak: Change | None = None
    accuracy: Change | None = None
    accuracy_cut: float | None = None
    recovery: RecoveryRow | None = None
    unknown: str = ""
    work: Mapping[str, int] = field(default_factory=dict)
    samples: int = 0
    measure: str = "top-1"
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    missed: bool = False
    plan: str = ""
    unification: UnificationRow | None = None

    @property
    def ratio(self) -> float:
        """The fraction of prunable channels that was removed."""
        return self.removed / self.prunable if self.prunable else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with the derived ratios."""
        found = asdict(self)
        found["reached"] = {"ratio": self.ratio}
        for name in ("macs", "params", "bytes", "memory"):
            found[name]["kept"] = getattr(self, name).kept
        return found
