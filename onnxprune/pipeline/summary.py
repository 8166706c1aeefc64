# SPDX-License-Identifier: Apache-2.0
"""Builds the report from what was decided, measured and recovered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from onnx import ModelProto

from onnxprune.cost.benchmark import Benchmark
from onnxprune.cost.model import of_original
from onnxprune.cost.size import Cost
from onnxprune.data.samples import MadeUp
from onnxprune.evaluation.evaluator import RUINED
from onnxprune.evaluation.verification import Verification
from onnxprune.pipeline.decide import Decision
from onnxprune.pipeline.samples import BORDER, Samples, describes
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
        recovery: what was tried to recover accuracy; None if nothing was to be done and there were no inputs.
        samples: the samples that there were, the user's or made-up ones.
        work: what time decided.
        measure: what accuracy means.
        warnings: sentences about the user's inputs.
    """

    before: Cost
    after: Cost
    verification: Verification | None = None
    timing: Benchmark | None = None
    recovery: Recovery | None = None
    samples: Samples | None = None
    work: Mapping[str, int] = field(default_factory=dict)
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
    notes = found.samples.notes if found.samples and found.recovery else ()
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
        notes=(*decision.notes, *notes, *_ties(found.recovery)),
        unknown=unknown(decision.analysis.coupled.graph.model, found.recovery, found.samples, asked.get("recover", "none")),
        work=found.work,
        warnings=(
            *found.warnings,
            *missed,
            *_slower(found.timing, removed),
            *_recovery_warnings(found.recovery, found.samples),
        ),
        missed=bool(missed),
        **_recovered(found),
    )


def _mixes(decision: Decision) -> tuple[MixRow, ...]:
    """Renormalising nodes, which work on the kept channels, in graph order."""
    coupled, dropped = decision.analysis.coupled, decision.dropped
    found = sorted(coupled.renormalising(dropped).items())
    return tuple(MixRow(str(coupled.graph.nodes[k]), len(x), int((~dropped[x]).sum())) for k, x in found)


def _slower(timing: Benchmark | None, removed: int) -> list[str]:
    if not timing or not removed or timing.speedup[1] >= 1.0:
        return []
    advice = "try --align auto, a larger --ratio, or larger inputs (--input-shape)"
    return [f"the pruned model is NOT faster here ({timing.speedup[1]:.2f}x): {advice}"]


def unknown(model: ModelProto, recovery: Recovery | None, samples: Samples | None, asked: object) -> str:
    """Why nothing is known about the accuracy of the result, and what to do; empty if there are samples of the user.

    Args:
        model: the original.
        recovery: what was tried.
        samples: the samples that there were.
        asked: the value of --recover.
    """
    if samples is not None and samples.made is None:
        return ""
    method = recovery.method if recovery else "none"
    done = {"none": "the kept weights are unchanged", "bias": "biases were corrected by the means that BatchNorm stores"}
    if samples is None:
        why = "" if asked == "none" or describes(model) else "too little BatchNorm to make inputs by: nothing was fitted, and "
        what = why + done[method]
    elif method in done:
        what = f"{made_text(samples)}, so that nothing was fitted to them; {done[method]}"
    else:
        what = f"weights were fitted to {made_text(samples)}"
    return f"no --data; {what}. Give --data (a few dozen typical inputs) to measure it and to keep more of it"


def made_text(samples: Samples) -> str:
    """Made-up inputs: their number, sizes, ranges, and how well they fit, as in a sentence."""
    made = samples.made or MadeUp()
    shapes = {n: "x".join(map(str, x.shape[1:])) for n, x in samples.fit.chunks[0].items()}
    of = ", ".join(f"{n} {shape}{_range(made, n)}" for n, shape in shapes.items())
    count = len(samples.fit) + len(samples.held_out) * samples.fitted
    fit = "whose likeness to real ones is unknown"
    if made.mismatch is not None:
        good = "well" if samples.trusted else "too poorly"
        fit = f"that fit the BatchNorm statistics {good} (mismatch {made.mismatch:.2f}, limit {BORDER:g})"
    return f"{count:,} made-up inputs ({of}) {fit}"


def _range(made: MadeUp, name: str) -> str:
    if name not in made.ranges:
        return ""
    low, high = made.ranges[name]
    return f", {min(low):.3g} to {max(high):.3g}"


TIE = 0.01
"""Methods that differ by less than this in what they lost are equally good."""


def _ties(recovery: Recovery | None) -> list[str]:
    """A sentence on methods that did as well as the one that was kept."""
    kept = recovery.of(recovery.method) if recovery else None
    if recovery is None or kept is None or kept.ruined or not recovery.varies:
        return []
    judged = [(a.name, a.judgement) for a in recovery.attempts if a.judgement is not None and a.name != recovery.method]
    same = [name for name, j in judged if abs(j.loss - kept.loss) < TIE]
    names = " and ".join((recovery.method, *same))
    return [f"{names} are equally good on the held-out samples (difference below {TIE:g})"] if same else []


def _recovery_warnings(recovery: Recovery | None, samples: Samples | None) -> list[str]:
    if recovery is None:
        return []
    found = [f"{a.name} failed: {a.why}" for a in recovery.attempts if a.why]
    chosen, cut = recovery.of(recovery.method), recovery.of("none")
    if samples is not None and not samples.trusted and recovery.method in ("reconstruct", "distill"):
        found.append(f"{recovery.method} was asked for, but made-up inputs like these have ruined models; give --data")
    if chosen is None or cut is None:
        return found
    if not recovery.varies:
        found.append("the original's outputs do not vary over the held-out inputs, so that nothing can be judged on them")
    elif min(j.lost for j in (a.judgement for a in recovery.attempts) if j) >= RUINED:
        found.append(
            f"all candidates lost the original's outputs: {recovery.method}, the best, loses {chosen.lost:.0%} of what they "
            "tell about the inputs (100 %: as bad as a constant); remove less, or give more samples (--data) or time "
            "(--time-budget)"
        )
    if chosen.loss > cut.loss:
        found.append(f"{recovery.method} performs worse than the cut alone on held-out samples; --recover auto keeps the best")
    return found


def _recovered(found: Findings) -> dict[str, Any]:
    """The report's fields about recovery."""
    recovery, samples = found.recovery, found.samples
    if recovery is None or samples is None or recovery.before is None:
        return {}
    judged = len(samples.held_out)
    fitted = len(samples.fit) * samples.fitted
    by = found.measure if recovery.by_accuracy else "lost"
    row = RecoveryRow(recovery.method, recovery.attempts, recovery.before, fitted, judged, samples.source, by, samples.made)
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
