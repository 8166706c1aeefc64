# SPDX-License-Identifier: Apache-2.0
"""MatMulNBits: weights of a few bits, packed in blocks along the axis that is summed over, each with a scale and a zero point.

Output channels are cut one by one, input channels by whole blocks.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from onnxprune.analysis.labels import Flow, Rest
from onnxprune.analysis.rules.site import Rule, Site, everywhere, rules
from onnxprune.ir.graph import Graph, Node
from onnxprune.types import Array, Indices

MATMUL_NBITS = "com.microsoft.MatMulNBits"
WEIGHT, SCALES, ZERO_POINTS, ORDER, BIAS = 1, 2, 3, 4, 5


def matmul_nbits(site: Site) -> list[Flow]:
    """Data (..., K) times the weight (N, blocks, bytes of a block), plus a bias (N,)."""
    data, weight = site.flow(0), site.flow(WEIGHT)
    rows, blocks, packed = weight.axes
    site.pin(packed, "packs the numbers of a block")
    _read(site, data, weight)
    zero = weight.zero[0]
    scales = site.flow(SCALES)
    if len(scales.axes) == 2:  # else the refit picks them
        for labels, other in zip((rows, blocks), scales.axes, strict=True):
            _both(site, labels, other)
    if site.has(BIAS):
        zero = zero and site.flow(BIAS).zero[0]
        _both(site, rows, site.flow(BIAS).axes[0])
    site.use(WEIGHT, rows, True)
    passed = [r if r is Rest.ZERO and zero else Rest.UNKNOWN for r in data.rest[:-1]]
    return [Flow((*data.axes[:-1], rows), (*passed, Rest.ZERO if zero else Rest.UNKNOWN))]


def _both(site: Site, labels: Indices | None, other: Indices | None) -> None:
    """Tie two axes, of which neither shrinks without the other."""
    if labels is not None and other is not None:
        site.tie(labels, other)
        return
    for x in (labels, other):
        site.pin(x, "meets them with channels that cannot be cut")


def _read(site: Site, data: Flow, weight: Flow) -> None:
    """Tie input channels to the blocks that multiply them."""
    columns, blocks = data.axes[-1], weight.axes[1]
    if columns is None or blocks is None or site.has(ORDER):
        why = "multiplies them in another order" if site.has(ORDER) else "meets them with channels that cannot be cut"
        for labels in (columns, blocks):
            site.pin(labels, "multiplies them in a single block" if site.shape(WEIGHT)[1] == 1 else why)
        return
    site.tie(columns, blocks[np.arange(len(columns)) // site.node.attribute("block_size")])
    if not (data.zero[-1] or weight.zero[1]):
        site.pin(columns, "sums over channels that do not become zero")
    site.use(WEIGHT, blocks, False)


def zero_bytes(graph: Graph, node: Node) -> NDArray[np.uint8] | None:
    """The bytes that stand for zeros in the weight of a node (broadcast against it); None where no bytes do."""
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
    """(rows, bytes) -> (rows, count) numbers; the first lies in the lowest bits."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    numbers = (packed[..., None] >> shifts) & np.uint8((1 << bits) - 1)
    return np.asarray(numbers.reshape(len(packed), -1)[:, :count], np.uint8)


def repacked(numbers: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """The inverse of `unpacked`."""
    each = 8 // bits
    whole = np.pad(numbers, ((0, 0), (0, -numbers.shape[1] % each))).reshape(len(numbers), -1, each)
    return np.asarray((whole << np.arange(0, 8, bits, dtype=np.uint8)).sum(-1), np.uint8)


def dequantized(graph: Graph, node: Node) -> Array:
    """The numbers that the weight of a node stands for (rows, blocks, block size), but for zero points."""
    weight, bits = graph.weights[node.inputs[WEIGHT]].array, node.attribute("bits", 4)
    rows, blocks, _ = weight.shape
    numbers = unpacked(weight.reshape(rows * blocks, -1), bits, node.attribute("block_size")).reshape(rows, blocks, -1)
    scales = graph.weights.get(node.inputs[SCALES])
    factors = np.ones((1, 1)) if scales is None else scales.array.reshape(rows, blocks)
    return np.asarray((numbers.astype(np.float32) - (1 << (bits - 1))) * factors[..., None], np.float32)


RULES: Mapping[str, Rule] = rules(matmul_nbits, MATMUL_NBITS, maskable=everywhere, integers=True)
