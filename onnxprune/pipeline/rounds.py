# SPDX-License-Identifier: Apache-2.0
"""Cutting in rounds: a few channels are removed, the network is recovered, and the remaining ones are scored again.

After CCPrune (Chen et al., 2021), whose rounds retrain. Here the recovery is a parameter: least squares, so that no training
code is needed, or anything else that improves a cut network.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from onnx import ModelProto

from onnxprune.analysis.analyse import Analysis, analyse
from onnxprune.analysis.coupling import Coupled
from onnxprune.analysis.dead import without
from onnxprune.analysis.groups import Group
from onnxprune.effort import Effort
from onnxprune.ir.bodies import all_weights
from onnxprune.ir.facts import read_graph
from onnxprune.ir.tensors import take_all
from onnxprune.options import Options
from onnxprune.pipeline.decide import Decision, Scoring, decide, eligible, provably_dead
from onnxprune.pipeline.goal import Goal, goal_of
from onnxprune.rewrite.cut import cut
from onnxprune.rewrite.plan import Plan, composed, dropped_by, plan_of
from onnxprune.selection.strategy import Strategy, greedy
from onnxprune.types import Advance, Feeds, Mask, unwatched

if TYPE_CHECKING:
    from onnxprune.recovery.editor import Fitted


@dataclass(frozen=True)
class RoundRecovery:
    """The recovery after each round but the last.

    Attributes:
        name: its name in reports, with an article, as in "a reconstruction".
        run: (analysis of the original, dropped labels (n_labels,), cut model, inputs, seed) -> the recovered model.
    """

    name: str
    run: Callable[[Coupled, Mask, ModelProto, Sequence[Feeds], int], Fitted]


def by_least_squares(coupled: Coupled, dropped: Mask, model: ModelProto, batches: Sequence[Feeds], seed: int) -> Fitted:
    """Fit the layers to what the original computes."""
    from onnxprune.recovery.reconstruct import FitSettings, reconstruct  # on demand, for a quick start

    return reconstruct(coupled, dropped, model, batches, FitSettings(ROWS, ROWS_PER_INPUT, seed=seed))


ROWS, ROWS_PER_INPUT = 10_000, 4
"""Rows of the fits between rounds, which only prepare scores."""
LEAST_SQUARES = RoundRecovery("a reconstruction", by_least_squares)


def in_rounds(
    analysis: Analysis,
    options: Options,
    name: str,
    batches: Sequence[Feeds],
    *,
    strategy: Strategy = greedy,
    score: Scoring | None = None,
    recover: RoundRecovery = LEAST_SQUARES,
    goal: Goal | None = None,
    effort: Effort | None = None,
    progress: Advance = unwatched,
) -> Decision:
    """Choose channels in `options.recovery.rounds` rounds; each but the last is followed by a recovery.

    The recoveries are for the scores of the next round. The result is cut from the original, so that its weights are fitted
    once, not again and again to the same samples.

    Args:
        analysis: the analysis of the original.
        name: name of the model in messages.
        batches: calibration inputs.
        strategy: how limits are met, in every round.
        score: scores channels, if there is one round; None: as the options state.
        recover: the recovery after each round.
        goal: what all rounds together must reach; None: what the options state.
        effort: the time that there is; if it is short, there are fewer rounds. None: unlimited.
        progress: called with the fraction done, 0 to 1.
    """
    rounds, graph = options.recovery.rounds, analysis.coupled.graph
    goal, effort = goal or goal_of(options.selection), effort or Effort()
    if rounds == 1:
        return decide(analysis, options, name, batches, strategy, goal, effort, score)
    now, kept, added, done = analysis, dict[str, dict[int, tuple[int, ...]]](), frozenset[str](), 0.0
    allowed = eligible(analysis, options.selection, name)
    dead, ranges = provably_dead(analysis.coupled, allowed, options)
    channels = sum(map(len, allowed if dead is None else without(allowed, dead)))
    start, count = time.perf_counter(), rounds
    for k in itertools.count():
        if k == 1:
            each = time.perf_counter() - start
            count = 1 + effort.amount("more rounds", each, 1, rounds - 1)
        done += (1 - done) / (count - k)
        left = sum(map(len, eligible(now, options.selection, name))) if k else channels
        part = goal.part(done, analysis.coupled, channels, left)
        own = effort.within(1 / (count - k), f"round {k + 1}: ")
        decision = decide(now, options, name, batches, strategy, part, own, provable=not k)
        plan = plan_of(decision.analysis.coupled, decision.dropped, "", {}, copies=True)
        kept = composed(kept, {name: axes for name, axes in plan.kept.items() if name in graph.weights})
        dropped = dropped_by(analysis.coupled, Plan("", kept, {}, analysis.coupled.policy))
        pruned = cut(analysis.coupled, dropped)
        progress(done)
        if k + 1 == count:
            break
        model = transplanted(decision.pruned, copy_of(pruned), added)
        take_all(model)  # weights in a temporary file would be deleted with this round's decision
        fitted = recover.run(analysis.coupled, dropped, model, batches, options.data.seed)
        model, added = fitted.model, added | fitted.added
        now = analyse(replace(read_graph(model, graph.fed), copies=graph.copies), analysis.coupled.policy)
    fewer = "" if count == rounds else f" (of {rounds}: there is no time for more, --time-budget)"
    notes = (*decision.notes, f"channels were chosen in {count} rounds{fewer}, with {recover.name} after each")
    groups, limits = _allowed(analysis, decision), goal.limits(analysis.coupled)
    dead = None if dead is None else dead & dropped
    full = decision.fullest
    return Decision(analysis, dropped, pruned, groups, notes, goal.ratio, limits, full, dead=dead, ranges=ranges)


def copy_of(model: ModelProto) -> ModelProto:
    """A copy that can be modified."""
    copy = ModelProto()
    copy.CopyFrom(model)
    return copy


def _allowed(analysis: Analysis, last: Decision) -> tuple[Group, ...]:
    """The groups of the original that the options allow to shrink."""
    names = {g.name for g in last.groups}
    return tuple(g for g in analysis.groups if g.name in names) or analysis.groups


def transplanted(source: ModelProto, target: ModelProto, added: Collection[str]) -> ModelProto:
    """`target` with the weights that `source` has under the same name and shape, and with the tensors `added` that recoveries
    gave to nodes of `source`."""
    found, own = all_weights(source), all_weights(target)
    for name, weight in own.items():
        other = found.get(name)
        if other is not None and other.is_float and other.shape == weight.shape:
            weight.tensor.CopyFrom(other.tensor)
    makers = {n.output[0]: n for n in source.graph.node if n.output}
    for node in target.graph.node:
        maker = makers.get(node.output[0]) if node.output else None
        for k, name in enumerate(maker.input if maker is not None else ()):
            if name in added and name in found:
                node.input.extend([""] * (k + 1 - len(node.input)))
                node.input[k] = name
                target.graph.initializer.add().CopyFrom(found[name].tensor)
    return target
