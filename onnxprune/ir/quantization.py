# SPDX-License-Identifier: Apache-2.0
"""Quantized tensors: the numbers that integers stand for, and the integers that stand for zero."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from onnxprune.ir.graph import Graph, Node
from onnxprune.types import Array

INTEGERS = frozenset(
    {
        TensorProto.INT4,
        TensorProto.UINT4,
        TensorProto.INT8,
        TensorProto.UINT8,
        TensorProto.INT16,
        TensorProto.UINT16,
        TensorProto.INT32,
    }
)
PAIR = ("QuantizeLinear", "DequantizeLinear")
SCALE, ZERO_POINT = 1, 2


def is_quantized(dtype: int, users: Sequence[tuple[Node, int]]) -> bool:
    """Whether a stored integer tensor holds only quantized numbers, or only their zero points."""
    if packed_by(users) is not None:
        return all(node.op == MATMUL_NBITS and k == WEIGHT for node, k in users)
    as_weight = all(node.op == "DequantizeLinear" and k == 0 for node, k in users)
    as_zero_point = all(node.op in PAIR and k == ZERO_POINT for node, k in users)
    return dtype in INTEGERS and (as_weight or as_zero_point)


def packed_by(users: Sequence[tuple[Node, int]]) -> Node | None:
    """The operator that reads a stored tensor as packed weights, or None."""
    return next((node for node, k in users if node.op == MATMUL_NBITS and k == WEIGHT), None)


def absent(graph: Graph, name: str) -> Array | None:
    """The integers that mean zero in a quantized tensor, broadcastable to it; None if they differ between channels."""
    packed = packed_by(graph.consumers.get(name, ()))
    if packed is not None:
        return zero_bytes(graph, packed)
    for node, _ in graph.consumers.get(name, ()):
        point = zero_point_of(node)
        if point:
            stored = graph.weights.get(point)
            if stored is None or (stored.array.size > 1 and stored.array.any()):
                return None
            return np.asarray(stored.array.ravel()[0])
    return np.asarray(0)


def dequantized(graph: Graph, name: str) -> Array:
    """The numbers that a stored tensor stands for; the tensor itself if it is not quantized."""
    array = graph.weights[name].array
    users = graph.consumers.get(name, ())
    if not users or not is_quantized(graph.weights[name].tensor.data_type, users):
        return array
    packed = packed_by(users)
    if packed is not None:
        return dequantized_nbits(graph, packed)
    node, place = users[0]
    scale = graph.weights.get(node.inputs[SCALE]) if node.op == "DequantizeLinear" and place == 0 else None
    point = absent(graph, name)
    wide = array.astype(np.float32) - (0.0 if point is None else float(point))
    factors = np.ones(1, np.float32) if scale is None else scale.array.astype(np.float32)
    if factors.size == 1 or not array.ndim:
        return np.asarray(wide * factors.ravel()[0], np.float32)
    axis, block = node.attribute("axis", 1) % array.ndim, node.attribute("block_size", 0)
    if block:
        factors = np.take(factors, np.arange(array.shape[axis]) // block, axis)
    else:
        factors = factors.reshape([-1 if k == axis else 1 for k in range(array.ndim)])
    return np.asarray(wide * factors, np.float32)


def zero_point_of(node: Node) -> str:
    """The name of a node's zero point, empty if it has none; DynamicQuantizeLinear computes its own."""
    if node.op == "DynamicQuantizeLinear":
        return node.outputs[ZERO_POINT]
    return node.inputs[ZERO_POINT] if len(node.inputs) > ZERO_POINT else ""


MATMUL_NBITS = "com.microsoft.MatMulNBits"


WEIGHT, SCALES, ZERO_POINTS, ORDER, BIAS = 1, 2, 3, 4, 5


def zero_bytes(graph: Graph, node: Node) -> NDArray[np.uint8] | None:
    """The bytes that stand for zeros in the packed weight of a node (broadcastable to it); None if no bytes do."""
    bits = node.attribute("bits", 4)
    points = np.full((1, 1), 1 << (bits - 1))
    if len(node.inputs) > ZERO_POINTS and node.inputs[ZERO_POINTS]:
        stored = graph.weights.get(node.inputs[ZERO_POINTS])
        if stored is None or stored.is_float:
            return None
        rows, blocks = graph.weights[node.inputs[WEIGHT]].shape[:2]
        points = unpacked(stored.array.reshape(rows, -1), bits, blocks)
    repeated = sum(points.astype(np.int64) << shift for shift in range(0, 8, bits))
    return np.asarray(repeated, np.uint8)[..., None]


def unpacked(packed: NDArray[np.uint8], bits: int, count: int) -> NDArray[np.uint8]:
    """(rows, bytes) -> (rows, count) numbers; the first is in the lowest bits."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    numbers = (packed[..., None] >> shifts) & np.uint8((1 << bits) - 1)
    return np.asarray(numbers.reshape(len(packed), -1)[:, :count], np.uint8)


def dequantized_nbits(graph: Graph, node: Node) -> Array:
    """The numbers that the weight of a node stands for (rows, blocks, block size), ignoring stored zero points."""
    weight, bits = graph.weights[node.inputs[WEIGHT]].array, node.attribute("bits", 4)
    rows, blocks, _ = weight.shape
    numbers = unpacked(weight.reshape(rows * blocks, -1), bits, node.attribute("block_size")).reshape(rows, blocks, -1)
    scales = graph.weights.get(node.inputs[SCALES])
    factors = np.ones((1, 1)) if scales is None else scales.array.reshape(rows, blocks)
    return np.asarray((numbers.astype(np.float32) - (1 << (bits - 1))) * factors[..., None], np.float32)


def repacked(numbers: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """The inverse of `unpacked`."""
    each = 8 // bits
    whole = np.pad(numbers, ((0, 0), (0, -numbers.shape[1] % each))).reshape(len(numbers), -1, each)
    return np.asarray((whole << np.arange(0, 8, bits, dtype=np.uint8)).sum(-1), np.uint8)
