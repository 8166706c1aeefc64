# SPDX-License-Identifier: Apache-2.0
"""Builds the report from what was decided, measured and recovered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from onnxprune.cost.benchmark import Benchmark
from onnxprune.cost.model import of_original
from onnxprune.cost.size import Cost
from onnxprune.evaluation.verification import Verification
from onnxprune.pipeline.claims import recovery_warnings, ties, unknown
from onnxprune.pipeline.constants import beside
from onnxprune.pipeline.decide import COUNTED, Decision
from onnxprune.pipeline.loss import loss_of
from onnxprune.pipeline.remarks import far_below, missed_limit, missed_ratio
from onnxprune.pipeline.samples import Samples
from onnxprune.report.values import Change, GroupRow, LossRow, MixRow, PinRow, RecoveryRow, Report, TargetRow, UnificationRow
from onnxprune.selection.budget import amount, fraction
from onnxprune.selection.strategy import Limit

if TYPE_CHECKING:
    from onnxprune.pipeline.blocks import InBlocks
    from onnxprune.recovery.methods import Recovery

BEFORE = {"macs": "macs", **COUNTED}
"""Targets whose costs of the original are in `Cost`."""
LESS = "leave free the blocks that lose most (--share 0.95)"
"""What to do if too much was unified."""


@dataclass(frozen=True)
class Findings:
    """What is known about a cut when it is reported.

    Attributes:
        before, after: the costs of the original and of the result.
        verification, timing: the verification and the benchmark; None if skipped.
        peak: peak memory before and after in bytes, measured; None if skipped or unknown.
        recovery: what was tried to recover accuracy; None if nothing was to be done and there were no inputs.
        samples: the samples that there were, the user's or made-up ones.
        work: what time decided.
        measure: what accuracy means.
        warnings: sentences about the user's inputs.
        untimed: why the models could not be timed, although they were to be.
        unified: the result with its weights in blocks; None if they are not.
    """

    before: Cost
    after: Cost
    verification: Verification | None = None
    timing: Benchmark | None = None
    peak: Change | None = None
    recovery: Recovery | None = None
    samples: Samples | None = None
    work: Mapping[str, int] = field(default_factory=dict)
    measure: str = "top-1"
    warnings: tuple[str, ...] = ()
    untimed: str = ""
    unified: InBlocks | None = None


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
    dead = 0 if decision.dead is None else sum(int(decision.dead[g.roots].sum()) for g in decision.groups)
    constant = 0 if decision.constant is None else sum(int(decision.constant[g.roots].sum()) for g in decision.groups)
    prunable, removed = sum(r.before for r in rows) - dead, sum(r.before - r.after for r in rows) - dead
    unified = found.unified
    last = unified.recovery if unified else found.recovery
    decision = replace(decision, limits=tuple(_as_measured(limit, found) for limit in decision.limits))
    reached = [_remaining(limit, decision, found) for limit in decision.limits]
    targets = tuple(_target(limit, remains, found, decision) for limit, remains in zip(decision.limits, reached, strict=True))
    missed, near = _reached(decision, targets, removed, prunable, asked)
    loss = _loss(last, found, asked)
    missed += [] if loss is None or loss.met else [_lost_more(loss)]
    notes = (*found.samples.notes, *_left_alone(decision)) if found.samples and found.recovery else ()
    return Report(
        model=name,
        output="",
        asked=asked,
        align_reason=align_reason,
        prunable=prunable,
        removed=removed,
        dead=dead - constant,
        constant=constant,
        macs=Change(found.before.macs, found.after.macs),
        params=Change(found.before.params, found.after.params),
        loss=loss,
        bytes=Change(found.before.bytes, found.after.bytes),
        memory=Change(found.before.memory, found.after.memory),
        targets=targets,
        inputs=found.before.inputs,
        groups=rows,
        pins=tuple(PinRow(p.channels, str(p.pin), p.weights, p.macs) for p in decision.analysis.pinned),
        renormalising=_mixes(decision),
        verification=found.verification,
        benchmark=found.timing,
        peak=found.peak,
        measure=found.measure,
        notes=(*decision.notes, *beside(decision), *near, *notes, *_one_branch(found), *ties(last), *_of_blocks(unified)),
        unknown=unknown(
            decision.analysis.coupled.graph.model, last, found.samples, asked.get("recover", "none"), unified is not None
        ),
        work=found.work,
        warnings=(
            *found.warnings,
            *([f"latency is unknown: {found.untimed}"] if found.untimed else []),
            *_unreached(found.verification),
            *missed,
            *_slower(found.timing, removed),
            *recovery_warnings(last, found.samples, LESS if unified else "remove less"),
        ),
        missed=bool(missed),
        **_recovered(found),
        unification=_in_blocks(found),
    )


def _of_blocks(unified: InBlocks | None) -> tuple[str, ...]:
    return unified.notes if unified else ()


def _in_blocks(found: Findings) -> UnificationRow | None:
    """What was unified, and how it performs."""
    if found.unified is None:
        return None
    return replace(found.unified.row, recovery=_recovery_row(found.unified.recovery, found))


def _narrowing(asked: Mapping[str, Any]) -> str:
    """The options that allow only some groups to shrink."""
    patterns = [f"--{name} {' '.join(asked[name])}" for name in ("include", "exclude") if name in asked]
    return " with ".join(patterns + ["--scores"] * (asked.get("criterion") == "scores"))


def _loss(last: Recovery | None, found: Findings, asked: Mapping[str, Any]) -> LossRow | None:
    """What was allowed to be lost, and what is."""
    if "max_loss" not in asked or last is None or last.before is None or last.chosen is None:
        return None
    return loss_of(last.chosen, last.before, found.measure).row(
        str(asked["max_loss"]), fraction(asked["max_loss"], "--max-loss")
    )


def _lost_more(loss: LossRow) -> str:
    interval = "" if loss.low is None else f" (95 % interval: {loss.low:.2%} to {loss.high:.2%})"
    advice = "remove less, or give more samples or time (--time-budget)"
    return f"{loss.reached:.2%} {loss.what} are lost{interval}, more than the {loss.asked} that are allowed: {advice}"


def _remaining(limit: Limit, decision: Decision, found: Findings) -> float:
    """What remains of a limited cost in the result."""
    if limit.target == "latency" and found.timing is not None:
        return found.timing.latencies[0].median_ms / found.timing.speedup[1]
    if limit.target in COUNTED:
        return float(getattr(found.after, COUNTED[limit.target]))
    return limit.cost.of(decision.dropped)


def _target(limit: Limit, remains: float, found: Findings, decision: Decision) -> TargetRow:
    if limit.target == "latency" and found.timing is not None:
        before = found.timing.latencies[0].median_ms
    elif limit.target in BEFORE:
        before = float(getattr(found.before, BEFORE[limit.target]))
    else:
        before = of_original(limit.cost, len(decision.dropped))
    kept = Change(before, remains).kept
    return TargetRow(limit.target, limit.asked, limit.most, remains, _is_met(limit, remains, found), kept)


def _is_met(limit: Limit, remains: float, found: Findings) -> bool:
    """Whether a limit holds; of a latency, whether the lower end of its median's interval is within it."""
    if limit.target == "latency" and found.timing is not None:
        return found.timing.latencies[0].median_ms / found.timing.speedup_most[1] <= limit.most
    return remains <= limit.most


def _as_measured(limit: Limit, found: Findings) -> Limit:
    """A limit on a share of the latency, relative to what the original took beside the result."""
    asked = amount(limit.asked, "latency") if limit.target == "latency" else None
    if asked is None or not asked.relative or found.timing is None:
        return limit
    return replace(limit, most=asked.of(found.timing.latencies[0].median_ms))


def _reached(
    decision: Decision, targets: Sequence[TargetRow], removed: int, prunable: int, asked: Mapping[str, Any]
) -> tuple[list[str], list[str]]:
    """What falls short of the request, and what only differs from it."""
    coupled, dropped = decision.analysis.coupled, decision.dropped
    ratio = missed_ratio(decision.ratio, removed, prunable, decision.most)
    short = decision.ratio is not None and removed / max(prunable, 1) < decision.ratio - 0.02
    names = {g.name for g in decision.groups}
    kept = [g for g in decision.analysis.groups if g.name not in names]
    pairs = list(zip(decision.limits, targets, strict=True))
    narrowing = _narrowing(asked)
    limits = [missed_limit(x, t.reached, t.kept, coupled, dropped, kept, narrowing) for x, t in pairs if not t.met]
    far = [far_below(x, t.reached, t.kept, dropped) for x, t in pairs]
    found = [ratio] if short else [], [] if short else [ratio]
    # the tightest limit is what holds a cut back
    return [x for x in (*found[0], *limits) if x], [x for x in (*found[1], *(far if all(far) else ())) if x]


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


def _recovered(found: Findings) -> dict[str, Any]:
    """The report's fields about recovery."""
    row = _recovery_row(found.recovery, found)
    last = _recovery_row(found.unified.recovery, found) if found.unified else row
    if last is None:
        return {"recovery": row}
    before, cut, after = (j.accuracy if j else None for j in (last.before, (row or last).cut, last.chosen))
    if before is None or after is None:
        return {"recovery": row}
    return {"recovery": row, "accuracy": Change(before, after), "accuracy_cut": cut, "samples": last.judged}


def _recovery_row(recovery: Recovery | None, found: Findings) -> RecoveryRow | None:
    """What was tried to recover accuracy; None if nothing was judged."""
    samples = found.samples
    if recovery is None or samples is None or recovery.before is None:
        return None
    judged, fitted = len(samples.held_out), len(samples.fit) * samples.fitted
    by = found.measure if recovery.by_accuracy else "lost"
    return RecoveryRow(recovery.method, recovery.attempts, recovery.before, fitted, judged, samples.source, by, samples.made)
