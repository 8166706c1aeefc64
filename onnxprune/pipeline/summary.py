# SPDX-License-Identifier: Apache-2.0
"""Builds the report from what was decided, measured and recovered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnxprune.cost.benchmark import Benchmark
from onnxprune.cost.model import of_original
from onnxprune.cost.size import Cost
from onnxprune.evaluation.verification import Verification
from onnxprune.pipeline.decide import Decision
from onnxprune.pipeline.samples import Samples
from onnxprune.report.values import Change, GroupRow, MixRow, PinRow, RecoveryRow, Report
from onnxprune.selection.strategy import Limit

if TYPE_CHECKING:
    from onnxprune.recovery.methods import Recovery

FLOORS = "every group keeps at least a tenth of its channels, and every layer at least one"


@dataclass(frozen=True)
class Findings:
    """What is known about a cut when it is reported.

    Attributes:
        before, after: the costs of the original and of the result.
        verification, timing: the verification and the benchmark; None if skipped.
        recovery, samples: what was tried to recover accuracy, and on which samples; None if there were no inputs.
        measure: what accuracy means.
        warnings: sentences about the user's inputs.
    """

    before: Cost
    after: Cost
    verification: Verification | None = None
    timing: Benchmark | None = None
    recovery: Recovery | None = None
    samples: Samples | None = None
    measure: str = "top-1"
    warnings: tuple[str, ...] = ()


def report_of(name: str, decision: Decision, found: Findings, asked: Mapping[str, Any], align_reason: str) -> Report:
    """The report of a cut, however it was decided.

    Args:
        name: the model's file.
        asked: the options that decided the cut.
        align_reason: why widths are rounded.
    """
    rows = tuple(
        GroupRow(g.name, len(g), int((~decision.dropped[g.roots]).sum()), tuple(f"{w}[{axis}]" for w, axis in g.members))
        for g in decision.groups
    )
    prunable, removed = sum(r.before for r in rows), sum(r.before - r.after for r in rows)
    missed = [
        *_short_of_ratio(decision.ratio, removed / max(prunable, 1)),
        *(text for limit in decision.limits for text in _short_of_limit(limit, decision)),
    ]
    notes = (*found.samples.notes, *_left_alone(decision)) if found.samples and found.recovery else ()
    return Report(
        model=name,
        output="",
        asked=asked,
        align_reason=align_reason,
        prunable=prunable,
        removed=removed,
        macs=Change(found.before.macs, found.after.macs),
        params=Change(found.before.params, found.after.params),
        bytes=Change(found.before.bytes, found.after.bytes),
        inputs=found.before.inputs,
        groups=rows,
        pins=tuple(PinRow(p.channels, str(p.pin), p.weights, p.macs) for p in decision.analysis.pinned),
        renormalising=_mixes(decision),
        verification=found.verification,
        benchmark=found.timing,
        measure=found.measure,
        notes=(*decision.notes, *notes, *_one_branch(found)),
        warnings=(
            *found.warnings,
            *_unreached(found.verification),
            *missed,
            *_slower(found.timing, removed),
            *_recovery_warnings(found.recovery),
        ),
        missed=bool(missed),
        **_recovered(found.recovery, found.samples),
    )


def _mixes(decision: Decision) -> tuple[MixRow, ...]:
    """Renormalising nodes, which work on the kept channels, in graph order."""
    coupled, dropped = decision.analysis.coupled, decision.dropped
    found = sorted(coupled.renormalising(dropped).items())
    return tuple(MixRow(str(coupled.graph.nodes[k]), len(x), int((~dropped[x]).sum())) for k, x in found)


def _left_alone(decision: Decision) -> tuple[str, ...]:
    """A note if recovery could not fit all layers that the cut changed."""
    coupled, dropped = decision.analysis.coupled, decision.dropped
    cut = {o.weight for o in coupled.owners if dropped[o.start : o.start + o.size].any()}
    inside = coupled.graph.stored_in_bodies.intersection(cut)
    found = f"{len(inside)} of {len(cut)} cut weights are in bodies of If, Loop or Scan, which recovery leaves as they are"
    return (found,) if inside else ()


def _one_branch(found: Findings) -> tuple[str, ...]:
    """A note if the benchmark ran only some of the bodies that the cut changes."""
    reached = found.verification.reached if found.verification and found.timing else ()
    return ("latency: of each If, only the branch that the inputs of the benchmark take was timed",) if reached else ()


def _unreached(verification: Verification | None) -> list[str]:
    return [f"not verified, because it did not run: {what}" for what in (verification.unreached if verification else ())]


def _slower(timing: Benchmark | None, removed: int) -> list[str]:
    if not timing or not removed or timing.speedup[1] >= 1.0:
        return []
    advice = "try --align auto, a larger --ratio, or larger inputs (--input-shape)"
    return [f"the pruned model is NOT faster here ({timing.speedup[1]:.2f}x): {advice}"]


def _recovery_warnings(recovery: Recovery | None) -> list[str]:
    if recovery is None:
        return []
    found = [f"{a.name} failed: {a.why}" for a in recovery.attempts if a.why]
    chosen, cut = recovery.of(recovery.method), recovery.of("none")
    if chosen and cut and chosen.loss > cut.loss:
        found.append(f"{recovery.method} performs worse than the cut alone on held-out samples; --recover auto keeps the best")
    return found


def _recovered(recovery: Recovery | None, samples: Samples | None) -> dict[str, Any]:
    """The report's fields about recovery."""
    if recovery is None or samples is None:
        return {}
    judged = len(samples.held_out)
    fitted = len(samples.fit) * samples.fitted
    row = RecoveryRow(recovery.method, recovery.attempts, recovery.before, fitted, judged, samples.source)
    before, cut, after = (j.accuracy if j else None for j in (row.before, row.cut, row.chosen))
    if before is None or after is None:
        return {"recovery": row}
    return {"recovery": row, "accuracy": Change(before, after), "accuracy_cut": cut, "samples": judged}


def _short_of_ratio(wanted: float | None, removed: float) -> list[str]:
    """Why the ratio was missed; empty if it was reached."""
    if wanted is None or removed >= wanted - 0.02:
        return []
    return [f"removed {removed:.0%} of the channels instead of {wanted:.0%}: {FLOORS}"]


def _short_of_limit(limit: Limit, decision: Decision) -> list[str]:
    """Why a limit was exceeded; empty if it was met."""
    cost, dropped = limit.cost, decision.dropped
    remaining = cost.of(dropped)
    if remaining <= limit.most:
        return []
    pinned = decision.analysis.pinned
    share = sum(p.macs for p in pinned)
    most = max(pinned, key=lambda p: p.macs, default=None)
    pins = f"; channels that cannot be cut account for {share:.1%} of the MACs, mostly because {most.pin}" if most else ""
    reached = f"{remaining / of_original(cost, len(dropped)):.1%} ({cost.text(remaining)})"
    return [f"the budget of {limit.asked} {cost.name} cannot be reached, {reached} remain: {FLOORS}{pins}"]
