# SPDX-License-Identifier: Apache-2.0
"""Multiply-accumulates of any cut, from the number of labels it keeps on each axis."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

from onnxprune.analysis.coupling import Coupled
from onnxprune.analysis.labels import Axis
from onnxprune.cost.extents import Extents
from onnxprune.ir.graph import Node
from onnxprune.ir.products import Factors, products
from onnxprune.types import Indices, Mask


@dataclass(frozen=True)
class Macs:
    """The multiply-accumulates of any cut of one model: a `CostModel`.

    Attributes:
        products: what is multiplied, for each product.
    """

    products: Extents = field(repr=False)
    name: str = "MACs"
    resolution: float = 1.0

    def of(self, dropped: Mask) -> float:
        """Multiply-accumulates of the model without the labels `dropped` (n_labels,)."""
        return float(self.products.of(dropped).sum())

    def text(self, value: float) -> str:
        """Millions of multiply-accumulates."""
        return f"{value / 1e6:,.2f} M"


def macs_model(coupled: Coupled) -> Macs:
    """The `Macs` of a graph, at the input sizes shown in reports."""
    pairs = ((n, product) for n in coupled.graph.elementary for product in products(n, coupled.sizes))
    return Macs(Extents.over(row_of_product(coupled, node, found) for node, found in pairs))


def row_of_product(coupled: Coupled, node: Node, factors: Factors) -> tuple[float, list[Indices]]:
    """One product of a node: the sizes without labels, multiplied, and the labelled axes."""
    sizes = [(_labels(coupled, node, name, k), (coupled.sizes[name].shape or ())[k]) for name, k in factors]
    fixed = prod(size for labels, size in sizes if labels is None)
    return float(fixed), [labels for labels, _ in sizes if labels is not None]


def _labels(coupled: Coupled, node: Node, name: str, axis: int) -> Axis:
    """The labels by which a size shrinks; None for axes along which a convolution slides, which keep the original width."""
    return None if node.op == "Conv" and name == node.outputs[0] and axis > 1 else coupled.flows[name].axes[axis]
