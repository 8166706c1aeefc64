# SPDX-License-Identifier: Apache-2.0
"""Multiply-accumulates: of one node from the shapes of its tensors, and of any cut from how many labels it leaves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import prod

import numpy as np
from numpy.typing import NDArray

from onnxprune.graph import Fact, Node
from onnxprune.labels import Flow

# Operators whose products are counted, with the place of the weight.
WINDOWED = {"Conv": 1, "ConvInteger": 1}
PRODUCTS = frozenset({"Gemm", "MatMul", "MatMulInteger"})


def factors(node: Node, facts: Mapping[str, Fact]) -> tuple[tuple[str, int], ...] | None:
    """The (tensor, axis) whose sizes multiply to the node's multiply-accumulates.

    None where it multiplies nothing or its sizes are unknown.
    """
    op = node.op
    if op not in WINDOWED and op not in PRODUCTS and op != "ConvTranspose":
        return None
    data, weight, out = node.inputs[0], node.inputs[WINDOWED.get(op, 1)], node.outputs[0]
    ranks = {name: _rank(facts, name) for name in (data, weight, out)}
    if min(ranks.values()) < 0:
        return None
    inner = [(weight, k) for k in range(1, ranks[weight])]
    if op == "ConvTranspose":
        return tuple([(data, k) for k in range(ranks[data])] + inner)
    if op not in WINDOWED:
        inner = [(data, ranks[data] - (2 if node.attribute("transA", 0) and ranks[data] > 1 else 1))]
    return tuple([(out, k) for k in range(ranks[out])] + inner)


def _rank(facts: Mapping[str, Fact], name: str) -> int:
    """The rank of a tensor of known sizes, else -1."""
    shape = facts[name].shape if name in facts else None
    return -1 if shape is None or -1 in shape else len(shape)


def macs_of(node: Node, facts: Mapping[str, Fact]) -> int:
    """Multiply-accumulates of one node; 0 where it multiplies nothing or its sizes are unknown."""
    found = factors(node, facts)
    return 0 if found is None else prod((facts[name].shape or ())[k] for name, k in found)


@dataclass(frozen=True)
class Meter:
    """Counts the multiply-accumulates of any cut of one model.

    Attributes:
        labels: the labels of all axes that products work on, one axis after the other.
        starts: where each of those axes begins (n_axes,).
        fixed: for each product what its sizes without labels multiply to (n_products,).
        axes: for each product its labelled axes; n_axes stands for none (n_products, most).
    """

    labels: NDArray[np.int64] = field(repr=False)
    starts: NDArray[np.int64] = field(repr=False)
    fixed: NDArray[np.float64] = field(repr=False)
    axes: NDArray[np.int64] = field(repr=False)

    def macs(self, dropped: NDArray[np.bool_]) -> float:
        """Multiply-accumulates of the model without the labels `dropped` (n_labels,)."""
        alive = (~dropped[self.labels]).astype(np.int64)
        counts = np.add.reduceat(alive, self.starts) if len(self.starts) else alive
        return float((self.fixed * np.append(counts, 1)[self.axes].prod(1)).sum())


def meter(nodes: Iterable[Node], flows: Mapping[str, Flow], facts: Mapping[str, Fact]) -> Meter:
    """The meter of a graph with these labels, at these sizes."""
    known: dict[bytes, tuple[int, NDArray[np.int64]]] = {}
    fixed, rows = [], []
    for found in (factors(node, facts) for node in nodes):
        sizes = [(flows[name].axes[k], (facts[name].shape or ())[k]) for name, k in found or ()]
        fixed.append(prod(size for labels, size in sizes if labels is None) if found else 0)
        rows.append([_place(known, labels) for labels, _ in sizes if labels is not None])
    most = max(map(len, rows), default=0)
    padded = [row + [len(known)] * (most - len(row)) for row in rows]
    kinds = [labels for _, labels in known.values()]
    starts = np.cumsum([0, *map(len, kinds)])[:-1]
    labels = np.concatenate([np.zeros(0, np.int64), *kinds])
    return Meter(labels, starts, np.array(fixed, np.float64), np.array(padded, np.int64).reshape(len(rows), most))


def _place(known: dict[bytes, tuple[int, NDArray[np.int64]]], labels: NDArray[np.int64]) -> int:
    """The place of an axis among the different ones seen so far."""
    return known.setdefault(labels.tobytes(), (len(known), labels))[0]
