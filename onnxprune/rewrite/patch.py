# SPDX-License-Identifier: Apache-2.0
"""A node being rewritten: what a fix-up may read from the graph, and how it may change the node and its surroundings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import onnx
from onnx import NodeProto, TensorProto

from onnxprune.analysis.coupling import Coupled
from onnxprune.analysis.labels import Residue
from onnxprune.analysis.rules.site import Unsupported
from onnxprune.ir.graph import Fact, Graph, Node, opsets
from onnxprune.rewrite.residue import Residues
from onnxprune.types import Array, Indices, Mask


class Cutting(Protocol):
    """The part of the rewrite that fix-ups may use."""

    coupled: Coupled
    graph: Graph
    facts: list[dict[str, Fact]]
    weights: dict[str, TensorProto]
    taken: set[str]
    sized: set[str]
    residues: Residues

    def masks(self, name: str) -> list[Mask | None]:
        """The kept positions of each axis of a tensor."""
        ...

    def expected(self, name: str, case: int) -> tuple[int, ...] | None:
        """The shape that a tensor must have after the cut."""
        ...


class Patch:
    """A node being rewritten.

    Attributes:
        node: the original node.
        proto: the rewritten node.
        before, after: nodes to insert before and after it.
        settled: operands that a fix-up has already handled.
    """

    def __init__(self, node: Node, proto: NodeProto, cutting: Cutting) -> None:
        self.node, self.proto, self.cutting = node, proto, cutting
        self.before: list[NodeProto] = []
        self.after: list[NodeProto] = []
        self.settled: set[int] = set()
        self._core = opsets(cutting.graph.model)[""]

    def mask(self, operand: int, axis: int) -> Mask | None:
        """The kept positions of an input axis; None if the axis never shrinks."""
        return self.cutting.masks(self.node.inputs[operand])[axis]

    def out_mask(self, axis: int, output: int = 0) -> Mask | None:
        """The kept positions of an output axis."""
        return self.cutting.masks(self.node.outputs[output])[axis]

    def old(self, operand: int) -> list[Array | None]:
        """The value of an operand in the original graph, per case."""
        return [c.value for c in self.cutting.graph.facts[self.node.inputs[operand]].cases]

    def old_value(self, operand: int) -> Array | None:
        """The value of an optional operand in the original graph."""
        return self.old(operand)[0] if self.has(operand) else None

    def new(self, operand: int) -> list[Array | None]:
        """The value of an operand in the graph as cut so far, per case."""
        return [case[self.node.inputs[operand]].value for case in self.cutting.facts]

    def known(self, operand: int) -> list[Array]:
        """`old`, for an operand whose value must be known."""
        values = [v for v in self.old(operand) if v is not None]
        if len(values) < len(self.cases()):
            raise Unsupported("uses unknown sizes or indices")
        return values

    def has(self, operand: int) -> bool:
        """Whether the operand is present."""
        return operand < len(self.node.inputs) and bool(self.node.inputs[operand])

    def cases(self) -> range:
        """Indices of the cases."""
        return range(len(self.cutting.facts))

    def out_shapes(self, output: int = 0) -> list[tuple[int, ...]]:
        """The shape that an output must have, per case."""
        shapes = [self.cutting.expected(self.node.outputs[output], case) for case in self.cases()]
        return [s if s is not None else () for s in shapes]

    def set_operand(self, k: int, values: Sequence[Array]) -> None:
        """Make operand `k` read `values` (one per case).

        An operand that already has these values is left alone. A value that is the same in all cases becomes a new constant.
        Otherwise the elements that do not depend on dynamic sizes are replaced, and the others are still computed.
        """
        self.settled.add(k)
        current = self.new(k) if self.has(k) else [None for _ in values]
        if all(a is not None and np.array_equal(a, b) for a, b in zip(current, values, strict=True)):
            return
        first = values[0]
        if all(np.array_equal(first, v) for v in values[1:]):
            self.put(k, self.constant(f"{self._stem(k)}", first))
            return
        stable = np.all([np.equal(first, v) for v in values], axis=0) if len({v.shape for v in values}) == 1 else None
        if stable is None or any(a is None or a.shape != first.shape for a in current):
            raise Unsupported("computes a size in a way that cannot be updated")
        mixed = [np.where(stable, first, np.asarray(a)) for a in current]
        if not all(np.array_equal(a, b) for a, b in zip(mixed, values, strict=True)):
            raise Unsupported("computes a size from dynamic sizes and channel counts together")
        patched = self.name(f"{self._stem(k)}_patched")
        mask, constant = self.constant(f"{self._stem(k)}_mask", stable), self.constant(self._stem(k), first)
        self.before.append(onnx.helper.make_node("Where", [mask, constant, self.node.inputs[k]], [patched], name=patched))
        self.put(k, patched)

    def _stem(self, k: int) -> str:
        return self.node.inputs[k] if self.has(k) else f"{self.node.outputs[0]}_operand{k}"

    def put(self, k: int, name: str) -> None:
        """Connect operand `k` to another tensor."""
        self.proto.input.extend([""] * (k + 1 - len(self.proto.input)))
        self.proto.input[k] = name

    def name(self, stem: str) -> str:
        """An unused tensor name."""
        name, n = f"{stem}_pruned", 1
        while name in self.cutting.taken:
            name, n = f"{stem}_pruned{n}", n + 1
        self.cutting.taken.add(name)
        return name

    def constant(self, stem: str, value: Array) -> str:
        """Add an initializer and return its name; other consumers of an old one are not affected."""
        known = self.cutting.residues.constants
        key = (value.dtype.str, value.shape, value.tobytes())
        if value.size > 16 and key in known:
            return known[key]
        name = known[key] = self.name(stem)
        self.cutting.weights[name] = onnx.numpy_helper.from_array(np.asarray(value), name)
        for case in self.cutting.facts:
            case[name] = Fact(self.cutting.weights[name].data_type, value.shape, value)
        return name

    def set_attribute(self, name: str, value: Any) -> None:
        """Replace or add an attribute."""
        for k, a in enumerate(self.proto.attribute):
            if a.name == name:
                del self.proto.attribute[k]
                break
        if value is not None:
            self.proto.attribute.append(onnx.helper.make_attribute(name, value))

    def gather_after(self, axis: int, positions: Indices) -> None:
        """Select positions of an output axis with a Gather."""
        inner = self._inner()
        indices = self.constant(f"{inner}_indices", positions)
        self.after.append(onnx.helper.make_node("Gather", [inner, indices], [self.node.outputs[0]], axis=axis, name=inner))

    def _inner(self, output: int = 0) -> str:
        """Redirect an output to a new tensor, from which `after` computes the old one."""
        inner = self.name(self.node.outputs[output])
        self.proto.output[output] = inner
        return inner

    def zeros_back(self, operand: int, missing: Mapping[int, int]) -> None:
        """Append zeros to an operand; `missing` maps axes to their number."""
        rank = len(self.cutting.masks(self.node.inputs[operand]))
        pads = [0] * rank + [missing.get(k, 0) for k in range(rank)]
        self.put(operand, self.padded(self.proto.input[operand], pads, self.node.inputs[operand]))

    def padded(self, source: str, pads: Sequence[int], stem: str) -> str:
        """A tensor with zeros before and after each axis: the numbers before all axes, then those after."""
        padded = self.name(stem)
        if self._core >= 11:
            numbers = self.constant(f"{padded}_pads", np.array(pads, np.int64))
            pad = onnx.helper.make_node("Pad", [source, numbers], [padded], name=padded)
        else:
            pad = onnx.helper.make_node("Pad", [source], [padded], name=padded, pads=pads)
        self.before.append(pad)
        return padded

    def spread(self, operand: int, axis: int) -> None:
        """Insert zeros at the removed positions of an operand axis."""
        kept = self.mask(operand, axis)
        if kept is None:
            return
        self.zeros_back(operand, {axis: 1})
        self.pick(operand, axis, np.where(kept, np.cumsum(kept) - 1, kept.sum()))

    def pick(self, operand: int, axis: int, positions: Indices) -> None:
        """Select positions of an operand axis with a Gather."""
        indices = self.constant(f"{self.proto.input[operand]}_indices", positions)
        self.put(operand, self.add_before("Gather", [self.proto.input[operand], indices], self.node.inputs[operand], axis=axis))

    def add_before(self, op: str, inputs: Sequence[str], stem: str, **attributes: Any) -> str:
        """Add a node before this one and return its output."""
        name = self.name(stem)
        self.before.append(onnx.helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def add_copy(self, data: str) -> str:
        """Add a copy of this node before it, applied to another tensor, and return its output."""
        proto = NodeProto()
        proto.CopyFrom(self.node.proto)
        proto.input[0] = data
        del proto.output[1:]
        proto.output[0] = proto.name = self.name(data)
        self.before.append(proto)
        return proto.output[0]

    def size(self, tensor: str, axis: int) -> int:
        """The size of an axis of a tensor returned by `residue`."""
        if tensor in self.cutting.weights:
            dims = self.cutting.weights[tensor].dims
            return int(dims[axis]) if -axis <= len(dims) else 1
        return self.cutting.residues.widths[tensor]

    def residue(self, tensor: str, axis: int) -> str:
        """A tensor with the residue of the removed positions of an axis; size one along axes with equal values."""
        flow = self.cutting.coupled.flows[tensor]
        if flow.residue[axis] >= Residue.CONSTANT:
            return self.constant(f"{tensor}_rest", self.cutting.residues.constant(tensor, axis))
        made, key = self.cutting.residues.made, (tensor, axis, self.node.body)
        if key not in made:
            node = self.cutting.graph.makers[tensor]
            if node.fused:
                raise Unsupported("uses the residue of removed channels after a fused operator")
            proto = NodeProto()
            proto.CopyFrom(node.proto)
            width, back = 1, axis - len(flow.axes)
            for k, name in enumerate(node.inputs):
                if node.op == "Gather":
                    proto.input[k] = name if k else self._removed_columns(name)
                elif name:
                    proto.input[k] = self._residue_operand(name, back)
                if name and proto.input[k] != name:
                    width = max(width, self.size(proto.input[k], back))
            del proto.output[1:]
            made[key] = proto.output[0] = proto.name = self.name(f"{tensor}_rest")
            self.cutting.residues.widths[made[key]] = width
            self.before.append(proto)
        return made[key]

    def _removed_columns(self, table: str) -> str:
        """The removed columns of a table whose rows are looked up."""
        columns = self.cutting.residues.constant(table, 1)
        rows = (self.cutting.graph.facts[table].cases[0].shape or ())[0]
        return self.constant(f"{table}_rest", np.ascontiguousarray(np.broadcast_to(columns, (rows, columns.shape[1]))))

    def _residue_operand(self, name: str, axis: int) -> str:
        shape = self.cutting.graph.facts[name].cases[0].shape or ()
        if -axis <= len(shape) and shape[axis] != 1:
            return self.residue(name, axis + len(shape))
        if name in self.cutting.sized:
            value = self.cutting.graph.facts[name].value
            if value is None:
                raise Unsupported("computes with a dynamic size")
            return self.constant(name, value)
        return name

    def first_after(self, counts: Mapping[int, int], output: int = 0) -> None:
        """Keep the first positions of output axes; `counts` maps axes to the number kept."""
        inner, axes, outer = self._inner(output), sorted(counts), self.node.outputs[output]
        ends = [counts[k] for k in axes]
        if self._core >= 10:
            operands = [
                self.constant(f"{inner}_{what}", np.array(v, np.int64))
                for what, v in (("starts", [0] * len(axes)), ("ends", ends), ("axes", axes))
            ]
            self.after.append(onnx.helper.make_node("Slice", [inner, *operands], [outer], name=inner))
        else:
            node = onnx.helper.make_node("Slice", [inner], [outer], name=inner)
            node.attribute.extend(
                onnx.helper.make_attribute(k, v) for k, v in (("axes", axes), ("starts", [0] * len(axes)), ("ends", ends))
            )
            self.after.append(node)

    def scalar(self, stem: str, number: float) -> str:
        """A scalar constant of the output's type."""
        kind = onnx.helper.tensor_dtype_to_np_dtype(self.cutting.graph.facts[self.node.outputs[0]].cases[0].dtype)
        return self.constant(stem, np.array(number, kind))

    def follow(self, op: str, *others: str) -> None:
        """Replace the output with `op` of the previous output and other tensors; "" repeats the previous output."""
        inner = self.name(self.node.outputs[0])
        last = self.after[-1] if self.after else self.proto
        last.output[0] = inner
        inputs = [inner, *(other or inner for other in others)]
        self.after.append(onnx.helper.make_node(op, inputs, [self.node.outputs[0]], name=inner))


Fixup = Callable[[Patch], None]
"""Adapts a node to its new sizes."""
