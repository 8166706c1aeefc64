# SPDX-License-Identifier: Apache-2.0
"""Pictures, and a network with their BatchNorm statistics."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import ModelProto, numpy_helper

from onnxprune.data.synthetic.textures import coloured, grid
from tests.cases.running import Array, runner
from tests.cases.text import model

TWO_NORMS = """g (float[N,{c},12,12] x, float[8,{c},3,3] w1, float[8] ws1, float[8] wt1, float[8] wm1, float[8] wvar1,
    float[8,8,3,3] w2, float[8] ws2, float[8] wt2, float[8] wm2, float[8] wvar2) => (float[N,8,8,8] y) {{
    c1 = Conv(x, w1)  n1 = BatchNormalization(c1, ws1, wt1, wm1, wvar1)  r1 = Relu(n1)
    c2 = Conv(r1, w2)  y = BatchNormalization(c2, ws2, wt2, wm2, wvar2) }}"""


def trained_on(x: Array, channels: int) -> ModelProto:
    """Two convolutions with BatchNorm whose running statistics are those of some inputs."""
    net = model(TWO_NORMS.format(c=channels))
    for tensor, mean, variance in (("c1", "wm1", "wvar1"), ("c2", "wm2", "wvar2")):
        probe = onnx.ModelProto.FromString(net.SerializeToString())
        probe.graph.output.append(onnx.helper.make_empty_tensor_value_info(tensor))
        activations = runner(probe)({"x": x})[1]
        stored = {t.name: t for t in net.graph.initializer}
        for name, value in ((mean, activations.mean((0, 2, 3))), (variance, activations.var((0, 2, 3)))):
            stored[name].CopyFrom(numpy_helper.from_array(value, name))
    return net


def pictures(count: int, channels: int, low: float = 0.0, high: float = 1.0, seed: int = 5) -> Array:
    """Things, strokes and blobs, with values from `low` to `high`."""
    rng = np.random.default_rng(seed)
    at = grid((12, 12))
    x = np.stack([coloured(rng, at, channels, name) for name in ("things", "strokes", "blobs") for _ in range(count // 3)])
    return (low + (high - low) * x).astype(np.float32)
