# SPDX-License-Identifier: Apache-2.0
"""The axis sizes whose product is the number of multiply-accumulates of a node."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from onnxprune.ir.graph import Fact, Node

# Operators whose products are counted; the second operand is the weight.
WINDOWED = frozenset({"Conv", "CausalConvWithState"})
PRODUCTS = frozenset({"Gemm", "MatMul", "com.microsoft.MatMulNBits"})
Factors = tuple[tuple[str, int], ...]
"""The (tensor, axis) pairs whose sizes multiply to a number of multiply-accumulates."""


def products(node: Node, facts: Mapping[str, Fact]) -> list[Factors]:
    """The products in a node, over all iterations of the loops around it; empty if it multiplies nothing or its sizes are
    unknown."""
    loops = tuple((name, 0) for name in node.loops)
    return [loops + found for found in _once(node, facts)]


def _once(node: Node, facts: Mapping[str, Fact]) -> list[Factors]:
    if node.op == "Attention":
        return _attention(node, facts)
    if node.op not in WINDOWED and node.op not in PRODUCTS and node.op != "ConvTranspose":
        return []
    data, weight, out = node.inputs[0], node.inputs[1], node.outputs[0]
    ranks = {name: _rank(facts, name) for name in (data, weight, out)}
    if min(ranks.values()) < 0:
        return []
    inner = [(weight, k) for k in range(1, ranks[weight])]
    if node.op == "ConvTranspose":
        return [tuple([(data, k) for k in range(ranks[data])] + inner)]
    if node.op not in WINDOWED:
        inner = [(data, ranks[data] - (2 if node.attribute("transA", 0) and ranks[data] > 1 else 1))]
    return [tuple([(out, k) for k in range(ranks[out])] + inner)]


def _attention(node: Node, facts: Mapping[str, Fact]) -> list[Factors]:
    """Queries multiply all keys, including past ones; the resulting weights multiply all values."""
    keys = node.outputs[1] if len(node.outputs) > 1 and node.outputs[1] else node.inputs[1]
    ranks = {name: _rank(facts, name) for name in (node.inputs[0], keys, node.outputs[0])}
    if min(ranks.values()) < 0:
        return []
    return [(*((name, k) for k in range(ranks[name])), (keys, ranks[keys] - 2)) for name in (node.inputs[0], node.outputs[0])]


def _rank(facts: Mapping[str, Fact], name: str) -> int:
    """The rank of a tensor whose sizes are known, else -1."""
    shape = facts[name].shape if name in facts else None
    return -1 if shape is None or -1 in shape else len(shape)


def macs_of(node: Node, facts: Mapping[str, Fact]) -> int:
    """Multiply-accumulates of one node; 0 if it multiplies nothing or its sizes are unknown."""
    return sum(prod((facts[name].shape or ())[k] for name, k in found) for found in products(node, facts))
