# SPDX-License-Identifier: Apache-2.0
"""Prune a loaded model, or apply or verify an existing plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import ModelProto

from onnxprune.analysis.analyse import analyse
from onnxprune.cost import benchmark
from onnxprune.cost.benchmark import Runner, in_this_process
from onnxprune.cost.size import cost
from onnxprune.data.arrays import read_arrays
from onnxprune.data.load import check_exists, check_source, load_data
from onnxprune.data.samples import Data
from onnxprune.data.user_code import function_named
from onnxprune.errors import CutError, DataError, PlanError
from onnxprune.evaluation.evaluator import Evaluator
from onnxprune.evaluation.structure import check_contract, only_weights
from onnxprune.evaluation.verification import Verification, verify
from onnxprune.ir.facts import read_graph
from onnxprune.ir.files import Loaded
from onnxprune.ir.spill import spill_for
from onnxprune.options import CheckOptions, Options
from onnxprune.pipeline.components import DEFAULT, Components
from onnxprune.pipeline.decide import Decision, check_selection
from onnxprune.pipeline.result import Result
from onnxprune.pipeline.rounds import Outcome, in_rounds
from onnxprune.pipeline.samples import Samples, provide, refinement
from onnxprune.pipeline.summary import Findings, report_of
from onnxprune.rewrite.cut import cut
from onnxprune.rewrite.plan import Plan, dropped_by, plan_of
from onnxprune.types import Array, Feeds, Progress, Shapes, silent

if TYPE_CHECKING:
    from onnxprune.recovery.methods import Recovery


def prune_loaded(loaded: Loaded, options: Options, progress: Progress = silent, components: Components = DEFAULT) -> Result:
    """Analyse a loaded model, drop channels, then verify, recover and measure the result.

    The weights of a large model are not held in memory: until the result is saved, they are in the model's file or in a
    temporary one.

    Args:
        loaded: the model.
        options: the user's options, as returned by `resolved`.
        progress: called with the name of a stage and the fraction done, 0 to 1.
        components: the steps that can have more than one implementation.

    Raises:
        PruneError: the input or an option is wrong, or the result could not be verified. Errors that follow from the
            options and the graph alone are raised before any sample is generated or read.
    """
    metric = options.data.metric
    assert not isinstance(metric, str)
    progress("analyse", 0)
    graph = read_graph(loaded.model, options.data.input_shape)
    analysis = analyse(graph, options.selection.policy())
    check_selection(analysis, options.selection, loaded.name)
    progress("analyse", 1)
    data = _read_data(loaded, options, progress)
    samples = provide(loaded, options, data, components.make, progress)
    judge = Evaluator(loaded.model, samples.held_out, metric, options.data.seed) if samples else None
    calibrates = options.recovery.rounds > 1 or options.calibrated
    batches = _batches(samples.fit) if samples and calibrates else ()
    outcome = in_rounds(
        analysis,
        options,
        loaded.name,
        batches,
        strategy=components.strategy,
        recover=components.recover,
        goal=components.goal(options.selection),
        progress=lambda done: progress("cut", done),
    )
    decision = outcome.decision
    verification = _verified(decision, options.checks, progress)
    recovery = _recovered(options, outcome, samples, judge, progress)
    method = recovery.method if recovery else "none"
    made_by = {**options.asked(), **({"recovered": method} if method != "none" else {})}
    plan = plan_of(decision.analysis.coupled, decision.dropped, loaded.sha256, made_by, loaded.derived)
    model = recovery.model if recovery else decision.pruned
    found = _measured(loaded, model, options.data.input_shape, options.checks, components.run, progress)
    measure = metric.__name__ if metric else found.measure
    found = replace(
        found,
        verification=verification,
        recovery=recovery,
        samples=samples,
        measure=measure,
        warnings=(*_warnings(loaded, verification), *(data.warnings if data else ())),
    )
    report = report_of(loaded.name, decision, found, options.asked(), options.selection.alignment().reason)
    return Result(model, plan, report, loaded.external, decision.spill, loaded.files)


def resolved(options: Options) -> Options:
    """Look up the files, functions and packages that options name. No model is needed or run.

    Returns:
        The options with arrays as scores and a function as metric.

    Raises:
        DataError, TrainingError: there is no such file or function, or PyTorch is not installed.
    """
    selection, data = options.selection, options.data
    if isinstance(selection.scores, str | Path):
        selection = replace(selection, scores=_as_scores(read_arrays(selection.scores, "--scores")))
    elif selection.scores is not None:
        selection = replace(selection, scores=_as_scores(selection.scores))
    if isinstance(data.labels, str | Path):
        check_exists(data.labels, "--labels")
    check_source(data.data, data.preprocess)
    if isinstance(data.metric, str):
        data = replace(data, metric=function_named(data.metric, "--metric"))
    if options.recovery.recover == "distill":
        import onnxprune.training  # noqa: F401  # slow; raises an error that says what to install
    return replace(options, selection=selection, data=data)


def _as_scores(given: Mapping[str, Any]) -> dict[str, Array]:
    """Scores as arrays of finite numbers; whether they fit the model's weights is checked when there is a graph."""
    found = {name: np.asarray(x) for name, x in given.items()}
    for name, scores in found.items():
        if not name:
            raise DataError("--scores: got a single array, expected an .npz with one array per weight, named as the weight")
        if scores.dtype.kind not in "fiub" or not np.isfinite(scores).all():
            got = "NaN or infinity" if scores.dtype.kind == "f" else f"{scores.dtype} values"
            raise DataError(f"--scores: '{name}' contains {got}, expected finite numbers, one per output channel")
    return found


def _read_data(loaded: Loaded, options: Options, progress: Progress) -> Data | None:
    """The samples that --data names."""
    given = options.data
    if given.data is None:
        return None
    return load_data(
        given.data,
        loaded.model,
        preprocess=given.preprocess,
        samples=given.samples,
        seed=given.seed,
        labels=given.labels,
        shapes=given.input_shape,
        path=loaded.name,
        refine=refinement(),
        progress=lambda done: progress("data", done),
    )


def _batches(data: Data) -> list[Feeds]:
    """Calibration inputs."""
    from onnxprune.recovery.methods import batches_of  # on demand, for a quick start

    return batches_of(data)


def _warnings(loaded: Loaded, verification: Verification | None) -> tuple[str, ...]:
    """What is wrong with the original, whether it was mended or remains."""
    remains = verification.flaw if verification else ""
    what = f"onnx.checker rejects the original, which runs nevertheless, and the result likewise: {remains}"
    return (*loaded.warnings, *([what] if remains else []))


def _verified(decision: Decision, checks: CheckOptions, progress: Progress) -> Verification | None:
    if not checks.verify:
        return None
    coupled = decision.analysis.coupled
    return verify(coupled, decision.dropped, decision.pruned, lambda done: progress("verify", done))


def _recovered(
    options: Options, outcome: Outcome, samples: Samples | None, judge: Evaluator | None, progress: Progress
) -> Recovery | None:
    """The best recovered model; it may differ from the verified one only in its weights."""
    if samples is None or judge is None:
        return None
    from onnxprune.recovery.methods import Task, recover  # on demand, for a quick start

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
    recovery = recover(task, options.recovery.recover, judge, progress)
    check_contract(decision.pruned, recovery.model, only_weights(recovery.added | outcome.added))
    return recovery


def _measured(
    loaded: Loaded, model: ModelProto, shapes: Shapes, checks: CheckOptions, run: Runner, progress: Progress
) -> Findings:
    """The cost of the original and of the result."""
    before = cost(loaded.model, shapes, loaded.size)
    after = cost(model, before.inputs)
    if not checks.bench:
        return Findings(before, after)
    models, feeds = (loaded.model, model), benchmark.random_feeds(loaded.model, before.inputs)
    timing = benchmark.benchmark(models, feeds, checks.threads, progress=lambda done: progress("benchmark", done), run=run)
    return Findings(before, after, timing=timing)


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
    analysis = analyse(read_graph(loaded.model, shapes), plan.policy)
    dropped = dropped_by(analysis.coupled, plan)
    try:
        pruned = cut(analysis.coupled, dropped, spill := spill_for(loaded.model))
    except CutError as e:
        raise PlanError(f"{loaded.name}: the plan cannot be applied: {e.message}") from e
    progress("analyse", 1)
    differs = bool(plan.model_sha256 and loaded.sha256 and plan.model_sha256 != loaded.sha256)
    notes = (
        ("the plan was made for a file with different contents (a retrained copy?); names and shapes match",) if differs else ()
    )
    decision = Decision(analysis, dropped, pruned, analysis.groups, notes, spill=spill)
    verification = _verified(decision, checks, progress)
    found = _measured(loaded, pruned, shapes, checks, run, progress)
    found = replace(found, verification=verification, warnings=_warnings(loaded, verification))
    made_by: Mapping[str, Any] = {k: v for k, v in plan.made_by.items() if k != "recovered"}
    report = report_of(loaded.name, decision, found, made_by or {"plan": "given"}, "from the plan")
    return Result(
        pruned, replace(plan, made_by=made_by, model_sha256=loaded.sha256), report, loaded.external, spill, loaded.files
    )


def verify_loaded(original: Loaded, pruned: Loaded, plan: Plan, shapes: Shapes) -> Verification:
    """Compare a loaded pruned model with its original without the channels that a plan removes.

    Raises:
        PlanError: the plan does not fit the original.
        VerificationError: the two do not compute the same outputs.
    """
    coupled = analyse(read_graph(original.model, shapes), plan.policy).coupled
    dropped = dropped_by(coupled, plan)
    if not plan.recovered:
        return verify(coupled, dropped, pruned.model)
    bare = cut(coupled, dropped)
    check_contract(bare, pruned.model, only_weights())
    return verify(coupled, dropped, bare)
