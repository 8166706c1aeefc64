# SPDX-License-Identifier: Apache-2.0
"""Graph and options -> which channels go, and the model without them."""

from __future__ import annotations

import difflib
import fnmatch
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from onnx import ModelProto

from onnxprune.analysis.couple import Coupled, couple
from onnxprune.analysis.groups import Group, Held, find_groups, find_held
from onnxprune.analysis.policy import Policy
from onnxprune.cost.macs import macs_model
from onnxprune.data.arrays import read_arrays
from onnxprune.errors import CutError, ModelError, OptionError, PruneError
from onnxprune.ir.graph import Graph
from onnxprune.ir.protofile import Spill, spill_for
from onnxprune.options import Options
from onnxprune.rewrite.cut import cut
from onnxprune.selection.criteria import Scored, score_groups, scores_from_file
from onnxprune.selection.criteria.names import CALIBRATED
from onnxprune.selection.sizing import Sizing
from onnxprune.selection.space import Space
from onnxprune.selection.strategy import Limit, Strategy, greedy
from onnxprune.selection.units import units_of
from onnxprune.types import Feeds, Mask

MOST_RETRIES = 30


@dataclass(frozen=True)
class Analysis:
    """What can be cut, and what cannot.

    Attributes:
        coupled: labels, ties and pins.
        groups: channels that can be removed, by groups of one width.
        refused: index of a node -> why it could not be cut, found when a cut was tried.
    """

    coupled: Coupled = field(repr=False)
    groups: tuple[Group, ...]
    refused: Mapping[int, str] = field(default_factory=dict)

    @cached_property
    def held(self) -> tuple[Held, ...]:
        """What holds other channels, largest first."""
        return find_held(self.coupled)

    @property
    def prunable(self) -> int:
        """How many channels can be removed or kept one by one."""
        return sum(len(g) for g in self.groups)


def analyse(graph: Graph, refused: Mapping[int, str], policy: Policy | None = None) -> Analysis:
    """Couple the channels of a graph as `policy` wishes; nodes in `refused` keep theirs."""
    coupled = couple(graph, refused, policy)
    _check_patterns("--carrier", [p for p, _ in coupled.policy.carrier], coupled)
    return Analysis(coupled, find_groups(coupled), refused)


@dataclass(frozen=True)
class Decision:
    """Which labels go, and the model without them.

    Attributes:
        analysis: what the decision was made from.
        dropped: (n_labels,) True for labels that go.
        pruned: the model without them.
        groups: the groups that were allowed to shrink.
        notes: what the reader should know.
        spill: where large weights of `pruned` lie, as long as this object lives.
    """

    analysis: Analysis = field(repr=False)
    dropped: Mask = field(repr=False)
    pruned: ModelProto = field(repr=False)
    groups: tuple[Group, ...] = field(repr=False)
    notes: tuple[str, ...] = ()
    spill: Spill | None = field(default=None, repr=False)


def decide(graph: Graph, options: Options, name: str, batches: Sequence[Feeds] = ()) -> Decision:
    """Choose channels and cut them; a node that cannot follow keeps its channels, and the choice is made again.

    Args:
        batches: calibration inputs, for criteria that look at activations.
    """
    spill = spill_for(graph.model)
    refused: dict[int, str] = {}
    for _ in range(MOST_RETRIES):
        analysis = analyse(graph, refused, options.policy())
        if not analysis.groups:
            reason = (
                f"; most are held because {analysis.held[0].pin}" if analysis.held else " (no convolution or matrix product)"
            )
            raise ModelError(f"{name}: has no prunable channel{reason}. 'onnxprune inspect' lists all reasons")
        groups = _eligible(analysis, options)
        scored = _score(analysis.coupled, groups, options, batches)
        dropped = _choose(analysis.coupled, groups, scored, options)
        try:
            pruned = cut(analysis.coupled, dropped, spill)
            notes = _notes(refused, scored, groups) + _added(graph, pruned)
            return Decision(analysis, dropped, pruned, groups, notes, spill)
        except CutError as e:
            if spill:
                spill.clear()
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
    _check_patterns("--include", options.include, coupled)
    _check_patterns("--exclude", options.exclude, coupled)

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
        raise OptionError(
            "--include/--exclude: leave no prunable channel; every weight that makes the channels of a group must match"
        )
    return left


def _check_patterns(option: str, patterns: Sequence[str], coupled: Coupled) -> None:
    names = sorted({o.weight for o in coupled.owners})
    for pattern in patterns:
        if pattern != "*" and not fnmatch.filter(names, pattern):
            near = difflib.get_close_matches(pattern.strip("*"), names, 3, 0.3) or names[:3]
            raise OptionError(f"{option}: '{pattern}' matches no weight; near names: {', '.join(near)}")


def _score(coupled: Coupled, groups: tuple[Group, ...], options: Options, batches: Sequence[Feeds]) -> Scored:
    if options.scores is None:
        return score_groups(coupled, groups, options.chosen_criterion, options.seed, batches)
    given = options.scores if isinstance(options.scores, Mapping) else read_arrays(options.scores, "--scores")
    return scores_from_file(coupled, groups, given)


def _choose(coupled: Coupled, groups: tuple[Group, ...], scored: Scored, options: Options, strategy: Strategy = greedy) -> Mask:
    """The labels (n_labels,) that are dropped."""
    known = [(g, s) for g, s in zip(groups, scored.scores, strict=True) if s is not None]
    sizing = Sizing(options.scope, options.alignment().multiple)
    space = Space(coupled, tuple(g for g, _ in known), tuple(units_of(g, s) for g, s in known), sizing)
    limit = options.limit()
    if limit is None:
        return space.dropped(space.by_ratio(options.ratio or 0.0))
    cost = macs_model(coupled)
    if options.chosen_criterion in CALIBRATED and options.scores is None and sizing.scope == "global":
        space = space.per(cost)
    return space.dropped(strategy(space, [Limit(cost, limit.of(cost.of(np.zeros(len(coupled.roots), bool))))]))


def _added(graph: Graph, pruned: ModelProto) -> tuple[str, ...]:
    """What the cut had to add to stay exact."""
    kinds = Counter(n.op_type for n in pruned.graph.node) - Counter(n.proto.op_type for n in graph.nodes)
    if not kinds:
        return ()
    listed = ", ".join(f"{n} {op}" for op, n in kinds.most_common(4))
    what = f"{sum(kinds.values())} small nodes were added ({listed})"
    return (f"{what}, so that sizes, means and normalisations stay what they were for the channels that are left",)


def _notes(refused: Mapping[int, str], scored: Scored, groups: tuple[Group, ...]) -> tuple[str, ...]:
    notes = []
    bare = len(scored.without_batch_norm)
    if bare:
        lost = "so the scale's own vote is lost and the L1 norm of the folded filter decides"
        cure = "to keep it, export with training=TrainingMode.PRESERVE in eval mode"
        notes.append(f"{bare} of {len(groups)} groups have no BatchNormalization after their weights, {lost}; {cure}")
    notes += [f"kept channels because a node {why}" for why in refused.values()][:5]
    return tuple(notes)
