# SPDX-License-Identifier: Apache-2.0
"""Labels on axes: every position of every axis of every tensor has one; labels tied together live or die together.

`Labels` is a union-find over integers that records why things are tied and pinned, so that a report can tell.
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
    """What the positions of an axis whose label is dropped hold in the masked original; more is better."""

    UNKNOWN = 0
    """Anything."""
    COMPUTED = 1
    """What element-wise operators make of tensors that the pruned model has too."""
    CONSTANT = 2
    """The same numbers whatever the model is fed."""
    ZERO = 3
    """Zeros."""


@dataclass(frozen=True, slots=True)
class Flow:
    """What a tensor carries.

    Attributes:
        axes: the labels of each axis.
        residue: for each axis, what dropped positions hold once the weights are masked. Sums over an axis are exact where it
            is zero, or can be made exact where it is known.
    """

    axes: tuple[Axis, ...]
    residue: tuple[Residue, ...]

    @classmethod
    def plain(cls, rank: int) -> Flow:
        """A tensor of which no axis shrinks."""
        return cls((None,) * rank, (Residue.UNKNOWN,) * rank)

    @property
    def zero(self) -> tuple[bool, ...]:
        """For each axis, whether dropped positions hold zeros."""
        return tuple(r is Residue.ZERO for r in self.residue)


@dataclass(frozen=True, slots=True)
class Pin:
    """Why channels are kept for ever.

    Attributes:
        node: who needs them: operator and name, or an output of the model.
        why: what it does with them; completes the sentence "<node> ...".
        of: (tensor, axis) of channels that cannot be cut either, where that is the reason.
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
    """Two arrays of labels that a node made one, position by position."""

    a: Indices
    b: Indices
    node: int


@dataclass(frozen=True, slots=True)
class Mix:
    """Labels that a node works on together, in the smaller graph on those that are left."""

    labels: Indices
    node: int


@dataclass(frozen=True, slots=True)
class Even:
    """Blocks (n_blocks, size) of labels or classes, of which a node needs the same number to stay in each."""

    labels: Indices
    node: int


def distinct(labels: Indices) -> Indices:
    """The different labels, ascending. (`np.unique` hashes since NumPy 2.3, which takes several times as long here.)"""
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
    """Make `a[i]` and `b[i]` one class for every i; the smallest label represents a class."""
    while True:
        ra, rb = find(parent, a), find(parent, b)
        apart = ra != rb
        if not apart.any():
            return
        low, high = np.minimum(ra, rb)[apart], np.maximum(ra, rb)[apart]
        np.minimum.at(parent, high, low)


class Labels:
    """All labels of one graph. The only mutable object of the analysis.

    Of each array in `needed` one label must stay, as of every axis of every tensor.
    """

    def __init__(self) -> None:
        self._parent = np.arange(1024)
        self._pinned = np.zeros(1024, bool)
        self._marks = np.zeros(1025, bool)  # -1, which stands for no label, finds the spare one
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
        """As many labels with these ties, pins and so on."""
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
            held = self._pinned[self.root(a)] | self._pinned[self.root(b)]
            unite(self._parent, a, b)
            self._pinned[self.root(a[held])] = True

    def pin(self, labels: Indices, pin: Pin) -> None:
        """Keep these labels, and all that are or will be tied to them."""
        labels = labels.ravel()
        self.touched.append(labels)
        self.pins.append((labels, pin))
        self._pinned[self.root(labels)] = True

    def mix(self, labels: Indices, node: int) -> None:
        """`node` works on these labels together, and in the smaller graph on those that are left."""
        self.touched.append(labels)
        self.mixed.append(Mix(labels, node))

    def even(self, blocks: Indices, node: int) -> None:
        """`node` needs the same number of labels to stay in every row of `blocks` (n_blocks, size)."""
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
        """For every label whether one of `arrays` holds it, in time that does not grow with the number of labels."""
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
        """How many free classes the labels `of` would form after `ties`, without making them."""
        pairs = [tuple(x.ravel() for x in np.broadcast_arrays(a, b)) for a, b in ties]
        flat = [self.root(x) for x in (of.ravel(), *(x for pair in pairs for x in pair))]
        names, dense = np.unique(np.concatenate(flat), return_inverse=True)
        parts = np.split(dense, np.cumsum([len(x) for x in flat])[:-1])
        local = np.arange(len(names))
        for a, b in zip(parts[1::2], parts[2::2], strict=True):
            unite(local, a, b)
        held = find(local, np.flatnonzero(self._pinned[names]))
        return len(np.setdiff1d(find(local, parts[0]), held))
