# SPDX-License-Identifier: Apache-2.0
"""One pass over the graph: which channels of which weights are kept or dropped together, and which must be kept.

Weights own the labels, rules tie them, and the engine enforces the laws: no axis left behind, sizes agree, outputs are pinned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from onnxprune.analysis.constraints import settle
from onnxprune.analysis.coupling import Coupled, Mark, Owner, Trail, owners_of
from onnxprune.analysis.labels import Axis, Flow, Labels, Pin, Residue
from onnxprune.analysis.policy import DEFAULT, Policy
from onnxprune.analysis.rules import RULES
from onnxprune.analysis.rules.declined import DECLINED, UNREAD
from onnxprune.analysis.rules.site import Site, Unsupported, Use
from onnxprune.analysis.shuffles import Shuffle, find_shuffles
from onnxprune.ir.decompositions import MASKABLE, MASKABLE_INTEGERS
from onnxprune.ir.graph import Graph, Node, subgraphs
from onnxprune.ir.quantization import absent, is_quantized
from onnxprune.types import Indices

UNKNOWN_USE = "uses this axis in a way that no rule describes"


def couple(
    graph: Graph, kept: Mapping[int, str] | None = None, policy: Policy | None = None, before: Coupled | None = None
) -> Coupled:
    """Label every channel and tie channels that belong together.

    Args:
        graph: the model.
        kept: index of a node -> why the channels around it must be kept, because cutting them was tried and failed.
        policy: which of several valid results to choose.
        before: a result with fewer nodes in `kept`: the pass then resumes at the first new one.
    """
    return _Pass(graph, kept or {}, policy or DEFAULT).run(before)


class _Pass:
    """The state of one pass; `run` once."""

    def __init__(self, graph: Graph, kept: Mapping[int, str], policy: Policy) -> None:
        self.graph, self.kept, self.policy = graph, kept, policy
        self.labels = Labels()
        self.flows: dict[str, Flow] = {}
        self.owners: list[Owner] = []
        self.uses: list[Use] = []
        self.stored = set(graph.weights)
        self.shuffles: list[Shuffle] = []
        self.found_shuffles: Mapping[int, Shuffle] = {}
        self.marks: list[Mark] = []

    def run(self, before: Coupled | None) -> Coupled:
        first = 0
        if before is None:
            self.found_shuffles = find_shuffles(self.graph)
            self._seed()
        else:
            first = self._resume(before)
        for node in self.graph.nodes[first:]:
            self.marks.append(self._mark())
            if node.outputs[0] in self.graph.weights:
                continue
            shuffle = self.found_shuffles.get(node.index)
            if shuffle is None or not self._shuffle(node, shuffle):
                self._visit_parts(node)
        self._pin_outputs()
        self._pin_copies()
        demands = tuple(self.labels.evens)
        trail = Trail(self.kept, tuple(self.marks), frozenset(self.stored), self.found_shuffles, demands)
        evens = settle(self.labels, demands, owners_of(self.owners, self.labels.count))
        count = self.labels.count
        return Coupled(
            self.graph,
            self.flows,
            tuple(self.owners),
            self.labels.root(np.arange(count)),
            self.labels.free(),
            tuple(self.uses),
            tuple(self.labels.ties),
            tuple(self.labels.pins),
            self.policy,
            tuple(self.labels.mixed),
            tuple(self.labels.needed),
            tuple(self.shuffles),
            evens,
            trail,
        )

    def _mark(self) -> Mark:
        """The current length of everything that only grows."""
        x = self.labels
        counts = (len(x.ties), len(x.pins), len(x.mixed), len(x.needed), len(x.evens), len(self.uses), len(self.shuffles))
        return Mark(x.count, *counts)

    def _resume(self, before: Coupled) -> int:
        """Restore the state before the first node that is newly kept; return its index."""
        trail = before.trail
        assert trail is not None
        self.found_shuffles = trail.shuffles
        new = [k for k in self.kept if k not in trail.kept]
        # a shuffle with such a node is visited node by node, from its first node on
        whole = [self.found_shuffles[k].nodes[0] for k in new if k in self.found_shuffles]
        first = min([*new, *whole], default=len(self.graph.nodes))
        if first == len(self.graph.nodes):
            raise ValueError("nothing is newly kept")
        at = trail.marks[first]
        self.marks = list(trail.marks[:first])
        self.owners = list(before.owners)
        self.uses = list(before.uses[: at.uses])
        self.shuffles = list(before.shuffles[: at.shuffles])
        self.labels = Labels.of(
            at.labels,
            before.ties[: at.ties],
            before.pins[: at.pins],
            before.mixed[: at.mixed],
            before.needed[: at.needed],
            trail.evens[: at.evens],
        )
        later = [
            name for n in self.graph.nodes[first:] for part in (n, *self.graph.parts_of(n)) for name in part.outputs if name
        ]
        self.stored = set(trail.stored).difference(later) | self.graph.weights.keys()
        self.flows = dict(before.flows)
        for name in later:
            if name not in self.graph.weights and name in self.graph.facts:
                self.flows[name] = Flow.plain(len(self.graph.facts[name].cases[0].shape or ()))
        return first

    def _seed(self) -> None:
        """Fresh labels for every axis of every weight that the graph uses, floating-point or quantized."""
        for name, facts in self.graph.facts.items():
            self.flows[name] = Flow.plain(len(facts.cases[0].shape or ()))
        copies = self.graph.copies or {}
        for weight in self.graph.weights.values():
            users = self.graph.consumers.get(weight.name, ())
            if not users or not (weight.is_float or is_quantized(weight.tensor.data_type, users)):
                continue
            # a copy is not masked: the original has one tensor for all copies, of which others keep other positions
            zero = not (weight.is_float and weight.name in copies)
            zero = zero and all(self._masks(node, k, weight.is_float) for node, k in users)
            zero = zero and (weight.is_float or absent(self.graph, weight.name) is not None)
            zero = zero or (weight.is_float and not weight.array.any())  # e.g. an initial state of zeros
            axes: list[Axis] = []
            for axis, size in enumerate(weight.shape):
                labels = self.labels.fresh(size) if size > 1 else None
                if labels is not None:
                    self.owners.append(Owner(weight.name, axis, int(labels[0]), size))
                axes.append(labels)
            residue = Residue.ZERO if zero else Residue.CONSTANT
            self.flows[weight.name] = Flow(tuple(axes), tuple(Residue.UNKNOWN if x is None else residue for x in axes))

    def _masks(self, node: Node, operand: int, is_float: bool) -> bool:
        """Whether a stored tensor may be masked where a node reads it, by its rule or by the table of fused operators."""
        if node.fused:
            return node.fused in (MASKABLE if is_float else MASKABLE_INTEGERS)
        rule = RULES.get(node.op)
        return rule is not None and (is_float or rule.integers) and rule.maskable(self.graph, node, operand)

    def _shuffle(self, node: Node, shuffle: Shuffle) -> bool:
        """Treat a shuffle as the permutation that it is; return False if it must be visited node by node."""
        flow = self.flows[shuffle.source]
        labels = flow.axes[shuffle.axis]
        if labels is None or shuffle.source in self.stored or any(k in self.kept for k in shuffle.nodes):
            return False
        if node.index == shuffle.nodes[-1]:
            axes = tuple(labels[shuffle.order] if k == shuffle.axis else x for k, x in enumerate(flow.axes))
            # a computed residue is not available in this order
            residue = tuple(Residue.UNKNOWN if r is Residue.COMPUTED else r for r in flow.residue)
            self.flows[shuffle.result] = self._checked(node, shuffle.result, Flow(axes, residue))
            self.shuffles.append(shuffle)
        return True

    def _visit_parts(self, node: Node) -> None:
        """Visit the parts of a fused node; pin what they do not cover, because its use is unknown."""
        parts = self.graph.parts_of(node)
        for part in parts:
            self._visit(part)
        if parts == (node,):
            return
        read, made = {i for part in parts for i in part.inputs}, {o for part in parts for o in part.outputs}
        hidden = [o for o in node.outputs if o in self.graph.read and o not in made]
        for name in node.inputs:
            if name and hidden:
                self._pin(self.flows[name], Pin(str(node), f"has another output '{hidden[0]}' in use"))
            elif name and name not in read:
                self._pin(self.flows[name], Pin(str(node), UNREAD.get(node.op, UNKNOWN_USE)))

    def _visit(self, node: Node) -> None:
        inputs = tuple(self.flows[name] if name else None for name in node.inputs)
        for name in node.implicit:
            closed = any(graph.node for graph in subgraphs(node.proto))
            why = "uses them inside its body" if closed else "returns them from its body, whose outputs are kept"
            self._pin(self.flows.get(name), Pin(str(node), why))
        if node.index in self.kept:
            for flow in inputs:
                self._pin(flow, Pin(str(node), self.kept[node.index]))
        stored = tuple(bool(name) and name in self.stored for name in node.inputs)
        if node.fused and node.op == "Constant":
            self.stored.update(node.outputs)
        if node.inputs and all(s or not n for s, n in zip(stored, node.inputs, strict=True)) and not any(subgraphs(node.proto)):
            self.stored.update(node.outputs)
        rule = RULES.get(node.op)
        idle = not any(x is not None for flow in inputs if flow for x in flow.axes)
        if idle and not (rule is not None and rule.makes_positions):
            return
        self.labels.touched.clear()
        try:
            outputs = self._apply(Site(node, self.graph, inputs, stored, self.labels, self.uses, self.policy, self._owners))
        except Unsupported as declined:
            for flow in inputs:
                self._pin(flow, Pin(str(node), str(declined)))
            return
        self._account(node, inputs, outputs)
        for name, flow in zip(node.outputs, outputs, strict=False):
            if name in self.graph.read:
                self.flows[name] = self._checked(node, name, flow)
            elif name:  # runtimes compute what nobody reads, so that its stored sizes must follow
                self.flows[name] = self._unread(name, flow)

    def _owners(self, labels: Indices) -> set[str]:
        """The weights that own channels tied to these labels."""
        roots = self.labels.root(np.arange(self.labels.count))
        tied = np.flatnonzero(np.isin(roots, roots[labels]))
        ends = np.cumsum([o.size for o in self.owners])  # the first labels are those of the owners, one owner after the other
        return {self.owners[k].weight for k in np.unique(np.searchsorted(ends, tied, "right")).tolist() if k < len(ends)}

    def _apply(self, site: Site) -> list[Flow]:
        node = site.node
        rule = RULES.get(node.op)
        if rule is None:
            raise Unsupported(DECLINED.get(node.op, "is an operator without a rule"))
        read = [name for name in node.outputs if name in self.graph.read]
        tensors = [*node.inputs, *read]
        if any(c.shape is None for name in tensors if name for c in self.graph.facts[name].cases):
            raise Unsupported("has inputs or outputs of unknown rank")
        labelled = [
            n for n, flow in zip(node.inputs, site.inputs, strict=True) if flow and any(x is not None for x in flow.axes)
        ]
        if any(0 in (c.shape or ()) for name in (*labelled, *read) for c in self.graph.facts[name].cases):
            raise Unsupported("works on an empty tensor")
        outputs = rule(site)
        for name in node.outputs[len(outputs) :]:
            if name in self.graph.read:
                raise Unsupported(f"has a second output '{name}' in use")
        return outputs

    def _account(self, node: Node, inputs: Sequence[Flow | None], outputs: Sequence[Flow]) -> None:
        """No axis left behind: pin whatever the rule neither tied, pinned nor passed on, because its use is unknown."""
        passed = [*(x for flow in outputs for x in flow.axes if x is not None), *self.labels.touched]
        ids = {id(x) for x in passed}
        unmentioned = [x for flow in inputs for x in (flow.axes if flow else ()) if x is not None and id(x) not in ids]
        if not unmentioned:
            return
        with self.labels.marked(passed) as marks:
            for axis in unmentioned:
                if not marks[axis].any():
                    self.labels.pin(axis, Pin(str(node), UNKNOWN_USE))

    def _unread(self, name: str, flow: Flow) -> Flow:
        """The labels that match sizes; others are left out, and nothing is pinned."""
        shape = self.graph.shape(name) or ()
        if len(shape) != len(flow.axes):
            return Flow.plain(len(shape))
        fits = [x is not None and size == len(x) and size > 1 for size, x in zip(shape, flow.axes, strict=True)]
        axes = tuple(x if fit else None for x, fit in zip(flow.axes, fits, strict=True))
        return Flow(axes, tuple(r if fit else Residue.UNKNOWN for r, fit in zip(flow.residue, fits, strict=True)))

    def _checked(self, node: Node, name: str, flow: Flow) -> Flow:
        """Labels must match sizes that are static, known and larger than one; others are pinned."""
        shape = self.graph.shape(name) or ()
        pin = Pin(str(node), "moves them to an axis whose size is dynamic, unknown or different")
        if len(shape) != len(flow.axes):
            self._pin(flow, pin)
            return Flow.plain(len(shape))
        axes: list[Axis] = []
        for size, labels in zip(shape, flow.axes, strict=True):
            fits = labels is not None and size == len(labels) and size > 1
            if labels is not None and not fits:
                self.labels.pin(labels, Pin(str(node), "selects a single one of them") if size == 1 else pin)
            axes.append(labels if fits else None)
        return Flow(tuple(axes), tuple(Residue.UNKNOWN if x is None else r for r, x in zip(flow.residue, axes, strict=True)))

    def _pin(self, flow: Flow | None, pin: Pin) -> None:
        for axis in flow.axes if flow else ():
            if axis is not None:
                self.labels.pin(axis, pin)

    def _pin_outputs(self) -> None:
        for name in self.graph.outputs:
            if name in self.flows:
                self._pin(self.flows[name], Pin(f"output '{name}'", "is a model output, so its size is fixed"))

    def _pin_copies(self) -> None:
        """Keep channels that only copies have: a plan, which names none of these, could not say what is kept of them."""
        copies = self.graph.copies or {}
        for name in dict.fromkeys(copies.values()):  # a plan that cut it would cut its copies, too
            self._pin(self.flows.get(name), Pin(f"constant '{name}'", "is shared with the main graph, and bodies read it"))
        mine = [o for o in self.owners if o.weight in copies]
        if not mine:
            return
        roots = self.labels.root(np.arange(self.labels.count))
        others = [np.arange(o.start, o.start + o.size) for o in self.owners if o.weight not in copies]
        named = np.isin(roots, roots[np.concatenate([np.zeros(0, np.int64), *others])])
        for o in mine:
            labels = np.arange(o.start, o.start + o.size)
            self.labels.pin(
                labels[~named[labels]], Pin(f"constant '{copies[o.weight]}'", "is shared, and no weight makes them")
            )
