# SPDX-License-Identifier: Apache-2.0
"""What a model costs before anything is measured: multiply-accumulates, parameters, bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto

from onnxprune.ir.facts import CASES_OF_BENCHMARK, read_once
from onnxprune.ir.graph import read_weights
from onnxprune.ir.products import macs_of
from onnxprune.ir.tensors import size_of
from onnxprune.types import Shapes


@dataclass(frozen=True, slots=True)
class Cost:
    """Size of a model.

    Attributes:
        macs: multiply-accumulates of convolutions and matrix products for `inputs`.
        params: stored numbers, floating-point tensors and integer tensors of rank 2 or more.
        bytes: size of the serialized model with its external data.
        inputs: the input shapes that `macs` is for.
    """

    macs: int
    params: int
    bytes: int
    inputs: Mapping[str, tuple[int, ...]]


def cost(model: ModelProto, fed: Shapes | None = None, size: int | None = None) -> Cost:
    """Count what a model stores and multiplies, at the given input shapes or at usual ones where the file leaves them open.

    Args:
        size: bytes of the file, where they are known; counting them means to serialize the model.
    """
    weights = read_weights(model)
    reading, inputs = read_once(model, CASES_OF_BENCHMARK, fed or {})
    macs, shapes = (
        sum(macs_of(n, reading.facts) for n in reading.elementary()),
        {n: reading.facts[n].shape or () for n in inputs},
    )
    params = sum(int(np.prod(w.shape)) for w in weights.values() if w.is_float or len(w.shape) > 1)
    size = size_of(model) if size is None else size
    return Cost(macs, params, size, shapes)
