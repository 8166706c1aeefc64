# SPDX-License-Identifier: Apache-2.0
"""Why a tensor keeps its channels: the shortest chain of ties from it to a pin."""

from __future__ import annotations

import difflib
from collections import deque
from dataclasses import dataclass

import numpy as np

from onnxprune.coupling import Coupled
from onnxprune.errors import OptionError
from onnxprune.graph import Node
from onnxprune.labels import Pin


@dataclass(frozen=True, slots=True)
class Step:
    """One link: the node that ties, and the weight axis (or other tensor) that it leads to."""

    node: str
    reaches: str


@dataclass(frozen=True, slots=True)
class AxisStory:
    """One axis of a tensor.

    Attributes:
        axis, size: which axis, and its size (None = dynamic).
        free: how many of its channels can be removed.
        chain: how a channel that cannot be removed hangs together with what pins it.
        reason: why it stays, or why the axis has no channels at all.
        partners: weight axes that are cut together with its free channels.
        even: for each node that needs the same number of them to stay in several blocks, what it needs.
    """

    axis: int
    size: int | None
    free: int
    chain: tuple[Step, ...]
    reason: str
    partners: tuple[str, ...]
    even: tuple[str, ...] = ()


def explain(coupled: Coupled, tensor: str) -> tuple[AxisStory, ...]:
    """The story of every axis of a tensor: a weight, or any tensor that a node makes.

    Raises:
        OptionError: the model has no such tensor.
    """
    graph = coupled.graph
    if tensor not in graph.facts:
        by_node = {n.name: n.outputs[0] for n in graph.nodes if n.name}
        if tensor in by_node:
            return explain(coupled, by_node[tensor])
        near = difflib.get_close_matches(tensor, [*graph.facts, *by_node], 3, 0.4)
        raise OptionError(f"'{tensor}' is no tensor or node of the model; near names: {', '.join(near) or 'none'}")
    shape = graph.shape(tensor) or ()
    return tuple(_axis(coupled, tensor, k, size) for k, size in enumerate(shape))


def _axis(coupled: Coupled, tensor: str, axis: int, size: int | None) -> AxisStory:
    labels = coupled.flows[tensor].axes[axis]
    if labels is None:
        why = (
            "its size is dynamic" if size is None else "it has one position" if size == 1 else _without_labels(coupled, tensor)
        )
        return AxisStory(axis, size, 0, (), why, ())
    held = labels[~coupled.free[labels]]
    free = labels[coupled.free[labels]]
    together = np.unique(coupled.owner_of[np.isin(coupled.roots, coupled.roots[free])]).tolist() if len(free) else []
    owners = [coupled.owners[k] for k in together if k >= 0]
    partners = tuple(f"{o.weight}[{o.axis}]" for o in owners if (o.weight, o.axis) != (tensor, axis))
    even = tuple(
        f"{coupled.graph.nodes[e.node]} needs the same number of them in each of its {len(e.labels)} blocks"
        for e in coupled.evens
        if np.isin(e.labels, coupled.roots[free]).any()
    )
    if not len(held):
        return AxisStory(axis, size, len(free), (), "", partners, even)
    chain, reason = _chain(coupled, int(held[0]))
    return AxisStory(axis, size, len(free), chain, reason, partners, even)


def _without_labels(coupled: Coupled, tensor: str) -> str:
    """Why no weight's channels arrive on this axis."""
    graph = coupled.graph
    if tensor in graph.inputs:
        return "it is an input of the model"
    if tensor in graph.weights:
        return "it is not a floating-point weight in use"
    node: Node = graph.producers[tensor]
    if any(node.index in shuffle.nodes for shuffle in coupled.shuffles):
        return "it lies inside a shuffle, which a Gather replaces where channels go"
    return f"{node} brings no channel of a weight here"


def _chain(coupled: Coupled, start: int) -> tuple[tuple[Step, ...], str]:
    """Breadth-first over single ties, from one label to the nearest pinned one of its class."""
    root = coupled.roots[start]
    pinned: dict[int, Pin] = {}
    for labels, pin in coupled.pins:
        for label in labels[coupled.roots[labels] == root].tolist():
            pinned.setdefault(label, pin)
    links: dict[int, list[tuple[int, int]]] = {}
    for tie in coupled.ties:
        mine = coupled.roots[tie.a] == root
        for a, b in zip(tie.a[mine].tolist(), tie.b[mine].tolist(), strict=True):
            links.setdefault(a, []).append((b, tie.node))
            links.setdefault(b, []).append((a, tie.node))
    came: dict[int, tuple[int, int] | None] = {start: None}
    queue = deque([start])
    while queue:
        label = queue.popleft()
        if label in pinned:
            return _steps(coupled, came, label), str(pinned[label])
        for other, node in links.get(label, ()):
            if other not in came:
                came[other] = (label, node)
                queue.append(other)
    return (), "it is pinned"


def _steps(coupled: Coupled, came: dict[int, tuple[int, int] | None], end: int) -> tuple[Step, ...]:
    steps: list[Step] = []
    at = came[end]
    label = end
    while at is not None:
        steps.append(Step(str(coupled.graph.nodes[at[1]]), _place(coupled, label)))
        label, at = at[0], came[at[0]]
    return tuple(reversed(steps))


def _place(coupled: Coupled, label: int) -> str:
    k = int(coupled.owner_of[label])
    if k < 0:
        return "positions that no weight owns"
    o = coupled.owners[k]
    return f"{o.weight}[{o.axis}] position {label - o.start}"
