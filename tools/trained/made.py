# SPDX-License-Identifier: Apache-2.0
"""Made-up inputs of a network, made once and kept in a file, with how well they fit its BatchNorm statistics."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.cost.size import cost
from onnxprune.data.load import load_data, random_data
from onnxprune.data.synthetic.statistics import Fit, fit, norm_layers
from onnxprune.errors import DataError
from onnxprune.ir.files import load
from onnxprune.pipeline.samples import refinement
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
        noise: the mismatch of normal noise.
        real: the mismatch of real inputs.
        layers, linear: number of BatchNorm layers, and of convolutions and products.
        count, seconds: number of inputs, and the time to make them.
        why: why there are none.
    """

    mismatch: float | None = None
    worst: float | None = None
    late: float | None = None
    noise: float | None = None
    real: float | None = None
    layers: int = 0
    linear: int = 0
    count: int = 0
    seconds: float = 0.0
    why: str = ""


def shapes_of(network: Trained) -> dict[str, tuple[int, ...]]:
    """The shape of the input where the file leaves it open."""
    if network.shape is None:
        return {}
    model = load(network.model).model
    return {model.graph.input[0].name: tuple(map(int, network.shape.split("x")))}


def made(network: Trained, folder: Path) -> Made:
    """Make inputs for a network and write NAME.made.npz, or read what an earlier call wrote."""
    path, told = folder / f"{network.name}.made.npz", folder / f"{network.name}.made.json"
    if told.is_file():
        return Made(**json.loads(told.read_text(encoding="utf-8")))
    found = _make(network, folder, path)
    told.write_text(json.dumps(found.__dict__), encoding="utf-8")
    return found


def _make(network: Trained, folder: Path, path: Path) -> Made:
    model, shapes = load(network.model).model, shapes_of(network)
    linear = sum(node.op_type in LINEAR for node in model.graph.node)
    count = int(np.clip(WORK / max(cost(model, shapes).macs, 1), FEWEST, COUNT))
    start = time.perf_counter()
    try:
        data = load_data("synthetic", model, samples=count, shapes=shapes, refine=refinement())
    except DataError as e:
        return Made(linear=linear, why=e.message)
    seconds = time.perf_counter() - start
    arrays: dict[str, Any] = dict(data.chunks[0])
    np.savez(path, **arrays)
    if not norm_layers(model):
        return Made(linear=linear, count=len(data), seconds=seconds)
    found, noise = fit(model, data), fit(model, random_data(model, min(count, 64), 0, shapes))
    real = fit(model, load_data(folder / f"{network.name}.fit.npz", model))
    assert found is not None
    each = [float(np.hypot(layer.mean, layer.spread)) for layer in found.layers]
    late = float(np.mean(each[-max(1, len(each) // 3) :]))
    return Made(
        found.mismatch, max(each), late, _mismatch(noise), _mismatch(real), len(each), linear, len(data), round(seconds, 1)
    )


def _mismatch(found: Fit | None) -> float | None:
    return found.mismatch if found else None
