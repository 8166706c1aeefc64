# SPDX-License-Identifier: Apache-2.0
"""The ways in which exporters write BatchNorm: kept, folded into the convolution, or as arithmetic with constants."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

Array = NDArray[Any]
Writer = Callable[[ModelProto, NodeProto, dict[str, Array]], Iterator[NodeProto]]
"""(model, BatchNorm node, its scale, shift, mean and deviation) -> the nodes that replace it; stores constants in the model."""


def _stored(model: ModelProto, name: str, value: Array) -> str:
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
    return name


def _column(model: ModelProto, name: str, value: Array, rank: int) -> str:
    return _stored(model, name, value.reshape(1, -1, *[1] * (rank - 2)))


def _chain(model: ModelProto, node: NodeProto, steps: list[tuple[str, Array]], rank: int) -> Iterator[NodeProto]:
    x = node.input[0]
    for k, (op, value) in enumerate(steps):
        y = node.output[0] if k == len(steps) - 1 else f"{node.output[0]}/{k}"
        yield helper.make_node(op, [x, _column(model, f"{node.output[0]}/{op.lower()}{k}", value, rank)], [y])
        x = y


def _mul_add(model: ModelProto, node: NodeProto, p: dict[str, Array]) -> Iterator[NodeProto]:
    gain = p["scale"] / p["deviation"]
    return _chain(model, node, [("Mul", gain), ("Add", p["shift"] - p["mean"] * gain)], int(p["rank"]))


def _sub_mul_add(model: ModelProto, node: NodeProto, p: dict[str, Array]) -> Iterator[NodeProto]:
    steps = [("Sub", p["mean"]), ("Mul", p["scale"] / p["deviation"]), ("Add", p["shift"])]
    return _chain(model, node, steps, int(p["rank"]))


def _folded(model: ModelProto, node: NodeProto, p: dict[str, Array]) -> Iterator[NodeProto]:
    """Nothing remains: weight and bias of the convolution before take the affine map."""
    before = next(n for n in model.graph.node if node.input[0] in n.output)
    weights = {t.name: t for t in model.graph.initializer}
    stored, gain = weights[before.input[1]], p["scale"] / p["deviation"]
    weight = numpy_helper.to_array(stored)
    bias = numpy_helper.to_array(weights[before.input[2]]) if len(before.input) > 2 else 0.0
    stored.CopyFrom(
        numpy_helper.from_array((weight * gain.reshape(-1, *[1] * (weight.ndim - 1))).astype(np.float32), stored.name)
    )
    name = _stored(model, f"{stored.name}/bias", (bias - p["mean"]) * gain + p["shift"])
    del before.input[2:]
    before.input.append(name)
    before.output[0] = node.output[0]
    return iter(())


def _unshared(model: ModelProto) -> None:
    """Give every user of a stored tensor that exporters share through an Identity a tensor of its own."""
    weights = {t.name: t for t in model.graph.initializer}
    for node in [n for n in model.graph.node if n.op_type == "Identity" and n.input[0] in weights]:
        _stored(model, node.output[0], numpy_helper.to_array(weights[node.input[0]]))
        model.graph.node.remove(node)


def _parameters(model: ModelProto, node: NodeProto, rank: int) -> dict[str, Array]:
    weights = {t.name: t for t in model.graph.initializer}
    scale, shift, mean, variance = (numpy_helper.to_array(weights[n]).astype(np.float64) for n in node.input[1:])
    epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
    return {"scale": scale, "shift": shift, "mean": mean, "deviation": np.sqrt(variance + epsilon), "rank": np.array(rank)}


FORMS: Mapping[str, Writer | None] = {
    "absent": None,
    "kept": None,
    "folded": _folded,
    "mul_add": _mul_add,
    "sub_mul_add": _sub_mul_add,
}


def written(model: ModelProto, form: str, rank: int) -> ModelProto:
    """A copy of a model whose BatchNorm nodes are written in another form; `rank` is that of their inputs."""
    copy, writer = ModelProto(), FORMS[form]
    copy.CopyFrom(model)
    if writer is None:
        return copy
    _unshared(copy)
    for node in [n for n in copy.graph.node if n.op_type == "BatchNormalization"]:
        new = list(writer(copy, node, _parameters(copy, node, rank)))
        at = list(copy.graph.node).index(node)
        copy.graph.node.remove(node)
        for k, added in enumerate(new):
            copy.graph.node.insert(at + k, added)
    used = {name for node in copy.graph.node for name in node.input}
    kept = [t for t in copy.graph.initializer if t.name in used]
    del copy.graph.initializer[:]
    copy.graph.initializer.extend(kept)
    return copy
