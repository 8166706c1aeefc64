# SPDX-License-Identifier: Apache-2.0
"""Dropped labels -> a smaller model. One generic loop cuts weights; operators that store sizes have a fix-up (`fixups/`).

The original graph is interpreted again with the smaller weights, node by node. Every resulting shape must be the original one
without the dropped positions; otherwise the node is rejected (`CutError`) and its channels are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from onnxprune.analysis.constraints import uneven_blocks
from onnxprune.analysis.coupling import Coupled
from onnxprune.analysis.rules.site import Unsupported
from onnxprune.analysis.shuffles import Shuffle
from onnxprune.errors import CutError, first_line
from onnxprune.ir.bodies import put_back
from onnxprune.ir.facts import skeleton
from onnxprune.ir.graph import UNKNOWN, Body, Fact, Node, Weight, constant_tensor, defined, with_values
from onnxprune.ir.infer import Interpreter, fact_of_weight
from onnxprune.ir.spill import Spill
from onnxprune.ir.tensors import array_of, is_large, slabs
from onnxprune.rewrite.fixups import FIXUPS
from onnxprune.rewrite.patch import Patch
from onnxprune.rewrite.residue import Residues
from onnxprune.types import Mask


def cut(coupled: Coupled, dropped: Mask, spill: Spill | None = None) -> ModelProto:
    """The model without the dropped channels.

    Args:
        dropped: (n_labels,) True for labels to remove, the same for all labels of a class.
        spill: where large cut weights are stored; None keeps them in memory.

    Raises:
        CutError: a node could not be adapted to its new sizes.
    """
    for even in coupled.evens:
        if uneven := uneven_blocks(even, dropped):
            raise CutError(f"{coupled.graph.nodes[even.node]} {uneven}", even.node)
    return _Cutter(coupled, dropped, spill).run()


def cut_tensor(tensor: TensorProto, masks: Sequence[Mask | None], spill: Spill | None = None) -> TensorProto:
    """A tensor with only the positions that the masks keep; name, type and doc string are unchanged.

    Args:
        spill: where the result is stored if it is large.
    """
    if spill is not None and is_large(tensor):
        dims = [n if m is None else int(m.sum()) for n, m in zip(tensor.dims, masks, strict=True)]
        return spill.write(tensor, dims, _cut_slabs(tensor, masks))
    array = array_of(tensor)
    for axis, mask in enumerate(masks):
        if mask is not None and not mask.all():
            array = np.compress(mask, array, axis)
    return with_values(tensor, array)


def _cut_slabs(tensor: TensorProto, masks: Sequence[Mask | None]) -> Iterator[NDArray[np.generic]]:
    first, *others = masks
    for rows, part in slabs(tensor):
        array = part if first is None else np.compress(first[rows], part, 0)
        for axis, mask in enumerate(others, 1):
            array = array if mask is None else np.compress(mask, array, axis)
        yield array


class _Cutter:
    """Builds the pruned model; call `run` once."""

    def __init__(self, coupled: Coupled, dropped: Mask, spill: Spill | None) -> None:
        self.coupled, self.graph, self.dropped, self.spill = coupled, coupled.graph, dropped, spill
        self.model = skeleton(self.graph.model)
        self.interpret = Interpreter(self.graph.model)
        self.n_cases = len(next(iter(self.graph.facts.values())).cases) if self.graph.facts else 1
        self.facts: list[dict[str, Fact]] = [{} for _ in range(self.n_cases)]
        self.nodes: list[tuple[NodeProto, int]] = []
        self.weights: dict[str, TensorProto] = {}
        self.taken = set(self.graph.facts)
        self.sized: set[str] = set()
        self.residues = Residues(coupled, dropped)
        self.captured = self.graph.captured
        self.shuffles = {k: shuffle for shuffle in coupled.shuffles for k in shuffle.nodes}
        self.initializers = {t.name for t in self.graph.model.graph.initializer}

    def run(self) -> ModelProto:
        for weight in self.graph.weights.values():
            self._cut_weight(weight)
        for name in self.graph.facts:
            if name not in self.graph.producers and name not in self.graph.weights:
                for case, fact in zip(self.facts, self.graph.facts[name].cases, strict=True):
                    case[name] = fact
        for node in self.graph.nodes:
            self._cut_node(node)
        self._assemble()
        return self.model

    def masks(self, name: str) -> list[Mask | None]:
        """The kept positions of each axis of a tensor; None for an axis without labels."""
        return [None if x is None else ~self.dropped[x] for x in self.coupled.flows[name].axes]

    def _cut_weight(self, weight: Weight) -> None:
        masks = self.masks(weight.name)
        if any(m is not None and not m.all() for m in masks):
            spill = self.spill if weight.name in self.initializers else None
            self.weights[weight.name] = cut_tensor(weight.tensor, masks, spill)
            fact = fact_of_weight(Weight(weight.name, self.weights[weight.name]))
            for case in self.facts:
                case[weight.name] = fact
            return
        for case, old in zip(self.facts, self.graph.facts[weight.name].cases, strict=True):
            case[weight.name] = old

    def expected(self, name: str, case: int) -> tuple[int, ...] | None:
        """The shape that a tensor must have after the cut."""
        shape = self.graph.facts[name].cases[case].shape
        if shape is None:
            return None
        return tuple(n if m is None else int(m.sum()) for n, m in zip(shape, self.masks(name), strict=True))

    def _cut_node(self, node: Node) -> None:
        proto = NodeProto()
        if constant_tensor(node.proto) is not None:
            if node.outputs[0] not in self.weights:
                proto.CopyFrom(node.proto)
            else:
                proto.op_type, proto.name, proto.doc_string = node.proto.op_type, node.proto.name, node.proto.doc_string
                proto.domain = node.proto.domain
                proto.output.extend(node.proto.output)
                new = proto.attribute.add(name="value", type=onnx.AttributeProto.TENSOR)
                new.t.CopyFrom(self.weights[node.outputs[0]])
            self.nodes.append((proto, node.body))
            return
        shuffle = self.shuffles.get(node.index)
        if shuffle is not None and self._cuts(shuffle.source):
            if node.index == shuffle.nodes[-1]:
                self._gather(node, shuffle)
            return
        proto.CopyFrom(node.proto)
        self._trace_sizes(node)
        if not self._touched(node):
            self.nodes.append((proto, node.body))
            for case, old in enumerate(self.facts):
                old.update({name: self.graph.facts[name].cases[case] for name in node.outputs if name})
            return
        patch = Patch(node, proto, self)
        try:
            fixup = FIXUPS.get(node.op)
            if fixup is not None:
                fixup(patch)
            self._freeze(patch, node)
        except Unsupported as declined:
            raise CutError(f"{node} {declined}", node.index) from declined
        for new_node in [*patch.before, proto, *patch.after]:
            self.add(new_node, node.index)
        self._compare(node)

    def _gather(self, node: Node, shuffle: Shuffle) -> None:
        """Replace a shuffle with one Gather."""
        labels = self.coupled.flows[shuffle.source].axes[shuffle.axis]
        assert labels is not None
        kept = ~self.dropped[labels]
        positions = (np.cumsum(kept) - 1)[shuffle.order[kept[shuffle.order]]]
        index = Patch(node, NodeProto(), self).constant(f"{shuffle.result}_order", positions)
        gather = onnx.helper.make_node("Gather", [shuffle.source, index], [shuffle.result], node.name, axis=shuffle.axis)
        self.add(gather, node.index)
        self._compare(node)

    def _trace_sizes(self, node: Node) -> None:
        """Record tensors computed from sizes. A tensor that carries channels is data, even if sizes were used to compute it."""
        outputs = [name for name in node.outputs if name]
        known = all(c.value is not None for name in outputs for c in self.graph.facts[name].cases)
        data = any(axis is not None for name in outputs for axis in self.coupled.flows[name].axes)
        if node.op in ("Shape", "Size") or (known and not data and any(name in self.sized for name in node.inputs)):
            self.sized.update(outputs)

    def _touched(self, node: Node) -> bool:
        """Whether any input or output of the node changes."""
        if any(self._cuts(name) for name in node.outputs if name):
            return True
        for case, old in enumerate(self.facts):
            for name in (*node.inputs, *node.implicit):
                if name and old.get(name, UNKNOWN) is not self.graph.facts[name].cases[case]:
                    return True
        return False

    def _freeze(self, patch: Patch, node: Node) -> None:
        """Give operands computed from sizes their old values, unless the node only computes other sizes."""
        if all(name in self.sized for name in node.outputs if name):
            return
        for name in node.implicit:
            for case, old in enumerate(self.facts):
                if not _same_value(old.get(name, UNKNOWN), self.graph.facts[name].cases[case]):
                    raise Unsupported("uses a size that would change inside its body")
        for k, name in enumerate(node.inputs):
            if name in self.sized and k not in patch.settled:
                before = [c.value for c in self.graph.facts[name].cases if c.value is not None]
                if len(before) == len(self.facts):
                    patch.set_operand(k, before)

    def add(self, proto: NodeProto, index: int) -> None:
        """Append a node that takes the place of node `index`, and infer the facts of its outputs."""
        self.nodes.append((proto, self.graph.nodes[index].body))
        self.taken.update(proto.output)
        for case in self.facts:
            try:
                case.update(self.interpret(proto, case))
            except Exception as e:  # InferenceError and the like: the operator does not accept the new sizes
                why = first_line(e)
                raise CutError(f"{self.graph.nodes[index]} does not accept the smaller sizes: {why}", index) from e

    def _compare(self, node: Node) -> None:
        """Check inferred output shapes against the expected ones; where inference finds none, the expected one is used."""
        for case, facts in enumerate(self.facts):
            for name in node.outputs:
                if name in self.sized or not self._read(name):
                    continue
                want, old = self.expected(name, case), self.graph.facts[name].cases[case]
                got = facts.get(name, UNKNOWN)
                if want is not None and -1 not in want and got.shape != want and not _is_dynamic(got.shape):
                    raise CutError(f"{node} would produce shape {got.shape}, expected {want}", node.index)
                if got.shape != want or not got.dtype:
                    got = Fact(old.dtype, want, got.value)
                # `_touched` compares facts by identity, so an unchanged tensor keeps its old fact
                facts[name] = old if want == old.shape and _same_value(got, old) and not self._cuts(name) else got

    def _read(self, name: str) -> bool:
        """Whether the tensor is used."""
        return name in self.graph.read

    def _cuts(self, name: str) -> bool:
        return any(m is not None and not m.all() for m in self.masks(name))

    def _assemble(self) -> None:
        graph = self.model.graph
        for name in self.graph.outputs:
            for case, facts in enumerate(self.facts):
                if name in self.sized and not _same_value(facts[name], self.graph.facts[name].cases[case]):
                    raise CutError(f"output '{name}' reports a size that would change", self.graph.producers[name].index)
        nodes = self._without_unused(self.nodes)
        used = {name for n, _ in nodes for name in n.input} | set(self.graph.outputs)
        used |= self.captured

        def finish(target: GraphProto, body: Body) -> None:
            for t in body.proto.initializer:
                name = body.named(t.name)
                if name in used or name not in self.graph.consumers:
                    # popped while copying, so that no weight is in memory twice
                    target.initializer.add().CopyFrom(self.weights.pop(name, t))
                    target.initializer[-1].name = t.name
            self._update_shapes(target, body)

        graph.node.extend(put_back(self.graph.bodies, nodes, finish))
        finish(graph, self.graph.bodies[0])
        known = {t.name for t in graph.initializer}
        graph.initializer.extend(t for name, t in self.weights.items() if name not in self.graph.weights and name in used)
        removed = {t.name for t in self.graph.model.graph.initializer} - known
        for value in [v for v in graph.input if v.name in removed]:
            graph.input.remove(value)

    def _without_unused(self, nodes: list[tuple[NodeProto, int]]) -> list[tuple[NodeProto, int]]:
        """Drop nodes that only served what a fix-up replaced; nodes that were unused in the original are kept."""
        unused = {n.outputs[0] for n in self.graph.nodes if not any(o in self.graph.consumers for o in n.outputs if o)}
        used = set(self.graph.outputs) | self.captured
        kept = []
        for n, body in reversed(nodes):
            if any(o in used for o in n.output) or (n.output and n.output[0] in unused):
                used.update(n.input)
                kept.append((n, body))
        return kept[::-1]

    def _update_shapes(self, graph: GraphProto, body: Body) -> None:
        """Update the shapes of inputs and value infos; remove value infos of tensors that no longer exist."""
        made = defined(graph)
        for value in [v for v in graph.value_info if body.named(v.name) in self.graph.facts and v.name not in made]:
            graph.value_info.remove(value)
        for value in [*graph.value_info, *graph.input]:
            name = body.named(value.name)
            if name not in self.coupled.flows:
                continue
            dims = value.type.tensor_type.shape.dim
            for dim, mask in zip(dims, self.masks(name), strict=False):
                if mask is not None and not mask.all():
                    dim.Clear()
                    dim.dim_value = int(mask.sum())
            old, new = self.graph.facts[name].cases[0].shape, self.facts[0].get(name, UNKNOWN).shape
            if old is not None and new is not None and len(dims) == len(old) == len(new):
                for dim, before, after in zip(dims, old, new, strict=True):
                    if before != after and dim.HasField("dim_value"):
                        dim.dim_value = after


def _is_dynamic(shape: tuple[int, ...] | None) -> bool:
    return shape is None or -1 in shape


def _same_value(a: Fact, b: Fact) -> bool:
    if a.value is None or b.value is None:
        return a.value is None and b.value is None
    return np.array_equal(a.value, b.value, equal_nan=a.value.dtype.kind == "f")
