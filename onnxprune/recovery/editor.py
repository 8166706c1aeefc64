# SPDX-License-Identifier: Apache-2.0
"""Edits the weights of a model: read, replace, and give one node its own copy of a shared weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import ModelProto

from onnxprune.calibration.chains import affine
from onnxprune.calibration.sums import LinearSum, Term
from onnxprune.ir.graph import Weight, captured, read_weights
from onnxprune.ir.mend import FREE_INITIALIZERS
from onnxprune.types import Array, Vector

SUFFIX = "_refit"
"""Suffix of the names of tensors that a fit adds. To tell what was added, use `Fitted.added`, never a name."""


@dataclass(frozen=True)
class Fitted:
    """A model after a fit.

    Attributes:
        model: the model.
        added: names of stored tensors that the fit added, each read by one node.
        work: what the fit did within its limits, as settings that repeat it.
    """

    model: ModelProto = field(repr=False)
    added: frozenset[str] = frozenset()
    work: Mapping[str, int] = field(default_factory=dict)


class Editor:
    """Reads and replaces the weights of one model, in place.

    Attributes:
        model: the model being edited.
        weights: its stored tensors by name.
        users: name -> number of node inputs that read it.
        added: names of tensors that were added.
    """

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self.weights = read_weights(model)
        self.users: dict[str, int] = {}
        self.added: set[str] = set()
        for node in model.graph.node:
            for name in (*node.input, *captured(node)):
                self.users[name] = self.users.get(name, 0) + 1

    def array(self, name: str) -> Vector:
        """A weight in double precision."""
        return self.weights[name].array.astype(np.float64)

    def operand(self, index: int, place: int) -> str:
        """The name of an input of a node; empty if it is omitted."""
        inputs = self.model.graph.node[index].input
        return inputs[place] if place < len(inputs) else ""

    def put(self, name: str, value: Array) -> None:
        """Replace a weight's values, keeping its type and shape."""
        tensor = self.weights[name].tensor
        kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        new = onnx.numpy_helper.from_array(np.ascontiguousarray(value.reshape(tensor.dims), kind), tensor.name)
        new.doc_string = tensor.doc_string
        tensor.CopyFrom(new)

    def set_operand(self, index: int, place: int, value: Array, like: str) -> None:
        """Set an input of one node to `value`, in the type of the weight `like`; other nodes are unaffected."""
        name = self.operand(index, place)
        if name and self.users[name] == 1 and self.weights[name].shape == value.shape:
            self.put(name, value)
            return
        kind = onnx.helper.tensor_dtype_to_np_dtype(self.weights[like].tensor.data_type)
        inputs = self.model.graph.node[index].input
        inputs.extend([""] * (place + 1 - len(inputs)))
        inputs[place] = self._add(name or f"{like}_bias", value.astype(kind))

    def _add(self, stem: str, value: Array) -> str:
        """A new initializer."""
        name, n = f"{stem}{SUFFIX}", 1
        while name in self.weights or name in self.users:
            name, n = f"{stem}{SUFFIX}{n}", n + 1
        tensor = self.model.graph.initializer.add()
        tensor.CopyFrom(onnx.numpy_helper.from_array(value, name))
        if self.model.ir_version < FREE_INITIALIZERS:
            self.model.graph.input.append(onnx.helper.make_tensor_value_info(name, tensor.data_type, tensor.dims))
        self.weights[name], self.users[name] = Weight(name, tensor), 1
        self.added.add(name)
        return name

    def fitted(self) -> Fitted:
        """The model in its current state."""
        return Fitted(self.model, frozenset(self.added))

    def channels(self, term: Term) -> int:
        """Number of output channels of a term."""
        groups, _, outputs = term.linear.matrix(self.weights[term.linear.weight].array).shape
        return int(groups * outputs)

    def affine(self, term: Term) -> tuple[Vector, Vector]:
        """Scale and offset (channels,) of the steps after a linear node; the offset includes the node's own bias."""
        scale, offset = affine(term.steps, self.weights, self.channels(term))
        bias = "" if term.linear.bias is None else self.operand(term.linear.node.place, term.linear.bias)
        return scale, offset + scale * np.broadcast_to(self.array(bias).ravel(), scale.shape) if bias else offset


@dataclass(frozen=True, eq=False)
class OffsetSlot:
    """A node input through which the offset of a sum can be changed.

    Attributes:
        index, operand: position of the node in the main graph, and that of the input.
        like: a weight whose type this input must have.
        factor: (channels,) change of the sum per unit added to the input.
        trailing: number of axes behind the channel axis of the data that the input is broadcast to.
    """

    index: int
    operand: int
    like: str
    factor: Vector
    trailing: int = 0

    def add(self, editor: Editor, delta: Vector) -> None:
        """Add `delta` (channels,) to the sum's offset."""
        delta = delta / np.where(self.factor == 0, 1, self.factor)
        name = editor.operand(self.index, self.operand)
        old = editor.array(name) if name else np.zeros(len(delta))
        if old.size == delta.size:
            editor.set_operand(self.index, self.operand, old + delta.reshape(old.shape), self.like)
            return
        # a single value for all channels becomes one per channel
        wide = old.ravel() + delta
        editor.set_operand(self.index, self.operand, wide.reshape(-1, *(1,) * self.trailing), self.like)


def offset_slots(site: LinearSum, editor: Editor) -> Sequence[OffsetSlot]:
    """Where the offset of a site can be changed: the last stored vector added, else a bias; empty for a bare product."""
    found = [p for t in site.terms if (p := _in_steps(t, editor)) is not None]
    return found or [p for t in site.terms if (p := _in_bias(t, editor)) is not None]


def _in_steps(term: Term, editor: Editor) -> OffsetSlot | None:
    after = np.ones(editor.channels(term))
    for k in reversed(range(len(term.steps))):
        step = term.steps[k]
        if step.operand is not None:
            sign = -1.0 if step.node.op == "Sub" else 1.0
            like = editor.operand(step.node.place, step.operand)
            return OffsetSlot(step.node.place, step.operand, like, sign * after, step.trailing)
        after = after * affine(term.steps[k : k + 1], editor.weights, len(after))[0]
    return None


def _in_bias(term: Term, editor: Editor) -> OffsetSlot | None:
    linear = term.linear
    if linear.bias is None:
        return None
    scale, _ = affine(term.steps, editor.weights, editor.channels(term))
    return OffsetSlot(linear.node.place, linear.bias, linear.weight, scale)
