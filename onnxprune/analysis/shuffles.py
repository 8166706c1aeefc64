# SPDX-License-Identifier: Apache-2.0
"""Channel shuffles: Reshape, Transpose, Reshape that permute the channels of a tensor and do nothing else.

Visited one by one, the first Reshape splits the channels, and a smaller tensor can only be split into a rectangle: the same
members of every group. Treated as one permutation, the nodes tie nothing. A smaller tensor is permuted by a single Gather
instead, which is faster in onnxruntime than the three nodes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxprune.ir.graph import Graph, Node
from onnxprune.types import Indices

MOVES = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
LONGEST = 6


@dataclass(frozen=True, eq=False, slots=True)
class Shuffle:
    """Nodes that permute one axis.

    Attributes:
        nodes: their indices, in order.
        source, result: the tensors before and after.
        axis: the axis that is permuted.
        order: position p of the result holds position order[p] of the source.
    """

    nodes: tuple[int, ...]
    source: str
    result: str
    axis: int
    order: Indices


def find_shuffles(graph: Graph) -> dict[int, Shuffle]:
    """Index of each node that takes part in a shuffle -> the shuffle."""
    found: dict[int, Shuffle] = {}
    for node in graph.nodes:
        if node.op == "Reshape" and node.index not in found and (shuffle := _from(graph, node)):
            found.update(dict.fromkeys(shuffle.nodes, shuffle))
    return found


def _from(graph: Graph, first: Node) -> Shuffle | None:
    """The shuffle that starts with this node, or None."""
    source, chain = first.inputs[0], [first]
    shapes = [case.shape for case in graph.facts[source].cases]
    if any(s is None or min(s, default=0) < 1 for s in shapes):
        return None
    while len(chain) <= LONGEST:
        result = chain[-1].outputs[0]
        if [case.shape for case in graph.facts[result].cases] == shapes:
            axis, order = _permutation(graph, source, chain)
            nodes = tuple(node.index for node in chain)
            return None if order is None else Shuffle(nodes, source, result, axis, order)
        readers = graph.consumers.get(result, ())
        if len(readers) != 1 or result in graph.outputs or result in graph.captured:
            return None
        node, place = readers[0]
        if node.op not in MOVES or node.fused or place != 0:
            return None
        chain.append(node)
    return None


def _permutation(graph: Graph, source: str, chain: list[Node]) -> tuple[int, Indices | None]:
    """The axis that a chain permutes and the order, the same in all cases; None if it moves anything else, or nothing."""
    found: list[tuple[int, Indices]] = []
    for case, fact in enumerate(graph.facts[source].cases):
        before = np.arange(int(np.prod(fact.shape or ())), dtype=np.int32).reshape(fact.shape or ())
        after = before
        for node in chain:
            shape = graph.facts[node.outputs[0]].cases[case].shape
            if shape is None or np.prod(shape) != after.size:
                return 0, None
            transposes = node.op == "Transpose"
            after = after.transpose(node.attribute("perm", [*range(after.ndim)][::-1])) if transposes else after.reshape(shape)
        found += [(k, order) for k in range(before.ndim) if (order := _along(before, after, k)) is not None][:1]
    axis, order = found[0] if found else (0, None)
    agreed = order is not None and len(found) == case + 1 and all(k == axis and np.array_equal(o, order) for k, o in found)
    return axis, order if agreed else None


def _along(before: NDArray[np.int32], after: NDArray[np.int32], axis: int) -> Indices | None:
    """The order in which `after` holds the positions of one axis of `before`, if nothing else differs."""
    line = np.moveaxis(after, axis, 0).reshape(after.shape[axis], -1)[:, 0]
    order = np.unravel_index(line, before.shape)[axis].astype(np.int64)
    moves = len(np.unique(order)) == len(order) and (np.diff(order) != 1).any()
    return order if moves and np.array_equal(np.take(before, order, axis), after) else None
