# SPDX-License-Identifier: Apache-2.0
"""Chains of per-channel operators, followed through changes of layout.

A BatchNormalization may be one node, or be written out as Sub, Mul and Add, in another layout than the convolution before it:
what scales or shifts each channel by a stored number belongs to the layer that makes the channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from onnxprune.ir.graph import Graph, Node, Weight
from onnxprune.ir.semantics import uses_batch_statistics
from onnxprune.types import Array, Vector


@dataclass(frozen=True, eq=False)
class ChannelOp:
    """A per-channel operator: BatchNormalization, or a stored vector that is added or multiplied.

    Attributes:
        node: the operator.
        operand: index of the input that is added, for BatchNormalization its shift; None if the operator only scales.
        trailing: number of axes behind the channel axis of its data.
    """

    node: Node
    operand: int | None
    trailing: int = 0


@dataclass(frozen=True, eq=False)
class Chain:
    """The per-channel operators behind a tensor.

    Attributes:
        steps: the operators, in order.
        end: the tensor after them. It holds the same positions in the same order as the first one.
        axis: the channel axis of `end`.
    """

    steps: tuple[ChannelOp, ...]
    end: str
    axis: int


class Follower:
    """Follows tensors of one graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._captured = {name for n in graph.nodes for name in n.implicit}

    def single_use(self, name: str) -> bool:
        """Whether the tensor has exactly one consumer, and is neither a model output nor read by a body."""
        uses = self.graph.consumers.get(name, ())
        return len(uses) == 1 and not uses[0][0].body and name not in self.graph.outputs and name not in self._captured

    def follow(self, name: str, axis: int) -> Chain:
        """The per-channel operators behind a tensor whose channels lie on `axis`."""
        axis = self._counted(name, axis)
        chain = Chain((), name, axis)
        while self.single_use(chain.end):
            node = self.graph.consumers[chain.end][0][0]
            step = channel_op(node, chain.end, chain.axis, self.graph)
            moved = moved_axis(node, chain.end, chain.axis, self.graph) if step is None else chain.axis
            if moved is None:
                break
            chain = Chain(chain.steps if step is None else (*chain.steps, step), node.outputs[0], moved)
        return chain

    def _counted(self, name: str, axis: int) -> int:
        shape = self.graph.facts[name].cases[0].shape
        return axis if shape is None else axis % len(shape)


def channel_op(node: Node, data: str, axis: int, graph: Graph) -> ChannelOp | None:
    """The node as a per-channel operator on `data`; None if it is not one."""
    shape = graph.facts[data].cases[0].shape
    if node.op == "BatchNormalization":
        stored = all(name in graph.weights for name in node.inputs[1:])
        on_channels = axis == 1 and node.inputs[0] == data
        return ChannelOp(node, 2) if stored and on_channels and not uses_batch_statistics(node) else None
    if node.op not in ("Add", "Sub", "Mul", "Div") or len(node.inputs) != 2 or shape is None:
        return None
    place = 1 - node.inputs.index(data)
    other = node.inputs[place]
    if other not in graph.weights or (place == 0 and node.op in ("Sub", "Div")):
        return None
    if not per_channel(graph.weights[other].shape, len(shape), axis % len(shape)):
        return None
    return ChannelOp(node, place if node.op in ("Add", "Sub") else None, len(shape) - 1 - axis % len(shape))


def per_channel(shape: Sequence[int], rank: int, channel_axis: int) -> bool:
    """Whether a stored operand of `shape` holds one number per channel, or one for all.

    >>> per_channel((8, 1, 1), 4, 1), per_channel((8,), 3, 2), per_channel((5, 8), 3, 2)
    (True, True, False)
    """
    if len(shape) > rank:
        return False
    return all(n == 1 for k, n in enumerate(shape, rank - len(shape)) if k != channel_axis)


def moved_axis(node: Node, data: str, axis: int, graph: Graph) -> int | None:
    """The channel axis after a change of layout that keeps the order of all positions; None if the node is not one."""
    if node.op not in ("Identity", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze") or node.inputs[0] != data:
        return None
    before, after = ([case.shape for case in graph.facts[x].cases] for x in (data, node.outputs[0]))
    if any(shape is None or min(shape, default=1) < 1 for shape in (*before, *after)):
        return None
    pairs = [(a, b) for a, b in zip(before, after, strict=True) if a is not None and b is not None]
    axis %= len(pairs[0][0])
    if node.op == "Transpose":
        return _after_transpose(node.attribute("perm", range(len(pairs[0][0]))[::-1]), axis, pairs[0][0])
    places = [k for k in range(len(pairs[0][1])) if all(_around(a, axis) == _around(b, k) for a, b in pairs)]
    return places[0] if places else None


def _after_transpose(order: Sequence[int], axis: int, shape: Sequence[int]) -> int | None:
    others = [k for k in order if k != axis and shape[k] > 1]
    return list(order).index(axis) if others == sorted(others) else None


def _around(shape: Sequence[int], axis: int) -> tuple[int, int, int]:
    """The number of positions before an axis, its size, and the number of positions behind it."""
    return prod(shape[:axis]), shape[axis], prod(shape[axis + 1 :])


def affine(steps: Sequence[ChannelOp], weights: Mapping[str, Weight], channels: int) -> tuple[Vector, Vector]:
    """Scale and offset (channels,) of some steps: end = scale * start + offset."""
    scale, offset = np.ones(channels), np.zeros(channels)
    for step in steps:
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
