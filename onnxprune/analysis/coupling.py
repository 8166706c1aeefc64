# SPDX-License-Identifier: Apache-2.0
"""The result of the analysis: a frozen value that all later stages read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

from onnxprune.analysis.labels import Even, Flow, Mix, Pin, Tie, distinct
from onnxprune.analysis.policy import DEFAULT, Policy
from onnxprune.analysis.rules.site import Use
from onnxprune.analysis.shuffles import Shuffle
from onnxprune.ir.facts import CASES_OF_BENCHMARK, read_once
from onnxprune.ir.graph import Fact, Graph
from onnxprune.types import Indices, Mask


@dataclass(frozen=True, slots=True)
class Owner:
    """An axis of a weight, and the first of its labels (position p has label `start + p`)."""

    weight: str
    axis: int
    start: int
    size: int


class Mark(NamedTuple):
    """The number of labels, ties and so on before a node is visited."""

    labels: int
    ties: int
    pins: int
    mixed: int
    needed: int
    evens: int
    uses: int
    shuffles: int


@dataclass(frozen=True)
class Trail:
    """The record of a pass over the graph, from which a later pass can resume.

    Attributes:
        kept: the nodes whose channels were kept.
        marks: the numbers of labels, ties and so on before each node.
        stored: tensors that are computed from weights alone.
        shuffles: index of each node that takes part in a shuffle -> the shuffle.
        evens: demands for blocks, as the rules made them.
    """

    kept: Mapping[int, str]
    marks: tuple[Mark, ...]
    stored: frozenset[str]
    shuffles: Mapping[int, Shuffle]
    evens: tuple[Even, ...]


@dataclass(frozen=True)
class Coupled:
    """The result of the analysis.

    Attributes:
        graph: the analysed graph.
        flows: the labels and residues of each tensor.
        owners: every labelled axis of every weight, by ascending `start`.
        roots: the class of every label (n_labels,).
        free: whether the class of each label may be cut (n_labels,).
        uses: where weights are used.
        ties, pins: why labels are united, and why they are kept.
        policy: which of several valid results was chosen.
        mixed: channels that a node mixes; after a cut it works on those that are kept, which differs from the masked original.
        needed: further arrays of labels; at least one label of each must be kept, as on every axis.
        evens: blocks of classes; the same number must be kept in each. They are disjoint, free, each within one group.
        shuffles: nodes that permute channels; a Gather replaces them if channels are dropped.
        trail: the record from which a later pass over the same graph can resume.
    """

    graph: Graph = field(repr=False)
    flows: Mapping[str, Flow] = field(repr=False)
    owners: tuple[Owner, ...] = field(repr=False)
    roots: Indices = field(repr=False)
    free: Mask = field(repr=False)
    uses: tuple[Use, ...] = field(repr=False)
    ties: tuple[Tie, ...] = field(repr=False)
    pins: tuple[tuple[Indices, Pin], ...] = field(repr=False)
    policy: Policy = DEFAULT
    mixed: tuple[Mix, ...] = field(default=(), repr=False)
    needed: tuple[Indices, ...] = field(default=(), repr=False)
    shuffles: tuple[Shuffle, ...] = field(default=(), repr=False)
    evens: tuple[Even, ...] = field(default=(), repr=False)
    trail: Trail | None = field(default=None, repr=False)

    @cached_property
    def owner_of(self) -> Indices:
        """For each label, the index into `owners` of the axis that owns it, -1 for none (n_labels,)."""
        return owners_of(self.owners, len(self.roots))

    @cached_property
    def first_pin(self) -> Mapping[int, Pin]:
        """Class -> the first pin on it."""
        found: dict[int, Pin] = {}
        for labels, pin in self.pins:
            for root in distinct(self.roots[labels]).tolist():
                found.setdefault(root, pin)
        return found

    def renormalising(self, dropped: Mask) -> dict[int, Indices]:
        """Index of each node that would work on only some of the channels that it mixes -> those channels (labels)."""
        found: dict[int, Indices] = {}
        for mix in self.mixed:
            if dropped[mix.labels].any():
                found[mix.node] = np.concatenate([found.get(mix.node, mix.labels[:0]), mix.labels])
        return found

    @cached_property
    def sizes(self) -> Mapping[str, Fact]:
        """The facts of every tensor at the input sizes shown in reports."""
        if any(len(f.cases) > 1 for f in self.graph.facts.values()):
            return read_once(self.graph.model, CASES_OF_BENCHMARK, self.graph.fed)[0].facts
        return {name: f.cases[0] for name, f in self.graph.facts.items()}

    @cached_property
    def live(self) -> frozenset[str]:
        """The tensors that depend on the inputs of the model."""
        found = set(self.graph.inputs)
        for node in self.graph.nodes:
            if not found.isdisjoint((*node.inputs, *node.implicit)):
                found.update(node.outputs)
        return frozenset(found)

    def spans(self) -> list[Indices]:
        """The classes on every labelled axis of every tensor, without duplicates: at least one of each must be kept."""
        return self._spans

    @cached_property
    def _spans(self) -> list[Indices]:
        found: dict[bytes, Indices] = {}
        # most operators pass the same array on
        arrays = {id(axis): axis for flow in self.flows.values() for axis in flow.axes if axis is not None}
        # an array that is a single class may be dropped as a whole
        arrays |= {id(x): x for x in self.needed if len(distinct(self.roots[x])) > 1}
        for axis in arrays.values():
            if self.free[axis].all():
                roots = distinct(self.roots[axis])
                found.setdefault(roots.tobytes(), roots)
        return list(found.values())


def carried(source: Coupled, dropped: Mask, target: Coupled) -> Mask:
    """The labels (n_labels,) that a cut of one model drops in another one that has its weights."""
    owners, classes = {(o.weight, o.axis): o for o in target.owners}, np.zeros(len(target.roots), bool)
    for o in source.owners:
        other = owners.get((o.weight, o.axis))
        if other is not None:
            own = target.roots[other.start : other.start + other.size]
            classes[own[dropped[o.start : o.start + o.size]]] = True
    found: Mask = classes[target.roots]
    return found


def owners_of(owners: Sequence[Owner], count: int) -> Indices:
    """For each of `count` labels, the index of the axis that owns it, -1 for none (n_labels,)."""
    found = np.full(count, -1)
    for k, o in enumerate(owners):
        found[o.start : o.start + o.size] = k
    return found
