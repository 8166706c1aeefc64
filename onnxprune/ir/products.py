# SPDX-License-Identifier: Apache-2.0
"""The axis sizes whose product is the number of multiply-accumulates of a node."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod

from onnxprune.ir.graph import Fact, Node
from onnxprune.types import joined

Factors = tuple[tuple[str, int], ...]
"""The (tensor, axis) pairs whose sizes multiply to a number of multiply-accumulates."""
Facts = Mapping[str, Fact]
Count = Callable[[Node, Facts], list[Factors]]
"""The products in a node; raises `UnknownSizeError` if a size that it needs is unknown."""


class UnknownSizeError(Exception):
    """A tensor whose sizes are needed has none."""


def _axes(facts: Facts, name: str) -> list[tuple[str, int]]:
    """All axes of a tensor."""
    shape = facts[name].shape if name in facts else None
    if shape is None or -1 in shape:
        raise UnknownSizeError
    return [(name, k) for k in range(len(shape))]


def _window(weight: int) -> Count:
    """Every output is a sum over a row of the weight, which is an operand at this place."""
    return lambda node, facts: [(*_axes(facts, node.outputs[0]), *_axes(facts, node.inputs[weight])[1:])]


def _transposed(node: Node, facts: Facts) -> list[Factors]:
    """Every input is multiplied by a row of the weight."""
    return [(*_axes(facts, node.inputs[0]), *_axes(facts, node.inputs[1])[1:])]


def _matrix(node: Node, facts: Facts) -> list[Factors]:
    """Every output is a sum over the last axis of the data, or the one before it if the data are transposed first."""
    data = _axes(facts, node.inputs[0])
    back = 2 if node.attribute("transA", 0) and len(data) > 1 else 1
    return [(*_axes(facts, node.outputs[0]), data[-back])]


def _einsum(node: Node, facts: Facts) -> list[Factors]:
    """Every combination of the letters; an ellipsis stands for the axes of the operand that has most there."""
    terms = node.attribute("equation", b"").decode().replace(" ", "").partition("->")[0].split(",")
    if len(terms) < 2:
        return []
    seats: dict[str, tuple[str, int]] = {}
    for term, name in zip(terms, node.inputs, strict=True):
        axes = _axes(facts, name)
        rest = len(axes) - len(term.replace("...", ""))
        letters = [*term.replace("...", "…")]
        if "…" in letters:
            at = letters.index("…")
            letters[at : at + 1] = [f"…{k - rest}" for k in range(rest)]
        for letter, axis in zip(letters, axes, strict=True):
            seats[letter] = max(seats.get(letter, axis), axis, key=lambda seat: (facts[seat[0]].shape or ())[seat[1]])
    return [tuple(seats.values())]


def _attention(node: Node, facts: Facts) -> list[Factors]:
    """Queries multiply all keys, including past ones; the resulting weights multiply all values."""
    keys = node.outputs[1] if len(node.outputs) > 1 and node.outputs[1] else node.inputs[1]
    positions = _axes(facts, keys)[-2]
    return [(*_axes(facts, name), positions) for name in (node.inputs[0], node.outputs[0])]


def _recurrent(node: Node, facts: Facts) -> list[Factors]:
    """At every step, weights (directions, gates * hidden, in) multiply the input, and others the state."""
    steps = _axes(facts, node.inputs[0])[:2]
    return [(*steps, *_axes(facts, weight)) for weight in node.inputs[1:3]]


def _each(count: Count, *ops: str) -> Mapping[str, Count]:
    return dict.fromkeys(ops, count)


COUNTS: Mapping[str, Count] = joined(
    _each(_window(1), "Conv", "DeformConv", "ConvInteger", "CausalConvWithState"),
    _each(_window(3), "QLinearConv"),
    _each(_transposed, "ConvTranspose"),
    _each(_matrix, "Gemm", "MatMul", "MatMulInteger", "QLinearMatMul"),
    _each(_matrix, *(f"com.microsoft.MatMul{kind}" for kind in ("NBits", "Bnb4", "FpQ4", "Integer16"))),
    _each(_einsum, "Einsum"),
    _each(_attention, "Attention", "com.microsoft.MultiHeadAttention"),
    _each(_recurrent, "LSTM", "GRU", "RNN", "com.microsoft.DynamicQuantizeLSTM"),
)
"""Operators whose products are counted; a fused operator counts as its parts, if it has any."""


def products(node: Node, facts: Facts) -> Sequence[Factors]:
    """The products in a node, as often as it runs; empty if it multiplies nothing or its sizes are unknown."""
    runs = tuple((name, 0) for name in node.runs)
    try:
        return [runs + found for found in COUNTS[node.op](node, facts)] if node.op in COUNTS else ()
    except UnknownSizeError:
        return ()


def macs_of(node: Node, facts: Facts) -> int:
    """Multiply-accumulates of one node; 0 if it multiplies nothing or its sizes are unknown."""
    return sum(prod((facts[name].shape or ())[k] for name, k in found) for found in products(node, facts))
