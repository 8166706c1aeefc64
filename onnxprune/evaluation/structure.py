# SPDX-License-Identifier: Apache-2.0
"""What may differ between the model that was verified and the one that is written.

A cut is verified; later steps (recovery) change values on purpose, so the outputs of the two models cannot be compared.
Instead, each such step states a *contract*: what it may change. Nothing else may differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from itertools import zip_longest
from typing import Any

import numpy as np
from google.protobuf.message import Message
from onnx import ModelProto, NodeProto, TensorProto

from onnxprune.calibration.linear import linear_of
from onnxprune.errors import VerificationError
from onnxprune.evaluation.verification import check_valid
from onnxprune.ir.graph import Node, Weight, constant_tensor, read_nodes, read_weights
from onnxprune.ir.tensors import slabs
from onnxprune.types import Array, Mask

Contract = Callable[[ModelProto, ModelProto], None]
"""(verified model, written model) -> None; raises `VerificationError` if they differ in what the step may not change."""

IGNORED = {"producer_name", "producer_version", "doc_string"}
"""Fields of a model and of its graph that say who wrote it: no result depends on them."""
ALLOWED = "recovery may only change the values of floating-point weights and add biases; recover again"


def check_contract(verified: ModelProto, written: ModelProto, contract: Contract) -> None:
    """Check a model that was changed after verification against the contract of the step that changed it.

    Raises:
        VerificationError: the model is not valid, or differs in more than the contract allows.
    """
    if verified is not written:
        check_valid(written, verified)
        contract(verified, written)


def only_weights(added: Collection[str] | None = None) -> Contract:
    """The contract of recovery: floating-point weights may have new finite values, and added tensors may serve as biases.

    A weight is an initializer or the tensor of a Constant node; its type and shape stay. An added tensor may be the bias of a
    linear node that had none, or replace a weight that a node shared with others or a single value that is added to channels.

    Not compared, because no result depends on it: the producer and the doc strings of the model and of its graph, the order,
    doc strings and metadata of weights, and whether their bytes are in the model or in a file beside it. Weights are read in
    parts, so that those of a large model stay in their file.

    Args:
        added: names of the added tensors; None if unknown: any tensor that the verified model lacks.
    """

    def contract(verified: ModelProto, written: ModelProto) -> None:
        before, after = read_weights(verified), read_weights(written)
        taken = before.keys() | _names(verified)
        allowed = {name: w for name, w in after.items() if name not in taken and (added is None or name in added)}
        if len(verified.graph.node) != len(written.graph.node):
            counts = f"{len(written.graph.node)} nodes, the cut model has {len(verified.graph.node)}"
            raise _violated(f"the recovered model has {counts}")
        used: set[str] = set()
        for a, b in zip(read_nodes(verified), written.graph.node, strict=True):
            places = _additions(a, b, before, allowed)
            _check_node(a, b, places)
            used.update(b.input[k] for k in places)
        _check_fields(verified, written, {"graph"})
        _check_fields(verified.graph, written.graph, {"node", "initializer", "input"})
        # in old files, weights are inputs, too
        if _bytes(verified.graph.input) != _bytes([v for v in written.graph.input if v.name not in used]):
            raise _violated("'input' of the recovered model differs from that of the cut model")
        _check_weights(before, after, used)

    return contract


def _violated(what: str) -> VerificationError:
    return VerificationError(f"{what}; {ALLOWED}")


def _names(model: ModelProto) -> set[str]:
    """All tensors that a model is fed, reads or produces."""
    return {v.name for v in model.graph.input}.union(*((*n.input, *n.output) for n in model.graph.node))


def _check_fields(a: Message, b: Message, apart: Collection[str]) -> None:
    """Check that two messages agree in all fields except `IGNORED` ones and those in `apart`."""
    for name in (f.name for f in a.DESCRIPTOR.fields if f.name not in {*IGNORED, *apart}):
        if _bytes(getattr(a, name)) != _bytes(getattr(b, name)):
            raise _violated(f"'{name}' of the recovered model differs from that of the cut model")


def _bytes(value: Any) -> Any:
    """The value of a field in a form in which NaN equals itself, unlike in messages."""
    if isinstance(value, Message):
        return value.SerializeToString(deterministic=True)
    return value if isinstance(value, (str, bytes, int, float)) else [_bytes(v) for v in value]


def _additions(a: Node, b: NodeProto, before: Mapping[str, Weight], allowed: Mapping[str, Weight]) -> set[int]:
    """The positions of a node's inputs that are added tensors which may be there."""
    return {k for k, name in enumerate(b.input) if name in allowed and _may_be_added(allowed[name], a, k, before)}


def _may_be_added(new: Weight, node: Node, place: int, before: Mapping[str, Weight]) -> bool:
    """Whether a tensor may become input `place`: a bias (channels,) that was absent, or in place of another weight."""
    old, linear = node.inputs[place] if place < len(node.inputs) else "", linear_of(node, before)
    if not old and linear is not None and linear.bias == place:
        return new.tensor.data_type == before[linear.weight].tensor.data_type and len(new.shape) == 1
    like = before.get(old)
    if like is None or not like.is_float or new.tensor.data_type != like.tensor.data_type:
        return False
    return new.shape == like.shape or (node.op in ("Add", "Sub") and math.prod(like.shape) == 1)


def _check_node(a: Node, b: NodeProto, places: Collection[int]) -> None:
    """Check that a node is unchanged except for added inputs and the values of a constant."""
    pairs = zip_longest(a.inputs, b.input, fillvalue="")
    if any(x != y and k not in places for k, (x, y) in enumerate(pairs)):
        raise _violated(f"the recovered model changed the inputs of {a}")
    if _plain(a.proto) != _plain(b):
        raise _violated(f"the recovered model changed node {a}")


def _plain(node: NodeProto) -> bytes:
    """A node without its inputs, and without what `_check_weights` compares of a constant."""
    plain = NodeProto()
    plain.CopyFrom(node)
    plain.ClearField("input")
    tensor = constant_tensor(plain)
    if tensor is not None:
        tensor.Clear()
    return plain.SerializeToString(deterministic=True)


def _check_weights(before: Mapping[str, Weight], after: Mapping[str, Weight], added: Collection[str]) -> None:
    """Check that the same weights are stored, apart from those in `added`, and that only floating-point values are new."""
    for name in sorted((before.keys() ^ after.keys()).difference(added)):
        here, there = ("cut", "recovered") if name in before else ("recovered", "cut")
        raise _violated(f"weight '{name}' is in the {here} model, but not in the {there} one")
    for name, new in after.items():
        old = before.get(name)
        if old is not None and _kind(old) != _kind(new):
            raise _violated(f"weight '{name}' is {_kind(new)} in the recovered model, {_kind(old)} in the cut model")
        if not _values_allowed(old, new):
            fault = "has a new value that is not finite" if new.is_float else "has other values than in the cut model"
            raise _violated(f"weight '{name}' of the recovered model {fault}")


def _kind(weight: Weight) -> str:
    """Type and shape."""
    return f"{TensorProto.DataType.Name(weight.tensor.data_type).lower()}{list(weight.shape)}"


def _values_allowed(old: Weight | None, new: Weight) -> bool:
    """Whether all new values of a weight are finite floating-point numbers; `old` is None for an added weight."""
    if old is None:
        return all(bool(_is_finite(y).all()) for _, y in slabs(new.tensor))
    for (_, x), (_, y) in zip(slabs(old.tensor), slabs(new.tensor), strict=True):
        # constants such as the -inf of an attention mask are not new
        fixed = ~_is_finite(y) if new.is_float else np.ones(y.shape, bool)
        if not _same(x[fixed], y[fixed]):
            return False
    return True


def _is_finite(values: Array) -> Mask:
    return np.isfinite(values.astype(np.float64))


def _same(a: Array, b: Array) -> bool:
    """Whether two arrays of one type are equal; NaN equals itself."""
    return a.tolist() == b.tolist() if a.dtype == object else a.tobytes() == b.tobytes()
