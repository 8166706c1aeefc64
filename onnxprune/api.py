# SPDX-License-Identifier: Apache-2.0
"""The pipeline: load -> graph -> couple -> groups -> score -> select -> cut -> verify -> benchmark -> report."""

from __future__ import annotations

import fnmatch
import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from onnxprune import benchmark as bench
from onnxprune.coupling import Coupled, couple
from onnxprune.data import Data, accuracy, load_data, read_arrays
from onnxprune.errors import CutError, ModelError, OptionError, PlanError, PruneError
from onnxprune.facts import read_graph
from onnxprune.graph import Graph
from onnxprune.groups import Group, Held, find_groups, find_held
from onnxprune.io import Loaded, check_output, load, save, to_graphsurgeon
from onnxprune.plan import Plan, dropped_by, plan_of
from onnxprune.report import Change, GroupRow, PinRow, Report, cost_changes
from onnxprune.rewrite import cut
from onnxprune.scoring import NAMES, Scored, score_groups, scores_from_file
from onnxprune.selection import Alignment, Budget, auto_alignment, keep_one_everywhere, select
from onnxprune.verify import Feeds, Verification, verify

Progress = Callable[[str, float], None]
Shapes = Mapping[str, Sequence[int]]
MOST_RETRIES = 30
RECOVERIES = ("none",)


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asked for; each field is an option of the command line.

    Attributes:
        ratio: fraction of prunable channels to remove, 0 <= ratio < 1.
        criterion: a name in `onnxprune.scoring.NAMES`.
        scope: "global" or "local".
        align: "auto", "none", or a number of channels.
        scores: path of an .npz, or weight name -> scores, instead of the criterion.
        include, exclude: patterns of weight names that may, or may not, be cut.
        data: path of an .npz with inputs, and labels to measure accuracy.
        input_shape: input name -> shape, for sizes that the file leaves open.
        recover: what is done to keep accuracy after the cut.
        verify, bench: whether to prove and to time the result.
        threads: threads of onnxruntime in the benchmark.
        seed: seed of the criterion `random`.
    """

    ratio: float
    criterion: str = "ccprune"
    scope: str = "global"
    align: str | int = "auto"
    scores: str | Path | Mapping[str, NDArray[Any]] | None = None
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    data: str | Path | None = None
    input_shape: Shapes = field(default_factory=dict)
    recover: str = "none"
    verify: bool = True
    bench: bool = True
    threads: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what is out of range, before any work."""
        if not 0 <= self.ratio < 1:
            raise OptionError(f"--ratio: got {self.ratio:g}, expected 0 <= ratio < 1, the fraction of channels to remove (0.5 = half)")
        if self.criterion not in NAMES:
            near = difflib.get_close_matches(self.criterion, NAMES, 1)
            hint = f"did you mean '{near[0]}'? " if near else ""
            raise OptionError(f"--criterion: got '{self.criterion}'; {hint}expected one of {', '.join(NAMES)}")
        if self.scope not in ("global", "local"):
            raise OptionError(f"--scope: got '{self.scope}', expected global or local")
        if self.recover not in RECOVERIES:
            raise OptionError(f"--recover: got '{self.recover}', expected one of {', '.join(RECOVERIES)}")
        if self.threads < 1:
            raise OptionError(f"--threads: got {self.threads}, expected at least 1")
        self.alignment()

    def alignment(self) -> Alignment:
        """The multiple that widths are rounded to."""
        text = str(self.align).lower()
        if text == "auto":
            return auto_alignment()
        if text == "none":
            return Alignment(1, "not asked for")
        if text.isdigit() and int(text) > 0:
            return Alignment(int(text), "as asked")
        raise OptionError(f"--align: got '{self.align}', expected auto, none, or a number of channels such as 8")

    def asked(self) -> dict[str, Any]:
        """The options that decide the cut, for plans and reports."""
        by = "scores" if self.scores is not None else self.criterion
        return {"ratio": self.ratio, "criterion": by, "scope": self.scope, "align": self.alignment().multiple, "recover": self.recover}


@dataclass(frozen=True)
class Analysis:
    """What can be cut, and what cannot.

    Attributes:
        coupled: labels, ties and pins.
        groups: channels that can be removed, by groups of one width.
        held: what holds other channels, largest first.
        refused: index of a node -> why it could not be cut, found when a cut was tried.
    """

    coupled: Coupled = field(repr=False)
    groups: tuple[Group, ...]
    held: tuple[Held, ...]
    refused: Mapping[int, str] = field(default_factory=dict)

    @property
    def prunable(self) -> int:
        """How many channels can be removed or kept one by one."""
        return sum(len(g) for g in self.groups)


@dataclass(frozen=True)
class Result:
    """A pruned model.

    Attributes:
        model: the pruned model.
        plan: which positions of which weights it kept.
        report: what was asked, reached, proven and measured.
        external: whether the original kept its weights in other files; `save` then does too.
    """

    model: ModelProto = field(repr=False)
    plan: Plan = field(repr=False)
    report: Report = field(repr=False)
    external: bool = False

    def save(self, path: str | Path, plan: str | Path | None = None, force: bool = True) -> None:
        """Write the model, and the plan if its path is given: both or none."""
        check_output(Path(path), force)
        save(self.model, Path(path), {Path(plan): self.plan.to_json()} if plan else {}, self.external)

    def to_graphsurgeon(self) -> Any:
        """The model as an `onnx_graphsurgeon.Graph`."""
        return to_graphsurgeon(self.model)


def analyze(model: Any, input_shape: Shapes | None = None) -> Analysis:
    """Find the channels of a model that can be removed.

    Args:
        model: a path, an `onnx.ModelProto` or an `onnx_graphsurgeon.Graph`.
        input_shape: input name -> shape, for sizes that the file leaves open.

    >>> import onnxprune
    >>> found = onnxprune.analyze("models/resnet20-fashion-mnist.onnx")
    >>> [(g.name, len(g)) for g in found.groups[:2]]
    [('conv.weight', 16), ('layer1.0.conv1.weight', 16)]
    >>> print(found.held[0].pin)
    output 'logits' promises its size to the user
    """
    return _analyse(read_graph(load(model).model, input_shape), {})


def _analyse(graph: Graph, refused: Mapping[int, str]) -> Analysis:
    coupled = couple(graph, refused)
    return Analysis(coupled, find_groups(coupled), find_held(coupled), refused)


def prune(model: Any, ratio: float, progress: Progress = lambda stage, done: None, **options: Any) -> Result:
    """Remove channels from a trained model.

    Args:
        model: a path, an `onnx.ModelProto` or an `onnx_graphsurgeon.Graph`; it is not changed.
        ratio: fraction of prunable channels to remove, 0 <= ratio < 1.
        progress: called with the name of a stage and how much of it is done, 0 to 1.
        options: fields of `Options`.

    Raises:
        PruneError: the input or an option is wrong, or the result could not be verified.

    >>> import onnxprune
    >>> result = onnxprune.prune("models/resnet20-fashion-mnist.onnx", ratio=0.5, align="none", bench=False)
    >>> f"{result.report.ratio:.0%} of the channels, {1 - result.report.macs.kept:.0%} of the MACs"
    '50% of the channels, 61% of the MACs'
    >>> result.report.verification.error < 1e-5
    True
    """
    return prune_loaded(load(model), Options(ratio, **options), progress)


def prune_loaded(loaded: Loaded, options: Options, progress: Progress = lambda stage, done: None) -> Result:
    """`prune` for a model that is in memory."""
    data = load_data(options.data, loaded.model) if options.data else None
    progress("analyse", 0)
    graph = read_graph(loaded.model, options.input_shape)
    decision = decide(graph, options, loaded.name)
    progress("cut", 1)
    plan = plan_of(decision.analysis.coupled, decision.dropped, loaded.sha256, options.asked())
    return _finish(loaded, decision, plan, options, data, progress)


def apply_plan(model: Any, plan: Plan | str | Path, progress: Progress = lambda stage, done: None, **options: Any) -> Result:
    """Cut a model by a plan made earlier, also a retrained copy of the model that the plan was made for.

    Raises:
        PlanError: the plan does not fit this model.
    """
    loaded = load(model)
    plan = plan if isinstance(plan, Plan) else Plan.load(plan)
    wish = Options(0.0, **options)
    progress("analyse", 0)
    graph = read_graph(loaded.model, wish.input_shape)
    analysis = _analyse(graph, {})
    dropped = dropped_by(analysis.coupled, plan)
    try:
        pruned = cut(analysis.coupled, dropped)
    except CutError as e:
        raise PlanError(f"{loaded.name}: the plan cannot be carried out: {e}") from e
    notes = ()
    if plan.model_sha256 and loaded.sha256 and plan.model_sha256 != loaded.sha256:
        notes = ("the plan was made for a file with other contents (a retrained copy?); names and shapes fit",)
    decision = Decision(analysis, dropped, pruned, Scored(()), notes)
    asked = {k: plan.made_by[k] for k in plan.made_by} or {"plan": "given"}
    result = _finish(loaded, decision, replace(plan, model_sha256=loaded.sha256), wish, None, progress)
    return replace(result, report=replace(result.report, asked=asked, align_reason="as planned", missed=False))


def verify_files(original: Any, pruned: Any, plan: Plan | str | Path, input_shape: Shapes | None = None) -> Verification:
    """Prove that `pruned` is `original` with the channels of `plan` removed.

    Raises:
        PlanError: the plan does not fit the original.
        VerificationError: the two compute different things.
    """
    plan = plan if isinstance(plan, Plan) else Plan.load(plan)
    loaded = load(original)
    analysis = _analyse(read_graph(loaded.model, input_shape), {})
    return verify(analysis.coupled, dropped_by(analysis.coupled, plan), load(pruned).model)


@dataclass(frozen=True)
class Decision:
    """Which labels go, and the model without them.

    Attributes:
        analysis: what the decision was made from.
        dropped: (n_labels,) True for labels that go.
        pruned: the model without them.
        scored: the scores behind it.
        notes: what the reader should know.
    """

    analysis: Analysis = field(repr=False)
    dropped: NDArray[np.bool_] = field(repr=False)
    pruned: ModelProto = field(repr=False)
    scored: Scored = field(repr=False)
    notes: tuple[str, ...] = ()
    eligible: tuple[Group, ...] = field(default=(), repr=False)


def decide(graph: Graph, options: Options, name: str) -> Decision:
    """Choose channels and cut them; a node that cannot follow keeps its channels, and the choice is made again."""
    refused: dict[int, str] = {}
    for _ in range(MOST_RETRIES):
        analysis = _analyse(graph, refused)
        if not analysis.groups:
            reason = f"; most are held because {analysis.held[0].pin}" if analysis.held else " (no convolution or matrix product)"
            raise ModelError(f"{name}: has no prunable channel{reason}. 'onnxprune inspect' lists all reasons")
        groups = _eligible(analysis, options)
        scored = _score(analysis.coupled, groups, options)
        dropped = _choose(analysis.coupled, groups, scored, options)
        try:
            return Decision(analysis, dropped, cut(analysis.coupled, dropped), scored, _notes(refused, scored, groups), groups)
        except CutError as e:
            for index in _around(graph, e.node_index) if e.node_index in refused else [e.node_index]:
                refused[index] = f"cannot follow a cut ({e})"
    raise PruneError(f"{name}: could not be cut after {MOST_RETRIES} tries; last: {list(refused.values())[-1]}")


def _around(graph: Graph, index: int) -> list[int]:
    """All nodes that a node depends on: where it fails although its own inputs are kept, sizes come from further up."""
    found, queue = {index}, [index]
    while queue:
        node = graph.nodes[queue.pop()]
        for tensor in (*node.inputs, *node.implicit):
            above = graph.producers.get(tensor)
            if above is not None and above.index not in found:
                found.add(above.index)
                queue.append(above.index)
    return sorted(found)


def _eligible(analysis: Analysis, options: Options) -> tuple[Group, ...]:
    """Groups that --include and --exclude leave: every producer included, no member excluded."""
    coupled = analysis.coupled
    names = sorted({o.weight for o in coupled.owners})
    for option, patterns in (("--include", options.include), ("--exclude", options.exclude)):
        for pattern in patterns:
            if not fnmatch.filter(names, pattern):
                near = difflib.get_close_matches(pattern.strip("*"), names, 3, 0.3) or names[:3]
                raise OptionError(f"{option}: '{pattern}' matches no weight; near names: {', '.join(near)}")

    def matches(weight: str, patterns: Sequence[str]) -> bool:
        return any(fnmatch.fnmatchcase(weight, p) for p in patterns)

    def makers(group: Group) -> list[str]:
        owners = {int(coupled.owner_of[coupled.uses[u].labels[0]]) for u in group.producers}
        return [coupled.owners[k].weight for k in owners if k >= 0] or [group.name]

    left = tuple(
        g
        for g in analysis.groups
        if (not options.include or all(matches(w, options.include) for w in makers(g)))
        and not any(matches(w, options.exclude) for w, _ in g.members)
    )
    if not left:
        raise OptionError("--include/--exclude: leave no prunable channel; every weight that makes the channels of a group must match")
    return left


def _score(coupled: Coupled, groups: tuple[Group, ...], options: Options) -> Scored:
    if options.scores is None:
        return score_groups(coupled, groups, options.criterion, options.seed)
    given = options.scores if isinstance(options.scores, Mapping) else read_arrays(options.scores, "--scores")
    return scores_from_file(coupled, groups, given)


def _choose(coupled: Coupled, groups: tuple[Group, ...], scored: Scored, options: Options) -> NDArray[np.bool_]:
    """The labels (n_labels,) that go."""
    known = [(g, s) for g, s in zip(groups, scored.scores, strict=True) if s is not None]
    budget = Budget(options.ratio, options.scope, options.alignment().multiple)
    keep = select([g for g, _ in known], [s for _, s in known], budget)
    gone: dict[int, float] = {}
    for (group, scores), kept in zip(known, keep, strict=True):
        gone.update(zip(group.roots[~kept].tolist(), scores[~kept].tolist(), strict=True))
    for root in keep_one_everywhere(coupled.spans(), gone):
        del gone[root]
    dead = np.zeros(len(coupled.roots), bool)
    dead[list(gone)] = True
    return dead[coupled.roots]


def _notes(refused: Mapping[int, str], scored: Scored, groups: tuple[Group, ...]) -> tuple[str, ...]:
    notes = []
    bare = len(scored.without_batch_norm)
    if bare:
        notes.append(
            f"{bare} of {len(groups)} groups have no BatchNormalization after their weights (folded by the exporter?), so the scale's "
            "own vote is lost and the folded filter's L1 norm decides; to keep it, export with training=TrainingMode.PRESERVE in eval mode"
        )
    notes += [f"kept channels because a node {why}" for why in refused.values()][:5]
    return tuple(notes)


def _finish(
    loaded: Loaded, decision: Decision, plan: Plan, options: Options, data: Data | None, progress: Progress
) -> Result:
    """Prove, time and report."""
    coupled = decision.analysis.coupled
    proof = None
    if options.verify:
        proof = verify(coupled, decision.dropped, decision.pruned, lambda done: progress("verify", done))
    timing = None
    before = bench.cost(loaded.model, options.input_shape)
    after = bench.cost(decision.pruned, {name: shape for name, shape in before.inputs.items()})
    if options.bench:
        feeds = random_feeds(loaded.model, before.inputs)
        timing = bench.benchmark([loaded.model, decision.pruned], feeds, options.threads, progress=lambda done: progress("benchmark", done))
    hits = _accuracies(loaded.model, decision.pruned, data)
    report = _report(loaded, decision, options, Costs(before, after), proof, timing)
    report = replace(report, accuracy=hits, samples=len(data) if data and hits else 0)
    progress("done", 1)
    return Result(decision.pruned, plan, report, loaded.external)


def random_feeds(model: ModelProto, shapes: Shapes) -> Feeds:
    """Seeded inputs of given shapes."""
    from onnxprune.facts import fact_of_type
    from onnxprune.graph import free_inputs
    from onnxprune.verify import sample

    rng = np.random.default_rng(0)
    return {v.name: sample(rng, fact_of_type(v.type).dtype, tuple(shapes[v.name])) for v in free_inputs(model)}


def _accuracies(original: ModelProto, pruned: ModelProto, data: Data | None) -> Change | None:
    if data is None:
        return None
    before, after = accuracy(original, data), accuracy(pruned, data)
    return None if before is None or after is None else Change(before, after)


@dataclass(frozen=True, slots=True)
class Costs:
    """Costs before and after."""

    before: bench.Cost
    after: bench.Cost


def _report(
    loaded: Loaded, decision: Decision, options: Options, costs: Costs, proof: Verification | None, timing: bench.Benchmark | None
) -> Report:
    analysis = decision.analysis
    groups = decision.eligible or analysis.groups
    rows = tuple(
        GroupRow(g.name, len(g), int((~decision.dropped[g.roots]).sum()), tuple(f"{w}[{axis}]" for w, axis in g.members)) for g in groups
    )
    prunable, removed = sum(r.before for r in rows), sum(r.before - r.after for r in rows)
    warnings = []
    if prunable and removed < (options.ratio - 0.02) * prunable:
        warnings.append(
            f"reached {removed / prunable:.0%} instead of {options.ratio:.0%}: every group keeps at least a tenth of its channels, and every layer one"
        )
    if timing and removed and timing.speedup[1] < 1.0:
        warnings.append(
            f"the pruned model is NOT faster here ({timing.speedup[1]:.2f}x): try --align auto, a larger --ratio, or larger inputs (--input-shape)"
        )
    return Report(
        model=loaded.name,
        output="",
        asked=options.asked(),
        align_reason=options.alignment().reason,
        prunable=prunable,
        removed=removed,
        **cost_changes(costs.before, costs.after),
        inputs=costs.before.inputs,
        groups=rows,
        pins=tuple(PinRow(h.channels, str(h.pin), h.weights) for h in analysis.held),
        verification=proof,
        benchmark=timing,
        notes=decision.notes,
        warnings=tuple(warnings),
        missed=bool(warnings) and warnings[0].startswith("reached"),
    )
