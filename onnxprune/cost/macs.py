# SPDX-License-Identifier: Apache-2.0
"""Multiply-accumulates of any cut, from the number of labels it keeps on each axis."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

import numpy as np

from onnxprune.analysis.coupling import Coupled
from onnxprune.analysis.labels import Axis
from onnxprune.ir.graph import Node
from onnxprune.ir.products import products
from onnxprune.types import Indices, Mask, Vector


@dataclass(frozen=True)
class Macs:
    """The multiply-accumulates of any cut of one model: a `CostModel`.

    Attributes:
        labels: the labels of all axes that products work on, concatenated.
        starts: the start of each of those axes in `labels` (n_axes,).
        fixed: for each product, its sizes without labels, multiplied (n_products,).
        axes: for each product, its labelled axes, padded with n_axes (n_products, most).
    """

    labels: Indices = field(repr=False)
    starts: Indices = field(repr=False)
    fixed: Vector = field(repr=False)
    axes: Indices = field(repr=False)
    name: str = "MACs"
    resolution: float = 1.0

    def of(self, dropped: Mask) -> float:
        """Multiply-accumulates of the model without the labels `dropped` (n_labels,)."""
        kept = (~dropped[self.labels]).astype(np.int64)
        counts = np.add.reduceat(kept, self.starts) if len(self.starts) else kept
        return float((self.fixed * np.append(counts, 1)[self.axes].prod(1)).sum())

    def text(self, value: float) -> str:
        """Millions of multiply-accumulates."""
        return f"{value / 1e6:,.2f} M"


def macs_model(coupled: Coupled) -> Macs:
    """The `Macs` of a graph, at the input sizes shown in reports."""
    facts = coupled.sizes
    known: dict[bytes, tuple[int, Indices]] = {}
    fixed, rows = [], []
    for node, found in [(n, product) for n in coupled.graph.elementary for product in products(n, facts)]:
        sizes = [(_labels(coupled, node, name, k), (facts[name].shape or ())[k]) for name, k in found]
        fixed.append(prod(size for labels, size in sizes if labels is None))
        rows.append([_place(known, labels) for labels, _ in sizes if labels is not None])
    most = max(map(len, rows), default=0)
    padded = [row + [len(known)] * (most - len(row)) for row in rows]
    kinds = [labels for _, labels in known.values()]
    starts = np.cumsum([0, *map(len, kinds)])[:-1]
    labels = np.concatenate([np.zeros(0, np.int64), *kinds])
    return Macs(labels, starts, np.array(fixed, np.float64), np.array(padded, np.int64).reshape(len(rows), most))


def _labels(coupled: Coupled, node: Node, name: str, axis: int) -> Axis:
    """The labels by which a size shrinks; None for axes along which a convolution slides, which keep the original width."""
    return None if node.op == "Conv" and name == node.outputs[0] and axis > 1 else coupled.flows[name].axes[axis]


def _place(known: dict[bytes, tuple[int, Indices]], labels: Indices) -> int:
    """The index of an axis among the distinct ones seen so far."""
    return known.setdefault(labels.tobytes(), (len(known), labels))[0]
