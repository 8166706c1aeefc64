# SPDX-License-Identifier: Apache-2.0
"""Labels on axes: every position of every axis of every tensor has one; labels that are tied are kept or dropped together.

`Labels` is a union-find over integers that records why labels are tied and pinned, so that a report can explain it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from onnxprune.types import Indices, Mask

Axis = Indices | None
"""One label per position of an axis, or None for an axis that never shrinks."""


class Residue(IntEnum):
    """What the positions of an axis whose label is dropped hold in the masked original; higher values are better."""

    UNKNOWN = 0
    """Anything."""
    COMPUTED = 1
    """What element-wise operators compute from tensors that the pruned model also has."""
    CONSTANT = 2
    """The same numbers whatever the input of the model."""
    ZERO = 3
    """Zeros."""


@dataclass(frozen=True, slots=True)
class Flow:
    """The labels and residues on the axes of a tensor.

    Attributes:
        axes: the labels of each axis.
        residue: for each axis, what dropped positions hold once the weights are masked. A sum over an axis is exact if its
            residue is zero, and can be made exact if its residue is known.
    """

    axes: tuple[Axis, ...]
    residue: tuple[Residue, ...]

    @classmethod
    def plain(cls, rank: int) -> Flow:
        """A tensor none of whose axes shrinks."""
        return cls((None,) * rank, (Residue.UNKNOWN,) * rank)

    @property
    def zero(self) -> tuple[bool, ...]:
        """For each axis, whether dropped positions hold zeros."""
        return tuple(r is Residue.ZERO for r in self.residue)


@dataclass(frozen=True, slots=True)
class Pin:
    """Why channels are permanently kept.

    Attributes:
        node: what needs them: operator and name, or an output of the model.
        why: what it does with them; completes the sentence "<node> ...".
        of: (tensor, axis) of other channels that cannot be cut, if they are the reason.
    """

    node: str
    why: str
    of: tuple[str, int] | None = None

    def __str__(self) -> str:
        """A sentence for reports."""
        return f"{self.node} {self.why}"

    @property
    def op(self) -> str:
        """The operator; `output` for an output of the model."""
        return self.node.partition(" '")[0]

    @property
    def name(self) -> str:
        """The name of the node or output."""
        return self.node.partition(" '")[2].removesuffix("'")


@dataclass(frozen=True, slots=True)
class Tie:
    """Two arrays of labels that a node united, position by position."""

    a: Indices
    b: Indices
    node: int


@dataclass(frozen=True, slots=True)
class Mix:
    """Labels that a node mixes; in the smaller graph, it works on those that are kept."""

    labels: Indices
    node: int


@dataclass(frozen=True, slots=True)
class Even:
    """Blocks (n_blocks, size) of labels or classes; a node needs the same number to be kept in each."""

    labels: Indices
    node: int


def distinct(labels: Indices) -> Indices:
    """The distinct labels, ascending. (`np.unique` hashes since NumPy 2.3, which is several times slower here.)"""
    found: Indices = np.sort(labels, axis=None)
    return np.compress(np.diff(found, prepend=-2), found)


def find(parent: Indices, labels: Indices) -> Indices:
    """The representative of each label, with path compression."""
    root = parent[labels]
    while True:
        above = parent[root]
        if np.array_equal(above, root):
            parent[labels] = root
            return root
        root = above


def unite(parent: Indices, a: Indices, b: Indices) -> None:
    """Unite `a[i]` and `b[i]` for every i; the smallest label represents a class."""
    while True:
        ra, rb = find(parent, a), find(parent, b)
        apart = ra != rb
        if not apart.any():
            return
        low, high = np.minimum(ra, rb)[apart], np.maximum(ra, rb)[apart]
        np.minimum.at(parent, high, low)


class Labels:
    """All labels of one graph. The only mutable object of the analysis.

    At least one label of each array in `needed` must be kept, as of every axis of every tensor.
    """

    def __init__(self) -> None:
        self._parent = np.arange(1024)
        self._pinned = np.zeros(1024, bool)
        self._marks = np.zeros(1025, bool)  # index -1 (no label) refers to the spare last element
        self.count = 0
        self.ties: list[Tie] = []
        self.pins: list[tuple[Indices, Pin]] = []
        self.mixed: list[Mix] = []
        self.evens: list[Even] = []
        self.touched: list[Indices] = []
        self.needed: list[Indices] = []

    @classmethod
    def of(
        cls,
        count: int,
        ties: Sequence[Tie],
        pins: Sequence[tuple[Indices, Pin]],
        mixed: Sequence[Mix],
        needed: Sequence[Indices],
        evens: Sequence[Even],
    ) -> Labels:
        """A new instance with `count` labels and these ties, pins and so on."""
        found = cls()
        found.fresh(count)
        none = np.zeros(0, np.int64)
        unite(found._parent, np.concatenate([none, *(t.a for t in ties)]), np.concatenate([none, *(t.b for t in ties)]))
        found._pinned[found.root(np.concatenate([none, *(labels for labels, _ in pins)]))] = True
        found.ties, found.pins = list(ties), list(pins)
        found.mixed, found.needed, found.evens = list(mixed), list(needed), list(evens)
        return found

    def fresh(self, size: int) -> Indices:
        """`size` new labels, each a class of its own."""
        start, self.count = self.count, self.count + size
        if self.count > len(self._parent):
            room = max(self.count, 2 * len(self._parent))
            self._parent = np.concatenate([self._parent, np.arange(len(self._parent), room)])
            self._pinned = np.concatenate([self._pinned, np.zeros(room - len(self._pinned), bool)])
            self._marks = np.zeros(room + 1, bool)
        return np.arange(start, self.count)

    def tie(self, a: Indices, b: Indices, node: int) -> None:
        """Unite `a` and `b` position by position (broadcast against each other), because of `node`."""
        a, b = (x.ravel() for x in np.broadcast_arrays(a, b))
        self.touched += [a, b]
        if a is not b and not np.array_equal(a, b):
            self.ties.append(Tie(a, b, node))
            pinned = self._pinned[self.root(a)] | self._pinned[self.root(b)]
            unite(self._parent, a, b)
            self._pinned[self.root(a[pinned])] = True

    def pin(self, labels: Indices, pin: Pin) -> None:
        """Keep these labels, and all that are or will be tied to them."""
        labels = labels.ravel()
        self.touched.append(labels)
        self.pins.append((labels, pin))
        self._pinned[self.root(labels)] = True

    def mix(self, labels: Indices, node: int) -> None:
        """`node` mixes these labels; in the smaller graph, it works on those that are kept."""
        self.touched.append(labels)
        self.mixed.append(Mix(labels, node))

    def even(self, blocks: Indices, node: int) -> None:
        """`node` needs the same number of labels to be kept in every row of `blocks` (n_blocks, size)."""
        self.touched.append(blocks.ravel())
        self.evens.append(Even(blocks, node))

    def fixed(self, size: int, pin: Pin) -> Indices:
        """Fresh pinned labels, for the part of an axis that never shrinks."""
        labels = self.fresh(size)
        self.pin(labels, pin)
        return labels

    def root(self, labels: Indices) -> Indices:
        """The representative of each label."""
        return find(self._parent, labels)

    @contextmanager
    def marked(self, arrays: Iterable[Indices]) -> Iterator[Mask]:
        """For every label, whether one of `arrays` contains it; the time does not depend on the number of labels."""
        arrays = [x.ravel() for x in arrays]
        for x in arrays:
            self._marks[x] = True
        yield self._marks
        for x in arrays:
            self._marks[x] = False

    def free(self) -> Mask:
        """For every label (n_labels,), whether its class has no pin."""
        return ~self._pinned[self.root(np.arange(self.count))]

    def atoms_left(self, ties: Iterable[tuple[Indices, Indices]], of: Indices) -> int:
        """The number of free classes that the labels `of` would form after `ties`, without making these ties."""
        pairs = [tuple(x.ravel() for x in np.broadcast_arrays(a, b)) for a, b in ties]
        flat = [self.root(x) for x in (of.ravel(), *(x for pair in pairs for x in pair))]
        names, dense = np.unique(np.concatenate(flat), return_inverse=True)
        parts = np.split(dense, np.cumsum([len(x) for x in flat])[:-1])
        local = np.arange(len(names))
        for a, b in zip(parts[1::2], parts[2::2], strict=True):
            unite(local, a, b)
        pinned = find(local, np.flatnonzero(self._pinned[names]))
        return len(np.setdiff1d(find(local, parts[0]), pinned))
