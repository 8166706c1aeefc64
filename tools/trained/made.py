# SPDX-License-Identifier: Apache-2.0
"""Made-up inputs of a network, made once and kept in a file, with how well they fit its BatchNorm statistics."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from onnxprune.cost.size import cost
from onnxprune.data.load import load_data, random_data
from onnxprune.data.samples import Data
from onnxprune.data.synthetic.evolve import Sampler
from onnxprune.data.synthetic.inputs import read_inputs
from onnxprune.data.synthetic.statistics import fit, norm_layers
from onnxprune.errors import DataError
from onnxprune.ir.files import load
from onnxprune.pipeline.samples import refinement
from onnxprune.types import Shapes
from trained.registry import Trained

LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")
COUNT, FEWEST, WORK = 256, 32, 1e12
"""Number of inputs, the fewest, and the multiply-accumulates of one pass over them."""


@dataclass(frozen=True)
class Made:
    """How made-up inputs fit.

    Attributes:
        mismatch: mean over BatchNorm layers of the distance of their statistics; None if the model stores none.
        worst, late: the layer that fits worst; the mean over the last third of the layers.
        real: the mismatch of real inputs.
        layers, linear: number of BatchNorm layers, and of convolutions and products.
        count, seconds: number of inputs, and the time to make them.
        why: why there are none.
    """

    mismatch: float | None = None
    worst: float | None = None
    late: float | None = None
    real: float | None = None
    layers: int = 0
    linear: int = 0
    count: int = 0
    seconds: float = 0.0
    why: str = ""


def shapes_of(network: Trained) -> Shapes:
    """The shape of the input where the file leaves it open."""
    if network.shape is None:
        return {}
    model = load(network.model).model
    return {model.graph.input[0].name: tuple(map(int, network.shape.split("x")))}


def _refined(model: ModelProto, count: int, shapes: Shapes) -> Data:
    return load_data("synthetic", model, samples=count, shapes=shapes, refine=refinement())


def _evolved(model: ModelProto, count: int, shapes: Shapes) -> Data:
    return load_data("synthetic", model, samples=count, shapes=shapes)


def _textures(model: ModelProto, count: int, shapes: Shapes) -> Data:
    sampler = Sampler(model, read_inputs(model, shapes))
    return sampler.data(sampler.pool(np.random.default_rng(0), count))


def _noise(model: ModelProto, count: int, shapes: Shapes) -> Data:
    return random_data(model, count, 0, shapes)


def _scaled(model: ModelProto, count: int, shapes: Shapes, gain: float) -> Data:
    data = _evolved(model, count, shapes)
    chunks = [{n: (x * gain).astype(x.dtype) if x.dtype.kind == "f" else x for n, x in c.items()} for c in data.chunks]
    return replace(data, chunks=tuple(chunks))


KINDS: Mapping[str, Callable[[ModelProto, int, Shapes], Data]] = {
    "made": _refined,
    "made-evolved": _evolved,
    "made-few": lambda model, count, shapes: _evolved(model, 16, shapes),
    "made-textures": _textures,
    "made-noise": _noise,
    "made-dark": lambda model, count, shapes: _scaled(model, count, shapes, 0.6),
    "made-bright": lambda model, count, shapes: _scaled(model, count, shapes, 1.6),
}
"""Inputs that fit well, and others that fit worse and worse: without gradients, few, not fitted at all, noise, wrongly scaled.
Without the latter a border could not be seen."""


def made(network: Trained, folder: Path, kind: str = "made") -> Made:
    """Make inputs of a kind for a network and write NAME.KIND.npz, or read what an earlier call wrote."""
    told = folder / f"{network.name}.{kind}.json"
    if told.is_file():
        return Made(**json.loads(told.read_text(encoding="utf-8")))
    found = _make(network, folder, kind)
    told.write_text(json.dumps(found.__dict__), encoding="utf-8")
    return found


def _make(network: Trained, folder: Path, kind: str) -> Made:
    model, shapes = load(network.model).model, shapes_of(network)
    linear = sum(node.op_type in LINEAR for node in model.graph.node)
    if kind != "made" and not norm_layers(model):
        return Made(linear=linear, why="no statistics that this kind could fit worse")
    count = int(np.clip(WORK / max(cost(model, shapes).macs, 1), FEWEST, COUNT))
    start = time.perf_counter()
    try:
        data = KINDS[kind](model, count, shapes)
    except DataError as e:
        return Made(linear=linear, why=e.message)
    seconds = time.perf_counter() - start
    arrays: dict[str, Any] = dict(data.chunks[0])
    np.savez(folder / f"{network.name}.{kind}.npz", **arrays)
    found = fit(model, data)
    if found is None:
        return Made(linear=linear, count=len(data), seconds=seconds)
    real = fit(model, load_data(folder / f"{network.name}.fit.npz", model))
    each = [float(np.hypot(layer.mean, layer.spread)) for layer in found.layers]
    late = float(np.mean(each[-max(1, len(each) // 3) :]))
    real_mismatch = real.mismatch if real else None
    return Made(found.mismatch, max(each), late, real_mismatch, len(each), linear, len(data), round(seconds, 1))
