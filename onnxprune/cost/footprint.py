# SPDX-License-Identifier: Apache-2.0
"""What any cut stores and holds in memory: parameters, bytes of the file, and the peak of weights and activations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from types import MappingProxyType

import numpy as np
from onnx import TensorProto

from onnxprune.analysis.coupling import Coupled
from onnxprune.cost.extents import Extents
from onnxprune.ir.graph import Fact, Node, Weight
from onnxprune.ir.tensors import nbytes, size_of
from onnxprune.types import Indices, Mask, Vector


@dataclass(frozen=True)
class Params:
    """The parameters of any cut of one model: a `CostModel`.

    Attributes:
        sizes: the number of elements of each weight that counts.
    """

    sizes: Extents = field(repr=False)
    name: str = "parameters"
    resolution: float = 1.0

    def of(self, dropped: Mask) -> float:
        """Elements of the weights without the labels `dropped` (n_labels,)."""
        return float(self.sizes.of(dropped).sum())

    def text(self, value: float) -> str:
        """Thousands or millions."""
        return f"{value / 1e6:,.2f} M" if value >= 1e6 else f"{value / 1e3:,.1f} K"


@dataclass(frozen=True)
class FileSize:
    """The bytes that any cut of one model takes in files: a `CostModel`.

    Attributes:
        sizes: the bytes of each weight.
        rest: the bytes of everything else.
    """

    sizes: Extents = field(repr=False)
    rest: float
    name: str = "file size"
    resolution: float = 1.0

    def of(self, dropped: Mask) -> float:
        """Bytes of the files without the labels `dropped` (n_labels,)."""
        return self.rest + float(self.sizes.of(dropped).sum())

    def text(self, value: float) -> str:
        """With its unit."""
        return text_of_bytes(value)


@dataclass(frozen=True, eq=False)
class Lifetimes:
    """When activations are needed, in steps of the graph.

    Attributes:
        names: of the tensors.
        first, last: the first and last node that needs memory for each (n_tensors,).
        steps: the number of nodes.
    """

    names: tuple[str, ...] = field(repr=False)
    first: Indices = field(repr=False)
    last: Indices = field(repr=False)
    steps: int

    @classmethod
    def of(cls, nodes: Sequence[Node], inputs: Iterable[str], outputs: Iterable[str]) -> Lifetimes:
        """Those of the inputs of a graph, and of all that depends on them: the rest is computed at load."""
        first = dict.fromkeys(inputs, 0)
        last = dict(first)
        for k, node in enumerate(nodes):
            read = [name for name in (*node.inputs, *node.implicit) if name in first]
            last.update(dict.fromkeys(read, k))
            if read:
                made = {name: k for name in node.outputs if name and name not in first}
                first |= made
                last |= made
        last.update({name: len(nodes) - 1 for name in outputs if name in first})
        return cls(tuple(first), np.array([*first.values()], np.int64), np.array([*last.values()], np.int64), len(nodes))

    def peak(self, sizes: Vector) -> float:
        """The most bytes that are needed at a time, if each tensor (n_tensors,) takes its own."""
        change = np.zeros(self.steps + 1)
        np.add.at(change, self.first, sizes)
        np.subtract.at(change, self.last + 1, sizes)
        return float(np.cumsum(change).max(initial=0.0))


@dataclass(frozen=True)
class Memory:
    """The bytes that any cut of one model needs at a time, for weights and activations: a `CostModel`.

    It is computed, not measured: every activation has memory of its own from the node that makes it to the last one that reads
    it. A runtime may need less, as it computes some nodes in place, and has buffers and code of its own.

    Attributes:
        weights: the bytes of each weight.
        activations: the bytes of each activation.
        lifetimes: when these are needed.
    """

    weights: Extents = field(repr=False)
    activations: Extents = field(repr=False)
    lifetimes: Lifetimes = field(repr=False)
    name: str = "memory"
    resolution: float = 1.0

    def of(self, dropped: Mask) -> float:
        """Bytes without the labels `dropped` (n_labels,)."""
        return float(self.weights.of(dropped).sum()) + self.lifetimes.peak(self.activations.of(dropped))

    def text(self, value: float) -> str:
        """With its unit."""
        return text_of_bytes(value)


def text_of_bytes(value: float) -> str:
    """Kilobytes or megabytes, which are a million bytes."""
    return f"{value / 1e6:,.2f} MB" if value >= 1e6 else f"{value / 1e3:,.1f} KB"


def params_model(coupled: Coupled) -> Params:
    """The `Params` of a graph."""
    return Params(Extents.over(row_of(coupled, name) for name, w in stored_weights(coupled) if is_parameter(w)))


def file_size_model(coupled: Coupled, stored: Mapping[str, float] | None = None, more: float = 0.0) -> FileSize:
    """The `FileSize` of a graph.

    Args:
        stored: bytes that an element takes in the file, for weights that are not stored as they are.
        more: bytes that the file has besides.
    """
    whole = sum(nbytes(w.tensor) for w in coupled.graph.weights.values())
    return FileSize(_bytes_of_weights(coupled, stored or {}), float(size_of(coupled.graph.model) - whole) + more)


def memory_model(coupled: Coupled) -> Memory:
    """The `Memory` of a graph, at the input sizes shown in reports."""
    graph = coupled.graph
    lifetimes = Lifetimes.of(graph.nodes, graph.inputs, graph.outputs)
    activations = Extents.over(row_of(coupled, name, item_bytes(coupled.sizes[name])) for name in lifetimes.names)
    return Memory(_bytes_of_weights(coupled), activations, lifetimes)


def memory_of(
    nodes: Sequence[Node],
    facts: Mapping[str, Fact],
    weights: Iterable[Weight],
    inputs: Iterable[str],
    outputs: Iterable[str],
) -> float:
    """The bytes that a model needs at a time, as `Memory` counts them."""
    lifetimes = Lifetimes.of(nodes, inputs, outputs)
    sizes = [prod(facts[name].shape or ()) * item_bytes(facts[name]) for name in lifetimes.names]
    return sum(nbytes(w.tensor) for w in weights) + lifetimes.peak(np.array(sizes, np.float64))


def is_parameter(weight: Weight) -> bool:
    """Whether the elements of a stored tensor count as parameters: floating-point numbers, and integers of rank 2 or more."""
    return weight.is_float or len(weight.shape) > 1


def item_bytes(fact: Fact) -> float:
    """The bytes of an element of a tensor; 0 if its shape or type is unknown, or its elements are texts."""
    if fact.shape is None or -1 in fact.shape:
        return 0.0
    return nbytes(TensorProto(data_type=fact.dtype, dims=[8])) / 8


def _bytes_of_weights(coupled: Coupled, stored: Mapping[str, float] = MappingProxyType({})) -> Extents:
    weights = [(name, w) for name, w in stored_weights(coupled) if prod(w.shape)]
    return Extents.over(row_of(coupled, name, stored.get(name, nbytes(w.tensor) / prod(w.shape))) for name, w in weights)


def stored_weights(coupled: Coupled) -> list[tuple[str, Weight]]:
    """Stored tensors, each once: of several copies that the analysis made of a constant, one."""
    graph = coupled.graph
    return [(name, weight) for name, weight in {graph.origin(n): (n, w) for n, w in graph.weights.items()}.values()]


def row_of(coupled: Coupled, name: str, each: float = 1.0) -> tuple[float, list[Indices]]:
    """The size of a tensor: a factor, times its unlabelled sizes, and its labelled axes."""
    shape = coupled.graph.weights[name].shape if name in coupled.graph.weights else coupled.sizes[name].shape or ()
    flow = coupled.flows.get(name)
    axes = flow.axes if flow is not None and len(flow.axes) == len(shape) else (None,) * len(shape)
    fixed = prod(size for size, labels in zip(shape, axes, strict=True) if labels is None)
    return each * fixed, [labels for labels in axes if labels is not None]
