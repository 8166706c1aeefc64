# SPDX-License-Identifier: Apache-2.0
"""What is known about the tensors that If, Loop and Scan feed to their bodies and take from them, and how often a body runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto

from onnxprune.ir.graph import UNKNOWN, Body, Fact, subgraphs

MOST_ITERATIONS = 2**31
"""A larger number of iterations stands for a loop that ends by its condition."""


def entering(node: NodeProto, body: Body, facts: Mapping[str, Fact]) -> dict[str, Fact]:
    """The facts of the inputs of a body, for all iterations.

    Args:
        node: the node that it belongs to.
        body: its body.
        facts: what is known; if the body has been interpreted before, also what was assumed, and its results.
    """
    given = [facts.get(name, UNKNOWN) for name in node.input]
    if node.op_type == "Loop":
        given = [Fact(TensorProto.INT64, ()), Fact(TensorProto.BOOL, ()), *given[2:]]
    elif node.op_type == "Scan":
        states = carried(node)
        axes = _scan_axes(node, "scan_input_axes", len(given) - states)
        given = [*given[:states], *(_element(x, axis) for x, axis in zip(given[states:], axes, strict=True))]
    found = {name: Fact(x.dtype, x.shape) for name, x in zip(body.inputs, given, strict=False)}
    for into, out in fed_back(node, body):
        if into in facts and out in facts:
            found[into] = joint(joint(found[into], facts[into]), facts[out])
    return found


def is_settled(node: NodeProto, body: Body, facts: Mapping[str, Fact]) -> bool:
    """Whether what a body returns agrees with what was assumed about what it is fed."""
    pairs = [(facts.get(into, UNKNOWN), facts.get(out, UNKNOWN)) for into, out in fed_back(node, body)]
    return all((x.dtype, x.shape) == (j.dtype, j.shape) for x, j in ((x, joint(x, y)) for x, y in pairs))


def carried(node: NodeProto) -> int:
    """The number of tensors that a Loop or Scan carries from one iteration to the next."""
    return len(node.input) - (2 if node.op_type == "Loop" else int(_attribute(node, "num_scan_inputs", 0)))


def fed_back(node: NodeProto, body: Body) -> list[tuple[str, str]]:
    """(input, output) of a body for each tensor that is carried from one iteration to the next."""
    if node.op_type == "If":
        return []
    first, outputs = (2, body.outputs[1:]) if node.op_type == "Loop" else (0, body.outputs)
    return list(zip(body.inputs[first:][: carried(node)], outputs, strict=False))


def runs_of(node: NodeProto, body: Body, facts: Mapping[str, Fact]) -> int:
    """How often a body runs, given what is known; 1 if that is unknown."""
    if node.op_type == "Scan":
        return scan_length(node, facts) or 1
    given = facts.get(node.input[0], UNKNOWN).value
    if given is None or given.size != 1:
        return 1
    if node.op_type == "If":
        return int(bool(given.all()) == (body.attribute == "then_branch"))
    return int(given.item()) if 0 < given.item() < MOST_ITERATIONS else 1


def scan_length(node: NodeProto, facts: Mapping[str, Fact]) -> int | None:
    """The number of iterations of a Scan; None if it is unknown."""
    names = node.input[carried(node) :]
    for name, axis in zip(names, _scan_axes(node, "scan_input_axes", len(names)), strict=True):
        shape = facts.get(name, UNKNOWN).shape
        if shape is not None and -len(shape) <= axis < len(shape) and shape[axis] >= 0:
            return shape[axis]
    return None


def leaving(node: NodeProto, facts: Mapping[str, Fact]) -> dict[str, Fact]:
    """The facts of the outputs of a Loop or Scan, from those of its inputs and of what its body returns."""
    returned = [facts.get(value.name, UNKNOWN) for graph in subgraphs(node) for value in graph.output]
    first, returned = (2, returned[1:]) if node.op_type == "Loop" else (0, returned)
    count = carried(node)
    states = [joint(facts.get(i, UNKNOWN), x) for i, x in zip(node.input[first:][:count], returned, strict=False)]
    length = scan_length(node, facts) if node.op_type == "Scan" else None
    axes = _scan_axes(node, "scan_output_axes", len(returned[count:]))
    stacked = [_stacked(x, axis, length) for x, axis in zip(returned[count:], axes, strict=True)]
    return {name: x for name, x in zip(node.output, [*states, *stacked], strict=False) if name}


def _scan_axes(node: NodeProto, name: str, count: int) -> Sequence[int]:
    found: Sequence[int] = _attribute(node, name, [0] * count)
    return found


def _attribute(node: NodeProto, name: str, default: Any) -> Any:
    return next((onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def _element(x: Fact, axis: int) -> Fact:
    """One element along an axis."""
    if x.shape is None or not -len(x.shape) <= axis < len(x.shape):
        return Fact(x.dtype)
    return Fact(x.dtype, tuple(np.delete(x.shape, axis).tolist()))


def _stacked(x: Fact, axis: int, length: int | None) -> Fact:
    if x.shape is None:
        return Fact(x.dtype)
    shape = [*x.shape]
    shape.insert(axis if axis >= 0 else axis + len(shape) + 1, -1 if length is None else length)
    return Fact(x.dtype, tuple(shape))


def joint(a: Fact, b: Fact) -> Fact:
    """What holds for both of two tensors."""
    kind = a.dtype if a.dtype == b.dtype else 0
    if a.shape is None or b.shape is None or len(a.shape) != len(b.shape):
        return Fact(kind)
    return Fact(kind, tuple(m if m == n else -1 for m, n in zip(a.shape, b.shape, strict=True)))
