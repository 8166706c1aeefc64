# SPDX-License-Identifier: Apache-2.0
"""MACs of each layer before and after a cut."""

from __future__ import annotations

from dataclasses import dataclass

from onnx import ModelProto

from onnxprune.ir.facts import CASES_OF_BENCHMARK, read_once
from onnxprune.ir.products import macs_of
from onnxprune.types import Shapes


@dataclass(frozen=True, slots=True)
class LayerChange:
    """One node with MACs.

    Attributes:
        op, node: operator and name.
        before, after: its multiply-accumulates; `after` is 0 if the pruned model lacks the node.
    """

    op: str
    node: str
    before: int
    after: int


def layer_changes(original: ModelProto, pruned: ModelProto, shapes: Shapes) -> tuple[LayerChange, ...]:
    """All nodes of the original that have MACs, in graph order, at the given input shapes."""
    reading, after = read_once(original, CASES_OF_BENCHMARK, shapes)[0], _macs(pruned, shapes)
    rows = []
    for node in reading.nodes:
        macs = sum(macs_of(part, reading.facts) for part in reading.parts.get(node.index, (node,)))
        if macs:
            rows.append(LayerChange(node.op, node.title, macs, after.get(node.result, 0)))
    return tuple(rows)


def _macs(model: ModelProto, shapes: Shapes) -> dict[str, int]:
    """First output of a node -> its multiply-accumulates."""
    reading = read_once(model, CASES_OF_BENCHMARK, shapes)[0]
    nodes = ((node, reading.parts.get(node.index, (node,))) for node in reading.nodes)
    return {node.result: sum(macs_of(part, reading.facts) for part in parts) for node, parts in nodes}
