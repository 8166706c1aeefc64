# SPDX-License-Identifier: Apache-2.0
"""Files that carry integer codes and scales in the operators that `onnxprune unify` writes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from neighbours.grids import Coded
from onnxprune.compression.carrier import Codes
from onnxprune.compression.opset import converted
from onnxprune.types import Array


def with_codes(model: ModelProto, coded: Mapping[str, Coded], kind: Codes) -> ModelProto:
    """A copy of the model whose weights are codes of one type, and scales; onnxruntime computes them once, at load.

    Raises:
        ValueError: onnx cannot convert the model to the opset of the codes.
    """
    newer = converted(model, kind.opset)
    if newer is None:
        raise ValueError(f"onnx cannot convert the model to opset {kind.opset}")
    found = ModelProto()
    found.CopyFrom(newer)
    found.ir_version = max(found.ir_version, kind.ir)
    kept, nodes = [t for t in found.graph.initializer if t.name not in coded], list(found.graph.node)
    del found.graph.initializer[:], found.graph.node[:]
    made = [_carried(name, one, kind) for name, one in coded.items()]
    found.graph.initializer.extend([*kept, *(t for tensors, _ in made for t in tensors)])
    found.graph.node.extend([*(n for _, own in made for n in own), *nodes])
    return found


def _carried(name: str, coded: Coded, kind: Codes) -> tuple[list[TensorProto], list[NodeProto]]:
    """Where the last run of an axis is shorter, scales are repeated and codes have the shape of the weight."""
    blocks = coded.blocks
    whole = tuple(n * run for n, run in zip(blocks.grid, blocks.runs, strict=True))
    pairs = list(zip(blocks.grid, blocks.runs, strict=True))
    sizes, shorter = tuple(n for pair in pairs for n in pair), whole != blocks.shape
    codes = coded.codes.reshape(blocks.shape if shorter else sizes).astype(helper.tensor_dtype_to_np_dtype(kind.type))
    scales = coded.scales.reshape([n for many, _ in pairs for n in (many, 1)])
    stored = {"codes": codes, "scales": scales, "shape": np.array(whole)}
    steps = [("Cast", "codes", "numbers"), ("Cast", "scales", "sizes")]
    if shorter:
        stored |= {"runs": np.array(sizes), "starts": np.zeros(len(whole), np.int64), "ends": np.array(blocks.shape)}
        steps += [("Expand", "sizes runs", "repeated"), ("Reshape", "repeated shape", "whole")]
        steps += [("Slice", "whole starts ends", "each"), ("Mul", "numbers each", "")]
    else:
        steps += [("Mul", "numbers sizes", "product"), ("Reshape", "product shape", "")]
    nodes = [
        helper.make_node(op, [f"{name}_{x}" for x in inputs.split()], [f"{name}_{output}" if output else name])
        for op, inputs, output in steps
    ]
    for node in nodes[:2]:
        node.attribute.append(helper.make_attribute("to", TensorProto.FLOAT))
    return [_tensor(f"{name}_{what}", value) for what, value in stored.items()], nodes


def _tensor(name: str, value: Array) -> TensorProto:
    return numpy_helper.from_array(np.ascontiguousarray(value), name)
