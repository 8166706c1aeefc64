# SPDX-License-Identifier: Apache-2.0
"""Whole residual branches may go, too: a few numbers of them are tried, each with the widths that then meet the targets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
from onnxprune.rewrite.shorten import Branch, branches, shortened
from onnxprune.types import Progress

if TYPE_CHECKING:
    from onnxprune.recovery.methods import Recovery

Cut = tuple[Decision, "Recovery | None"]


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
        shorter = shortened(model, [(branch.skip, branch.total)], graph)
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


def shallower(
    analysis: Analysis,
    model: ModelProto,
    judge: Evaluator,
    attempt: Callable[[Analysis, Effort], Cut],
    effort: Effort,
    progress: Progress,
) -> Cut:
    """The best of some cuts without some residual branches, on held-out samples; the one with all of them is among them.

    Args:
        analysis: of the whole model.
        attempt: (analysis of a model with fewer branches, time) -> its cut within the targets, and the recovery.
        judge: judges models on held-out samples.

    Raises:
        OptionError: no branch may go.
    """
    ranked = candidates(analysis, model, judge, progress)
    if not ranked:
        raise OptionError("--depth: this model has no residual branch that could go; leave the option out")
    sets = [*_sets(ranked)]
    tried = list[tuple[Sequence[Branch], Cut]]()
    for k, gone in enumerate(sets):
        time = effort.within(1 / (len(sets) - k), f"without {len(gone)} branches: " if gone else "")
        try:
            found = attempt(without(analysis, model, gone) if gone else analysis, time)
        except (ModelError, OptionError):  # nothing is left that may be cut, or a name that an option states is gone
            if not gone:
                raise
            continue
        decision = replace(found[0], removed=tuple((b.skip, b.total) for b in gone), whole=analysis if gone else None)
        tried.append((gone, (decision, found[1])))
    best = min(tried, key=lambda t: (_missed(t[1][0]), _loss(t[1])))
    return replace(best[1][0], notes=(*best[1][0].notes, _story(tried, best[0]))), best[1][1]


def _sets(ranked: Sequence[Candidate]) -> Iterator[list[Branch]]:
    """None, and more and more branches."""
    yield []
    for size in sorted({len(separate(ranked, count)) for count in BRANCHES}):
        yield separate(ranked, size)


def without(analysis: Analysis, model: ModelProto, gone: Sequence[Branch]) -> Analysis:
    """The analysis of a model without some branches."""
    graph = analysis.coupled.graph
    shorter = shortened(model, [(b.skip, b.total) for b in gone], graph)
    return analyse(read_graph(shorter, graph.fed), analysis.coupled.policy)


def _missed(decision: Decision) -> bool:
    return any(limit.cost.of(decision.dropped) > limit.most * (1 + 1e-6) for limit in decision.limits if not limit.measured)


def _loss(found: Cut) -> float:
    recovery = found[1]
    return recovery.chosen.loss if recovery is not None and recovery.chosen is not None else float("inf")


def _story(tried: Sequence[tuple[Sequence[Branch], Cut]], best: Sequence[Branch]) -> str:
    steps = ", ".join(f"{len(gone)}: {_loss(found):.3f}" for gone, found in tried)
    kept = f"removed: {', '.join(b.total for b in best)}" if best else "none was removed"
    return f"residual branches left out, and the loss on held-out samples: {steps}; {kept}"
