# SPDX-License-Identifier: Apache-2.0
"""What `inspect` tells: what can be removed, what cannot, who holds it, and how many of the MACs hang on each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxprune.analysis.analyse import Analysis
from onnxprune.analysis.coupling import Coupled
from onnxprune.analysis.explain import without_channels
from onnxprune.analysis.groups import Group, Pinned
from onnxprune.cost.macs import macs_model
from onnxprune.cost.model import CostModel
from onnxprune.ir.graph import Fact, Node
from onnxprune.ir.products import products
from onnxprune.ir.semantics import PRODUCERS


@dataclass(frozen=True, slots=True)
class GroupView:
    """Channels that can be removed.

    Attributes:
        name: the first weight that makes them.
        channels: how many can be removed or kept one by one.
        each: how many output channels of that weight one of them stands for.
        made_by: nodes that make them.
        members: weight axes (`weight[axis]`) that lose a slice with each.
        macs: share of all MACs that go if the whole group goes.
        blocks: for each demand that the same number stays in every block, how many blocks there are.
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
    """Channels that cannot be removed, by who needs them.

    Attributes:
        op, node, why: the operator, the name of the node (or output), and what it does with them.
        reason: the same as a sentence.
        channels: how many.
        weights, made_by: the weights and nodes that make them.
        macs: share of all MACs that makes them.
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
    """MACs that no cut changes: a node whose products are between sizes that all stay, their share, and why."""

    op: str
    node: str
    macs: float
    why: str


@dataclass(frozen=True, slots=True)
class LayerView:
    """One node that multiplies: its share of all MACs, and how many of its output channels can be removed or must stay."""

    op: str
    node: str
    macs: float
    free: int
    held: int
    why: str


@dataclass(frozen=True)
class Inspection:
    """All that there is to tell before a cut.

    Attributes:
        model: how it is called.
        nodes: how many nodes its main graph has.
        macs: multiply-accumulates for `inputs`.
        prunable: channels that can be removed.
        held_macs: share of the MACs that makes channels that cannot be removed.
        fixed_macs: share of the MACs that is left if everything goes that can.
        groups, pins, rest, layers: the parts; pins and rest largest first, groups and layers in the order of the graph.
    """

    model: str
    nodes: int
    macs: int
    inputs: Mapping[str, tuple[int, ...]]
    prunable: int
    held_macs: float
    fixed_macs: float
    groups: tuple[GroupView, ...]
    pins: tuple[PinView, ...]
    rest: tuple[RestView, ...]
    layers: tuple[LayerView, ...]


def inspect(analysis: Analysis, name: str) -> Inspection:
    """Look at an analysis from all sides."""
    coupled, graph = analysis.coupled, analysis.coupled.graph
    facts = coupled.sizes
    total = _count(coupled, facts, np.zeros(len(coupled.roots), bool))
    layers = tuple(_layers(coupled, facts, total))
    macs = macs_model(coupled)
    fixed = macs.of(coupled.free) / max(1, total)
    return Inspection(
        model=name,
        nodes=len(graph.nodes),
        macs=total,
        inputs={n: facts[n].shape or () for n in graph.inputs},
        prunable=analysis.prunable,
        held_macs=sum(h.macs for h in analysis.pinned),
        fixed_macs=fixed,
        groups=tuple(_group(coupled, g, macs, total) for g in analysis.groups),
        pins=tuple(_held(coupled, h) for h in analysis.pinned),
        rest=tuple(_rest(coupled, facts, total)),
        layers=layers,
    )


def _count(coupled: Coupled, facts: Mapping[str, Fact], dropped: Any) -> int:
    return sum(_left(coupled, node, facts, dropped) for node in coupled.graph.elementary)


def _left(coupled: Coupled, node: Node, facts: Mapping[str, Fact], dropped: Any) -> int:
    """Multiply-accumulates of a node without some labels."""
    total = 0
    for found in products(node, facts):
        count = 1
        for tensor, axis in found:
            labels = coupled.flows[tensor].axes[axis] if tensor in coupled.flows else None
            count *= (facts[tensor].shape or ())[axis] if labels is None else int((~dropped[labels]).sum())
        total += count
    return total


def _group(coupled: Coupled, group: Group, macs: CostModel, total: int) -> GroupView:
    gone = np.zeros(len(coupled.roots), bool)
    gone[group.roots] = True
    share = 1 - macs.of(gone[coupled.roots]) / max(1, total)
    nodes = dict.fromkeys(str(coupled.graph.nodes[coupled.uses[u].node]) for u in group.producers)
    members = tuple(f"{weight}[{axis}]" for weight, axis in group.members)
    blocks = tuple(len(b) for b in group.blocks)
    return GroupView(group.name, len(group), group.channels, tuple(nodes), members, share, blocks)


def _held(coupled: Coupled, held: Pinned) -> PinView:
    makers = (str(node) for w in held.weights for node, _ in coupled.graph.consumers.get(w, ()))
    pin = held.pin
    return PinView(pin.op, pin.name, pin.why, str(pin), held.channels, held.weights, tuple(dict.fromkeys(makers)), held.macs)


def _rest(coupled: Coupled, facts: Mapping[str, Fact], total: int) -> list[RestView]:
    """Nodes of which something is left when all free channels are gone, largest first."""
    found = []
    for node in coupled.graph.elementary:
        left = _left(coupled, node, facts, coupled.free)
        if left:
            found.append(RestView(node.op, node.name or node.outputs[0], left / total, _why(coupled, node, facts)))
    return sorted(found, key=lambda r: -r.macs)


def _why(coupled: Coupled, node: Node, facts: Mapping[str, Fact]) -> str:
    """What holds the sizes that a node multiplies."""
    pins: dict[str, None] = {}
    for tensor, axis in (place for found in products(node, facts) for place in found):
        labels = coupled.flows[tensor].axes[axis] if tensor in coupled.flows else None
        if labels is not None:
            held = labels[~coupled.free[labels]]
            for root in coupled.roots[held[:1]].tolist():
                pin = coupled.first_pin[int(root)]
                if pin.of is not None:
                    pins[without_channels(coupled, *pin.of)] = None
                elif pin.node != str(node):
                    pins[str(pin)] = None
    return "; ".join([*pins][:2]) or "its sizes are no channels of a weight"


def _layers(coupled: Coupled, facts: Mapping[str, Fact], total: int) -> list[LayerView]:
    """Every node that multiplies, in the order of the graph."""
    makes = {u.node: u for u in coupled.uses if u.produces and u.operand != 2 and u.op in PRODUCERS}
    none = np.zeros(len(coupled.roots), bool)
    found = []
    for node in coupled.graph.elementary:
        macs = _left(coupled, node, facts, none)
        if not macs:
            continue
        use = makes.get(node.index)
        labels = use.labels if use is not None else np.zeros(0, np.int64)
        free = int(coupled.free[labels].sum())
        held = labels[~coupled.free[labels]]
        why = str(coupled.first_pin[int(coupled.roots[held[0]])]) if len(held) else "" if free else _why(coupled, node, facts)
        found.append(LayerView(node.op, node.name or node.outputs[0], macs / total, free, len(held), why))
    return found
