# SPDX-License-Identifier: Apache-2.0
"""Builds the parts of a fused node."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto

MICROSOFT = "com.microsoft"


class UnknownShapeError(Exception):
    """The parts of a node depend on an unknown shape."""


@dataclass(frozen=True, slots=True)
class Chain:
    """The parts of one node, as they are added.

    Attributes:
        node: the fused node.
        shape: the shape of one of its inputs, or None if it is unknown.
        parts: nodes of the newest opset, in topological order.
    """

    node: NodeProto
    shape: Callable[[str], tuple[int, ...] | None]
    parts: list[NodeProto] = field(default_factory=list)

    def __getitem__(self, k: int) -> str:
        """The name of input `k`; empty if the input is omitted."""
        return self.node.input[k] if k < len(self.node.input) else ""

    def __call__(self, op: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes: Any) -> Any:
        """Add a part; return the name of its output, or a list of names if it has several."""
        stem = f"{self.node.output[0] or self.node.name} ({op} {len(self.parts)}"
        names = [f"{stem}.{k})" for k in range(outputs)]
        given = {k: v for k, v in attributes.items() if v is not None}
        self.parts.append(onnx.helper.make_node(op, inputs, names, domain=domain, **given))
        return names[0] if outputs == 1 else names

    def attribute(self, name: str, default: Any = None) -> Any:
        """The value of an attribute of the fused node."""
        for a in self.node.attribute:
            if a.name == name:
                return onnx.helper.get_attribute_value(a)
        return default

    def own(self, *without: str) -> dict[str, Any]:
        """All attributes of the fused node except those named."""
        return {a.name: onnx.helper.get_attribute_value(a) for a in self.node.attribute if a.name not in without}

    def channels_first(self, k: int, x: str) -> str:
        """`x`, which has the rank of input `k`, with its last axis moved to position 1."""
        rank = self.rank(k)
        return str(self("Transpose", x, perm=[0, rank - 1, *range(1, rank - 1)]))

    def channels_last(self, k: int, x: str) -> str:
        """`x`, which has the rank of input `k`, with axis 1 moved to the end."""
        return str(self("Transpose", x, perm=[0, *range(2, self.rank(k)), 1]))

    def constant(self, value: Any, kind: Any = np.int64) -> str:
        """Add a stored tensor; return its name."""
        return str(self("Constant", value=onnx.numpy_helper.from_array(np.array(value, kind))))

    def sum_of(self, *terms: str) -> str:
        """The sum of the terms that are present."""
        first, *others = [t for t in terms if t]
        for other in others:
            first = self("Add", first, other)
        return first

    def sizes(self, k: int) -> tuple[int, ...]:
        """The shape of input `k`; empty if the input is omitted.

        Raises:
            UnknownShapeError: the shape is unknown, and the parts depend on it.
        """
        shape = self.shape(self[k]) if self[k] else ()
        if shape is None:
            raise UnknownShapeError(self[k])
        return shape

    def rank(self, k: int) -> int:
        """The rank of input `k`."""
        return len(self.sizes(k))


Results = tuple[str, ...] | None
"""The names that stand for the node's outputs, "" for an output that the parts do not compute; None without parts."""


def same(op: str) -> Callable[[Chain], Results]:
    """The ONNX operator with the same inputs and attributes."""

    def chain(c: Chain) -> Results:
        results = c(op, *c.node.input, outputs=len(c.node.output), **c.own())
        return (results,) if isinstance(results, str) else tuple(results)

    return chain
