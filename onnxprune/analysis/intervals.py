# SPDX-License-Identifier: Apache-2.0
"""Between which numbers the channels of every tensor lie, whatever the inputs: interval arithmetic (Moore, 1966).

A tensor has one interval per position of its channel axis, the only one with labels, or a single one. It holds for all finite
inputs within the ranges that are given, and for rounded results: intervals are widened by a fraction of the numbers that they
come from, so that only what is exactly zero stays exactly zero. Operators without a rule may yield any number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import inf, prod
from typing import Any

import numpy as np
from onnx import TensorProto

from onnxprune.analysis.coupling import Coupled
from onnxprune.ir.decompositions import LABELS_ONLY
from onnxprune.ir.graph import Node
from onnxprune.types import Array, Vector

ROUNDING: Mapping[int, tuple[float, float]] = {
    TensorProto.FLOAT: (1e-3, 1.2e-7),
    TensorProto.DOUBLE: (1e-9, 2.3e-16),
    TensorProto.FLOAT16: (5e-2, 1e-3),
}
"""How far rounded results may be off, by type: at least, and for each term of a sum, as a fraction of the terms' magnitudes."""
COARSEST = (5e-2, 8e-3)
"""The same for all other types."""
LARGEST = 1 << 24
"""Weights of more elements are not read."""
TYPES: Mapping[int, tuple[float, float]] = {
    TensorProto.BOOL: (0, 1),
    TensorProto.UINT8: (0, 255),
    TensorProto.INT8: (-128, 127),
    TensorProto.UINT16: (0, 65535),
}
"""What inputs of these types may hold."""


@dataclass(frozen=True, eq=False)
class Interval:
    """Bounds of a tensor.

    Attributes:
        low, high: (n,) for each position of `axis`, or (1,) for all positions.
        axis: the axis with labels; None: there is none, or the bounds are those of all positions.
    """

    low: Vector
    high: Vector
    axis: int | None = None

    def whole(self) -> Interval:
        """One interval that holds all positions."""
        return Interval(self.low.min(keepdims=True), self.high.max(keepdims=True))

    def with_zero(self) -> Interval:
        """The interval and zero."""
        return Interval(np.minimum(self.low, 0), np.maximum(self.high, 0), self.axis)


def times(a: Array, b: Array) -> Array:
    """A product in which zero times infinity is zero: activations are finite."""
    with np.errstate(invalid="ignore", over="ignore"):
        found = a * b
    return np.where((a == 0) | (b == 0), 0.0, found)


def hull(*parts: Array) -> tuple[Array, Array]:
    """The smallest and the largest of several arrays."""
    stacked = np.stack(np.broadcast_arrays(*parts))
    return stacked.min(0), stacked.max(0)


MONOTONE: Mapping[str, Callable[[Array, Node], Array]] = {
    "Relu": lambda x, _: np.maximum(x, 0),
    "Sigmoid": lambda x, _: 0.5 * (1 + np.tanh(0.5 * x)),
    "Tanh": lambda x, _: np.tanh(x),
    "HardSigmoid": lambda x, n: np.clip(times(np.array(n.attribute("alpha", 0.2)), x) + n.attribute("beta", 0.5), 0, 1),
    "Exp": lambda x, _: np.exp(np.minimum(x, 700)),
    "Softplus": lambda x, _: np.logaddexp(0, x),
    "Identity": lambda x, _: x,
    "Dropout": lambda x, _: x,
    "Neg": lambda x, _: -x,
    "Floor": lambda x, _: np.floor(x),
    "Ceil": lambda x, _: np.ceil(x),
    "Round": lambda x, _: np.round(x),
}
"""Functions of one number that rise or fall everywhere."""
EXACT = frozenset("Relu Identity Dropout Neg Floor Ceil Round MaxPool GlobalMaxPool ReduceMax ReduceMin Abs".split())
"""Operators that do not round."""
BENT = frozenset("LeakyRelu PRelu Abs".split())
"""Functions of one number that bend only at zero, where they are zero."""
MEANS = frozenset("GlobalAveragePool GlobalMaxPool ReduceMean ReduceMax ReduceMin".split())
"""Operators whose results lie between their inputs."""
MOVES = frozenset(
    "Reshape Flatten Squeeze Unsqueeze Transpose Slice Split Gather Expand Tile DepthToSpace SpaceToDepth".split()
)
"""Operators that only move numbers: labels tell from where."""
BOUNDED: Mapping[str, tuple[float, float]] = {
    "Softmax": (0, 1),
    "Softsign": (-1, 1),
    "Erf": (-1, 1),
    "Sin": (-1, 1),
    "Cos": (-1, 1),
    "HardSwish": (-0.375, inf),
    "Mish": (-0.32, inf),
    "Gelu": (-0.18, inf),
    "Sqrt": (0, inf),
}
"""What the results of other functions are between, whatever their inputs."""
STILL = frozenset("Asinh Atan Celu Elu Erf Gelu HardSwish Mish Selu Sign Sin Softsign Sqrt Swish ThresholdedRelu".split())
"""Functions that are zero at zero; elsewhere, only what `BOUNDED` says is known."""


class Intervals:
    """The intervals of all tensors of a graph.

    Args:
        ranges: for some inputs, the lowest and the highest number that they hold.

    Attributes:
        coupled: the graph and its labels.
    """

    def __init__(self, coupled: Coupled, ranges: Mapping[str, tuple[float, float]] | None = None) -> None:
        self.coupled = coupled
        self._known = dict[str, Interval]()
        for name in coupled.graph.inputs:
            fact = coupled.sizes.get(name)
            bounds = (ranges or {}).get(name, TYPES.get(fact.dtype or 0) if fact else None)
            if bounds is not None:
                self._known[name] = Interval(np.array([bounds[0]], float), np.array([bounds[1]], float))
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            for node in coupled.graph.elementary:
                for name, found in self._results(node):
                    if np.isfinite(found.low).any() or np.isfinite(found.high).any():
                        self._known[name] = found

    def of(self, name: str) -> Interval:
        """The interval of a tensor."""
        return self._known.get(name) or Interval(np.array([-inf]), np.array([inf]))

    def per_position(self, name: str, axis: int) -> tuple[Vector, Vector]:
        """The bounds of every position of an axis (n,)."""
        found, size = self.of(name), len(self.labels(name, axis))
        if found.axis != axis or len(found.low) != size:
            found = found.whole()
        return np.broadcast_to(found.low, size), np.broadcast_to(found.high, size)

    def labels(self, name: str, axis: int) -> Array:
        """The labels of an axis that has some."""
        labels = self.coupled.flows[name].axes[axis]
        assert labels is not None
        return labels

    def _axis(self, name: str) -> int | None:
        """The only labelled axis of a tensor."""
        flow = self.coupled.flows.get(name)
        axes = [k for k, labels in enumerate(flow.axes) if labels is not None] if flow else []
        return axes[0] if len(axes) == 1 else None

    def _rank(self, name: str) -> int | None:
        fact = self.coupled.sizes.get(name)
        return None if fact is None or fact.shape is None else len(fact.shape)

    def _number(self, name: str) -> Array | None:
        """The values of a constant of finite numbers."""
        weight, fact = self.coupled.graph.weights.get(name), self.coupled.graph.facts.get(name)
        if weight is not None and prod(weight.shape) > LARGEST:
            return None
        value = weight.array if weight is not None else fact.value if fact is not None else None
        if value is None or value.dtype.kind not in "fiub" or not np.isfinite(value).all():
            return None
        return np.asarray(value, np.float64)

    def _rounded(self, node: Node, found: Interval, sizes: tuple[Array, Array] | None = None, terms: int = 1) -> Interval:
        """The interval of a rounded result.

        Args:
            sizes: the sums of the magnitudes of the terms at both ends; None: those of the ends.
            terms: how many there are: in a sum, one after the other may be rounded.
        """
        low, high = sizes or (np.abs(found.low), np.abs(found.high))
        fact = self.coupled.sizes.get(node.outputs[0])
        least, each = ROUNDING.get(fact.dtype or 0, COARSEST) if fact else COARSEST
        by = max(least, each * terms)
        down, up = (by * np.where(size < inf, size, 0) for size in (low, high))
        return Interval(found.low - down, found.high + up, found.axis)

    def _results(self, node: Node) -> Iterator[tuple[str, Interval]]:
        """The intervals of a node's outputs, as far as there is a rule."""
        if not node.outputs or not node.outputs[0] or node.fused in LABELS_ONLY:
            return
        if node.op in MOVES:
            yield from ((name, self._moved(node, name)) for name in node.outputs if name)
            return
        rule = self._rule(node)
        if node.op == "Dropout" and len(node.inputs) > 2 and node.inputs[2]:
            return  # it may be training, and scale
        found = rule(self, node) if rule else None
        if found is None and node.op in BOUNDED:
            low, high = (np.array([end], np.float64) for end in BOUNDED[node.op])
            found = self._rounded(node, Interval(low, high))
        if found is not None:
            low = np.where(np.isnan(found.low), -inf, found.low)
            high = np.where(np.isnan(found.high), inf, found.high)
            yield node.outputs[0], self._along(node.outputs[0], Interval(low, high, found.axis))

    def _rule(self, node: Node) -> Callable[[Any, Node], Interval | None] | None:
        """The interval of a node's first output, as a function."""
        return RULES.get(node.op)

    def _surrounded(self, node: Node, x: Interval) -> Interval:
        """What a node that may pad its operand reads."""
        return x.with_zero()

    def _along(self, name: str, found: Interval) -> Interval:
        """The interval, by position only if these are the positions of the tensor's channel axis."""
        axis = self._axis(name)
        fits = axis is not None and found.axis == axis and len(found.low) == len(self.labels(name, axis))
        return found if fits else found.whole()

    def _moved(self, node: Node, name: str) -> Interval:
        """Labels that a tensor has in common with the one that was moved; what others hold is unknown."""
        source, axis = self.of(node.inputs[0]), self._axis(name)
        own = self._axis(node.inputs[0])
        if source.axis is None or axis is None or own != source.axis:
            return source.whole()
        roots = self.coupled.roots
        before, after = roots[self.labels(node.inputs[0], own)], roots[self.labels(name, axis)]
        if len(before) != len(source.low) or not np.isin(after, before).all():
            return source.whole()
        kinds, place = np.unique(before, return_inverse=True)
        low, high = np.full(len(kinds), inf), np.full(len(kinds), -inf)
        np.minimum.at(low, place, source.low)
        np.maximum.at(high, place, source.high)
        where = np.searchsorted(kinds, after)
        return Interval(low[where], high[where], axis)

    def _monotone(self, node: Node) -> Interval:
        x = self.of(node.inputs[0])
        low, high = hull(*(MONOTONE[node.op](end, node) for end in (x.low, x.high)))
        found = Interval(low, high, x.axis)
        return found if node.op in EXACT else self._rounded(node, found)

    def _still(self, node: Node) -> Interval:
        x, (low, high) = self.of(node.inputs[0]), BOUNDED.get(node.op, (-inf, inf))
        zero = (x.low == 0) & (x.high == 0)
        return self._rounded(node, Interval(np.where(zero, 0.0, low), np.where(zero, 0.0, high), x.axis))

    def _bent(self, node: Node) -> Interval | None:
        """Functions that are a slope times the number, below zero another one."""
        x = self.of(node.inputs[0])
        if node.op == "Abs":
            low, high = hull(np.abs(x.low), np.abs(x.high))
            return Interval(np.where((x.low < 0) & (x.high > 0), 0, low), high, x.axis)
        slope = np.array(node.attribute("alpha", 0.01)) if node.op == "LeakyRelu" else self._number(node.inputs[1])
        if slope is None:
            return None
        slopes = [float(slope.min()), float(slope.max())]
        below = [times(np.minimum(end, 0), np.array(s)) for end in (x.low, x.high) for s in slopes]
        low, high = hull(*(np.maximum(end, 0) + part for end in (x.low, x.high) for part in below))
        return self._rounded(node, Interval(low, high, x.axis))

    def _mean(self, node: Node) -> Interval | None:
        x, rank = self.of(node.inputs[0]), self._rank(node.inputs[0])
        if node.op.startswith("Reduce"):
            axes = node.attribute("axes")
            if axes is None and len(node.inputs) > 1 and node.inputs[1]:
                given = self._number(node.inputs[1])
                axes = None if given is None else given.astype(int).tolist()
            if axes is None or rank is None or x.axis in {a % rank for a in axes}:
                x = x.whole()
            elif x.axis is not None and not node.attribute("keepdims", 1):
                x = Interval(x.low, x.high, x.axis - sum(a % rank < x.axis for a in axes))
        return x if node.op in EXACT else self._rounded(node, x)

    def _maxpool(self, node: Node) -> Interval:
        return self.of(node.inputs[0])

    def _averagepool(self, node: Node) -> Interval:
        x = self.of(node.inputs[0])
        return self._rounded(node, self._surrounded(node, x))  # padding may count

    def _resize(self, node: Node) -> Interval | None:
        x = self.of(node.inputs[0])
        if node.attribute("mode", b"nearest") not in (b"nearest", b"linear", "nearest", "linear"):
            return None
        return self._rounded(node, self._surrounded(node, x))

    def _pad(self, node: Node) -> Interval | None:
        x, stated = self.of(node.inputs[0]), len(node.inputs) > 2 and node.inputs[2]
        value = self._number(node.inputs[2]) if stated else np.array(node.attribute("value", 0.0))
        if value is None:
            return None
        before, after = (None if k is None else self.labels(n, k) for n, k in self._places(node))
        x = x if before is not None and after is not None and np.array_equal(before, after) else x.whole()
        return Interval(np.minimum(x.low, value.min()), np.maximum(x.high, value.max()), x.axis)

    def _places(self, node: Node) -> list[tuple[str, int | None]]:
        """The first operand and the result, each with its channel axis."""
        return [(name, self._axis(name)) for name in (node.inputs[0], node.outputs[0])]

    def _clip(self, node: Node) -> Interval | None:
        x, ends = self.of(node.inputs[0]), list[float]()
        for k, (name, usual) in enumerate((("min", -inf), ("max", inf)), 1):
            given = self._number(node.inputs[k]) if k < len(node.inputs) and node.inputs[k] else None
            if given is None and k < len(node.inputs) and node.inputs[k]:
                return None
            ends.append(float(given.max() if given is not None else node.attribute(name, usual)))
        low, high = (np.minimum(np.maximum(x_end, ends[0]), ends[1]) for x_end in (x.low, x.high))
        return Interval(low, high, x.axis)

    def _cast(self, node: Node) -> Interval | None:
        x, fact = self.of(node.inputs[0]), self.coupled.sizes.get(node.outputs[0])
        floats = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)
        if fact is None or fact.dtype not in floats:
            return None
        return self._rounded(node, x)

    def _operand(self, node: Node, k: int) -> Interval | None:
        """An operand of an element-wise node, along the channel axis of the result; None if it may be anything."""
        name, axis, rank = node.inputs[k], self._axis(node.outputs[0]), self._rank(node.outputs[0])
        value, own = self._number(name), self._rank(name)
        if rank is None or own is None:
            return None
        if value is None:
            x = self.of(name)
            place = None if x.axis is None else x.axis + rank - own
            return x.whole() if place != axis else Interval(x.low, x.high, place)
        if axis is None or axis < rank - value.ndim or value.ndim == 0 or value.shape[axis - rank] == 1:
            return Interval(np.array([value.min()]), np.array([value.max()])) if value.size else None
        rows = np.moveaxis(value, axis - rank, 0).reshape(value.shape[axis - rank], -1)
        return Interval(rows.min(1), rows.max(1), axis)

    def _pair(self, node: Node) -> tuple[Interval, Interval] | None:
        a, b = self._operand(node, 0), self._operand(node, 1)
        return None if a is None or b is None else (a, b)

    def _joined(
        self, node: Node, a: Interval, b: Interval, ends: tuple[Array, Array], sizes: tuple[Array, Array] | None = None
    ) -> Interval:
        axis = a.axis if a.axis is not None else b.axis
        return self._rounded(node, Interval(*ends, axis), sizes)

    def _add(self, node: Node) -> Interval | None:
        if (pair := self._pair(node)) is None:
            return None
        a, b = pair
        return self._joined(node, a, b, (a.low + b.low, a.high + b.high), (_sum(a.low, b.low), _sum(a.high, b.high)))

    def _sub(self, node: Node) -> Interval | None:
        if (pair := self._pair(node)) is None:
            return None
        a, b = pair
        return self._joined(node, a, b, (a.low - b.high, a.high - b.low), (_sum(a.low, b.high), _sum(a.high, b.low)))

    def _mul(self, node: Node) -> Interval | None:
        if (pair := self._pair(node)) is None:
            return None
        a, b = pair
        ends = hull(*(times(x, y) for x in (a.low, a.high) for y in (b.low, b.high)))
        return self._joined(node, a, b, ends)

    def _div(self, node: Node) -> Interval | None:
        if (pair := self._pair(node)) is None or self._number(node.inputs[1]) is None:
            return None
        a, b = pair
        if ((b.low <= 0) & (b.high >= 0)).any():
            return None
        ends = hull(*(times(x, 1 / y) for x in (a.low, a.high) for y in (b.low, b.high)))
        return self._joined(node, a, b, ends)

    def _max(self, node: Node) -> Interval | None:
        if len(node.inputs) != 2 or (pair := self._pair(node)) is None:
            return None
        a, b = pair
        axis = a.axis if a.axis is not None else b.axis
        return Interval(np.maximum(a.low, b.low), np.maximum(a.high, b.high), axis)

    def _min(self, node: Node) -> Interval | None:
        if len(node.inputs) != 2 or (pair := self._pair(node)) is None:
            return None
        a, b = pair
        axis = a.axis if a.axis is not None else b.axis
        return Interval(np.minimum(a.low, b.low), np.minimum(a.high, b.high), axis)

    def _concat(self, node: Node) -> Interval | None:
        axis, rank = self._axis(node.outputs[0]), self._rank(node.outputs[0])
        parts = [self.of(name) for name in node.inputs]
        if rank is None or axis is None or int(node.attribute("axis", 0)) % rank != axis:
            wholes = [p.whole() for p in parts]
            return Interval(np.min([p.low for p in wholes], 0), np.max([p.high for p in wholes], 0))
        sizes = [self.coupled.sizes[name].shape for name in node.inputs]
        if any(shape is None or shape[axis] < 0 for shape in sizes):
            return None
        ends = list[tuple[Vector, Vector]]()
        for part, shape in zip(parts, sizes, strict=True):
            assert shape is not None
            own = part if part.axis == axis and len(part.low) == shape[axis] else part.whole()
            ends.append((np.broadcast_to(own.low, shape[axis]), np.broadcast_to(own.high, shape[axis])))
        return Interval(np.concatenate([a for a, _ in ends]), np.concatenate([b for _, b in ends]), axis)

    def _batchnormalization(self, node: Node) -> Interval | None:
        x = self.of(node.inputs[0])
        values = [self._number(name) for name in node.inputs[1:5]]
        if any(v is None for v in values) or node.attribute("training_mode", 0):
            return None
        scale, shift, mean, variance = (np.asarray(v) for v in values)
        if (variance + node.attribute("epsilon", 1e-5) <= 0).any():
            return None
        slope = scale / np.sqrt(variance + node.attribute("epsilon", 1e-5))
        x = x if x.axis in (1, None) else x.whole()
        low, high = hull(times(slope, x.low - mean), times(slope, x.high - mean))
        # runtimes fold the mean into the shift, so that it is rounded, too
        folded = np.abs(slope * mean) + np.abs(shift)
        return self._rounded(node, Interval(low + shift, high + shift, 1), (np.abs(low) + folded, np.abs(high) + folded))

    def _conv(self, node: Node) -> Interval | None:
        return self._weighted(node, self._number(node.inputs[1]), int(node.attribute("group", 1)))

    def _convtranspose(self, node: Node) -> Interval | None:
        weight, groups = self._number(node.inputs[1]), int(node.attribute("group", 1))
        if weight is not None:
            inputs, outputs = weight.shape[:2]
            shaped = weight.reshape(groups, inputs // groups, outputs, -1).swapaxes(1, 2)
            weight = shaped.reshape(groups * outputs, inputs // groups, -1)
        return self._weighted(node, weight, groups)

    def _gemm(self, node: Node) -> Interval | None:
        weight = self._number(node.inputs[1])
        if weight is None or node.attribute("transA", 0):
            return None
        weight = weight * node.attribute("alpha", 1.0)
        bias = node.attribute("beta", 1.0)
        return self._weighted(node, weight if node.attribute("transB", 0) else weight.T, 1, bias)

    def _matmul(self, node: Node) -> Interval | None:
        weight = self._number(node.inputs[1])
        return None if weight is None or weight.ndim != 2 else self._weighted(node, weight.T, 1)

    def _weighted(self, node: Node, weight: Array | None, groups: int, bias_factor: float = 1.0) -> Interval | None:
        """Sums of products (outputs, inputs of a group, ...), any of which padding may leave out."""
        if weight is None or not weight.size:
            return None
        x, last = self.of(node.inputs[0]), (self._rank(node.inputs[0]) or 0) - 1
        place = last if node.op in ("MatMul", "Gemm") else 1
        inputs = weight.shape[1] * groups
        x = self._surrounded(node, x if x.axis == place and len(x.low) == inputs else x.whole())
        low, high = (np.broadcast_to(end, inputs).reshape(groups, 1, -1, 1) for end in (x.low, x.high))
        rows = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
        down = (times(np.maximum(rows, 0), low) + times(np.minimum(rows, 0), high)).sum((2, 3)).ravel()
        up = (times(np.maximum(rows, 0), high) + times(np.minimum(rows, 0), low)).sum((2, 3)).ravel()
        bias = np.zeros(1)
        if len(node.inputs) > 2 and node.inputs[2]:
            given = self._number(node.inputs[2])
            if given is None or (given.size > 1 and given.shape[-1] != given.size) or given.size not in (1, len(down)):
                return None  # not one per output, such as one per row of a matrix
            bias = given.ravel() * bias_factor
        sizes, terms = (_sum(down, bias), _sum(up, bias)), prod(rows.shape[2:]) + 1
        return self._rounded(node, Interval(down + bias, up + bias, place), sizes, terms)


def _sum(a: Array, b: Array) -> Array:
    return np.abs(a) + np.abs(b)


RULES: Mapping[str, Callable[[Intervals, Node], Interval | None]] = {
    **dict.fromkeys(MONOTONE, Intervals._monotone),
    **dict.fromkeys(BENT, Intervals._bent),
    **dict.fromkeys(STILL, Intervals._still),
    **dict.fromkeys(MEANS, Intervals._mean),
    "MaxPool": Intervals._maxpool,
    "AveragePool": Intervals._averagepool,
    "Resize": Intervals._resize,
    "Pad": Intervals._pad,
    "Clip": Intervals._clip,
    "Cast": Intervals._cast,
    "Add": Intervals._add,
    "Sub": Intervals._sub,
    "Mul": Intervals._mul,
    "Div": Intervals._div,
    "Max": Intervals._max,
    "Min": Intervals._min,
    "Concat": Intervals._concat,
    "BatchNormalization": Intervals._batchnormalization,
    "Conv": Intervals._conv,
    "ConvTranspose": Intervals._convtranspose,
    "Gemm": Intervals._gemm,
    "MatMul": Intervals._matmul,
    "Upsample": Intervals._resize,
}
"""Operator -> what its result lies between."""
