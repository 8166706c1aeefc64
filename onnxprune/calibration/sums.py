# SPDX-License-Identifier: Apache-2.0
"""Where weights can be refitted: sums of linear nodes, up to the first nonlinear operator.

A convolution, the BatchNormalization after it and the residual add after that are one linear sum
`total = sum(scale * linear(x)) + offset + addends`. All linear nodes of the sum are fitted together, and their target includes
the error already present in the addends (an identity shortcut).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from onnxprune.calibration.chains import ChannelOp, Follower
from onnxprune.calibration.linear import Linear, linear_of
from onnxprune.ir.graph import Graph, Node


@dataclass(frozen=True, eq=False)
class Term:
    """A linear node of a sum, with the per-channel operators between it and the sum.

    Attributes:
        linear: the node.
        steps: the operators after it, in order.
        end: the tensor after them.
        axis: the channel axis of `end`, which may lie in another layout than the node's output.
    """

    linear: Linear
    steps: tuple[ChannelOp, ...]
    end: str
    axis: int


@dataclass(frozen=True, eq=False)
class LinearSum:
    """A sum of linear nodes.

    Attributes:
        total: the tensor that holds the sum.
        terms: the linear nodes; their channels are those of `total`.
        addends: other tensors in the sum.
        channel_axis: channel axis of `total`.
    """

    total: str
    terms: tuple[Term, ...]
    addends: tuple[str, ...]
    channel_axis: int

    @property
    def wants(self) -> tuple[str, ...]:
        """Tensors of the pruned model that a fit reads."""
        return (*(t.linear.node.inputs[0] for t in self.terms), *self.addends)


def find_sums(graph: Graph) -> tuple[LinearSum, ...]:
    """All sums of the main graph with at least one linear node, in the order of the graph."""
    finder = _Finder(graph)
    return tuple(finder.sites())


class _Finder:
    def __init__(self, graph: Graph) -> None:
        self.graph, self.follower = graph, Follower(graph)
        self.terms: dict[str, Term] = {}
        self.nodes = [n for n in graph.nodes if not n.body]
        for node in self.nodes:
            linear = linear_of(node, graph.weights)
            if linear is not None:
                chain = self.follower.follow(node.outputs[0], linear.channel_axis)
                self.terms[chain.end] = Term(linear, chain.steps, chain.end, chain.axis)

    def sites(self) -> Iterator[LinearSum]:
        inner = {name for n in self.nodes if self._adds(n) for name in n.inputs if self._is_sum(name)}
        summed: set[str] = set()
        for node in self.nodes:
            if not self._adds(node) or node.outputs[0] in inner:
                continue
            leaves = list(self._leaves(node))
            terms = [self.terms[x] for x in leaves if x in self.terms and self.follower.single_use(x)]
            axes = {t.axis for t in terms}
            # a grouped convolution has separate equations per group, so it cannot be fitted together with other nodes
            terms = [t for t in terms if t.linear.groups == 1] if len(terms) > 1 else terms
            if not terms or len(axes) > 1:
                continue
            ends = {t.end for t in terms}
            summed |= ends
            yield LinearSum(node.outputs[0], tuple(terms), tuple(x for x in leaves if x not in ends), terms[0].axis)
        for end, term in self.terms.items():
            if end not in summed:
                yield LinearSum(end, (term,), (), term.axis)

    def _adds(self, node: Node) -> bool:
        """Whether the node adds computed tensors that all have the shape of the sum."""
        if node.op not in ("Add", "Sum") or any(name in self.graph.weights for name in node.inputs):
            return False
        shapes = {self.graph.facts[name].cases[0].shape for name in (*node.inputs, *node.outputs)}
        return len(shapes) == 1

    def _is_sum(self, name: str) -> bool:
        maker = self.graph.producers.get(name)
        return maker is not None and self._adds(maker) and self.follower.single_use(name)

    def _leaves(self, node: Node) -> Iterator[str]:
        for name in node.inputs:
            if self._is_sum(name):
                yield from self._leaves(self.graph.producers[name])
            else:
                yield name
