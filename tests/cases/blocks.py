# SPDX-License-Identifier: Apache-2.0
"""Weights in blocks, written out in plain loops; models that carry them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

from onnxprune.compression.blocks import Blocks
from onnxprune.compression.division import Division, rounded

Array = NDArray[Any]


def pieces(shape: Sequence[int], runs: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    """Where the blocks of a weight lie, in order; the last one of an axis may be shorter."""
    starts = [range(0, n, run) for n, run in zip(shape, runs, strict=True)]
    for place in itertools.product(*starts):
        yield tuple(slice(k, k + run) for k, run in zip(place, runs, strict=True))


def several_magnitudes(w: Array, runs: Sequence[int]) -> int:
    """How many blocks have more than one absolute value, to rounding."""
    blocks = [np.abs(w[piece]).astype(np.float64) for piece in pieces(w.shape, runs)]
    return sum(bool(np.ptp(b) > 1e-6 * b.max()) for b in blocks)


def in_blocks(
    net: ModelProto, name: str, runs: Sequence[int], actions: Sequence[int], levels: int = 0
) -> tuple[ModelProto, Division]:
    """A copy of a model in which one weight has the blocks that `actions` asks for."""
    found = ModelProto()
    found.CopyFrom(net)
    [tensor] = [t for t in found.graph.initializer if t.name == name]
    w = numpy_helper.to_array(tensor)
    division = Division(Blocks(w.shape, tuple(runs)), np.array(actions), levels)
    tensor.CopyFrom(numpy_helper.from_array(rounded(division.projected(w), division), name))
    return found, division


def weight(net: ModelProto, name: str) -> Array:
    """An initializer."""
    [tensor] = [t for t in net.graph.initializer if t.name == name]
    return numpy_helper.to_array(tensor)


def optimised(net: ModelProto, folder: Path) -> ModelProto:
    """The graph that onnxruntime computes in every run, after it has folded what is constant."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(net.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(folder / "optimised.onnx")


def operators(net: ModelProto) -> list[str]:
    """The operators of a graph, in order."""
    return [node.op_type for node in net.graph.node]
