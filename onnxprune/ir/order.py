# SPDX-License-Identifier: Apache-2.0
"""The order of nodes: each after the nodes whose results it reads.

ONNX demands that order, and everything here relies on it. onnxruntime sorts, so there are files without it: float16 converters
append their Casts.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from graphlib import CycleError, TopologicalSorter

from onnx import GraphProto, ModelProto, NodeProto

from onnxprune.errors import ModelError
from onnxprune.ir.graph import captured, subgraphs, with_nodes


def in_order(model: ModelProto) -> tuple[ModelProto, str]:
    """The model with its nodes, and those of all bodies, in order, and what was out of order; the model itself if nothing was.

    Nodes move no further than necessary.

    Raises:
        ModelError: nodes read each other's results.
    """
    late = _late(model.graph)
    if not late:
        return model, ""
    ordered = with_nodes(model, model.graph.node)
    _sort(ordered.graph)
    return ordered, late


def _late(graph: GraphProto) -> str:
    """A read of a tensor that only a later node of the same graph produces, as a clause; empty if there is none."""
    ahead = {name for node in graph.node for name in node.output if name}
    for node in graph.node:
        early = next((name for name in _reads(node) if name in ahead), "")
        if early:
            return f"node '{node.name or node.op_type}' reads '{early}', which a later node produces"
        found = next((late for body in subgraphs(node) if (late := _late(body))), "")
        if found:
            return found
        ahead.difference_update(node.output)
    return ""


def _reads(node: NodeProto) -> list[str]:
    return [*node.input, *captured(node)]


def _sort(graph: GraphProto) -> None:
    for node in graph.node:
        for body in subgraphs(node):
            _sort(body)
    nodes = [graph.node[k] for k in _order(graph.node)]
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _order(nodes: Sequence[NodeProto]) -> list[int]:
    """Positions of the nodes in order; of the nodes that may come next, always the first one in the file."""
    makers = {name: k for k, node in enumerate(nodes) for name in node.output if name}
    needs = [{makers[name] for name in _reads(node) if name in makers} for node in nodes]
    feeds: list[list[int]] = [[] for _ in nodes]
    for k, above in enumerate(needs):
        for j in above:
            feeds[j].append(k)
    waits = [len(above) for above in needs]
    ready, found = [k for k, n in enumerate(waits) if not n], []
    while ready:
        found.append(heapq.heappop(ready))
        for k in feeds[found[-1]]:
            waits[k] -= 1
            if not waits[k]:
                heapq.heappush(ready, k)
    if len(found) < len(nodes):
        _refuse_cycle(nodes, needs)
    return found


def _refuse_cycle(nodes: Sequence[NodeProto], needs: Sequence[set[int]]) -> None:
    try:
        TopologicalSorter(dict(enumerate(needs))).prepare()
    except CycleError as e:
        around = " -> ".join(f"'{nodes[k].name or nodes[k].output[0]}'" for k in e.args[1])
        raise ModelError(f"nodes read each other's results, in a cycle: {around}; export the model again") from e
