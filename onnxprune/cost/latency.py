# SPDX-License-Identifier: Apache-2.0
"""A latency model of one network: a few features of any cut, and what each costs on this machine.

onnxruntime's blocked convolutions work on whole vectors of channels, so that widths count rounded up; single layers timed alone
mislead, because conversions between layouts belong to no layer. So whole cuts of the network are timed, and the model is fitted
to them: multiply-accumulates by kind of layer with rounded widths, all of them as they are, those of layers whose widths are
off the vectors, weights, elements of activations, and a constant.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np

from onnxprune.analysis.coupling import Coupled
from onnxprune.cost.extents import Extents
from onnxprune.cost.footprint import Lifetimes, row_of, stored_weights
from onnxprune.cost.macs import row_of_product
from onnxprune.ir.graph import Node
from onnxprune.ir.products import products
from onnxprune.types import Indices, Mask, Vector

KINDS = ("convolution", "pointwise", "depthwise", "grouped", "transposed", "product", "other")
OFF = 8
"""Convolutions whose channels are no multiple of this leave the blocked layout."""


def kind_of(node: Node, coupled: Coupled) -> str:
    """What a node that multiplies is, as far as its speed goes."""
    if node.op in ("Gemm", "MatMul"):
        return "product"
    if node.op == "ConvTranspose":
        return "transposed"
    if node.op != "Conv":
        return "other"
    shape = coupled.sizes[node.inputs[1]].shape or ()
    groups = int(node.attribute("group", 1))
    if groups > 1:
        return "depthwise" if len(shape) > 1 and shape[1] == 1 else "grouped"
    return "pointwise" if prod(shape[2:]) == 1 else "convolution"


@dataclass(frozen=True)
class Features:
    """What the latency of any cut of one model is made of.

    Attributes:
        kinds: multiply-accumulates, a product per layer, by kind.
        weights, activations: numbers of elements.
        lanes: widths count as multiples of this.
    """

    kinds: tuple[Extents, ...] = field(repr=False)
    weights: Extents = field(repr=False)
    activations: Extents = field(repr=False)
    lanes: int

    @classmethod
    def of_graph(cls, coupled: Coupled, lanes: int) -> Features:
        """Those of a graph, at the input sizes shown in reports."""
        rows: dict[str, list[tuple[float, list[Indices]]]] = {kind: [] for kind in KINDS}
        for node in coupled.graph.elementary:
            for found in products(node, coupled.sizes):
                factor, axes = row_of_product(coupled, node, found)
                free = [labels for labels in axes if coupled.free[labels].any()]  # kernels are no vectors of channels
                kept = prod(len(labels) for labels in axes if not coupled.free[labels].any())
                rows[kind_of(node, coupled)].append((factor * kept, free))
        graph = coupled.graph
        names = Lifetimes.of(graph.nodes, graph.inputs, graph.outputs).names
        known = [n for n in names if -1 not in (coupled.sizes[n].shape or (-1,))]
        weights = Extents.over(row_of(coupled, name) for name, _ in stored_weights(coupled))
        activations = Extents.over(row_of(coupled, name) for name in known)
        return cls(tuple(Extents.over(rows[kind]) for kind in KINDS), weights, activations, lanes)

    def of(self, dropped: Mask) -> Vector:
        """The features (n_features,) of a cut without the labels `dropped` (n_labels,)."""
        return np.array([*self._values(dropped)], np.float64)

    def _values(self, dropped: Mask) -> Iterator[float]:
        for extents in self.kinds:
            yield float(extents.of(dropped, self.lanes).sum())
        exact = [extents.of(dropped) for extents in self.kinds]
        yield float(sum(values.sum() for values in exact))  # not every processor, or layer, works on whole vectors only
        yield float(sum((values * x.off(dropped, OFF)).sum() for values, x in zip(exact[:2], self.kinds, strict=False)))
        yield float(self.weights.of(dropped).sum())
        yield float(self.activations.of(dropped).sum())
        yield 1.0


@dataclass(frozen=True)
class Latency:
    """The predicted latency of any cut of one model: a `CostModel`, in milliseconds.

    Attributes:
        features: what it is made of.
        costs: milliseconds per unit of each feature (n_features,); the last one, of the constant, may be negative.
    """

    features: Features = field(repr=False)
    costs: Vector = field(repr=False)
    name: str = "latency"
    resolution: float = 1e-4

    def of(self, dropped: Mask) -> float:
        """Milliseconds without the labels `dropped` (n_labels,)."""
        return max(float(self.features.of(dropped) @ self.costs), self.resolution)

    def text(self, value: float) -> str:
        """With its unit."""
        return f"{value:.3g} ms"


@dataclass(frozen=True)
class Timed:
    """A cut and what it took.

    Attributes:
        features: of the cut (n_features,).
        milliseconds: its latency.
        weight: how much its relative error counts.
    """

    features: Vector = field(repr=False)
    milliseconds: float
    weight: float = 1.0


def fitted(cuts: Sequence[Timed]) -> Vector:
    """Costs (n_features,) that predict what cuts took best by their relative errors.

    None is negative, but for the constant: where latency grows faster than the work, from some size of a cache on, the line
    through cuts of about one size meets zero work below zero.
    """
    from scipy.optimize import lsq_linear  # on demand, for a quick start

    rows = np.stack([cut.features for cut in cuts])
    weights = np.array([cut.weight for cut in cuts])
    scale = np.maximum(rows.max(0), 1e-30)
    least = np.zeros(len(scale))
    least[-1] = -np.inf
    relative = rows / scale * (weights / [cut.milliseconds for cut in cuts])[:, None]
    return np.asarray(lsq_linear(relative, weights, (least, np.inf), method="bvls").x / scale)
