# SPDX-License-Identifier: Apache-2.0
"""One pruning from a loaded model to a result, and what is done with a plan that exists."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from onnx import ModelProto

from onnxprune.analysis.analyse import analyse
from onnxprune.cost import benchmark
from onnxprune.cost.size import cost
from onnxprune.data.arrays import read_arrays
from onnxprune.data.load import check_exists, check_source, load_data
from onnxprune.data.samples import Data
from onnxprune.data.user_code import function_named
from onnxprune.errors import CutError, PlanError
from onnxprune.evaluation.evaluator import Evaluator, Metric
from onnxprune.evaluation.structure import check_contract, only_weights
from onnxprune.evaluation.verification import Verification, verify
from onnxprune.ir.facts import read_graph
from onnxprune.ir.files import Loaded
from onnxprune.ir.spill import spill_for
from onnxprune.options import CheckOptions, Options
from onnxprune.pipeline.decide import Decision, check_selection
from onnxprune.pipeline.result import Result
from onnxprune.pipeline.rounds import Outcome, in_rounds
from onnxprune.pipeline.samples import Maker, Samples, synthetic_samples, provide, refinement
from onnxprune.pipeline.summary import Findings, report_of, shortfall
from onnxprune.recovery.methods import Recovery, Task, batches_of, recover
from onnxprune.rewrite.cut import cut
from onnxprune.rewrite.plan import Plan, dropped_by, plan_of
from onnxprune.types import Progress, Shapes, silent


def prune_loaded(loaded: Loaded, options: Options, progress: Progress = silent, make: Maker = synthetic_samples) -> Result:
    """Analyse a model that was read, decide which channels are dropped, verify, recover and measure the rest.

    The weights of a large model are not in memory: they lie in its file, or in one of the result, until that is saved.

    Args:
        loaded: the model.
        options: what the user asks for.
        progress: told what is being done.
        make: makes up inputs where there are none.

    Raises:
        PruneError: the input or an option is wrong, or the result could not be verified. Whatever the options and the graph
            can tell is told before any sample is made or read.
    """
    metric = look_up(options)
    progress("analyse", 0)
    graph = read_graph(loaded.model, options.data.input_shape)
    analysis = analyse(graph, options.selection.policy())
    check_selection(analysis, options.selection, loaded.name)
    progress("analyse", 1)
    data = _read_data(loaded, options, progress)
    samples = provide(loaded, options, data, make, progress)
    calibrates = options.recovery.rounds > 1 or options.calibrated
    batches = batches_of(samples.fit) if samples and calibrates else ()
    outcome = in_rounds(analysis, options, loaded.name, batches, progress=lambda done: progress("cut", done))
    decision = outcome.decision
    proof = _verified(decision, options.checks, progress)
    recovery = _recovered(loaded, options, outcome, samples, metric, progress)
    method = recovery.method if recovery else "none"
    made_by = {**options.asked(), **({"recovered": method} if method != "none" else {})}
    plan = plan_of(decision.analysis.coupled, decision.dropped, loaded.sha256, made_by)
    model = recovery.model if recovery else decision.pruned
    found = _measured(loaded, model, options.data.input_shape, options.checks, progress)
    measure = metric.__name__ if metric else found.measure
    found = replace(found, verification=proof, recovery=recovery, samples=samples, measure=measure)
    report = report_of(loaded.name, decision, found)
    short = shortfall(options, decision, report)
    report = replace(
        report,
        asked=options.asked(),
        align_reason=options.selection.alignment().reason,
        warnings=(*(data.warnings if data else ()), *([short] if short else []), *report.warnings),
        missed=bool(short),
    )
    return Result(model, plan, report, loaded.external, decision.spill)


def look_up(options: Options) -> Metric | None:
    """Look up what options name: files, functions, packages. No model is needed for that, and none is run.

    Returns:
        The metric.

    Raises:
        DataError, TrainingError: there is no such file or function, or PyTorch is not installed.
    """
    if options.recovery.recover == "distill":
        importlib.import_module("onnxprune.training")  # says what to install
    if isinstance(options.selection.scores, str | Path):
        read_arrays(options.selection.scores, "--scores")
    if isinstance(options.data.labels, str | Path):
        check_exists(options.data.labels, "--labels")
    check_source(options.data.data)
    metric = options.data.metric
    return function_named(metric, "--metric") if isinstance(metric, str) else metric


def _read_data(loaded: Loaded, options: Options, progress: Progress) -> Data | None:
    """What --data names."""
    wish = options.data
    if wish.data is None:
        return None
    return load_data(
        wish.data,
        loaded.model,
        preprocess=wish.preprocess,
        samples=wish.samples,
        seed=wish.seed,
        labels=wish.labels,
        shapes=wish.input_shape,
        path=loaded.name,
        refine=refinement(),
        progress=lambda done: progress("data", done),
    )


def _verified(decision: Decision, checks: CheckOptions, progress: Progress) -> Verification | None:
    if not checks.verify:
        return None
    coupled = decision.analysis.coupled
    return verify(coupled, decision.dropped, decision.pruned, lambda done: progress("verify", done))


def _recovered(
    loaded: Loaded,
    options: Options,
    outcome: Outcome,
    samples: Samples | None,
    metric: Metric | None,
    progress: Progress,
) -> Recovery | None:
    """The best that recovery makes of the cut model; it may differ from what was verified in nothing but weights."""
    if samples is None:
        return None
    decision, seed = outcome.decision, options.data.seed
    task = Task(
        decision.analysis.coupled,
        decision.dropped,
        decision.pruned,
        outcome.start,
        samples.fit,
        samples.held_out,
        samples.genuine,
        options.recovery.seconds(),
        seed,
    )
    judge = Evaluator(loaded.model, samples.held_out, metric, seed)
    recovery = recover(task, options.recovery.recover, judge, progress)
    check_contract(decision.pruned, recovery.model, only_weights(recovery.added | outcome.added))
    return recovery


def _measured(loaded: Loaded, model: ModelProto, shapes: Shapes, checks: CheckOptions, progress: Progress) -> Findings:
    """What the original and the result cost."""
    before = cost(loaded.model, shapes, loaded.size)
    after = cost(model, before.inputs)
    if not checks.bench:
        return Findings(before, after)
    models, feeds = (loaded.model, model), benchmark.random_feeds(loaded.model, before.inputs)
    timing = benchmark.benchmark(models, feeds, checks.threads, progress=lambda done: progress("benchmark", done))
    return Findings(before, after, timing=timing)


def apply_loaded(loaded: Loaded, plan: Plan, shapes: Shapes, checks: CheckOptions, progress: Progress = silent) -> Result:
    """Cut a model that was read by a plan made earlier.

    Raises:
        PlanError: the plan does not fit this model.
    """
    progress("analyse", 0)
    analysis = analyse(read_graph(loaded.model, shapes), plan.policy)
    dropped = dropped_by(analysis.coupled, plan)
    try:
        pruned = cut(analysis.coupled, dropped, spill := spill_for(loaded.model))
    except CutError as e:
        raise PlanError(f"{loaded.name}: the plan cannot be carried out: {e.message}") from e
    progress("analyse", 1)
    other = bool(plan.model_sha256 and loaded.sha256 and plan.model_sha256 != loaded.sha256)
    notes = ("the plan was made for a file with other contents (a retrained copy?); names and shapes fit",) if other else ()
    decision = Decision(analysis, dropped, pruned, analysis.groups, notes, spill)
    proof = _verified(decision, checks, progress)
    found = replace(_measured(loaded, pruned, shapes, checks, progress), verification=proof)
    made_by: Mapping[str, Any] = {k: v for k, v in plan.made_by.items() if k != "recovered"}
    report = replace(report_of(loaded.name, decision, found), asked=made_by or {"plan": "given"})
    return Result(pruned, replace(plan, made_by=made_by, model_sha256=loaded.sha256), report, loaded.external, spill)


def verify_loaded(original: Loaded, pruned: Loaded, plan: Plan, shapes: Shapes) -> Verification:
    """Compare a pruned model that was read with its original, less the channels of a plan.

    Raises:
        PlanError: the plan does not fit the original.
        VerificationError: the two compute different things.
    """
    coupled = analyse(read_graph(original.model, shapes), plan.policy).coupled
    dropped = dropped_by(coupled, plan)
    if not plan.recovered:
        return verify(coupled, dropped, pruned.model)
    bare = cut(coupled, dropped)
    check_contract(bare, pruned.model, only_weights())
    return verify(coupled, dropped, bare)
