# SPDX-License-Identifier: Apache-2.0
"""What a rule sees: one node, the labels of its inputs, and what is known of its tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.graph import Fact, Graph, Node
from onnxprune.labels import Axis, Flow, Labels, Pin


class Unsupported(Exception):  # noqa: N818 - not an error: the engine pins the node's inputs and goes on
    """A rule declines a node; the message completes the sentence "<node> ..."."""


@dataclass(frozen=True, slots=True)
class Use:
    """A weight at work: the labels of one of its axes, in the node that multiplies or adds it.

    Attributes:
        node: index of the node.
        operand: which input of the node.
        labels: labels of the axis, one a position.
        produces: True where the axis becomes a channel axis of the output, False where the node sums over it.
    """

    node: int
    operand: int
    labels: NDArray[np.int64]
    produces: bool


@dataclass(frozen=True, slots=True)
class Site:
    """One node with its surroundings.

    Attributes:
        node: the node.
        graph: the whole graph, for facts.
        inputs: the flow of each input; None for an input that is left out.
        stored: for each input, whether it comes from weights alone.
        labels: the union-find; rules tie and pin through the methods of this class.
        uses: where weights at work are recorded.
    """

    node: Node
    graph: Graph
    inputs: tuple[Flow | None, ...]
    stored: tuple[bool, ...]
    labels: Labels
    uses: list[Use] = field(repr=False)

    def flow(self, k: int) -> Flow:
        """The flow of input `k`, which must be there."""
        flow = self.inputs[k] if k < len(self.inputs) else None
        if flow is None:
            raise Unsupported(f"lacks input {k}")
        return flow

    def cases(self, k: int) -> tuple[Fact, ...]:
        """The facts of input `k` in each case."""
        return self.graph.facts[self.node.inputs[k]].cases

    def shape(self, k: int) -> tuple[int | None, ...]:
        """Sizes of input `k`, None where dynamic."""
        return self.graph.shape(self.node.inputs[k]) or ()

    def has(self, k: int) -> bool:
        """Whether input `k` is given."""
        return k < len(self.node.inputs) and bool(self.node.inputs[k])

    def value(self, k: int) -> NDArray[Any] | None:
        """The value of input `k` if it is known and the same in all cases."""
        return self.graph.facts[self.node.inputs[k]].value if self.has(k) else None

    def rank(self, output: int = 0) -> int:
        """The rank of an output; 0 for one that is left out."""
        return len(self.out_cases(output)[0].shape or ()) if self.node.outputs[output] else 0

    def out_cases(self, output: int = 0) -> tuple[Fact, ...]:
        """The facts of an output in each case."""
        return self.graph.facts[self.node.outputs[output]].cases

    def tie(self, a: NDArray[np.int64], b: NDArray[np.int64]) -> None:
        """The node makes these channels one."""
        self.labels.tie(a, b, self.node.index)

    def pin(self, axis: Axis, why: str) -> None:
        """The node needs these channels; `why` completes the sentence "<node> ..."."""
        if axis is not None:
            self.labels.pin(axis, Pin(str(self.node), why))

    def fixed(self, size: int, why: str) -> NDArray[np.int64]:
        """Pinned labels for positions that no weight owns."""
        return self.labels.fixed(size, Pin(str(self.node), why))

    def use(self, operand: int, axis: Axis, produces: bool) -> None:
        """Record a weight at work."""
        if axis is not None and self.stored[operand]:
            self.uses.append(Use(self.node.index, operand, axis, produces))


Rule = Callable[[Site], list[Flow]]
