# SPDX-License-Identifier: Apache-2.0
"""Analysis and options -> which channels are dropped, and the model without them."""

from __future__ import annotations

import fnmatch
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from onnx import ModelProto

from onnxprune.analysis.analyse import Analysis, check_patterns, refuse
from onnxprune.analysis.coupling import Coupled, carried
from onnxprune.analysis.dead import dead_labels, without
from onnxprune.analysis.groups import Group
from onnxprune.cost.macs import macs_model
from onnxprune.cost.model import of_original
from onnxprune.cost.size import cost
from onnxprune.effort import Effort
from onnxprune.errors import CutError, ModelError, OptionError, PruneError, shortened
from onnxprune.ir.bodies import flatten
from onnxprune.ir.graph import Graph
from onnxprune.ir.sharing import shared_again
from onnxprune.ir.spill import Spill, spill_for
from onnxprune.options import WITHOUT_DATA, Options, SelectionOptions
from onnxprune.pipeline.goal import COSTS, Goal, goal_of
from onnxprune.pipeline.remarks import unaligned
from onnxprune.report.values import KEEPING
from onnxprune.rewrite.cut import cut
from onnxprune.selection.bounds import Bounds, LayerRatios
from onnxprune.selection.criteria import Scored, Scorer
from onnxprune.selection.criteria.given import check_scores, scores_from_file
from onnxprune.selection.matching import matched
from onnxprune.selection.sizing import Sizing
from onnxprune.selection.space import Space, space_of
from onnxprune.selection.strategy import Limit, Strategy, greedy
from onnxprune.types import Feeds, Mask

BAND = (0.85, 1.15)
"""With data, what remains of the MACs relative to a cut by the same ratio without data: outside, the report says so."""
COUNTED = {"params": "params", "size": "bytes", "memory": "memory"}
"""Targets on what a file holds, and where their costs are in `Cost`."""
ATTEMPTS, SPARE = 5, 0.001
"""How many times a cut is made so that what it adds is within the limits, too; what is left free of them, more each time."""
LONGEST_REASON = 120
"""Characters of a reason that an error quotes."""
MAX_REFUSALS = 30
"""How many times a cut may be rejected because a node cannot follow it."""

Scoring = Callable[[Coupled, tuple[Group, ...]], Scored]
"""Scores the channels of all groups."""


@dataclass(frozen=True)
class Decision:
    """Which labels are dropped, and the model without them.

    Attributes:
        analysis: the analysis that the decision is based on.
        dropped: (n_labels,) True for labels that are dropped.
        pruned: the model without them.
        groups: the groups that were allowed to shrink.
        notes: sentences for the report.
        ratio: fraction of the prunable channels that should be dropped; None if `limits` or a plan decided.
        limits: what the cost of the model should not exceed.
        fullest: the largest cost relative to its limit, as counted or measured in the cut; 0 without limits.
        spill: storage of the large weights of `pruned`; it exists as long as this object does.
        most: number of channels that the deepest cut removes; None if unknown.
        dead: (n_labels,) True for labels that are dropped because they are provably always zero; None if unknown.
        constant: (n_labels,) those of `dead` that were always the same number, and are zero since other layers add what they
            contributed; None if there are none.
        ranges: what that holds for: for some inputs, the lowest and the highest number.
        order: the order in which channels went, if there were several.
        removed: (tensor, sum) of residual branches that are gone; `analysis` is that of the model without them.
        whole: the analysis of the model with all branches; None: that is `analysis`.
    """

    analysis: Analysis = field(repr=False)
    dropped: Mask = field(repr=False)
    pruned: ModelProto = field(repr=False)
    groups: tuple[Group, ...] = field(repr=False)
    notes: tuple[str, ...] = ()
    ratio: float | None = None
    limits: tuple[Limit, ...] = ()
    fullest: float = 0.0
    spill: Spill | None = field(default=None, repr=False)
    most: int | None = None
    dead: Mask | None = field(default=None, repr=False)
    constant: Mask | None = field(default=None, repr=False)
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    order: str = ""
    removed: tuple[tuple[str, str], ...] = ()
    whole: Analysis | None = field(default=None, repr=False)

    def of_whole(self) -> tuple[Coupled, Mask]:
        """The model with all branches, and the labels (n_labels,) that the cut drops in it.

        It is what weights are fitted to: where branches are gone, the others learn to do without them.
        """
        coupled = self.analysis.coupled
        if self.whole is None:
            return coupled, self.dropped
        return self.whole.coupled, carried(coupled, self.dropped, self.whole.coupled)


def check_selection(analysis: Analysis, selection: SelectionOptions, name: str) -> None:
    """Reject a selection that this model does not allow, before any sample is generated or read.

    Raises:
        ModelError: there is no prunable channel.
        OptionError, DataError: a pattern matches nothing, patterns leave no group, scores do not fit, or more may remain than
            the original has.
    """
    groups = eligible(analysis, selection, name)
    if isinstance(selection.scores, Mapping):
        check_scores(analysis.coupled, groups, selection.scores)
    if isinstance(selection.layer_ratios, LayerRatios):
        check_patterns("--layer-ratios", list(selection.layer_ratios.patterns), analysis.coupled)
    for target, amount in selection.targets().items():
        if amount.relative or target not in COSTS:
            continue
        model = COSTS[target](analysis.coupled)
        whole = of_original(model, len(analysis.coupled.roots))
        if amount.number > whole:
            what = f"more than the original has, {model.text(whole)}"
            raise OptionError(f"--{target}: got {getattr(selection, target)}, {what}; expected what may remain of it")


def decide(
    analysis: Analysis,
    options: Options,
    name: str,
    batches: Sequence[Feeds] = (),
    strategy: Strategy = greedy,
    goal: Goal | None = None,
    effort: Effort | None = None,
    score: Scoring | None = None,
    provable: bool = True,
) -> Decision:
    """Choose channels and cut them; a node that cannot follow keeps its channels, and the choice is repeated.

    Channels that are provably always zero go in any case, and count for no ratio.

    Args:
        analysis: the analysis of the model.
        name: name of the model in messages.
        batches: calibration inputs, for criteria that use activations.
        strategy: how limits are met.
        goal: what must be reached; None: what the options state.
        effort: the time that there is for criteria that use activations; None: unlimited.
        score: scores channels; None: as the options state.
        provable: whether to look for channels that are always zero.

    Raises:
        PruneError: `MAX_REFUSALS` cuts were rejected.
    """
    graph, selection = analysis.coupled.graph, options.selection
    goal = goal or goal_of(selection)
    spill = spill_for(graph.model)
    score = score or scoring(options, batches, effort)
    for _ in range(MAX_REFUSALS):
        coupled, allowed = analysis.coupled, eligible(analysis, selection, name)
        dead, ranges = provably_dead(coupled, allowed, options) if provable else (None, {})
        groups = allowed if dead is None else without(allowed, dead)
        scored = score(coupled, groups)
        limits = goal.limits(coupled)
        space = _space(coupled, groups, scored, options, limits, dead)
        try:
            dropped, pruned, said, fullest = _cut(space, limits, strategy, goal.ratio, spill)
            widths = () if selection.align == "auto" else unaligned(space.groups, dropped, space.sizing.align)
            macs = _macs_without_data(space, dropped, goal.ratio, options)
            notes = (*_notes(analysis.refused, scored, groups), *macs, *said, *widths, *_due(space, goal.ratio))
            notes = (*notes, *_added(graph, pruned))
            most, names = int(space.order.removed[-1]), {g.name for g in space.groups}
            shrunk = tuple(g for g in allowed if g.name in names or (dead is not None and dead[g.roots].any()))
            made = Decision(analysis, dropped, pruned, shrunk, notes, goal.ratio, limits, fullest, spill, most, dead)
            return replace(made, ranges=ranges)
        except CutError as e:
            if spill:
                spill.clear()
            around = _around(graph, e.node_index) if e.node_index in analysis.refused else [e.node_index]
            analysis = refuse(analysis, dict.fromkeys(around, f"cannot follow a cut ({e})"))
    last = list(analysis.refused.values())[-1]
    raise PruneError(f"{name}: could not be cut in {MAX_REFUSALS} attempts; the last one failed because a node {last}")


def scoring(options: Options, batches: Sequence[Feeds], effort: Effort | None) -> Scoring:
    """Scores as the options state."""
    given = options.selection.scores
    if isinstance(given, Mapping):
        return lambda coupled, groups: scores_from_file(coupled, groups, given)
    return Scorer(options.criterion, options.data.seed, batches, effort, options.selection.normalise).score


def _cut(
    space: Space, limits: Sequence[Limit], strategy: Strategy, ratio: float | None, spill: Spill | None
) -> tuple[Mask, ModelProto, tuple[str, ...], float]:
    """The labels to drop, the model without them, notes on the choice, and how full the tightest limit is (0: there is none).

    Limits on what a file holds are tightened by what a cut adds to it: nodes, and what removed channels leave behind. A cost
    that is measured learns from each cut.
    """
    coupled = space.coupled
    if not limits:
        dropped = space.dropped(space.by_ratio(ratio or 0.0))
        return dropped, cut(coupled, dropped, spill), (), 0.0
    aimed = limits
    best: tuple[float, Mask, str] | None = None
    tried = set[bytes]()
    for attempt in range(ATTEMPTS):
        chosen = strategy(space, aimed)
        dropped = space.dropped(chosen.widths)
        if best is not None and dropped.tobytes() in tried:
            break  # it was measured, and there is none between those that were
        tried.add(dropped.tobytes())
        pruned = cut(coupled, dropped, spill)
        deepest = not all(limit.cost.of(dropped) <= limit.most for limit in aimed)
        found = _found(limits, dropped, pruned, coupled)
        limits = [limit.corrected(dropped, cost) for limit, cost in zip(limits, found, strict=True)]
        fullest = max(x / limit.most for x, limit in zip(found, limits, strict=True))
        if fullest <= 1 and (best is None or fullest > best[0]):
            best = fullest, dropped, chosen.note
        spare = 1 - SPARE * attempt  # what is added differs a little from cut to cut
        aims = [replace(x, most=x.cost.of(dropped) + spare * x.most - y) for x, y in zip(limits, found, strict=True)]
        near = min(limit.near for limit in limits)
        done = deepest if fullest > 1 else fullest >= near or _same(aims, aimed)
        if done or min(x.most for x in aims) <= 0:
            break
        aimed = aims
        if spill:
            spill.clear()
    if best is not None and best[1] is not dropped:
        if spill:
            spill.clear()
        fullest, dropped, note = best
        return dropped, cut(coupled, dropped, spill), (note,) * bool(note), fullest
    return dropped, pruned, (chosen.note,) * bool(chosen.note), fullest


def _same(a: Sequence[Limit], b: Sequence[Limit]) -> bool:
    """Whether limits would lead to the same cut again: also the costs must be the same, which measurements correct."""
    return all(x.cost is y.cost and math.isclose(x.most, y.most, rel_tol=SPARE) for x, y in zip(a, b, strict=True))


def _found(limits: Sequence[Limit], dropped: Mask, pruned: ModelProto, coupled: Coupled) -> list[float]:
    """What a cut costs: predicted, but for what can differ from that."""
    counted = any(limit.target in COUNTED and not limit.measured for limit in limits)
    shapes = {name: shape for name in coupled.graph.inputs if (shape := coupled.sizes[name].shape) is not None}
    found = cost(shared_again(pruned, pruned, coupled.graph), shapes) if counted else None

    def of(limit: Limit) -> float:
        if limit.measured:
            return limit.measured(pruned)
        return float(getattr(found, COUNTED.get(limit.target, ""), limit.cost.of(dropped)))

    return [of(limit) for limit in limits]


def _around(graph: Graph, index: int) -> list[int]:
    """A node and all that it depends on: if it fails although its inputs are kept, the sizes come from further up."""
    found, queue = {index}, [index]
    while queue:
        node = graph.nodes[queue.pop()]
        for tensor in (*node.inputs, *node.implicit):
            above = graph.producers.get(tensor) or graph.owners.get(tensor)
            if above is not None and above.index not in found:
                found.add(above.index)
                queue.append(above.index)
    return sorted(found)


def eligible(analysis: Analysis, selection: SelectionOptions, name: str) -> tuple[Group, ...]:
    """Groups that --include and --exclude allow: every producer is included, and no member is excluded.

    Raises:
        ModelError: there are no groups at all.
        OptionError: a pattern matches nothing, or together they leave no group.
    """
    if not analysis.groups:
        raise ModelError(f"{name}: has no prunable channels{_most_work(analysis)}. 'onnxprune inspect' lists all reasons")
    coupled = analysis.coupled
    check_patterns("--include", selection.include, coupled)
    check_patterns("--exclude", selection.exclude, coupled)

    def matches(weight: str, patterns: Sequence[str]) -> bool:
        return any(fnmatch.fnmatchcase(coupled.graph.origin(weight), p) for p in patterns)

    found = tuple(
        g
        for g in analysis.groups
        if (not selection.include or all(matches(w, selection.include) for w in makers(coupled, g)))
        and not any(matches(w, selection.exclude) for w, _ in g.members)
    )
    if not found:
        raise OptionError(
            "--include/--exclude: no prunable channel remains; every weight that produces a group's channels must match"
        )
    return found


def makers(coupled: Coupled, group: Group) -> list[str]:
    """The weights that produce the channels of a group."""
    owners = {int(coupled.owner_of[coupled.uses[u].labels[0]]) for u in group.producers}
    return [coupled.owners[k].weight for k in owners if k >= 0] or [group.name]


def bounds_of(coupled: Coupled, groups: Sequence[Group], selection: SelectionOptions) -> list[Bounds]:
    """How much each group must and may keep; empty if no option says that."""
    if selection.layer_ratios is None:
        return []
    given = selection.layer_ratios
    asked = given if isinstance(given, LayerRatios) else LayerRatios.read(given)
    return [asked.of([coupled.graph.origin(name) for name in makers(coupled, group)]) for group in groups]


def _due(space: Space, ratio: float | None) -> tuple[str, ...]:
    """A note if the ratios of layers remove more than was asked of the whole."""
    total, due = sum(map(len, space.groups)), int(space.order.removed[space.order.due])
    if ratio is None or due <= ratio * total:
        return ()
    return (f"--layer-ratios alone remove {due / total:.1%} of the channels",)


def _most_work(analysis: Analysis) -> str:
    """What holds the channels that cost most, as the end of a sentence."""
    if not analysis.pinned:
        return " (no convolution or matrix product of known shape)"
    first = analysis.pinned[0]  # most work first
    share = f"{first.macs:.0%} of the MACs make" if first.macs else f"{first.channels} are"
    return f"; {share} channels that are kept because {shortened(str(first.pin), LONGEST_REASON)}"


def provably_dead(
    coupled: Coupled, groups: Sequence[Group], options: Options
) -> tuple[Mask | None, Mapping[str, tuple[float, float]]]:
    """Labels (n_labels,) of channels that are always zero, None if there are none; and the ranges of inputs that are stated."""
    ranges: dict[str, tuple[float, float]] = {}
    if options.data.preprocess:
        from onnxprune.data.images import like_images  # on demand, for a quick start

        (low, high), _ = like_images(coupled.graph.model, options.data.preprocess)
        ranges = {coupled.graph.inputs[0]: (min(0.0, *low), max(0.0, *high))}  # images may be padded with zeros
    dead = dead_labels(coupled, groups, ranges)
    return (dead, ranges) if dead.any() else (None, {})


def _space(
    coupled: Coupled,
    groups: tuple[Group, ...],
    scored: Scored,
    options: Options,
    limits: Sequence[Limit],
    dead: Mask | None = None,
) -> Space:
    """The cuts to choose from: of groups with scores, in the order of their scores.

    Scores by activations are errors, to be compared with what they save: with a ratio, of the multiply-accumulates, so that
    about as many remain as by the default criterion without data.
    """
    known = [(g, s) for g, s in zip(groups, scored.scores, strict=True) if s is not None]
    sizing = Sizing(options.selection.scope, options.selection.alignment().multiple)
    bounds = bounds_of(coupled, [g for g, _ in known], options.selection)
    space = space_of(coupled, [g for g, _ in known], [s for _, s in known], sizing, bounds, dead)
    if not options.calibrated or sizing.scope != "global" or not known:
        return space
    if limits:
        return replace(space, additive=True)
    return matched(space, _without_data(space), macs_model(coupled))


def _without_data(space: Space) -> Space:
    """The same groups in the order of the default criterion without data."""
    scores = Scorer(WITHOUT_DATA).score(space.coupled, space.groups).scores
    return space_of(space.coupled, space.groups, [s for s in scores if s is not None], space.sizing, space.bounds, space.dead)


def _macs_without_data(space: Space, dropped: Mask, ratio: float | None, options: Options) -> tuple[str, ...]:
    """A note if far more or fewer multiply-accumulates remain than by the default criterion at the same ratio."""
    if ratio is None or not options.calibrated:
        return ()
    other, macs = _without_data(space), macs_model(space.coupled)
    whole, here = of_original(macs, len(dropped)), macs.of(dropped)
    there = macs.of(other.dropped(other.by_ratio(ratio)))
    if BAND[0] <= here / max(there, macs.resolution) <= BAND[1]:
        return ()
    return (f"{here / whole:.1%} of the MACs remain; without data, the same ratio leaves {there / whole:.1%}",)


def _added(graph: Graph, pruned: ModelProto) -> tuple[str, ...]:
    """A note on the nodes that the cut had to add to stay exact."""
    kinds = Counter(n.proto.op_type for n in flatten(pruned).nodes) - Counter(n.proto.op_type for n in graph.nodes)
    if not kinds:
        return ()
    listed = ", ".join(f"{n} {op}" for op, n in kinds.most_common(4))
    what = f"{sum(kinds.values())} small nodes were added ({listed})"
    return (f"{what} so that sizes, means and normalisations of the kept channels do not change",)


def _notes(refused: Mapping[int, str], scored: Scored, groups: tuple[Group, ...]) -> tuple[str, ...]:
    notes = []
    bare = len(scored.without_batch_norm)
    if bare:
        which = f"{bare} of {len(groups)} groups have no BatchNormalization after their weights"
        lost = "which seems to be folded into them, so its scale is not scored separately and the L1 norm of the filter decides"
        cure = f"to score both, {KEEPING}"
        notes.append(f"{which}, {lost}; {cure}" if scored.folded else f"{which}: the L1 norm of these weights decides")
    notes += [f"some channels are kept because a node {why}" for why in refused.values()][:5]
    return tuple(notes)
