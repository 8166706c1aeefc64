# SPDX-License-Identifier: Apache-2.0
"""Fill graphs of real architectures that come without their weights, as those in tests/cases/zoo do.

Each `*.onnx.gz` is what an exporter wrote, less the numbers of its large float initializers. The metadata entry
`zoo.weightless` says how to draw them: `["w", axis of output channels, deviation]` for weights, `["n", mean, deviation, low,
high]` for other numbers, and `gs`, `gb`, `gm`, `gv` for scale, shift, mean and variance of a BatchNormalization.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto

from onnxprune.ort import sample, session

KEY = "zoo.weightless"
BATCH_NORM = {"gs": (0.5, 1.5), "gb": (-0.3, 0.3), "gm": (-0.3, 0.3), "gv": (0.5, 1.5)}
Recipe = Mapping[str, Any]


def hydrate(path: Path) -> ModelProto:
    """The model with seeded weights, and running statistics as if it had been trained on noise."""
    model = ModelProto.FromString(gzip.decompress(path.read_bytes()))
    recipe: Recipe = json.loads(next(p.value for p in model.metadata_props if p.key == KEY))
    del model.metadata_props[:]
    for tensor in model.graph.initializer:
        if tensor.name in recipe["t"]:
            rng = np.random.default_rng([recipe["seed"], zlib.crc32(tensor.name.encode())])
            values = _draw(recipe["t"][tensor.name], tuple(tensor.dims), rng)
            tensor.raw_data = np.ascontiguousarray(values, "<f4").tobytes()
    _settle_statistics(model, recipe)
    return model


def _draw(kind: list[Any], shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[Any]:
    if kind[0] == "n":
        _, mean, deviation, low, high = kind
        return np.asarray(rng.normal(mean, deviation, shape).clip(low, high))
    if kind[0] != "w":
        return rng.uniform(*BATCH_NORM[kind[0]], shape)
    _, axis, deviation = kind
    # rows of different strength, so that criteria have something to rank, with a mean square of one
    strength = rng.uniform(0.3, 1.7, [n if k == axis else 1 for k, n in enumerate(shape)]) / np.sqrt(1 + 1.4**2 / 12)
    return np.asarray(rng.standard_normal(shape, np.float32) * (deviation * strength).astype(np.float32))


def _settle_statistics(model: ModelProto, recipe: Recipe) -> None:
    """Give each BatchNormalization the mean and variance of what it reads; else signals in deep graphs die or explode.

    One run tells them all: meanwhile every one of them normalises by its own input, as InstanceNormalization does.
    """
    ranks = {v.name: len(v.type.tensor_type.shape.dim) for v in onnx.shape_inference.infer_shapes(model).graph.value_info}

    def settles(n: NodeProto) -> bool:
        drawn = n.op_type == "BatchNormalization" and recipe["t"].get(n.input[3]) == ["gm"]
        return drawn and ranks.get(n.input[0], 4) > 2

    norms = [n for n in model.graph.node if settles(n)]
    if not norms:
        return
    probe = ModelProto()
    probe.CopyFrom(model)
    for node in filter(settles, probe.graph.node):
        epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
        node.CopyFrom(onnx.helper.make_node("InstanceNormalization", node.input[:3], node.output[:1], epsilon=epsilon))
    read = list(dict.fromkeys(n.input[0] for n in norms))
    del probe.graph.output[:]
    probe.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in read)
    stored = {t.name: t for t in model.graph.initializer}
    seen = dict(zip(read, session(probe.SerializeToString(), plain=True).run(None, _noise(model)), strict=True))
    for n in norms:
        x = seen[n.input[0]].astype(np.float64)
        others = tuple(k for k in range(x.ndim) if k != 1)
        mean, variance = x.mean(others), x.var(others)
        dead = variance <= 1e-3 * variance.mean()
        variance[dead] = variance.mean() + 1e-2 * np.square(x).mean() + 1e-3
        for name, values in ((n.input[3], mean), (n.input[4], variance)):
            stored[name].raw_data = values.astype("<f4").tobytes()


def _noise(model: ModelProto) -> dict[str, NDArray[Any]]:
    rng, stored = np.random.default_rng(0), {t.name for t in model.graph.initializer}
    return {
        v.name: sample(rng, v.type.tensor_type.elem_type, tuple(d.dim_value or 1 for d in v.type.tensor_type.shape.dim))
        for v in model.graph.input
        if v.name not in stored
    }
