# SPDX-License-Identifier: Apache-2.0
"""The normal form: roundabout constructs that exporters write are simplified before the analysis.

Tensors known to the user keep their names, weights are not touched, and the result computes the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from onnx import ModelProto, NodeProto

from onnxprune.ir.graph import captured, read_weights
from onnxprune.types import Indices

Parts = tuple[str, int, Indices]
"""A tensor that is split into a sequence: its name, the axis, and one size for all parts (rank 0) or one size per part."""


def normal_form(model: ModelProto) -> ModelProto:
    """The same model with split sequences written as slices; the model itself if there are none.

    PyTorch's exporter writes `split` as SplitToSequence and SequenceAt unless its optimiser runs.
    """
    if not any(n.op_type == "SplitToSequence" for n in model.graph.node):
        return model
    stored = {name: w.array for name, w in read_weights(model).items() if w.shape in ((), (1,)) or not w.is_float}
    sequences = _sequences(model, stored)
    plain = ModelProto()
    plain.CopyFrom(model)
    del plain.graph.node[:]
    for node in model.graph.node:
        if node.op_type == "SequenceAt" and node.input[0] in sequences:
            plain.graph.node.extend(_slice(plain, node, sequences[node.input[0]], int(stored[node.input[1]])))
        elif not (node.op_type == "SplitToSequence" and node.output[0] in sequences):
            plain.graph.node.append(node)
    return plain


def _sequences(model: ModelProto, stored: Mapping[str, Indices]) -> dict[str, Parts]:
    """Sequences of known parts that are read only by SequenceAt, always at a known index."""
    found: dict[str, Parts] = {}
    for node in model.graph.node:
        if node.op_type == "SplitToSequence" and len(node.input) > 1 and node.input[1] in stored:
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            found[node.output[0]] = (node.input[0], axis, stored[node.input[1]].astype(np.int64))
    for name in list(_read_otherwise(model, found, stored)):
        found.pop(name, None)
    return found


def _read_otherwise(model: ModelProto, found: Mapping[str, Parts], stored: Mapping[str, Indices]) -> Iterator[str]:
    for node in model.graph.node:
        yield from captured(node)
        for name in set(node.input) & found.keys():
            if node.op_type != "SequenceAt" or node.input[1] not in stored or int(stored[node.input[1]]) < 0:
                yield name
    yield from (v.name for v in model.graph.output)


def _slice(model: ModelProto, node: NodeProto, parts: Parts, place: int) -> Iterator[NodeProto]:
    """Part `place` of a sequence, as a Slice of the tensor that was split."""
    source, axis, sizes = parts
    ends = sizes * np.arange(1, place + 2) if sizes.ndim == 0 else np.cumsum(sizes)
    start = 0 if place == 0 else int(ends[place - 1])
    names = [f"{node.output[0]}_{what}" for what in ("starts", "ends", "axes")]
    for name, value in zip(names, (start, int(ends[place]), axis), strict=True):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([value], np.int64), name))
    yield onnx.helper.make_node("Slice", [source, *names], [node.output[0]], name=node.name or node.output[0])
