# SPDX-License-Identifier: Apache-2.0
"""Cutting in rounds: a little goes, the rest recovers, and what goes next is chosen anew. After CCPrune (Chen et al., 2021),
whose rounds retrain; here layers are refitted, so that no training code is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from onnx import ModelProto

from onnxprune.analysis.groups import Group
from onnxprune.cost.macs import macs_model
from onnxprune.ir.facts import read_graph
from onnxprune.ir.graph import Graph, read_weights
from onnxprune.ir.protofile import take_all
from onnxprune.options import Options
from onnxprune.pipeline.decide import Analysis, Decision, analyse, decide
from onnxprune.rewrite.cut import cut
from onnxprune.rewrite.plan import Plan, dropped_by, plan_of
from onnxprune.selection.budget import Amount
from onnxprune.types import Advance, Feeds, unwatched

Kept = Mapping[str, Mapping[int, tuple[int, ...]]]


@dataclass(frozen=True)
class Outcome:
    """What the rounds came to.

    Attributes:
        decision: the cut of the original, all rounds together.
        start: the same model with weights as the last round left them.
    """

    decision: Decision
    start: ModelProto = field(repr=False)


def composed(first: Kept, second: Kept) -> dict[str, dict[int, tuple[int, ...]]]:
    """Two cuts, one after the other, as one.

    >>> composed({"w": {0: (1, 3, 5)}}, {"w": {0: (0, 2), 1: (4,)}})
    {'w': {0: (1, 5), 1: (4,)}}
    """
    found = {name: dict(axes) for name, axes in first.items()}
    for name, axes in second.items():
        mine = found.setdefault(name, {})
        for axis, positions in axes.items():
            mine[axis] = tuple(mine[axis][p] for p in positions) if axis in mine else positions
    return found


def in_rounds(graph: Graph, options: Options, name: str, batches: Sequence[Feeds], progress: Advance = unwatched) -> Outcome:
    """Cut in `options.rounds` rounds; each but the last is followed by a reconstruction.

    Args:
        graph: the original.
        batches: calibration inputs.
        progress: told how much is done, 0 to 1.
    """
    if options.rounds == 1:
        decision = decide(graph, options, name, batches)
        return Outcome(decision, decision.pruned)
    from onnxprune.recovery.reconstruct import Knobs, reconstruct

    analysis = analyse(graph, {}, options.policy())
    model, kept = graph.model, dict[str, dict[int, tuple[int, ...]]]()
    for k in range(options.rounds):
        decision = decide(graph if k == 0 else read_graph(model), _wish(options, analysis, k, model, graph), name, batches)
        plan = plan_of(decision.analysis.coupled, decision.dropped, "", {})
        kept = composed(kept, {name: axes for name, axes in plan.kept.items() if name in graph.weights})
        dropped = dropped_by(analysis.coupled, Plan("", kept, {}))
        pruned = cut(analysis.coupled, dropped)
        model = transplanted(decision.pruned, copy_of(pruned))
        take_all(model)  # what lies in files may go with the decision that it was made for
        if k + 1 < options.rounds:
            model = reconstruct(analysis.coupled, dropped, model, batches, Knobs(seed=options.seed))
        progress((k + 1) / options.rounds)
    notes = (*decision.notes, f"cut in {options.rounds} rounds, with a reconstruction after each")
    return Outcome(Decision(analysis, dropped, pruned, _allowed(analysis, decision), notes), model)


def copy_of(model: ModelProto) -> ModelProto:
    """A copy that may be changed."""
    copy = ModelProto()
    copy.CopyFrom(model)
    return copy


def _allowed(analysis: Analysis, last: Decision) -> tuple[Group, ...]:
    """The groups of the original, as far as the options let them shrink."""
    names = {g.name for g in last.groups}
    return tuple(g for g in analysis.groups if g.name in names) or analysis.groups


def _wish(options: Options, analysis: Analysis, k: int, model: ModelProto, graph: Graph) -> Options:
    """What round `k` is asked for, of the model as it then is: the same factor in every round."""
    share = (k + 1) / options.rounds
    limit = options.limit()
    if limit is None:
        left = analysis.prunable * (1 - (options.ratio or 0.0)) ** share
        now = analysis.prunable if k == 0 else analyse(read_graph(model), {}, options.policy()).prunable
        return replace(options, ratio=float(np.clip(1 - left / max(now, 1), 0.0, 0.999)), rounds=1)
    whole = macs_model(analysis.coupled).of(np.zeros(len(analysis.coupled.roots), bool))
    wanted = Amount(whole * (limit.of(whole) / whole) ** share, False)
    return replace(options, macs=max(1.0, wanted.number), rounds=1)


def transplanted(source: ModelProto, target: ModelProto) -> ModelProto:
    """`target` with the weights of `source` where both have one of the same name and shape, and with biases that fits added."""
    from onnxprune.recovery.editor import REFIT

    found, own = read_weights(source), read_weights(target)
    for name, weight in own.items():
        other = found.get(name)
        if other is not None and other.is_float and other.shape == weight.shape:
            weight.tensor.CopyFrom(other.tensor)
    makers = {n.output[0]: n for n in source.graph.node if n.output}
    for node in target.graph.node:
        maker = makers.get(node.output[0]) if node.output else None
        for k, name in enumerate(maker.input if maker is not None else ()):
            if REFIT in name and name in found and name not in own:
                node.input.extend([""] * (k + 1 - len(node.input)))
                node.input[k] = name
                target.graph.initializer.add().CopyFrom(found[name].tensor)
    return target
