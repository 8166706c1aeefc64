# SPDX-License-Identifier: Apache-2.0
"""The pipeline, as functions: `prune`, `analyze`, `apply_plan`, `verify_files`."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnx import ModelProto

from onnxprune.analysis.policy import Policy
from onnxprune.cost import benchmark as bench
from onnxprune.errors import CutError, DataError, PlanError
from onnxprune.evaluation.verification import Verification, verify
from onnxprune.ir.facts import read_graph
from onnxprune.ir.files import Loaded, check_output, load, save, to_graphsurgeon
from onnxprune.ir.protofile import Spill, spill_for, take_all
from onnxprune.options import Options
from onnxprune.pipeline.decide import Analysis, Decision, analyse
from onnxprune.pipeline.rounds import in_rounds
from onnxprune.report.values import Report, make_report
from onnxprune.rewrite.cut import cut
from onnxprune.rewrite.plan import Plan, dropped_by, plan_of
from onnxprune.selection.criteria.names import CALIBRATED
from onnxprune.types import Progress, Shapes

if TYPE_CHECKING:  # loaded where something is recovered, not by everybody who imports the package
    from onnxprune.data import Data
    from onnxprune.evaluation.evaluator import Metric
    from onnxprune.pipeline.samples import Supply
    from onnxprune.recovery.methods import Recovery


def silent(stage: str, done: float) -> None:
    """The progress of nobody who watches."""


@dataclass(frozen=True)
class Result:
    """A pruned model.

    Attributes:
        model: the pruned model.
        plan: which positions of which weights it kept.
        report: what was asked, reached, proven and measured.
        external: whether the original kept its weights in other files; `save` then does too.
        spill: where large weights of `model` lie until it is saved.
    """

    model: ModelProto = field(repr=False)
    plan: Plan = field(repr=False)
    report: Report = field(repr=False)
    external: bool = False
    spill: Spill | None = field(default=None, repr=False, compare=False)

    def standing_alone(self) -> Result:
        """The same with all weights in memory."""
        take_all(self.model)
        return replace(self, spill=None)

    def save(self, path: str | Path, plan: str | Path | None = None, force: bool = True) -> None:
        """Write the model, and the plan if its path is given: both or none."""
        check_output(Path(path), force)
        save(self.model, Path(path), {Path(plan): self.plan.to_json()} if plan else {}, self.external)

    def to_graphsurgeon(self) -> Any:
        """The model as an `onnx_graphsurgeon.Graph`."""
        return to_graphsurgeon(self.model)


def analyze(model: Any, input_shape: Shapes | None = None, policy: Policy | None = None) -> Analysis:
    """Find the channels of a model that can be removed.

    Args:
        model: a path, an `onnx.ModelProto` or an `onnx_graphsurgeon.Graph`.
        input_shape: input name -> shape, for sizes that the file leaves open.
        policy: what is wished where several answers are right, as `Options.policy` makes it.

    >>> import onnxprune
    >>> found = onnxprune.analyze("models/resnet20-fashion-mnist.onnx")
    >>> [(g.name, len(g)) for g in found.groups[:2]]
    [('conv.weight', 16), ('layer1.0.conv1.weight', 16)]
    >>> print(found.held[0].pin)
    output 'logits' promises its size to the user
    """
    return analyse(read_graph(load(model).model, input_shape), {}, policy)


def prune(model: Any, ratio: float | None = None, progress: Progress = silent, **options: Any) -> Result:
    """Remove channels from a trained model.

    Args:
        model: a path, an `onnx.ModelProto` or an `onnx_graphsurgeon.Graph`; it is not changed.
        ratio: fraction of prunable channels to remove, 0 <= ratio < 1; or give `macs`, what may remain ("50%", "300M").
        progress: told what is being done.
        options: fields of `Options`.

    Raises:
        PruneError: the input or an option is wrong, or the result could not be verified.

    >>> import onnxprune
    >>> result = onnxprune.prune("models/resnet20-fashion-mnist.onnx", ratio=0.5, align="none", recover="none", bench=False)
    >>> f"{result.report.ratio:.0%} of the channels"
    '50% of the channels'
    >>> result.report.macs.kept < 0.5, result.report.verification.error < 1e-5
    (True, True)
    """
    return prune_loaded(load(model), Options(ratio, **options), progress).standing_alone()


def prune_loaded(loaded: Loaded, options: Options, progress: Progress = silent) -> Result:
    """`prune` for a model that was read: analyse it, decide what goes, prove and measure what is left.

    The weights of a large model are not in memory: they lie in its file, or in one of the result, until that is saved.
    """
    from onnxprune.evaluation.evaluator import Judge
    from onnxprune.evaluation.structure import check_refitted
    from onnxprune.recovery.methods import Task, batches_of, recover

    if options.recover == "distill":
        importlib.import_module("onnxprune.training")  # says what to install, before any work
    data, metric = _wanted_data(loaded, options, progress)
    progress("analyse", 0)
    graph = read_graph(loaded.model, options.input_shape)
    supply = _supply(loaded, options, data, progress)
    rounds = options.rounds > 1 or options.chosen_criterion in CALIBRATED
    batches = batches_of(supply.fit) if supply and rounds else ()
    outcome = in_rounds(graph, options, loaded.name, batches, lambda done: progress("analyse", done))
    progress("analyse", 1)
    decision, recovery = outcome.decision, None
    proof = _proof(decision, options, progress)
    if supply:
        task = Task(
            decision.analysis.coupled,
            decision.dropped,
            decision.pruned,
            outcome.start,
            supply.fit,
            supply.held_out,
            supply.genuine,
            options.seconds(),
            options.seed,
        )
        judge = Judge(loaded.model, supply.held_out, metric, options.seed)
        recovery = recover(task, options.recover, judge, supply, progress)
        check_refitted(decision.pruned, recovery.model)
    made_by = {**options.asked(), **({"recovered": recovery.method} if recovery and recovery.method != "none" else {})}
    plan = plan_of(decision.analysis.coupled, decision.dropped, loaded.sha256, made_by)
    result = _judged(loaded, decision, plan, options, proof, recovery, metric, progress)
    warnings = data.warnings if data else ()
    return replace(result, report=replace(result.report, warnings=(*warnings, *result.report.warnings)))


def _supply(loaded: Loaded, options: Options, data: Data | None, progress: Progress) -> Supply | None:
    """Inputs to recover and to judge with: the user's, else made-up ones where something is to be recovered."""
    from onnxprune.data import load_data
    from onnxprune.pipeline.samples import given, made

    if data is not None:
        name = str(options.data) if isinstance(options.data, str | Path) else "the given arrays"
        fitted = options.recover != "none" or options.chosen_criterion in CALIBRATED
        return given(data, name, options.seed, fitted)
    if options.recover == "none":
        return None
    macs = bench.cost(loaded.model, options.input_shape, loaded.size).macs

    def make(count: int) -> Data:
        return load_data(
            "synthetic",
            loaded.model,
            samples=count,
            seed=options.seed,
            shapes=options.input_shape,
            progress=lambda done: progress("inputs", done),
        )

    try:
        return made(loaded.model, make, macs, options.seed)
    except DataError:
        if options.recover == "auto" and options.rounds == 1:
            return None
        raise


def _proof(decision: Decision, options: Options, progress: Progress) -> Verification | None:
    if not options.verify:
        return None
    return verify(decision.analysis.coupled, decision.dropped, decision.pruned, lambda done: progress("verify", done))


def _wanted_data(loaded: Loaded, options: Options, progress: Progress) -> tuple[Data | None, Metric | None]:
    """What --data, and what says how good a result is."""
    from onnxprune.data import function_named, load_data

    metric = function_named(options.metric, "--metric") if isinstance(options.metric, str) else options.metric
    if options.data is None:
        return None, metric
    data = load_data(
        options.data,
        loaded.model,
        preprocess=options.preprocess,
        samples=options.samples,
        seed=options.seed,
        labels=options.labels,
        shapes=options.input_shape,
        path=loaded.name,
        progress=lambda done: progress("data", done),
    )
    return data, metric


def apply_plan(model: Any, plan: Plan | str | Path, progress: Progress = silent, **options: Any) -> Result:
    """Cut a model by a plan made earlier, also a retrained copy of the model that the plan was made for.

    Args:
        model, progress, options: as for `prune`.
        plan: a plan, or the path of one.

    Raises:
        PlanError: the plan does not fit this model.
    """
    loaded = load(model)
    plan = plan if isinstance(plan, Plan) else Plan.load(plan)
    wish = Options(0.0, **{"recover": "none", **options})
    progress("analyse", 0)
    analysis = analyse(read_graph(loaded.model, wish.input_shape), {}, plan.policy)
    dropped = dropped_by(analysis.coupled, plan)
    try:
        pruned = cut(analysis.coupled, dropped, spill := spill_for(loaded.model))
    except CutError as e:
        raise PlanError(f"{loaded.name}: the plan cannot be carried out: {e}") from e
    other = bool(plan.model_sha256 and loaded.sha256 and plan.model_sha256 != loaded.sha256)
    notes = ("the plan was made for a file with other contents (a retrained copy?); names and shapes fit",) if other else ()
    decision = Decision(analysis, dropped, pruned, analysis.groups, notes, spill)
    plan = replace(plan, made_by={k: v for k, v in plan.made_by.items() if k != "recovered"})
    result = _judged(loaded, decision, plan, wish, _proof(decision, wish, progress), None, None, progress)
    report = replace(result.report, asked=plan.made_by or {"plan": "given"}, align_reason="as planned")
    return replace(result.standing_alone(), plan=replace(plan, model_sha256=loaded.sha256), report=report)


def verify_files(original: Any, pruned: Any, plan: Plan | str | Path, input_shape: Shapes | None = None) -> Verification:
    """Prove that `pruned` is `original` with the channels of `plan` removed.

    Where the plan says that weights were refitted after the cut, it is the cut that is proven, and that `pruned` differs from
    it in nothing but the values of weights.

    Raises:
        PlanError: the plan does not fit the original.
        VerificationError: the two compute different things.
    """
    plan = plan if isinstance(plan, Plan) else Plan.load(plan)
    analysis = analyse(read_graph(load(original).model, input_shape), {}, plan.policy)
    dropped, given_model = dropped_by(analysis.coupled, plan), load(pruned).model
    if not plan.recovered:
        return verify(analysis.coupled, dropped, given_model)
    from onnxprune.evaluation.structure import check_refitted

    bare = cut(analysis.coupled, dropped)
    check_refitted(bare, given_model)
    return verify(analysis.coupled, dropped, bare)


def _judged(
    loaded: Loaded,
    decision: Decision,
    plan: Plan,
    options: Options,
    proof: Verification | None,
    recovery: Recovery | None,
    metric: Metric | None,
    progress: Progress,
) -> Result:
    """Time and report."""
    timing, model = None, recovery.model if recovery else decision.pruned
    before = bench.cost(loaded.model, options.input_shape, loaded.size)
    after = bench.cost(model, before.inputs)
    if options.bench:
        models, feeds = (loaded.model, model), bench.random_feeds(loaded.model, before.inputs)
        timing = bench.benchmark(models, feeds, options.threads, progress=lambda done: progress("benchmark", done))
    report = make_report(loaded.name, decision, options, before, after, proof, timing, recovery)
    if metric:
        report = replace(report, measure=metric.__name__)
    return Result(model, plan, report, loaded.external, decision.spill)
