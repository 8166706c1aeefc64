# SPDX-License-Identifier: Apache-2.0
"""Which weights of a model can be divided into blocks."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

from onnx import TensorProto

from onnxprune.calibration.linear import Linear, linear_of
from onnxprune.compression.blocks import Blocks, BlockShape, divided
from onnxprune.ir.graph import Graph

NUMBERS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)


def eligible(graph: Graph, block: BlockShape, exclude: Sequence[str] = (), all_layers: bool = False) -> dict[str, Blocks]:
    """Weights of linear nodes of the main graph, by name, with their blocks.

    A weight that other nodes read too is left out, and so are, unless `all_layers`, those that a first or last layer reads: a
    node with no linear node before it, or none after.

    Args:
        exclude: patterns of names to leave out.
    """
    linears = linear_weights(graph)
    ends = set() if all_layers else _ends(graph, linears)
    kept = {linear.weight for linear in linears if linear.node.index in ends}
    found: dict[str, Blocks] = {}
    for linear in linears:
        name = linear.weight
        if name in kept or any(fnmatch.fnmatchcase(graph.origin(name), p) for p in exclude):
            continue
        blocks = divided(graph.weights[name].shape, linear.axes, linear.groups, block)
        if blocks is not None and _only_read_by(graph, name, linears):
            found.setdefault(name, blocks)
    return found


def linear_weights(graph: Graph) -> list[Linear]:
    """The linear nodes of the main graph whose weights numpy can compute with."""
    nodes = (linear_of(node, graph.weights) for node in graph.nodes if not node.body)
    return [found for found in nodes if found is not None and graph.weights[found.weight].tensor.data_type in NUMBERS]


def _only_read_by(graph: Graph, name: str, linears: Sequence[Linear]) -> bool:
    """Whether only linear nodes of one kind read a weight, as their weight."""
    mine = {linear.node.index: linear for linear in linears if linear.weight == name}
    readers = [n for n in graph.nodes if name in n.inputs or name in n.implicit]
    layouts = {(linear.axes, linear.groups) for linear in mine.values()}
    return len(layouts) == 1 and all(n.index in mine and n.inputs.count(name) == 1 for n in readers)


def _ends(graph: Graph, linears: Sequence[Linear]) -> set[int]:
    """Indices of the linear nodes with no linear node before them, or none after."""
    indices = {linear.node.index for linear in linears}
    behind: set[str] = set()  # tensors that depend on a linear node
    first, followed = set[int](), set[int]()
    sources: dict[str, set[int]] = {}
    for node in graph.nodes:
        reads = [name for name in (*node.inputs, *node.implicit) if name]
        nearest: set[int] = set().union(*(sources.get(name, set()) for name in reads))
        if node.index in indices:
            followed |= nearest
            if not any(name in behind for name in reads):
                first.add(node.index)
            nearest = {node.index}
        for output in node.outputs:
            sources[output] = nearest
            if nearest:
                behind.add(output)
    return first | (indices - followed)
