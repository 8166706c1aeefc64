# SPDX-License-Identifier: Apache-2.0
"""What a rule sees: one node, the labels of its inputs, and what is known about its tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxprune.analysis.labels import Axis, Flow, Labels, Pin
from onnxprune.analysis.policy import AUTO, DEFAULT, OUTER, Policy
from onnxprune.ir.graph import Fact, Graph, Node
from onnxprune.types import Array, Indices


class Unsupported(Exception):  # noqa: N818 - not an error: the engine pins the node's inputs and continues
    """A rule declines a node; the message completes the sentence "<node> ..."."""


@dataclass(frozen=True, slots=True)
class Use:
    """The use of a weight: the labels of one of its axes, in the node that multiplies or adds it.

    Attributes:
        node: index of the node.
        op: its operator; for a fused node, the operator of the part that uses the weight.
        operand: which input of that operator.
        labels: labels of the axis, one per position.
        produces: True if the axis becomes a channel axis of the output, False if the node sums over it.
    """

    node: int
    op: str
    operand: int
    labels: Indices
    produces: bool


@dataclass(frozen=True, slots=True)
class Site:
    """One node and its context.

    Attributes:
        node: the node.
        graph: the whole graph, for facts.
        inputs: the flow of each input; None for an omitted input.
        stored: for each input, whether it is computed from weights alone.
        labels: the union-find; rules tie and pin through the methods of this class.
        uses: where uses of weights are recorded.
        policy: which of several valid results to choose.
        owners: label -> names of the weights whose channels are tied to it; called only if the policy names weights.
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
        """The flow of input `k`, which must be present."""
        flow = self.inputs[k] if k < len(self.inputs) else None
        if flow is None:
            raise Unsupported(f"lacks input {k}")
        return flow

    def cases(self, k: int) -> tuple[Fact, ...]:
        """The facts of input `k` in each case."""
        return self.graph.facts[self.node.inputs[k]].cases

    def shape(self, k: int) -> tuple[int | None, ...]:
        """Sizes of input `k`, None for those that are dynamic."""
        return self.graph.shape(self.node.inputs[k]) or ()

    def has(self, k: int) -> bool:
        """Whether input `k` is present."""
        return k < len(self.node.inputs) and bool(self.node.inputs[k])

    def value(self, k: int) -> Array | None:
        """The value of input `k` if it is known and the same in all cases."""
        return self.graph.facts[self.node.inputs[k]].value if self.has(k) else None

    def rank(self, output: int = 0) -> int:
        """The rank of an output; 0 for an omitted output."""
        return len(self.out_cases(output)[0].shape or ()) if self.node.outputs[output] else 0

    def out_cases(self, output: int = 0) -> tuple[Fact, ...]:
        """The facts of an output in each case."""
        return self.graph.facts[self.node.outputs[output]].cases

    def tie(self, a: Indices, b: Indices) -> None:
        """Tie these channels because of this node."""
        self.labels.tie(a, b, self.node.index)

    def pin(self, axis: Axis, why: str, of: tuple[int, int] | None = None) -> None:
        """Pin these channels because of this node; `why` completes the sentence "<node> ...".

        Args:
            of: (input, axis) of other channels that cannot be cut, if they are the reason.
        """
        if axis is not None:
            self.labels.pin(axis, self._pin(why, of))

    def _pin(self, why: str, of: tuple[int, int] | None) -> Pin:
        return Pin(str(self.node), why, None if of is None else (self.node.inputs[of[0]], of[1]))

    def even(self, blocks: Indices) -> None:
        """The node needs the same number of channels kept in every row of `blocks` (n_blocks, size); the choice is free."""
        self.labels.even(blocks, self.node.index)

    def mix(self, axis: Axis) -> None:
        """The node mixes these channels; in the smaller graph, it works on those that are kept."""
        if axis is not None:
            self.labels.mix(axis, self.node.index)

    def fixed(self, size: int, why: str, of: tuple[int, int] | None = None) -> Indices:
        """Pinned labels for positions that no weight owns; `of` as for `pin`."""
        return self.labels.fixed(size, self._pin(why, of))

    def choose(self, options: Sequence[Iterable[Pair]], *of: Indices, split: bool = True) -> int:
        """Which factor carries the labels `of`: the index of its ties among `options`, which are ordered from outer to inner.

        By default, the one that keeps most channels separate. If channels are split, the policy may request another one; it is
        used unless it leaves nothing to cut.
        """
        atoms = [self.labels.atoms_left(ties, np.concatenate(of)) for ties in options]
        best = atoms.index(max(atoms))
        if not split or not self.policy.carrier:
            return best
        requested = self.policy.carries(self.owners(np.concatenate(of)) if self.policy.needs_names else ())
        index = 0 if requested == OUTER else len(options) - 1
        cuts = all(self.labels.atoms_left(options[index], part) > 1 for part in of)
        return index if requested != AUTO and cuts else best

    def use(self, operand: int, axis: Axis, produces: bool) -> None:
        """Record the use of a weight."""
        if axis is not None and self.stored[operand]:
            self.uses.append(Use(self.node.index, self.node.op, operand, axis, produces))


Pair = tuple[Indices, Indices]
"""Two arrays of labels to be tied."""
Visit = Callable[[Site], list[Flow]]
"""What a rule does at a node: tie, pin, and return the flows of the outputs."""
Maskable = Callable[[Graph, Node, int], bool]
"""(graph, node, operand) -> whether a stored tensor may be masked at this input of the node: with its dropped slices set to
zero, those channels contribute nothing there. At other inputs (a divisor, a maximum) the operator may see the true values of
a removed channel, so nothing downstream may rely on zeros."""


def never(graph: Graph, node: Node, operand: int) -> bool:
    """No stored tensor may be masked."""
    return False


def everywhere(graph: Graph, node: Node, operand: int) -> bool:
    """The operator multiplies or adds its operands, or passes them on."""
    return True


@dataclass(frozen=True, slots=True)
class Rule:
    """How an operator treats channels.

    Attributes:
        visit: ties and pins, and returns the flows of the outputs.
        maskable: at which inputs a stored tensor may be masked.
        integers: whether integers may also be masked, with those that mean zero.
        makes_positions: whether it creates positions of its own, and is visited even if no input has channels.
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
