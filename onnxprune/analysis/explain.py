# SPDX-License-Identifier: Apache-2.0
"""Why a tensor keeps its channels: the shortest chain of ties to a pin, and what is cut together with its free channels."""

from __future__ import annotations

import difflib
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from onnxprune.analysis.coupling import Coupled
from onnxprune.analysis.labels import Pin
from onnxprune.errors import OptionError
from onnxprune.types import Indices


@dataclass(frozen=True, slots=True)
class Link:
    """One link: the node that ties, and the weight axis (or other tensor) that it leads to."""

    node: str
    reaches: str


@dataclass(frozen=True, slots=True)
class AxisStory:
    """One axis of a tensor.

    Attributes:
        axis, size: which axis, and its size (None = dynamic).
        free: the number of its channels that can be removed.
        chain: how a channel that cannot be removed is tied to what pins it.
        reason: why it is kept, or why the axis has no channels at all.
        partners: weight axes that are cut together with its free channels.
        even: for each node that needs the same number of them kept in several blocks, a description of this demand.
    """

    axis: int
    size: int | None
    free: int
    chain: tuple[Link, ...]
    reason: str
    partners: tuple[str, ...]
    even: tuple[str, ...] = ()


def explain(coupled: Coupled, tensor: str) -> tuple[AxisStory, ...]:
    """The story of every axis of a tensor: a weight, or any tensor that a node computes; a node's name means its first output.

    Raises:
        OptionError: the model has no such tensor.
    """
    graph = coupled.graph
    if tensor not in graph.facts:
        by_node = {n.name: n.result for n in graph.nodes if n.name}
        if tensor in by_node:
            return explain(coupled, by_node[tensor])
        near = difflib.get_close_matches(tensor, [*graph.facts, *by_node], 3, 0.4)
        hint = f"did you mean {', '.join(near)}?" if near else "'onnxprune inspect' lists the weights"
        raise OptionError(f"'{tensor}' is not a tensor or node of this model; {hint}")
    shape = graph.shape(tensor) or ()
    return tuple(_axis(coupled, tensor, k, size) for k, size in enumerate(shape))


def about(coupled: Coupled, tensor: str) -> str:
    """What a tensor is: what produces it, and what reads it."""
    graph = coupled.graph
    if tensor not in graph.facts:
        tensor = next(n.result for n in graph.nodes if n.name == tensor)
    maker = graph.producers.get(tensor)
    source = f"fed by {graph.owners[tensor]}" if tensor in graph.owners else "an input of the model"
    what = "a weight" if tensor in graph.weights else f"produced by {maker}" if maker is not None else source
    readers = [str(n) for n, _ in graph.consumers.get(tensor, ())] + ["the caller"] * (tensor in graph.outputs)
    more = f" and {len(readers) - 3} more" if len(readers) > 3 else ""
    return f"{tensor}: {what}, read by {', '.join(readers[:3]) or 'no node'}{more}"


def _axis(coupled: Coupled, tensor: str, axis: int, size: int | None) -> AxisStory:
    flow = coupled.flows.get(tensor)
    labels = flow.axes[axis] if flow is not None else None
    if labels is None:
        return AxisStory(axis, size, 0, (), without_channels(coupled, tensor, axis), ())
    pinned, free = labels[~coupled.free[labels]], labels[coupled.free[labels]]
    classes = np.zeros(len(coupled.roots), bool)
    classes[coupled.roots[free]] = True
    together = np.unique(coupled.owner_of[classes[coupled.roots]]).tolist()
    owners = [coupled.owners[k] for k in together if k >= 0]
    partners = tuple(f"{o.weight}[{o.axis}]" for o in owners if (o.weight, o.axis) != (tensor, axis))
    even = tuple(
        f"{coupled.graph.nodes[e.node]} needs the same number of them in each of its {len(e.labels)} blocks"
        for e in coupled.evens
        if classes[coupled.roots[e.labels]].any()
    )
    chain, reason = _chain(coupled, pinned) if len(pinned) else ((), "")
    return AxisStory(axis, size, len(free), chain, reason, partners, even)


def without_channels(coupled: Coupled, tensor: str, axis: int) -> str:
    """Why this axis carries no weight's channels."""
    graph = coupled.graph
    size = (graph.shape(tensor) or ())[axis]
    if size is None or size == 1:
        return "its size is dynamic" if size is None else "it has one position"
    if tensor in graph.inputs or tensor in graph.owners:
        return "it is an input of the model" if tensor in graph.inputs else f"it is fed by {graph.owners[tensor]}"
    if tensor in graph.weights:
        return "it is not a floating-point weight in use" if tensor in graph.consumers else "it is unused"
    along = [str(k) for k, x in enumerate(coupled.flows[tensor].axes) if x is not None]
    if along:
        return f"its channels lie along axis {' and '.join(along)}"
    maker = graph.producers.get(tensor)
    if maker is not None and any(maker.index in shuffle.nodes for shuffle in coupled.shuffles):
        return "it is inside a shuffle, which a Gather replaces if channels are removed"
    own = next((pin for _, pin in coupled.pins if maker is not None and pin.node == str(maker)), None)
    return str(own) if own is not None else _reason_upstream(coupled, tensor)


def _reason_upstream(coupled: Coupled, tensor: str) -> str:
    """Why no channels arrive, if the node that computes the tensor has not refused any."""
    graph, sources = coupled.graph, list[str]()
    seen, queue = {tensor}, deque([tensor])
    while queue:
        name = queue.popleft()
        maker = graph.producers.get(name)
        if name in graph.inputs:
            sources.append(name)
        if maker is None:
            continue
        if maker.op == "Reshape" and any(x is not None for x in coupled.flows[maker.inputs[0]].axes):
            return f"{maker} splits or joins channels, and another axis carries them (--carrier may choose)"
        above = [n for n in maker.inputs if n and n not in seen and n not in graph.weights]
        if any(x is not None for n in above for x in coupled.flows[n].axes):
            return f"{maker} passes none of its channels on to it"
        queue.extend(above)
        seen.update(above)
    if not sources:
        return "no weight produces it"
    return f"it comes from input '{sources[0]}', and no weight in between makes channels"


def _chain(coupled: Coupled, starts: Indices) -> tuple[tuple[Link, ...], str]:
    """Breadth-first search over single ties, from the labels `starts` to the nearest pin."""
    reached = np.zeros(len(coupled.roots), bool)
    reached[coupled.roots[starts]] = True
    pinned: dict[int, Pin] = {}
    for labels, pin in coupled.pins:
        for label in labels[reached[coupled.roots[labels]]].tolist():
            pinned.setdefault(label, pin)
    links: dict[int, list[tuple[int, int]]] = {}
    for tie in coupled.ties:
        mine = reached[coupled.roots[tie.a]]
        if mine.any():
            for a, b in zip(tie.a[mine].tolist(), tie.b[mine].tolist(), strict=True):
                links.setdefault(a, []).append((b, tie.node))
                links.setdefault(b, []).append((a, tie.node))
    previous: dict[int, tuple[int, int] | None] = dict.fromkeys(starts.tolist())
    queue = deque(previous)
    while queue:
        label = queue.popleft()
        if label in pinned:
            return tuple(_steps(coupled, previous, label))[::-1], _sentence(coupled, pinned[label])
        for other, node in links.get(label, ()):
            if other not in previous:
                previous[other] = (label, node)
                queue.append(other)
    return (), "it is pinned"


def _sentence(coupled: Coupled, pin: Pin) -> str:
    """The reason of a pin; if it refers to another axis, also why that axis carries no channels."""
    if pin.of is None:
        return str(pin)
    tensor, axis = pin.of
    return f"{pin}: those of '{tensor}', because {without_channels(coupled, tensor, axis)}"


def _steps(coupled: Coupled, previous: dict[int, tuple[int, int] | None], end: int) -> Iterable[Link]:
    """The links of a chain, from its end to its start."""
    while (link := previous[end]) is not None:
        yield Link(str(coupled.graph.nodes[link[1]]), _place(coupled, end))
        end = link[0]


def _place(coupled: Coupled, label: int) -> str:
    k = int(coupled.owner_of[label])
    if k < 0:
        return "positions that no weight owns"
    o = coupled.owners[k]
    return f"{o.weight}[{o.axis}] position {label - o.start}"
