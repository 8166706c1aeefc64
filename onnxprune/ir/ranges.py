# SPDX-License-Identifier: Apache-2.0
"""Which numbers an input may hold: indices within the tables that they select from, and lengths within their axes.

The only place that decides it, for verification, the benchmark and made-up inputs. An input is followed through operators that
only move or shift numbers to where they are used as indices; the bounds there are carried back through each operator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import ceil, floor, inf, prod
from typing import NamedTuple

import numpy as np

from onnxprune.ir.graph import Fact, Node
from onnxprune.types import Array

USUAL = 8
"""Integers that index nothing are below this."""
MOST = 1 << 20
"""At most this many numbers are listed."""


class Bounds(NamedTuple):
    """The lowest and the highest number that a tensor may hold."""

    low: float = -inf
    high: float = inf

    def __and__(self, other: Bounds) -> Bounds:
        """What both allow."""
        return Bounds(max(self.low, other.low), min(self.high, other.high))


ANY = Bounds()
Index = Callable[["_Use"], Bounds]


class _Use(NamedTuple):
    """Where a tensor is read: the node, and the shapes and values of its tensors."""

    node: Node
    facts: Mapping[str, Fact]

    def sizes(self, k: int) -> Sequence[int]:
        """The shape of an operand; empty if it is unknown."""
        fact = self.facts.get(self.node.inputs[k]) if k < len(self.node.inputs) else None
        return (fact.shape or ()) if fact is not None else ()

    def size(self, k: int, axis: int) -> float:
        """The size of one axis of an operand; infinite if it is unknown."""
        sizes = self.sizes(k)
        return sizes[axis] if -len(sizes) <= axis < len(sizes) and sizes[axis] > 0 else inf

    def numbers(self, k: int) -> Array | None:
        """The values of an operand if they are known."""
        fact = self.facts.get(self.node.inputs[k]) if k < len(self.node.inputs) else None
        return fact.value if fact is not None and fact.value is not None and fact.value.size else None


def _row(n: float) -> Bounds:
    """An index of `n` rows, which may count from the end."""
    return Bounds(-n, n - 1)


def _along(name: str, default: int) -> Index:
    """Indices into an axis of the first operand that an attribute names."""
    return lambda use: _row(use.size(0, use.node.attribute(name, default)))


def _tuples(use: _Use) -> Bounds:
    """Tuples of indices, each into an axis of its own: what all these axes have."""
    first = use.node.attribute("batch_dims", 0)
    count = use.size(1, -1)
    axes = use.sizes(0)[first : first + int(count)] if count < inf else ()
    return _row(min(axes, default=inf))


def _classes(use: _Use) -> Bounds:
    depth = use.numbers(1)
    return ANY if depth is None else _row(float(depth.ravel()[0]))


def _lengths(axis: Callable[[_Use], float]) -> Index:
    return lambda use: Bounds(1, axis(use))


def _samples(use: _Use) -> Bounds:
    return Bounds(0, use.size(0, 0) - 1)


def _places(use: _Use) -> Bounds:
    """Flat positions in the output of MaxUnpool, which has at least the size of its input."""
    fact = use.facts.get(use.node.outputs[0])
    return Bounds(0, prod(fact.shape) - 1) if fact is not None and fact.shape and min(fact.shape) > 0 else ANY


def _keys(offset: int) -> Index:
    """GroupQueryAttention: all keys of a sample, past and new ones, less `offset`."""

    def bounds(use: _Use) -> Bounds:
        count = use.size(0, 1) + (use.size(3, 2) if len(use.sizes(3)) == 4 else 0)
        return Bounds(count - offset, count - offset) if count < inf else ANY

    return bounds


# (operator, operand) -> the numbers that are valid there.
INDICES: Mapping[tuple[str, int], Index] = {
    ("Gather", 1): _along("axis", 0),
    ("GatherElements", 1): _along("axis", 0),
    ("ScatterElements", 1): _along("axis", 0),
    ("Scatter", 1): _along("axis", 0),
    ("GatherND", 1): _tuples,
    ("ScatterND", 1): _tuples,
    ("OneHot", 0): _classes,
    ("TopK", 1): _lengths(lambda use: use.size(0, use.node.attribute("axis", -1))),
    ("MaxUnpool", 1): _places,
    ("RoiAlign", 2): _samples,
    ("MaxRoiPool", 1): _samples,
    ("NegativeLogLikelihoodLoss", 1): lambda use: Bounds(0, use.size(0, 1) - 1),
    ("SoftmaxCrossEntropyLoss", 1): lambda use: Bounds(0, use.size(0, 1) - 1),
    ("ReverseSequence", 1): _lengths(lambda use: use.size(0, use.node.attribute("time_axis", 0))),
    **{(op, 4): _lengths(lambda use: use.size(0, use.node.attribute("layout", 0))) for op in ("LSTM", "GRU", "RNN")},
    ("com.microsoft.DynamicQuantizeLSTM", 4): _lengths(lambda use: use.size(0, 0)),
    ("RotaryEmbedding", 3): lambda use: Bounds(0, use.size(1, 0) - 1),
    ("com.microsoft.RotaryEmbedding", 1): lambda use: Bounds(0, use.size(2, 0) - 1),
    ("com.microsoft.GroupQueryAttention", 5): _keys(1),
    ("com.microsoft.GroupQueryAttention", 6): _keys(0),
    ("com.microsoft.EmbedLayerNormalization", 0): lambda use: Bounds(0, use.size(2, 0) - 1),
    ("com.microsoft.EmbedLayerNormalization", 1): lambda use: Bounds(0, use.size(4, 0) - 1),
    ("com.microsoft.EmbedLayerNormalization", 8): lambda use: Bounds(0, use.size(3, 0) - 1),
    ("com.microsoft.GatherBlockQuantized", 1): _along("gather_axis", 0),
    ("com.microsoft.CropAndResize", 2): _samples,
    ("ai.onnx.ml.ArrayFeatureExtractor", 1): lambda use: Bounds(0, use.size(0, -1) - 1),
}

MOVES = frozenset(
    """
    Cast CastLike Identity Reshape Squeeze Unsqueeze Flatten Transpose Slice Expand Tile Split Gather GatherElements GatherND
    Compress Concat ReverseSequence DepthToSpace SpaceToDepth Trilu Pad Dropout TopK ReduceMax ReduceMin MaxPool Floor Ceil
    Round SplitToSequence
    """.split()
)
"""Operators whose results are numbers of their first operand (of any operand: Concat)."""


def _before(use: _Use, k: int, after: Bounds) -> Bounds:
    """What operand `k` may hold if the result must lie within `after`; everything, if the operator is not known here."""
    op, (low, high) = use.node.op, after
    if op in MOVES:
        return after if k == 0 or op == "Concat" else ANY
    if op == "Where":
        return after if k else ANY
    others = [use.numbers(j) for j, name in enumerate(use.node.inputs) if j != k and name]
    if op == "Neg":
        return Bounds(-high, -low)
    if op in ("Abs", "Relu"):
        return Bounds(-high if op == "Abs" else -inf, high)
    if op in ("Clip", "Min", "Max"):
        return _clipped(use, k, after)
    if len(others) != 1 or (other := others[0]) is None or not np.isfinite(least := other.min()):
        return ANY
    most = other.max()
    if op == "Add":
        return Bounds(low - least, high - most)
    if op == "Sub":
        return Bounds(low + most, high + least) if k == 0 else Bounds(most - high, least - low)
    if op == "Mul" and least > 0:
        return Bounds(ceil(low / most) if low > -inf else low, floor(high / most) if high < inf else high)
    if op == "Div" and k == 0 and least > 0:
        return Bounds(low * least, high * least)
    if op == "Mod" and k == 0 and least > 0:
        return ANY if high >= most - 1 else Bounds(low, high)
    return ANY


def _clipped(use: _Use, k: int, after: Bounds) -> Bounds:
    """A bound that the other operands enforce need not hold before."""
    op = use.node.op
    others = [None if j == k or not name else use.numbers(j) for j, name in enumerate(use.node.inputs)]
    floors = [x.max() for x in (others[1:2] if op == "Clip" else others if op == "Max" else []) if x is not None]
    caps = [x.min() for x in (others[2:3] if op == "Clip" else others if op == "Min" else []) if x is not None]
    if op == "Clip" and k:
        return ANY
    if op == "Clip":
        floors += [x for x in [use.node.attribute("min")] if x is not None]
        caps += [x for x in [use.node.attribute("max")] if x is not None]
    low = -inf if floors and max(floors) >= after.low else after.low
    return Bounds(low, inf if caps and min(caps) <= after.high else after.high)


class _Reader:
    """Follows tensors to where they are used as indices."""

    def __init__(self, nodes: Iterable[Node], facts: Mapping[str, Fact]) -> None:
        self._facts = facts
        self._uses: dict[str, list[tuple[Node, int]]] = {}
        self._known: dict[str, Bounds] = {}
        for node in nodes:
            for k, name in enumerate(node.inputs):
                self._uses.setdefault(name, []).append((node, k))

    def bounds(self, name: str) -> Bounds:
        """What the tensor may hold, according to everything that reads it."""
        # a stack and not recursion: a chain of readers is as long as the network is deep
        waiting, begun = [name], set[str]()
        while waiting:
            one = waiting[-1]
            if one in begun or one in self._known:
                waiting.pop()
                if one not in self._known:
                    self._known[one] = self._found(one)
                continue
            begun.add(one)
            waiting += [x for x in self._ahead(one) if x not in self._known]
        return self._known[name]

    def _ahead(self, name: str) -> Iterator[str]:
        """The outputs that say something about a tensor."""
        for node, k in self._uses.get(name, ()):
            if (node.op, k) not in INDICES:
                yield from _followed(node)

    def _found(self, name: str) -> Bounds:
        """What the readers of a tensor say, those of their outputs being known."""
        found = ANY
        for node, k in self._uses.get(name, ()):
            use = _Use(node, self._facts)
            if (node.op, k) in INDICES:
                found &= INDICES[node.op, k](use)
            else:
                for output in _followed(node):
                    found &= _before(use, k, self._known.get(output, ANY))
        return found


def _followed(node: Node) -> Iterator[str]:
    """The outputs of a node that hold what its inputs do."""
    return filter(None, node.outputs[:1] if node.op != "Split" else node.outputs)


def bounds_of(names: Iterable[str], nodes: Iterable[Node], facts: Mapping[str, Fact]) -> dict[str, Bounds]:
    """For each input that is used as an index or a length, what it may hold.

    Args:
        names: inputs.
        nodes: all nodes, with fused nodes replaced by their parts.
        facts: the facts of all tensors.
    """
    reader = _Reader(nodes, facts)
    return {name: found for name in names if (found := reader.bounds(name)) != ANY}


def numbers_within(bounds: Bounds) -> Array:
    """The numbers from which an input is drawn: counted from the start, not from the end, if that is possible."""
    high = min(floor(bounds.high), MOST) if bounds.high < inf else max(USUAL - 1, ceil(bounds.low) + USUAL - 1)
    low = 0 if bounds.low <= 0 <= high else max(ceil(bounds.low), high - MOST) if bounds.low > -inf else min(0, high)
    return np.arange(low, max(low, high) + 1)


def numbers_of(names: Iterable[str], nodes: Iterable[Node], facts: Mapping[str, Fact]) -> dict[str, Array]:
    """For each input that is used as an index or a length, the numbers from which it is drawn; arguments as for `bounds_of`."""
    return {name: numbers_within(found) for name, found in bounds_of(names, nodes, facts).items()}
