# SPDX-License-Identifier: Apache-2.0
"""What a rule sees: one node, the labels of its inputs, and what is known of its tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxprune.analysis.labels import Axis, Flow, Labels, Pin
from onnxprune.analysis.policy import AUTO, DEFAULT, OUTER, Policy
from onnxprune.ir.graph import Fact, Graph, Node
from onnxprune.types import Array, Indices


class Unsupported(Exception):  # noqa: N818 - not an error: the engine pins the node's inputs and goes on
    """A rule declines a node; the message completes the sentence "<node> ..."."""


@dataclass(frozen=True, slots=True)
class Use:
    """A weight at work: the labels of one of its axes, in the node that multiplies or adds it.

    Attributes:
        node: index of the node.
        op: its operator; for a fused node that of the part at work.
        operand: which input of that operator.
        labels: labels of the axis, one a position.
        produces: True where the axis becomes a channel axis of the output, False where the node sums over it.
    """

    node: int
    op: str
    operand: int
    labels: Indices
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
        policy: what the user wishes where several answers are right.
        owners: label -> names of the weights whose channels are tied to it; asked only where the policy names weights.
    """

    node: Node
    graph: Graph
    inputs: tuple[Flow | None, ...]
    stored: tuple[bool, ...]
    labels: Labels
    uses: list[Use] = field(repr=False)
    policy: Policy = DEFAULT
    owners: Callable[[Indices], set[str]] = field(default=lambda _: set(), repr=False)

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

    def value(self, k: int) -> Array | None:
        """The value of input `k` if it is known and the same in all cases."""
        return self.graph.facts[self.node.inputs[k]].value if self.has(k) else None

    def rank(self, output: int = 0) -> int:
        """The rank of an output; 0 for one that is left out."""
        return len(self.out_cases(output)[0].shape or ()) if self.node.outputs[output] else 0

    def out_cases(self, output: int = 0) -> tuple[Fact, ...]:
        """The facts of an output in each case."""
        return self.graph.facts[self.node.outputs[output]].cases

    def tie(self, a: Indices, b: Indices) -> None:
        """The node makes these channels one."""
        self.labels.tie(a, b, self.node.index)

    def pin(self, axis: Axis, why: str, of: tuple[int, int] | None = None) -> None:
        """The node needs these channels; `why` completes the sentence "<node> ...".

        Args:
            of: (input, axis) of channels that cannot be cut either, where that is the reason.
        """
        if axis is not None:
            self.labels.pin(axis, self._pin(why, of))

    def _pin(self, why: str, of: tuple[int, int] | None) -> Pin:
        return Pin(str(self.node), why, None if of is None else (self.node.inputs[of[0]], of[1]))

    def even(self, blocks: Indices) -> None:
        """The node needs the same number of channels in every row of `blocks` (n_blocks, size); which ones is free."""
        self.labels.even(blocks, self.node.index)

    def mix(self, axis: Axis) -> None:
        """The node works on these channels together, and the smaller graph only on those that are left."""
        if axis is not None:
            self.labels.mix(axis, self.node.index)

    def fixed(self, size: int, why: str, of: tuple[int, int] | None = None) -> Indices:
        """Pinned labels for positions that no weight owns; `of` as for `pin`."""
        return self.labels.fixed(size, self._pin(why, of))

    def choose(self, options: Sequence[Iterable[Pair]], *of: Indices, split: bool = True) -> int:
        """Which factor carries the labels `of`: the index of its ties among `options`, which go from outer to inner.

        By default the one that leaves most channels apart. Where channels are split, a wish for another is followed unless it
        leaves nothing to cut.
        """
        left = [self.labels.atoms_left(ties, np.concatenate(of)) for ties in options]
        most = left.index(max(left))
        if not split or not self.policy.carrier:
            return most
        wish = self.policy.carries(self.owners(np.concatenate(of)) if self.policy.needs_names else ())
        wanted = 0 if wish == OUTER else len(options) - 1
        cuts = all(self.labels.atoms_left(options[wanted], part) > 1 for part in of)
        return wanted if wish != AUTO and cuts else most

    def use(self, operand: int, axis: Axis, produces: bool) -> None:
        """Record a weight at work."""
        if axis is not None and self.stored[operand]:
            self.uses.append(Use(self.node.index, self.node.op, operand, axis, produces))


Pair = tuple[Indices, Indices]
"""Two arrays of labels to be tied."""
Visit = Callable[[Site], list[Flow]]
"""What is done at a node: tie, pin, and tell what the outputs carry."""
Maskable = Callable[[Graph, Node, int], bool]
"""(graph, node, operand) -> whether a stored tensor may be masked at this input of the node: with its dropped slices set to
zero, those channels count for nothing there. Elsewhere (a divisor, a maximum) the operator may see the true values of a
removed channel, so nothing downstream may count on zeros."""


def never(graph: Graph, node: Node, operand: int) -> bool:
    """No stored tensor may be masked."""
    return False


def everywhere(graph: Graph, node: Node, operand: int) -> bool:
    """The operator multiplies or adds its operands, or passes them on."""
    return True


@dataclass(frozen=True, slots=True)
class Rule:
    """What an operator does with channels.

    Attributes:
        visit: ties and pins, and tells what the outputs carry.
        maskable: at which inputs a stored tensor may be masked.
        integers: whether that holds for integers too, of which those that mean zero are put in.
        makes_positions: whether it makes positions of its own, and is visited even where no input has channels.
    """

    visit: Visit
    maskable: Maskable = never
    integers: bool = False
    makes_positions: bool = False

    def __call__(self, site: Site) -> list[Flow]:
        """Visit a node."""
        return self.visit(site)


def rules(
    visit: Visit, *operators: str, maskable: Maskable = never, integers: bool = False, makes_positions: bool = False
) -> dict[str, Rule]:
    """The same rule for several operators."""
    return dict.fromkeys(operators, Rule(visit, maskable, integers, makes_positions))
