# SPDX-License-Identifier: Apache-2.0
"""The cost of a model without any measurement: multiply-accumulates, parameters, bytes of the file, bytes of memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto

from onnxprune.cost.footprint import is_parameter, memory_of
from onnxprune.ir.bodies import all_weights
from onnxprune.ir.facts import CASES_OF_BENCHMARK, read_once
from onnxprune.ir.products import macs_of
from onnxprune.ir.tensors import size_of
from onnxprune.types import Shapes


@dataclass(frozen=True, slots=True)
class Cost:
    """Size of a model.

    Attributes:
        macs: multiply-accumulates of convolutions and matrix products for `inputs`.
        params: number of elements of floating-point weights, and of integer weights of rank 2 or more.
        bytes: size of the serialized model with its external data.
        memory: bytes of weights and of the activations that are needed at a time (`footprint.Memory`).
        inputs: the input shapes for which `macs` and `memory` hold.
    """

    macs: int
    params: int
    bytes: int
    memory: float
    inputs: Mapping[str, tuple[int, ...]]


def cost(model: ModelProto, fed: Shapes | None = None, size: int | None = None) -> Cost:
    """Count what a model stores and multiplies, at the given input shapes, or at default ones for dynamic sizes.

    Args:
        size: bytes of the file, if known; otherwise they are computed.
    """
    weights = all_weights(model)
    reading, inputs = read_once(model, CASES_OF_BENCHMARK, fed or {})
    macs, shapes = (
        sum(macs_of(n, reading.facts) for n in reading.elementary()),
        {n: reading.facts[n].shape or () for n in inputs},
    )
    params = sum(int(np.prod(w.shape)) for w in weights.values() if is_parameter(w))
    memory = memory_of(reading.nodes, reading.facts, weights.values(), inputs, [v.name for v in model.graph.output])
    return Cost(macs, params, size_of(model) if size is None else size, memory, shapes)
