# SPDX-License-Identifier: Apache-2.0
"""Apply an existing plan to a loaded model, or verify a result against it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from onnx import ModelProto

from onnxprune.analysis.analyse import Analysis, analyse
from onnxprune.cost.benchmark import Runner, in_this_process
from onnxprune.errors import CutError, PlanError
from onnxprune.evaluation.structure import check_contract, only_weights
from onnxprune.evaluation.verification import Verification, verify
from onnxprune.ir.facts import read_graph
from onnxprune.ir.files import Loaded, marked, plan_of_model
from onnxprune.ir.graph import Graph
from onnxprune.ir.sharing import shared_again
from onnxprune.ir.spill import spill_for
from onnxprune.options import CheckOptions
from onnxprune.pipeline.claims import unfitted
from onnxprune.pipeline.constants import Folding, check_all_folded, folding_of
from onnxprune.pipeline.decide import Decision
from onnxprune.pipeline.measured import measured, seeded_feeds, verified, warnings_of
from onnxprune.pipeline.refusal import refuses
from onnxprune.pipeline.result import Result
from onnxprune.pipeline.summary import report_of
from onnxprune.rewrite.cut import cut
from onnxprune.rewrite.plan import Plan, dropped_by
from onnxprune.rewrite.shorten import shortened
from onnxprune.types import Progress, Shapes, silent

if TYPE_CHECKING:
    from onnxprune.pipeline.blocks import InBlocks

NOT_REPEATED = ("recover", "recovered", "work")
"""What a plan says about how weights were fitted, which applying it does not repeat."""


@refuses(lambda loaded, plan, shapes, *_, **__: shapes)
def apply_loaded(
    loaded: Loaded,
    plan: Plan,
    shapes: Shapes,
    checks: CheckOptions,
    progress: Progress = silent,
    run: Runner = in_this_process,
) -> Result:
    """Cut a loaded model according to an existing plan; `run` runs the models to measure their latency.

    Raises:
        PlanError: the plan does not fit this model.
    """
    progress("analyse", 0)
    if _is_result(loaded, plan):
        raise PlanError(f"{loaded.name}: is the result of this plan; give the original, to which it is to be applied")
    loaded = marked(loaded)
    constants, analysis = _analysed(read_graph(loaded.model, shapes), plan, checks.verify)
    dropped = dropped_by(analysis.coupled, plan, constants.added)
    try:
        pruned = cut(analysis.coupled, dropped, spill := spill_for(loaded.model))
    except CutError as e:
        raise PlanError(f"{loaded.name}: the plan cannot be applied: {e.message}") from e
    progress("analyse", 1)
    differs = bool(plan.model_sha256 and loaded.sha256 and plan.model_sha256 != loaded.sha256)
    other = "the plan was made for a file with different contents (a retrained copy?), with weights of these names"
    notes = (other,) if differs else ()
    cuts = bool(plan.kept or plan.removed) or not plan.blocks
    decision = Decision(analysis, dropped, pruned, analysis.groups if cuts else (), notes, spill=spill)
    decision = constants.marked(decision)
    verification = verified(decision, checks, progress) if cuts else None
    pruned = shared_again(pruned, pruned, analysis.coupled.graph)
    made_by: Mapping[str, Any] = {k: v for k, v in plan.made_by.items() if k != "recovered"}
    unified = _reapplied(loaded, decision, pruned, plan, shapes, checks, progress) if plan.blocks else None
    found = measured(loaded, pruned, shapes, checks, run, progress, None, unified)
    found = replace(found, verification=verification, warnings=warnings_of(loaded, verification), unified=unified)
    asked = {name: value for name, value in made_by.items() if name not in NOT_REPEATED}
    report = report_of(loaded.name, decision, found, asked or {"plan": "given"}, "from the plan")
    report = replace(report, unknown=f"apply measures none; {unfitted(unified is not None)}")
    pruned = unified.model if unified else pruned
    own = replace(plan, made_by=made_by, model_sha256=loaded.sha256, constant=constants.constant)
    external, files = loaded.external, loaded.files
    return Result(pruned, own, report, external, spill, files, plan.sha256, unchanged=loaded.check_unchanged)


@refuses(lambda original, pruned, plan, shapes: shapes)
def verify_loaded(original: Loaded, pruned: Loaded, plan: Plan, shapes: Shapes) -> Verification:
    """Compare a loaded pruned model with its original without the channels that a plan removes.

    Raises:
        PlanError: the plan does not fit the original, or was written with another file than the pruned one.
        VerificationError: the two do not compute the same outputs.
    """
    if plan.pruned_sha256 and pruned.sha256 and not _is_result(pruned, plan):
        digests = f"its SHA-256 is {pruned.sha256[:12]}..., the plan states {plan.pruned_sha256[:12]}..."
        raise PlanError(f"{pruned.name}: was not written with this plan: {digests}; give the two that belong together")
    original, pruned = marked(original), marked(pruned)  # they say which plan made them, and differ in nothing else there
    constants, analysis = _analysed(read_graph(original.model, shapes), plan)
    check_all_folded(constants, original.name)
    coupled = analysis.coupled
    dropped = dropped_by(coupled, plan, constants.added)
    if not plan.recovered and not plan.blocks:
        return verify(coupled, dropped, pruned.model)
    bare = cut(coupled, dropped)
    expected, written = shared_again(bare, bare, coupled.graph), pruned.model
    if plan.blocks:
        from onnxprune.pipeline.blocks import check_carried, check_unfitted  # on demand, for a quick start

        expected, written = check_carried(expected, written, plan)
        if not plan.recovered:
            check_unfitted(expected, written, plan)
    check_contract(expected, written, only_weights())
    return verify(coupled, dropped, bare)


def _is_result(loaded: Loaded, plan: Plan) -> bool:
    """Whether a model was written with this plan, or made by it."""
    return bool(loaded.sha256 and loaded.sha256 == plan.pruned_sha256) or plan_of_model(loaded.model) == plan.sha256


def _analysed(graph: Graph, plan: Plan, checks: bool = True) -> tuple[Folding, Analysis]:
    """What a plan does before the cut, and the analysis of what is then cut."""
    found = folding_of(analyse(graph, plan.policy), plan, checks)
    if not plan.removed:
        return found, found.analysis
    whole = found.analysis.coupled.graph if found.constant else graph
    return found, analyse(_shorter(whole, plan), plan.policy)


def _shorter(graph: Graph, plan: Plan) -> Graph:
    """A graph without the residual branches that a plan removes.

    Raises:
        PlanError: there is no such branch.
    """
    return replace(read_graph(shortened(graph.model, plan.removed, graph), graph.fed), copies=graph.copies)


def _reapplied(
    loaded: Loaded,
    decision: Decision,
    pruned: ModelProto,
    plan: Plan,
    shapes: Shapes,
    checks: CheckOptions,
    progress: Progress,
) -> InBlocks:
    """The cut model with the blocks of a plan, whose magnitudes are those of its own weights."""
    from onnxprune.pipeline.blocks import as_planned  # on demand, for a quick start

    feeds = seeded_feeds(loaded, shapes)
    return as_planned(decision.analysis.coupled, pruned, plan, feeds, checks, progress)
