# SPDX-License-Identifier: Apache-2.0
"""Which channels hold the same number for every input, and which number: interval arithmetic without widening.

Two ends that are equal are the number, up to the rounding of a computation that has no other inputs. Widened intervals cannot
tell: their ends are equal only at zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf
from typing import Any

import numpy as np
import onnx

from onnxprune.analysis.intervals import STILL, Interval, Intervals
from onnxprune.ir.graph import Node
from onnxprune.ir.infer import evaluate
from onnxprune.ir.semantics import may_pad
from onnxprune.types import Array, Vector


class Steady(Intervals):
    """The numbers that the channels of a graph hold for all inputs."""

    def values(self, name: str, axis: int) -> Vector:
        """The number at each position of an axis (n,), NaN where it depends on the input."""
        low, high = self.per_position(name, axis)
        found: Vector = np.where((low == high) & np.isfinite(low), low, np.nan)
        return found

    def _rounded(self, node: Node, found: Interval, sizes: tuple[Array, Array] | None = None, terms: int = 1) -> Interval:
        return found

    def _surrounded(self, node: Node, x: Interval) -> Interval:
        return x.with_zero() if may_pad(node) else x

    def _rule(self, node: Node) -> Callable[[Any, Node], Interval | None] | None:
        return OWN.get(node.op) or super()._rule(node)

    def _function(self, node: Node) -> Interval | None:
        """A function of one number that has no rule of its own, at numbers that are known."""
        x, fact = self.of(node.inputs[0]), self.coupled.sizes.get(node.inputs[0])
        known = x.low == x.high
        if fact is None or not known.any():
            return None
        numbers = np.where(known, x.low, 0).astype(onnx.helper.tensor_dtype_to_np_dtype(fact.dtype))
        found = evaluate(node.proto, {node.proto.domain: node.opset}, [numbers])
        if found is None or found[0].shape != numbers.shape or found[0].dtype.kind != "f":
            return None
        sure = known & np.isfinite(found[0])
        return Interval(np.where(sure, found[0], -inf), np.where(sure, found[0], inf), x.axis)


OWN: Mapping[str, Callable[[Steady, Node], Interval | None]] = dict.fromkeys(STILL, Steady._function)
"""Operators whose result is known only at numbers, not on intervals."""
