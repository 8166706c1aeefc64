# SPDX-License-Identifier: Apache-2.0
"""What `inspect` shows: what can be removed, what cannot and why, and the share of the MACs that each accounts for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from onnxprune.analysis.analyse import Analysis
from onnxprune.analysis.coupling import Coupled
from onnxprune.analysis.dead import dead_labels
from onnxprune.analysis.explain import without_channels
from onnxprune.analysis.groups import Group, Pinned, producing
from onnxprune.cost.footprint import is_parameter
from onnxprune.cost.macs import macs_model
from onnxprune.cost.model import CostModel
from onnxprune.ir.graph import Fact, Node
from onnxprune.ir.products import macs_of, products
from onnxprune.selection.criteria import seems_folded


@dataclass(frozen=True, slots=True)
class GroupView:
    """Channels that can be removed.

    Attributes:
        name: the first weight that produces them.
        channels: the number that can be removed or kept individually.
        each: number of output channels of that weight per channel of the group.
        made_by: nodes that produce them.
        members: weight axes (`weight[axis]`) that lose a slice with each of them.
        macs: share of all MACs that is saved if the whole group is removed.
        blocks: for each constraint that all blocks keep the same number, the number of blocks.
    """

    name: str
    channels: int
    each: int
    made_by: tuple[str, ...]
    members: tuple[str, ...]
    macs: float
    blocks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PinView:
    """Channels that cannot be removed because one operator or output needs them.

    Attributes:
        op, node, why: the operator, the name of the node (or output), and what it does with them.
        reason: the same as a sentence.
        channels: their number.
        weights, made_by: the weights and nodes that produce them.
        macs: share of all MACs spent on them.
    """

    op: str
    node: str
    why: str
    reason: str
    channels: int
    weights: tuple[str, ...]
    made_by: tuple[str, ...]
    macs: float


@dataclass(frozen=True, slots=True)
class RestView:
    """A node with MACs that remain when all removable channels are removed: their share of all MACs, and why they remain."""

    op: str
    node: str
    macs: float
    why: str


@dataclass(frozen=True, slots=True)
class LayerView:
    """One node with MACs: its share of all MACs, and how many of its output channels can be removed or must be kept."""

    op: str
    node: str
    macs: float
    free: int
    held: int
    why: str


@dataclass(frozen=True, slots=True)
class OperatorView:
    """What all nodes of one operator add up to.

    Attributes:
        op: the operator.
        nodes: number of nodes, fused ones taken apart.
        macs: multiply-accumulates; `share` of all.
        params: elements of the weights that they read; one that several read counts for each.
    """

    op: str
    nodes: int
    macs: int
    share: float
    params: int


@dataclass(frozen=True)
class Inspection:
    """Everything known about a model before a cut.

    Attributes:
        model: its name.
        nodes: number of nodes in its main graph.
        macs: multiply-accumulates for `inputs`.
        batch_norms: number of BatchNormalization nodes.
        folded: whether others seem to have been folded into convolutions, so that their scales are not scored.
        prunable: number of channels that can be removed.
        dead: how many of them are provably always zero, whatever the inputs.
        constant: how many more of them are provably always the same, so that biases can make up for them.
        held_macs: share of the MACs spent on channels that cannot be removed.
        fixed_macs: share of the MACs that remains if everything that can be removed is removed.
        groups, pins, rest, layers: the parts; pins and rest largest first, groups and layers in graph order.
        operators: what each operator counts for, most multiply-accumulates first.
    """

    model: str
    nodes: int
    macs: int
    inputs: Mapping[str, tuple[int, ...]]
    batch_norms: int
    folded: bool
    prunable: int
    dead: int
    constant: int
    held_macs: float
    fixed_macs: float
    groups: tuple[GroupView, ...]
    pins: tuple[PinView, ...]
    rest: tuple[RestView, ...]
    layers: tuple[LayerView, ...]
    operators: tuple[OperatorView, ...]


def inspect(analysis: Analysis, name: str) -> Inspection:
    """Summarise an analysis."""
    from onnxprune.recovery.constants import foldable  # on demand, for a quick start

    coupled, graph = analysis.coupled, analysis.coupled.graph
    facts = coupled.sizes
    total = _count(coupled, facts, np.zeros(len(coupled.roots), bool))
    layers = tuple(_layers(coupled, facts, total))
    macs = macs_model(coupled)
    fixed, dead = macs.of(coupled.free) / max(1, total), dead_labels(coupled, analysis.groups)
    constant = foldable(coupled, analysis.groups)
    return Inspection(
        model=name,
        nodes=len(graph.nodes),
        macs=total,
        inputs={n: facts[n].shape or () for n in graph.inputs},
        batch_norms=sum(node.op == "BatchNormalization" for node in graph.elementary),
        folded=seems_folded(coupled, analysis.groups),
        prunable=analysis.prunable,
        dead=sum(int(dead[g.roots].sum()) for g in analysis.groups),
        constant=sum(int(constant[g.roots].sum()) for g in analysis.groups),
        held_macs=sum(p.macs for p in analysis.pinned),
        fixed_macs=fixed,
        groups=tuple(_group(coupled, g, macs, total) for g in analysis.groups),
        pins=tuple(_pin(coupled, p) for p in analysis.pinned),
        rest=tuple(_rest(coupled, facts, total)),
        layers=layers,
        operators=_operators(coupled, facts, total),
    )


def _operators(coupled: Coupled, facts: Mapping[str, Fact], total: int) -> tuple[OperatorView, ...]:
    weights, found = coupled.graph.weights, dict[str, list[int]]()
    for node in coupled.graph.elementary:
        read = [weights[name] for name in dict.fromkeys(node.inputs) if name in weights]
        mine = found.setdefault(node.op, [0, 0, 0])
        mine[0] += 1
        mine[1] += macs_of(node, facts)
        mine[2] += sum(prod(w.shape) for w in read if is_parameter(w))
    rows = [OperatorView(op, n, macs, macs / max(1, total), params) for op, (n, macs, params) in found.items()]
    return tuple(sorted(rows, key=lambda r: (-r.macs, -r.params, -r.nodes, r.op)))


def _count(coupled: Coupled, facts: Mapping[str, Fact], dropped: Any) -> int:
    return sum(_macs_without(coupled, node, facts, dropped) for node in coupled.graph.elementary)


def _macs_without(coupled: Coupled, node: Node, facts: Mapping[str, Fact], dropped: Any) -> int:
    """Multiply-accumulates of a node without the dropped labels."""
    total = 0
    for found in products(node, facts):
        count = 1
        for tensor, axis in found:
            labels = coupled.flows[tensor].axes[axis] if tensor in coupled.flows else None
            count *= (facts[tensor].shape or ())[axis] if labels is None else int((~dropped[labels]).sum())
        total += count
    return total


def _group(coupled: Coupled, group: Group, macs: CostModel, total: int) -> GroupView:
    removed = np.zeros(len(coupled.roots), bool)
    removed[group.roots] = True
    share = 1 - macs.of(removed[coupled.roots]) / max(1, total)
    nodes = dict.fromkeys(str(coupled.graph.nodes[coupled.uses[u].node]) for u in group.producers)
    members = tuple(f"{weight}[{axis}]" for weight, axis in group.members)
    blocks = tuple(len(b) for b in group.blocks)
    return GroupView(group.name, len(group), group.channels, tuple(nodes), members, share, blocks)


def _pin(coupled: Coupled, pinned: Pinned) -> PinView:
    makers = (str(node) for w in pinned.weights for node, _ in coupled.graph.consumers.get(w, ()))
    pin, made_by = pinned.pin, tuple(dict.fromkeys(makers))
    return PinView(pin.op, pin.name, pin.why, str(pin), pinned.channels, pinned.weights, made_by, pinned.macs)


def _rest(coupled: Coupled, facts: Mapping[str, Fact], total: int) -> list[RestView]:
    """Nodes with MACs that remain when all free channels are removed, largest first."""
    found = []
    for node in coupled.graph.elementary:
        remaining = _macs_without(coupled, node, facts, coupled.free)
        if remaining:
            found.append(RestView(node.op, node.title, remaining / total, _why(coupled, node, facts)))
    return sorted(found, key=lambda r: -r.macs)


def _why(coupled: Coupled, node: Node, facts: Mapping[str, Fact]) -> str:
    """Why the sizes that a node multiplies cannot shrink."""
    pins: dict[str, None] = {}
    for tensor, axis in (place for found in products(node, facts) for place in found):
        labels = coupled.flows[tensor].axes[axis] if tensor in coupled.flows else None
        if labels is not None:
            pinned = labels[~coupled.free[labels]]
            for root in coupled.roots[pinned[:1]].tolist():
                pin = coupled.first_pin[int(root)]
                if pin.of is not None:
                    pins[without_channels(coupled, *pin.of)] = None
                elif pin.node != str(node):
                    pins[str(pin)] = None
    return "; ".join([*pins][:2]) or "its sizes are no channels of a weight"


def _layers(coupled: Coupled, facts: Mapping[str, Fact], total: int) -> list[LayerView]:
    """Every node with MACs, in graph order."""
    makes = {u.node: u for u in producing(coupled).values()}
    none = np.zeros(len(coupled.roots), bool)
    found = []
    for node in coupled.graph.elementary:
        macs = _macs_without(coupled, node, facts, none)
        if not macs:
            continue
        use = makes.get(node.index)
        labels = use.labels if use is not None else np.zeros(0, np.int64)
        free = int(coupled.free[labels].sum())
        pinned = labels[~coupled.free[labels]]
        pins = [str(coupled.first_pin[root]) for root in coupled.roots[pinned[:1]].tolist()]
        why = pins[0] if pins else "" if free else _why(coupled, node, facts)
        found.append(LayerView(node.op, node.title, macs / total, free, len(pinned), why))
    return found
