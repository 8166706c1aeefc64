# SPDX-License-Identifier: Apache-2.0
"""What was asked, what was reached, and what held it back: plain values, to be rendered in any format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from onnxprune.cost.benchmark import Benchmark, Cost
from onnxprune.evaluation.verification import Verification
from onnxprune.options import Options
from onnxprune.pipeline.decide import Decision

if TYPE_CHECKING:  # loaded where something is recovered, not by everybody who imports the package
    from onnxprune.evaluation.evaluator import Judgement
    from onnxprune.recovery.methods import Attempt, Recovery


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


def make_report(
    name: str,
    decision: Decision,
    options: Options,
    before: Cost,
    after: Cost,
    proof: Verification | None,
    timing: Benchmark | None,
    recovery: Recovery | None = None,
) -> Report:
    """Put together what a decision was, cost and brought."""
    rows = tuple(
        GroupRow(g.name, len(g), int((~decision.dropped[g.roots]).sum()), tuple(f"{w}[{axis}]" for w, axis in g.members))
        for g in decision.groups
    )
    prunable, removed = sum(r.before for r in rows), sum(r.before - r.after for r in rows)
    short = _short_of_ratio(options, removed / prunable) or _short_of_budget(options, before, after, decision)
    warnings = [short] if short else []
    if timing and removed and timing.speedup[1] < 1.0:
        advice = "try --align auto, a larger --ratio, or larger inputs (--input-shape)"
        warnings.append(f"the pruned model is NOT faster here ({timing.speedup[1]:.2f}x): {advice}")
    warnings += [f"{a.name} failed: {a.why}" for a in recovery.attempts if a.why] if recovery else []
    if recovery and _worse(recovery):
        warnings.append(f"{recovery.method} does worse than the cut alone on held-out samples; --recover auto keeps the best")
    return Report(
        model=name,
        output="",
        asked=options.asked(),
        align_reason=options.alignment().reason,
        prunable=prunable,
        removed=removed,
        macs=Change(before.macs, after.macs),
        params=Change(before.params, after.params),
        bytes=Change(before.bytes, after.bytes),
        inputs=before.inputs,
        groups=rows,
        pins=tuple(PinRow(h.channels, str(h.pin), h.weights, h.macs) for h in decision.analysis.held),
        renormalising=_mixes(decision),
        verification=proof,
        benchmark=timing,
        **_recovered(recovery),
        notes=(*decision.notes, *(recovery.notes if recovery else ())),
        warnings=tuple(warnings),
        missed=bool(short),
    )


def _mixes(decision: Decision) -> tuple[MixRow, ...]:
    """Nodes that work on what is left, in the order of the graph."""
    coupled, dropped = decision.analysis.coupled, decision.dropped
    found = sorted(coupled.renormalising(dropped).items())
    return tuple(MixRow(str(coupled.graph.nodes[k]), len(x), int((~dropped[x]).sum())) for k, x in found)


def _worse(recovery: Recovery) -> bool:
    mine, cut = recovery.of(recovery.method), recovery.of("none")
    return bool(mine and cut and mine.loss > cut.loss)


def _recovered(recovery: Recovery | None) -> dict[str, Any]:
    """The fields of a report that tell of recovery."""
    if recovery is None:
        return {}
    row = RecoveryRow(recovery.method, recovery.attempts, recovery.before, recovery.fitted, recovery.judged, recovery.source)
    accuracies = [j.accuracy if j else None for j in (row.before, row.cut, row.chosen)]
    before, cut, after = accuracies
    if before is None or after is None:
        return {"recovery": row}
    return {"recovery": row, "accuracy": Change(before, after), "accuracy_cut": cut, "samples": recovery.judged}


FLOORS = "every group keeps at least a tenth of its channels, and every layer one"


def _short_of_ratio(options: Options, removed: float) -> str:
    """What held the ratio back; empty where it was reached."""
    if options.ratio is None or removed >= options.ratio - 0.02:
        return ""
    return f"reached {removed:.0%} instead of {options.ratio:.0%}: {FLOORS}"


def _short_of_budget(options: Options, before: Cost, after: Cost, decision: Decision) -> str:
    """What held the budget back; empty where it was kept."""
    limit = options.limit()
    if limit is None or after.macs <= limit.of(before.macs):
        return ""
    held = decision.analysis.held
    share = sum(h.macs for h in held)
    most = max(held, key=lambda h: h.macs, default=None)
    pins = f"; channels that cannot be cut make {share:.1%} of the MACs, most because {most.pin}" if most else ""
    got = f"{after.macs / before.macs:.1%} ({after.macs / 1e6:,.2f} M)"
    return f"the budget of {options.macs} MACs cannot be reached, {got} are left: {FLOORS}{pins}"
