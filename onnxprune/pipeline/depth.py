# SPDX-License-Identifier: Apache-2.0
"""Whole residual branches may go, too: a few sets of them are tried, each with the widths that then meet the targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from onnx import ModelProto

from onnxprune.analysis.analyse import Analysis, analyse
from onnxprune.cost.size import cost
from onnxprune.effort import Effort
from onnxprune.errors import ModelError, OptionError
from onnxprune.evaluation.evaluator import Evaluator
from onnxprune.ir.facts import read_graph
from onnxprune.options import BRANCHES
from onnxprune.pipeline.decide import Decision
from onnxprune.rewrite.shorten import Branch, Ends, branches, shortened
from onnxprune.types import Progress

if TYPE_CHECKING:
    from onnxprune.recovery.methods import Recovery

Cut = tuple[Decision, "Recovery | None"]
Gone = tuple[Ends, ...]
"""Branches that go together, as plans name them."""
Sets = Callable[[Analysis, ModelProto, Evaluator, Progress], Sequence[Gone]]
"""The analysis of a model, the model, what judges others on held-out samples, and how progress is shown -> the sets of branches
that go in turn."""


@dataclass(frozen=True)
class Candidate:
    """A branch that may go.

    Attributes:
        branch: what goes.
        lost: what the network loses without it, before any recovery (`evaluation.measure`).
        saved: the multiply-accumulates that it takes, as a fraction of all.
    """

    branch: Branch
    lost: float
    saved: float


def candidates(analysis: Analysis, model: ModelProto, judge: Evaluator, progress: Progress) -> list[Candidate]:
    """All branches that may go, the one that loses least for what it saves first."""
    graph, found = analysis.coupled.graph, list[Candidate]()
    known = [*branches(graph)]
    shapes = {name: shape for name in graph.inputs if (shape := analysis.coupled.sizes[name].shape) is not None}
    whole = cost(model, shapes).macs
    for k, branch in enumerate(known):
        shorter = shortened(model, [branch.ends], graph)
        found.append(Candidate(branch, judge.judge(shorter).lost, 1 - cost(shorter, shapes).macs / max(whole, 1)))
        progress("depth", (k + 1) / len(known))
    return sorted(found, key=lambda c: c.lost / max(c.saved, 1e-9))


def separate(ranked: Sequence[Candidate], count: int) -> list[Branch]:
    """The first `count` branches, none of which is a part of another."""
    found = list[Branch]()
    for one in ranked:
        if len(found) < count and all(set(one.branch.nodes).isdisjoint(other.nodes) for other in found):
            found.append(one.branch)
    return found


def in_turn(analysis: Analysis, model: ModelProto, judge: Evaluator, progress: Progress) -> Gone:
    """The branches that may go, in the order in which they go: as many as are ever left out, none of them a part of another.

    Args:
        analysis: of the whole model.
        judge: judges models on held-out samples.
        progress: called with the name of the stage and the fraction done, 0 to 1.

    Raises:
        OptionError: no branch may go.
    """
    found = separate(candidates(analysis, model, judge, progress), max(BRANCHES))
    if not found:
        raise OptionError("--depth: this model has no residual branch that could go; leave the option out")
    return tuple(branch.ends for branch in found)


def sizes_of(order: Gone) -> tuple[int, ...]:
    """How many of these branches go: none, and more and more.

    >>> sizes_of((("a", "b"), ("b", "c"), ("c", "d")))
    (0, 1, 2, 3)
    """
    return 0, *sorted({min(count, len(order)) for count in BRANCHES})


def more_and_more(analysis: Analysis, model: ModelProto, judge: Evaluator, progress: Progress) -> list[Gone]:
    """No branch, and more and more of those that lose least for what they save; as for `in_turn`."""
    order = in_turn(analysis, model, judge, progress)
    return [order[:size] for size in sizes_of(order)]


def shallower(
    analysis: Analysis,
    model: ModelProto,
    sets: Sequence[Gone],
    attempt: Callable[[Analysis, Effort], Cut],
    effort: Effort,
) -> Cut:
    """The best of some cuts without some residual branches, on held-out samples.

    Args:
        analysis: of the whole model.
        sets: the branches that go in each cut; in that of the first set, an error is told, in others it rules out the cut.
        attempt: (analysis of a model with fewer branches, time) -> its cut within the targets, and the recovery.

    Raises:
        PruneError: the first cut cannot be made.
    """
    tried = list[tuple[Gone, Cut]]()
    for k, gone in enumerate(sets):
        time = effort.within(1 / (len(sets) - k), f"without {len(gone)} branches: " if gone else "")
        try:
            found = attempt(without(analysis, model, gone) if gone else analysis, time)
        except (ModelError, OptionError):  # nothing is left that may be cut, or a name that an option states is gone
            if not tried:
                raise
            continue
        tried.append((gone, (as_cut_of(analysis, found[0], gone), found[1])))
    best = min(tried, key=lambda t: (_missed(t[1][0]), _loss(t[1])))
    return replace(best[1][0], notes=(*best[1][0].notes, _story(tried, best[0]))), best[1][1]


def without(analysis: Analysis, model: ModelProto, gone: Gone) -> Analysis:
    """The analysis of a model without some branches."""
    graph = analysis.coupled.graph
    copies = graph.copies if model is graph.model else None
    return analyse(replace(read_graph(shortened(model, gone, graph), graph.fed), copies=copies), analysis.coupled.policy)


def as_cut_of(whole: Analysis, decision: Decision, gone: Gone) -> Decision:
    """The cut of a model without some branches, as one of the whole model."""
    return replace(decision, removed=gone, whole=whole) if gone else decision


def _missed(decision: Decision) -> bool:
    return decision.fullest > 1 + 1e-6


def _loss(found: Cut) -> float:
    recovery = found[1]
    return recovery.chosen.loss if recovery is not None and recovery.chosen is not None else float("inf")


def _story(tried: Sequence[tuple[Gone, Cut]], best: Gone) -> str:
    steps = ", ".join(f"{len(gone)}: {_loss(found):.3f}" for gone, found in tried)
    kept = f"removed: {', '.join(total for _, total in best)}" if best else "none was removed"
    return f"residual branches left out, and the loss on held-out samples: {steps}; {kept}"
