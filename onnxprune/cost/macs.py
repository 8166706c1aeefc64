# SPDX-License-Identifier: Apache-2.0
"""Multiply-accumulates: of one node from the shapes of its tensors, and of any cut from how many labels it leaves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import prod

import numpy as np

from onnxprune.analysis.labels import Axis, Flow
from onnxprune.ir.graph import Fact, Node
from onnxprune.types import Indices, Mask, Vector

# Operators whose products are counted; the second operand is the weight.
WINDOWED = frozenset({"Conv", "CausalConvWithState"})
PRODUCTS = frozenset({"Gemm", "MatMul", "com.microsoft.MatMulNBits"})
Factors = tuple[tuple[str, int], ...]
"""The (tensor, axis) whose sizes multiply to a number of multiply-accumulates."""


def products(node: Node, facts: Mapping[str, Fact]) -> list[Factors]:
    """The products in a node; none where it multiplies nothing or its sizes are unknown."""
    if node.op == "Attention":
        return _attention(node, facts)
    if node.op not in WINDOWED and node.op not in PRODUCTS and node.op != "ConvTranspose":
        return []
    data, weight, out = node.inputs[0], node.inputs[1], node.outputs[0]
    ranks = {name: _rank(facts, name) for name in (data, weight, out)}
    if min(ranks.values()) < 0:
        return []
    inner = [(weight, k) for k in range(1, ranks[weight])]
    if node.op == "ConvTranspose":
        return [tuple([(data, k) for k in range(ranks[data])] + inner)]
    if node.op not in WINDOWED:
        inner = [(data, ranks[data] - (2 if node.attribute("transA", 0) and ranks[data] > 1 else 1))]
    return [tuple([(out, k) for k in range(ranks[out])] + inner)]


def _attention(node: Node, facts: Mapping[str, Fact]) -> list[Factors]:
    """Queries meet all keys, those of the past too, and so do the weights that come of it meet all values."""
    keys = node.outputs[1] if len(node.outputs) > 1 and node.outputs[1] else node.inputs[1]
    ranks = {name: _rank(facts, name) for name in (node.inputs[0], keys, node.outputs[0])}
    if min(ranks.values()) < 0:
        return []
    return [(*((name, k) for k in range(ranks[name])), (keys, ranks[keys] - 2)) for name in (node.inputs[0], node.outputs[0])]


def _rank(facts: Mapping[str, Fact], name: str) -> int:
    """The rank of a tensor of known sizes, else -1."""
    shape = facts[name].shape if name in facts else None
    return -1 if shape is None or -1 in shape else len(shape)


def macs_of(node: Node, facts: Mapping[str, Fact]) -> int:
    """Multiply-accumulates of one node; 0 where it multiplies nothing or its sizes are unknown."""
    return sum(prod((facts[name].shape or ())[k] for name, k in found) for found in products(node, facts))


@dataclass(frozen=True)
class Meter:
    """Counts the multiply-accumulates of any cut of one model.

    Attributes:
        labels: the labels of all axes that products work on, one axis after the other.
        starts: where each of those axes begins (n_axes,).
        fixed: for each product what its sizes without labels multiply to (n_products,).
        axes: for each product its labelled axes; n_axes stands for none (n_products, most).
    """

    labels: Indices = field(repr=False)
    starts: Indices = field(repr=False)
    fixed: Vector = field(repr=False)
    axes: Indices = field(repr=False)

    def macs(self, dropped: Mask) -> float:
        """Multiply-accumulates of the model without the labels `dropped` (n_labels,)."""
        alive = (~dropped[self.labels]).astype(np.int64)
        counts = np.add.reduceat(alive, self.starts) if len(self.starts) else alive
        return float((self.fixed * np.append(counts, 1)[self.axes].prod(1)).sum())


def meter(nodes: Iterable[Node], flows: Mapping[str, Flow], facts: Mapping[str, Fact]) -> Meter:
    """The meter of a graph with these labels, at these sizes."""
    known: dict[bytes, tuple[int, Indices]] = {}
    fixed, rows = [], []
    for node, found in [(n, product) for n in nodes for product in products(n, facts)]:
        sizes = [(_labels(node, flows, name, k), (facts[name].shape or ())[k]) for name, k in found]
        fixed.append(prod(size for labels, size in sizes if labels is None))
        rows.append([_place(known, labels) for labels, _ in sizes if labels is not None])
    most = max(map(len, rows), default=0)
    padded = [row + [len(known)] * (most - len(row)) for row in rows]
    kinds = [labels for _, labels in known.values()]
    starts = np.cumsum([0, *map(len, kinds)])[:-1]
    labels = np.concatenate([np.zeros(0, np.int64), *kinds])
    return Meter(labels, starts, np.array(fixed, np.float64), np.array(padded, np.int64).reshape(len(rows), most))


def _labels(node: Node, flows: Mapping[str, Flow], name: str, axis: int) -> Axis:
    """The labels by which a size shrinks; what a convolution slides along it does at the original width."""
    return None if node.op == "Conv" and name == node.outputs[0] and axis > 1 else flows[name].axes[axis]


def _place(known: dict[bytes, tuple[int, Indices]], labels: Indices) -> int:
    """The place of an axis among the different ones seen so far."""
    return known.setdefault(labels.tobytes(), (len(known), labels))[0]
