# SPDX-License-Identifier: Apache-2.0
"""Where weights can be refitted: sums of linear nodes, up to the first nonlinear operator.

A convolution, the BatchNormalization after it and the residual add after that are one linear sum
`total = sum(scale * linear(x)) + offset + addends`. All linear nodes of the sum are fitted together, and their target includes
the error already present in the addends (an identity shortcut).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxprune.calibration.linear import Linear, linear_of
from onnxprune.ir.graph import Graph, Node, Weight
from onnxprune.ir.semantics import uses_batch_statistics
from onnxprune.types import Array, Vector


@dataclass(frozen=True, eq=False)
class ChannelOp:
    """A per-channel operator after a linear node: BatchNormalization, or a stored vector that is added or multiplied.

    Attributes:
        node: the operator.
        operand: index of the input that is added, for BatchNormalization its shift; None if the operator only scales.
    """

    node: Node
    operand: int | None


@dataclass(frozen=True, eq=False)
class Term:
    """A linear node of a sum, with the per-channel operators between it and the sum.

    Attributes:
        linear: the node.
        steps: the operators after it, in order.
        end: the tensor after them.
    """

    linear: Linear
    steps: tuple[ChannelOp, ...]
    end: str


@dataclass(frozen=True, eq=False)
class LinearSum:
    """A sum of linear nodes.

    Attributes:
        total: the tensor that holds the sum.
        terms: the linear nodes; their channels are those of `total`.
        addends: other tensors in the sum.
        channel_axis: channel axis of `total`, 1 or -1.
    """

    total: str
    terms: tuple[Term, ...]
    addends: tuple[str, ...]
    channel_axis: int

    @property
    def wants(self) -> tuple[str, ...]:
        """Tensors of the pruned model that a fit reads."""
        return (*(t.linear.node.inputs[0] for t in self.terms), *self.addends)


def find_sums(graph: Graph) -> tuple[LinearSum, ...]:
    """All sums of the main graph with at least one linear node, in the order of the graph."""
    finder = _Finder(graph)
    return tuple(finder.sites())


class _Finder:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.captured = {name for n in graph.nodes for name in n.implicit}
        self.terms: dict[str, Term] = {}
        self.nodes = [n for n in graph.nodes if not n.body]
        for node in self.nodes:
            linear = linear_of(node, graph.weights)
            if linear is not None:
                term = self._follow(linear)
                self.terms[term.end] = term

    def sites(self) -> Iterator[LinearSum]:
        inner = {name for n in self.nodes if self._adds(n) for name in n.inputs if self._is_sum(name)}
        summed: set[str] = set()
        for node in self.nodes:
            if not self._adds(node) or node.outputs[0] in inner:
                continue
            leaves = list(self._leaves(node))
            terms = [self.terms[x] for x in leaves if x in self.terms and self._single_use(x)]
            axes = {t.linear.channel_axis for t in terms}
            # a grouped convolution has separate equations per group, so it cannot be fitted together with other nodes
            terms = [t for t in terms if t.linear.groups == 1] if len(terms) > 1 else terms
            if not terms or len(axes) > 1:
                continue
            ends = {t.end for t in terms}
            summed |= ends
            yield LinearSum(
                node.outputs[0], tuple(terms), tuple(x for x in leaves if x not in ends), terms[0].linear.channel_axis
            )
        for end, term in self.terms.items():
            if end not in summed:
                yield LinearSum(end, (term,), (), term.linear.channel_axis)

    def _single_use(self, name: str) -> bool:
        """Whether the tensor has exactly one consumer, and is neither a model output nor read by a body."""
        uses = self.graph.consumers.get(name, ())
        return len(uses) == 1 and not uses[0][0].body and name not in self.graph.outputs and name not in self.captured

    def _adds(self, node: Node) -> bool:
        """Whether the node adds computed tensors that all have the shape of the sum."""
        if node.op not in ("Add", "Sum") or any(name in self.graph.weights for name in node.inputs):
            return False
        shapes = {self.graph.facts[name].cases[0].shape for name in (*node.inputs, *node.outputs)}
        return len(shapes) == 1

    def _is_sum(self, name: str) -> bool:
        maker = self.graph.producers.get(name)
        return maker is not None and self._adds(maker) and self._single_use(name)

    def _leaves(self, node: Node) -> Iterator[str]:
        for name in node.inputs:
            if self._is_sum(name):
                yield from self._leaves(self.graph.producers[name])
            else:
                yield name

    def _follow(self, linear: Linear) -> Term:
        """Follow the per-channel operators after a linear node."""
        name, steps = linear.node.outputs[0], []
        while self._single_use(name):
            node = self.graph.consumers[name][0][0]
            step = channel_op(node, name, linear.channel_axis, self.graph)
            if step is None:
                break
            steps.append(step)
            name = node.outputs[0]
        return Term(linear, tuple(steps), name)


def channel_op(node: Node, data: str, channel_axis: int, graph: Graph) -> ChannelOp | None:
    """The node as a per-channel operator on `data`; None if it is not one."""
    if node.op == "BatchNormalization":
        stored = all(name in graph.weights for name in node.inputs[1:])
        return (
            ChannelOp(node, 2)
            if stored and channel_axis == 1 and node.inputs[0] == data and not uses_batch_statistics(node)
            else None
        )
    if node.op not in ("Add", "Sub", "Mul", "Div") or len(node.inputs) != 2:
        return None
    place = 1 - node.inputs.index(data)
    other, shape = node.inputs[place], graph.facts[data].cases[0].shape
    if other not in graph.weights or shape is None or (place == 0 and node.op in ("Sub", "Div")):
        return None
    if not per_channel(graph.weights[other].shape, len(shape), channel_axis % len(shape)):
        return None
    return ChannelOp(node, place if node.op in ("Add", "Sub") else None)


def per_channel(shape: Sequence[int], rank: int, channel_axis: int) -> bool:
    """Whether a stored operand of `shape` holds one number per channel, or one for all.

    >>> per_channel((8, 1, 1), 4, 1), per_channel((8,), 3, 2), per_channel((5, 8), 3, 2)
    (True, True, False)
    """
    if len(shape) > rank:
        return False
    return all(n == 1 for k, n in enumerate(shape, rank - len(shape)) if k != channel_axis)


def affine(term: Term, weights: Mapping[str, Weight], channels: int) -> tuple[Vector, Vector]:
    """Scale and offset (channels,) of all steps of a term: end = scale * linear output + offset."""
    scale, offset = np.ones(channels), np.zeros(channels)
    for step in term.steps:
        values = [weights[n].array.astype(np.float64) if n in weights else None for n in step.node.inputs]
        s, o = _affine_of(step, values)
        scale, offset = scale * s, offset * s + o
    return scale, offset


def _affine_of(step: ChannelOp, values: Sequence[Array | None]) -> tuple[Any, Any]:
    node = step.node
    if node.op == "BatchNormalization":
        gamma, beta, mean, variance = (v for v in values[1:5] if v is not None)
        s = gamma / np.sqrt(variance + node.attribute("epsilon", 1e-5))
        return s, beta - mean * s
    vector = next(v for v in values if v is not None).ravel()
    return {"Add": (1.0, vector), "Sub": (1.0, -vector), "Mul": (vector, 0.0), "Div": (1 / vector, 0.0)}[node.op]
