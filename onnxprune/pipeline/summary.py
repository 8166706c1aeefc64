# SPDX-License-Identifier: Apache-2.0
"""From what was decided, measured and recovered to the report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from onnxprune.cost.benchmark import Benchmark
from onnxprune.cost.size import Cost
from onnxprune.evaluation.verification import Verification
from onnxprune.options import Options, SelectionOptions
from onnxprune.pipeline.decide import Decision
from onnxprune.pipeline.samples import Samples
from onnxprune.recovery.methods import Recovery
from onnxprune.report.values import Change, GroupRow, MixRow, PinRow, RecoveryRow, Report

FLOORS = "every group keeps at least a tenth of its channels, and every layer one"


@dataclass(frozen=True)
class Findings:
    """What is known of a cut when it is reported.

    Attributes:
        before, after: what the original and the result cost.
        proof, timing: None where left out.
        recovery, samples: what was tried to keep accuracy, and on what; None where there were no inputs.
        measure: what accuracy means.
    """

    before: Cost
    after: Cost
    proof: Verification | None = None
    timing: Benchmark | None = None
    recovery: Recovery | None = None
    samples: Samples | None = None
    measure: str = "top-1"


def report_of(name: str, decision: Decision, found: Findings) -> Report:
    """What a cut is, cost and brought, whoever decided it."""
    rows = tuple(
        GroupRow(g.name, len(g), int((~decision.dropped[g.roots]).sum()), tuple(f"{w}[{axis}]" for w, axis in g.members))
        for g in decision.groups
    )
    removed = sum(r.before - r.after for r in rows)
    notes = found.samples.notes if found.samples and found.recovery else ()
    return Report(
        model=name,
        output="",
        asked={},
        align_reason="as planned",
        prunable=sum(r.before for r in rows),
        removed=removed,
        macs=Change(found.before.macs, found.after.macs),
        params=Change(found.before.params, found.after.params),
        bytes=Change(found.before.bytes, found.after.bytes),
        inputs=found.before.inputs,
        groups=rows,
        pins=tuple(PinRow(h.channels, str(h.pin), h.weights, h.macs) for h in decision.analysis.held),
        renormalising=_mixes(decision),
        verification=found.proof,
        benchmark=found.timing,
        measure=found.measure,
        notes=(*decision.notes, *notes),
        warnings=(*_slower(found.timing, removed), *_recovery_warnings(found.recovery)),
        **_recovered(found.recovery, found.samples),
    )


def shortfall(options: Options, decision: Decision, report: Report) -> str:
    """What held back the ratio or the limit that was asked for; empty where it was reached."""
    return _short_of_ratio(options.selection, report.ratio) or _short_of_limit(options.selection, decision, report.macs)


def _mixes(decision: Decision) -> tuple[MixRow, ...]:
    """Nodes that work on the channels that are kept, in the order of the graph."""
    coupled, dropped = decision.analysis.coupled, decision.dropped
    found = sorted(coupled.renormalising(dropped).items())
    return tuple(MixRow(str(coupled.graph.nodes[k]), len(x), int((~dropped[x]).sum())) for k, x in found)


def _slower(timing: Benchmark | None, removed: int) -> list[str]:
    if not timing or not removed or timing.speedup[1] >= 1.0:
        return []
    advice = "try --align auto, a larger --ratio, or larger inputs (--input-shape)"
    return [f"the pruned model is NOT faster here ({timing.speedup[1]:.2f}x): {advice}"]


def _recovery_warnings(recovery: Recovery | None) -> list[str]:
    if recovery is None:
        return []
    found = [f"{a.name} failed: {a.why}" for a in recovery.attempts if a.why]
    mine, cut = recovery.of(recovery.method), recovery.of("none")
    if mine and cut and mine.loss > cut.loss:
        found.append(f"{recovery.method} does worse than the cut alone on held-out samples; --recover auto keeps the best")
    return found


def _recovered(recovery: Recovery | None, samples: Samples | None) -> dict[str, Any]:
    """The fields of a report that tell of recovery."""
    if recovery is None or samples is None:
        return {}
    judged = len(samples.held_out)
    fitted = len(samples.fit) * samples.fitted
    row = RecoveryRow(recovery.method, recovery.attempts, recovery.before, fitted, judged, samples.source)
    before, cut, after = (j.accuracy if j else None for j in (row.before, row.cut, row.chosen))
    if before is None or after is None:
        return {"recovery": row}
    return {"recovery": row, "accuracy": Change(before, after), "accuracy_cut": cut, "samples": judged}


def _short_of_ratio(wish: SelectionOptions, removed: float) -> str:
    """What held the ratio back; empty where it was reached."""
    if wish.ratio is None or removed >= wish.ratio - 0.02:
        return ""
    return f"reached {removed:.0%} instead of {wish.ratio:.0%}: {FLOORS}"


def _short_of_limit(wish: SelectionOptions, decision: Decision, macs: Change) -> str:
    """What held the limit back; empty where it was kept."""
    limit = wish.limit()
    if limit is None or macs.after <= limit.of(macs.before):
        return ""
    held = decision.analysis.held
    share = sum(h.macs for h in held)
    most = max(held, key=lambda h: h.macs, default=None)
    pins = f"; channels that cannot be cut make {share:.1%} of the MACs, most because {most.pin}" if most else ""
    got = f"{macs.after / macs.before:.1%} ({macs.after / 1e6:,.2f} M)"
    return f"the budget of {wish.macs} MACs cannot be reached, {got} are left: {FLOORS}{pins}"
