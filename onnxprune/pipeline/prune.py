# SPDX-License-Identifier: Apache-2.0
"""Prune a loaded model, or apply or verify an existing plan."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import ModelProto

from onnxprune.analysis.analyse import Analysis, analyse
from onnxprune.compression.carrier import unified_names
from onnxprune.cost.benchmark import Runner, in_this_process
from onnxprune.cost.size import cost
from onnxprune.data.arrays import inputs_of
from onnxprune.data.load import load_data
from onnxprune.data.samples import Data
from onnxprune.data.user_code import name_of
from onnxprune.effort import Clock, Effort
from onnxprune.errors import ModelError, OptionError
from onnxprune.evaluation.evaluator import Evaluator, Metric
from onnxprune.evaluation.structure import check_contract, only_weights
from onnxprune.ir.facts import read_graph
from onnxprune.ir.files import Loaded, marked
from onnxprune.ir.sharing import shared_again
from onnxprune.ir.tensors import size_of, take_all
from onnxprune.options import SAID, Options
from onnxprune.pipeline.components import DEFAULT, Components
from onnxprune.pipeline.constants import folding
from onnxprune.pipeline.decide import Decision, Scoring, check_selection, eligible, scoring
from onnxprune.pipeline.depth import shallower
from onnxprune.pipeline.goal import Goal
from onnxprune.pipeline.measured import measured, seeded_feeds, verified, warnings_of
from onnxprune.pipeline.orders import Orders, best_order, orders_of
from onnxprune.pipeline.refusal import of_options, refuses
from onnxprune.pipeline.result import Result
from onnxprune.pipeline.rounds import copy_of, in_rounds
from onnxprune.pipeline.samples import MAKING, Samples, check_inputs, check_sizes, made_up, provide, refinement, sizes_with
from onnxprune.pipeline.summary import Findings, report_of
from onnxprune.rewrite.plan import Plan, plan_of
from onnxprune.selection.strategy import Strategy
from onnxprune.types import Array, Feeds, Progress, silent

if TYPE_CHECKING:
    from onnxprune.pipeline.blocks import InBlocks
    from onnxprune.pipeline.loss import Loss
    from onnxprune.recovery.methods import Recovery

BEFORE_BLOCKS = 0.25
"""Fraction of the time that is left for the cut and its recovery, if weights are unified afterwards."""


@refuses(of_options)
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
    loaded = marked(loaded)
    check_not_unified(loaded)
    if options.unification.on:
        _check_blocks(loaded, options)
    if options.selection.depth:
        check_depth(options)
    graph = read_graph(loaded.model, options.data.input_shape)
    analysis = analyse(graph, options.selection.policy())
    check_selection(analysis, options.selection, loaded.name)
    check_inputs(loaded.model, options)
    progress("analyse", 1)
    if options.selection.latency is not None and options.selection.profile is None:
        profile = components.profile(options.checks.threads, progress)
        options = replace(options, selection=replace(options.selection, profile=profile))
    work = options.recovery.work
    assert not isinstance(work, str | Path)
    effort = Effort(Clock(math.inf if work else options.seconds()), work)
    data = read_data(loaded, options, effort, progress)
    given = options.data.input_shape
    if data is not None and data.made is None and (shapes := sizes_with(data, given)) != given:
        options = replace(options, data=replace(options.data, input_shape=shapes))
        if any(-1 in (f.shape or (-1,)) for f in inputs_of(loaded.model).values()):
            analysis = analyse(read_graph(loaded.model, shapes), options.selection.policy())
    numbers, allowed = data.integers if data else None, eligible(analysis, options.selection, loaded.name)
    samples = provide(loaded, options, data, components.make, effort, progress)
    judge = _judge(loaded, options, samples, metric)
    constants = folding(analysis, allowed, not _may_recover(options, judge), options.checks.verify, numbers)
    analysis = constants.analysis
    own = effort.within(BEFORE_BLOCKS) if options.unification.on else effort

    def chosen(options: Options, effort: Effort) -> tuple[Decision, Recovery | None]:
        goal = _goal(loaded, options, components, judge, samples.fit.integers if samples else None, effort, progress)
        orders = orders_of(options, components.strategy, goal, judge)
        if not options.selection.depth:
            return _best_cut(loaded, analysis, options, components, samples, judge, effort, progress, goal, orders)
        assert judge is not None
        model = analysis.coupled.graph.model if constants.constant else loaded.model
        sets, amounts = components.sets(analysis, model, judge, progress), goal.of(analysis.coupled)

        def attempt(shorter: Analysis, effort: Effort) -> tuple[Decision, Recovery | None]:
            nonlocal orders
            teacher = None if shorter is analysis else analysis
            cut = _best_cut(loaded, shorter, options, components, samples, judge, effort, progress, amounts, orders, teacher)
            orders = {order: orders[order] for order in (cut[0].order,)}  # the best for the whole serves the shorter ones
            return cut

        return shallower(analysis, model, sets, attempt, effort)

    searched = options.selection.searches
    decision, recovery = _deepest_cut(chosen, options, own) if searched else chosen(options, own)
    decision = constants.marked(decision)
    verification = verified(decision, options.checks, progress, numbers)
    if recovery is not None:
        check_contract(decision.pruned, recovery.model, only_weights(recovery.added))
    model = shared_again(recovery.model if recovery else decision.pruned, decision.pruned, decision.analysis.coupled.graph)
    unified = None
    if options.unification.on:
        unified = _unified(loaded, decision, model, options, samples, judge, effort, progress, numbers)
    found = measured(loaded, model, options.data.input_shape, options.checks, components.run, progress, numbers, unified)
    found = replace(
        found,
        verification=verification,
        recovery=recovery,
        samples=samples,
        work=dict(effort.done),
        measure=name_of(metric),
        warnings=(*warnings_of(loaded, verification), *(data.warnings if data else ())),
        unified=unified,
    )
    made_by = _made_by(options.asked(), found)
    plan = plan_of(decision.analysis.coupled, decision.dropped, loaded.sha256, made_by, False, loaded.derived, constants.added)
    plan = replace(plan, blocks=unified.masks if unified else {}, removed=decision.removed, constant=constants.constant)
    return _result(loaded, decision, model, plan, options, options.asked(), found)


@refuses(of_options)
def unify_loaded(loaded: Loaded, options: Options, progress: Progress = silent, run: Runner = in_this_process) -> Result:
    """Unify the weights of a loaded model in blocks; no channel is removed.

    Args:
        loaded: the model.
        options: the user's options, as returned by `resolved`; its ratio is not used.
        progress: called with the name of a stage and the fraction done, 0 to 1.
        run: runs the models to measure their latency.

    Raises:
        PruneError: the input or an option is wrong, or the result could not be verified. Errors that follow from the
            options and the graph alone are raised before any sample is generated or read.
    """
    metric = options.data.metric
    assert not isinstance(metric, str)
    progress("analyse", 0)
    loaded = marked(loaded)
    _check_blocks(loaded, options)
    check_inputs(loaded.model, options)
    analysis = analyse(read_graph(loaded.model, options.data.input_shape))
    work = options.recovery.work
    assert not isinstance(work, str | Path)
    effort = Effort(Clock(math.inf if work else options.recovery.seconds()), work)
    progress("analyse", 1)
    data = read_data(loaded, options, effort, progress)
    if data is not None and data.made is None:
        options = replace(options, data=replace(options.data, input_shape=sizes_with(data, options.data.input_shape)))
    samples = provide(loaded, options, data, made_up, effort, progress)
    judge = _judge(loaded, options, samples, metric)
    nothing = np.zeros(len(analysis.coupled.free), bool)
    decision = Decision(analysis, nothing, loaded.model, ())
    numbers = data.integers if data else None
    unified = _unified(loaded, decision, loaded.model, options, samples, judge, effort, progress, numbers)
    shapes = options.data.input_shape
    found = measured(loaded, unified.numbers, shapes, options.checks, run, progress, numbers, unified)
    found = replace(
        found,
        samples=samples,
        work=dict(effort.done),
        measure=name_of(metric),
        warnings=(*loaded.warnings, *(data.warnings if data else ())),
        unified=unified,
    )
    asked = {SAID.get(name, name): value for name, value in options.unification.asked().items()}
    asked["recover"] = options.recovery.recover
    plan = Plan(loaded.sha256, {}, _made_by(asked, found), blocks=unified.masks)
    return _result(loaded, decision, loaded.model, plan, options, asked, found)


def _result(
    loaded: Loaded,
    decision: Decision,
    model: ModelProto,
    plan: Plan,
    options: Options,
    asked: Mapping[str, Any],
    found: Findings,
) -> Result:
    """What is returned: the model, in blocks if it is unified, and the report."""
    reason = options.selection.alignment().reason if "align" in asked else ""
    report = report_of(loaded.name, decision, found, asked, reason)
    report = replace(report, notes=(*_taken(loaded.model, found, options), *report.notes))
    written = found.unified.model if found.unified else model
    return Result(written, plan, report, loaded.external, decision.spill, loaded.files, unchanged=loaded.check_unchanged)


def check_not_unified(loaded: Loaded) -> None:
    """Reject a model whose weights are in blocks already.

    Raises:
        ModelError: they are.
    """
    if names := unified_names(loaded.model):
        why = f"has already unified weights, such as '{names[0]}', whose channels cannot be removed"
        raise ModelError(f"{loaded.name}: {why}; cut the original, with --unify")


def check_depth(options: Options) -> None:
    """Reject what does not go with `depth`, before any sample is read.

    Raises:
        OptionError: it needs what is not given, or does not go with what is.
    """
    if not options.data.given:
        raise OptionError("--depth: requires --data, typical inputs: what a branch is worth shows only there")
    if options.recovery.recover == "none":
        raise OptionError("--depth: got --recover none, expected a recovery, which has to make up for whole branches")
    if options.unification.on:
        raise OptionError("--depth: does not go with --unify; unify the result with 'onnxprune unify'")


def _check_blocks(loaded: Loaded, options: Options) -> None:
    from onnxprune.pipeline.blocks import check_blocks  # on demand, for a quick start

    check_blocks(loaded.model, options.unification, loaded.name)


def _unified(
    loaded: Loaded,
    decision: Decision,
    model: ModelProto,
    options: Options,
    samples: Samples | None,
    judge: Evaluator | None,
    effort: Effort,
    progress: Progress,
    numbers: Mapping[str, Array] | None,
) -> InBlocks:
    """The cut model, as recovered, with its weights in blocks.

    Raises:
        OptionError: there are no inputs to fit to that resemble real ones.
    """
    from onnxprune.pipeline.blocks import in_blocks  # on demand, for a quick start
    from onnxprune.recovery.methods import Task

    method = options.recovery.recover
    if method != "none" and judge is None:
        raise OptionError(
            "unification: needs inputs to fit to, and made-up ones do not fit the BatchNorm statistics of this model; give a "
            "few dozen typical inputs with --data, or take --recover none"
        )
    fit = samples.fit if samples and method != "none" else None
    task = Task(decision.analysis.coupled, decision.dropped, model, fit, effort.within(1.0, "unify, "), options.data.seed)
    feeds = seeded_feeds(loaded, options.data.input_shape, numbers)
    return in_blocks(task, options.unification, method, judge, feeds, options.checks, progress)


def _made_by(asked: Mapping[str, Any], found: Findings) -> dict[str, Any]:
    """How the plan was made."""
    methods = [tried.method for tried in (found.recovery, found.unified.recovery if found.unified else None) if tried]
    refitted = [method for method in methods if method != "none"]
    return {
        **asked,
        **({"recovered": refitted[-1]} if refitted else {}),
        **({"work": found.work} if found.work else {}),
    }


def _taken(model: ModelProto, found: Findings, options: Options) -> tuple[str, ...]:
    """A note on sizes that neither the file nor the user states."""
    given = options.data.input_shape
    names = [n for n, f in inputs_of(model).items() if n not in given and -1 in (f.shape or (-1,))[1:]]
    if not names:
        return ()
    shapes = ", ".join(f"{n} {'x'.join(map(str, found.before.inputs[n]))}" for n in names if n in found.before.inputs)
    return (f"the file leaves sizes open; taken for MACs and latency: {shapes} (--input-shape or --data sets them)",)


def _judge(loaded: Loaded, options: Options, samples: Samples | None, metric: Metric | None) -> Evaluator | None:
    """Judges candidates on held-out samples; None if there are none, or only made-up ones that are not like real ones."""
    if samples is None or not (samples.trusted or options.recovery.recover != "auto"):
        return None
    return Evaluator(loaded.model, samples.held_out, metric, options.data.seed)


def _best_cut(
    loaded: Loaded,
    analysis: Analysis,
    options: Options,
    components: Components,
    samples: Samples | None,
    judge: Evaluator | None,
    effort: Effort,
    progress: Progress,
    goal: Goal,
    orders: Orders,
    teacher: Analysis | None = None,
) -> tuple[Decision, Recovery | None]:
    """The cut and its recovery; channels are chosen in rounds only if that does better on held-out samples than one round.

    Args:
        analysis: of the model that is cut.
        goal: what must be reached.
        orders: the orders in which channels may go, by what they are called in reports; the best is kept.
        teacher: the analysis of the model that weights are fitted to; None: that is `analysis`.
    """
    rounds = options.recovery.rounds
    batches = _batches(samples.fit, loaded.model) if samples and (rounds > 1 or options.calibrated) else ()
    fit = samples.fit if samples and judge else None

    def cut_by(strategy: Strategy, options: Options, effort: Effort, score: Scoring | None = None) -> Decision:
        return in_rounds(
            analysis,
            options,
            loaded.name,
            batches,
            strategy=strategy,
            score=score,
            recover=components.recover,
            goal=goal,
            effort=effort,
            progress=lambda done: progress("cut", done),
        )

    def recovered(decision: Decision, effort: Effort) -> tuple[Decision, Recovery | None]:
        return decision, _recovered(options, replace(decision, whole=teacher), fit, judge, effort, progress)

    def lost(decision: Decision) -> float:
        assert judge is not None
        if options.recovery.recover == "none":
            return judge.judge(decision.pruned).loss
        (coupled, dropped), model = replace(decision, whole=teacher).of_whole(), copy_of(decision.pruned)
        take_all(model)
        return judge.judge(components.recover.run(coupled, dropped, model, batches, options.data.seed).model).loss

    once = replace(options, recovery=replace(options.recovery, rounds=1))
    own = effort if rounds == 1 or judge is None else effort.within(1 / (rounds + 1))
    cutting = own.within(0.5)
    score = scoring(options, batches, cutting.within(1.0 if len(orders) == 1 else 0.5))
    decision = best_order(orders, lambda strategy: cut_by(strategy, once, cutting, score), lost, cutting)
    single = recovered(decision, own)
    if rounds == 1 or judge is None:
        return single
    later = effort.within(1.0, "in rounds: ")
    several = recovered(replace(cut_by(orders[decision.order], options, later.within(0.5)), order=decision.order), later)
    losses = [r.chosen.loss for _, r in (single, several) if r is not None and r.chosen is not None]
    better = several if losses[1] < losses[0] else single
    said = ", ".join(f"{name} {loss:.3f}" for name, loss in zip(("one round", f"{rounds} rounds"), losses, strict=True))
    kept = "several rounds were" if better is several else "one round was"
    note = f"loss on held-out samples: {said}; {kept} kept"
    return replace(better[0], notes=(*better[0].notes, note)), better[1]


def _goal(
    loaded: Loaded,
    options: Options,
    components: Components,
    judge: Evaluator | None,
    numbers: Mapping[str, Array] | None,
    effort: Effort,
    progress: Progress,
) -> Goal:
    """What the cut must reach; the size of the files is that after recovery and unification.

    The time in which latencies are measured is none of that of `effort`.
    """
    goal, asked = components.goal(options.selection), options.unification
    if (latency := options.selection.targets().get("latency")) is not None:
        from onnxprune.pipeline.latency import stopwatch, with_latency  # on demand, for a quick start

        shapes = cost(loaded.model, options.data.input_shape, loaded.size).inputs
        threads, seed, lanes = options.checks.threads, options.data.seed, options.selection.fast_widths().multiple
        watch = components.watch or stopwatch(loaded.model, shapes, numbers, threads, components.run, seed, progress, lanes)
        goal = with_latency(goal, latency, str(options.selection.latency), watch, effort.clock.stopped)
    fits = judge is not None and options.recovery.recover != "none"
    if not (fits or asked.on) or not any(budget.target == "size" for budget in goal.budgets):
        return goal
    from onnxprune.pipeline.blocks import size_in_blocks, sized  # on demand, for a quick start
    from onnxprune.recovery.reconstruct import room_for_offsets

    def measured(model: ModelProto) -> float:
        return (size_in_blocks(model, asked) if asked.on else size_of(model)) + (room_for_offsets(model) if fits else 0)

    return sized(goal, measured, asked)


def _deepest_cut(
    chosen: Callable[[Options, Effort], tuple[Decision, Recovery | None]], options: Options, effort: Effort
) -> tuple[Decision, Recovery | None]:
    """The deepest cut that loses no more than is allowed, and its recovery; `chosen` makes a cut that options state."""
    from onnxprune.pipeline.loss import deepest, loss_of  # on demand, for a quick start

    measure = name_of(options.data.metric if callable(options.data.metric) else None)

    def attempt(share: float, effort: Effort) -> tuple[Decision, Recovery | None]:
        return chosen(replace(options, selection=replace(options.selection, macs=f"{share:.3%}")), effort)

    def loss(recovery: Recovery | None) -> Loss:
        assert recovery is not None
        assert recovery.before is not None
        assert recovery.chosen is not None
        return loss_of(recovery.chosen, recovery.before, measure)

    return deepest(attempt, loss, options.selection.most_lost() or 0.0, effort)


def read_data(loaded: Loaded, options: Options, effort: Effort, progress: Progress) -> Data | None:
    """The samples that --data names, with labels that can be compared with the model's first output.

    Raises:
        DataError: they cannot be read, or do not match the model; or the labels do not, and there is no metric.
        OptionError: `input_shape` contradicts them.
    """
    given = options.data
    if given.data is None:
        return None
    data = load_data(
        given.data,
        loaded.model,
        preprocess=given.preprocess,
        samples=given.samples,
        seed=given.seed,
        labels=given.labels,
        shapes=given.input_shape,
        path=loaded.name,
        refine=refinement(),
        effort=effort.within(MAKING),
        progress=lambda done: progress("data", done),
    )
    check_sizes(data, given.input_shape)
    if data.labels is None or given.metric is not None:
        return data
    from onnxprune.evaluation.answers import with_class_numbers  # on demand, for a quick start

    return with_class_numbers(loaded.model, data, "--labels" if given.labels is not None else "--data")


def _batches(data: Data, model: ModelProto) -> list[Feeds]:
    """Calibration inputs."""
    from onnxprune.data.batching import batched  # on demand, for a quick start

    return batched(data, model)


def _may_recover(options: Options, judge: Evaluator | None) -> bool:
    """Whether weights that are kept may change: without inputs that resemble real ones, only biases, if that is asked for."""
    method = options.recovery.recover
    return method == "bias" or (judge is not None and method != "none")


def _recovered(
    options: Options, decision: Decision, fit: Data | None, judge: Evaluator | None, effort: Effort, progress: Progress
) -> Recovery | None:
    """The best recovered model; it may differ from the cut one only in its weights."""
    if not _may_recover(options, judge) and judge is None:
        return None
    method = options.recovery.recover
    from onnxprune.recovery.methods import Task, recover  # on demand, for a quick start

    coupled, dropped = decision.of_whole()
    return recover(Task(coupled, dropped, decision.pruned, fit, effort, options.data.seed), method, judge, progress)
