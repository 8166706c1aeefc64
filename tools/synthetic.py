#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How close synthetic inputs come to real ones: the mismatch with BatchNorm's running statistics per layer, and a picture.

usage: python tools/synthetic.py [MODEL.onnx] [--data SOURCE [--preprocess ...]] [--count 256] [--seed 0] [--sheet OUT.png]
Prints a Markdown table: for every BatchNorm layer, how far its mean (in running deviations) and its deviation (as a logarithm)
are off the running statistics for synthetic inputs (evolved; then also refined by gradient descent, if torch is installed),
for the real ones of SOURCE, and for normal noise; and the mismatch of real ones preprocessed wrongly. OUT.png shows the first
samples of an input that holds images.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from onnxprune.data.load import load_data, random_data
from onnxprune.data.samples import Data
from onnxprune.data.synthetic.statistics import Fit, fit
from onnxprune.data.synthetic.synthesize import synthesize
from onnxprune.ir.files import load
from onnxprune.pipeline.samples import refinement

MODELS = Path(__file__).resolve().parent.parent / "models"


def sheet(x: NDArray[Any], columns: int, gap: int = 1) -> NDArray[np.uint8]:
    """Images (n, channels, height, width) side by side, from black to white."""
    low, high = float(x.min()), float(x.max())
    pixels = (255 * (x - low) / max(high - low, 1e-9)).astype(np.uint8).transpose(0, 2, 3, 1)
    cells = np.pad(pixels[: len(pixels) - len(pixels) % columns], ((0, 0), (gap, gap), (gap, gap), (0, 0)), constant_values=128)
    rows = cells.reshape(-1, columns, *cells.shape[1:])
    return np.concatenate([np.concatenate(list(row), 1) for row in rows], 0)


def write_sheet(data: Data, path: str, columns: int, rows: int, zoom: int) -> None:
    """The first samples of the first input that holds images."""
    from PIL import Image

    images = [x for x in data.chunks[0].values() if x.ndim == 4]
    if not images:
        raise SystemExit("--sheet: no input holds images")
    x = images[0] if images[0].shape[1] in (1, 3) else images[0].transpose(0, 3, 1, 2)
    pixels = sheet(x[: columns * rows], columns)
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST).save(path)


SPOILED: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "as given": lambda x: x,
    "negatives": lambda x: x.max() + x.min() - x,
    "normalised twice": lambda x: (x - x.mean()) / x.std(),
    "2 x - 1": lambda x: 2 * x - 1,
    "(x + 1) / 2": lambda x: (x + 1) / 2,
    "255 x": lambda x: 255 * x,
}


def spoiled(model: ModelProto, data: Data) -> str:
    """Markdown: the mismatch of real inputs preprocessed wrongly."""
    lines = ["| real inputs | mismatch |", "|---|---|"]
    for name, change in SPOILED.items():
        chunks = tuple({k: change(x).astype(x.dtype) if x.dtype.kind == "f" else x for k, x in c.items()} for c in data.chunks)
        found = fit(model, replace(data, chunks=chunks))
        lines.append(f"| {name} | {found.mismatch:.2f} |" if found else f"| {name} | |")
    return "\n".join(lines)


def table(columns: dict[str, Fit]) -> str:
    """Markdown: a row per layer, mean and deviation of every column, and the averages."""
    head = " | ".join(f"{name}: mean | deviation" for name in columns)
    lines = [f"| layer | {head} |", "|---" * (1 + 2 * len(columns)) + "|"]
    for layers in zip(*(f.layers for f in columns.values()), strict=True):
        lines.append(f"| `{layers[0].name}` | " + " | ".join(f"{a.mean:.3f} | {a.spread:.3f}" for a in layers) + " |")
    averages = " | ".join(f"**{f.mean:.3f}** | **{f.spread:.3f}**" for f in columns.values())
    return "\n".join([*lines, f"| average | {averages} |"])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default=str(MODELS / "resnet20-fashion-mnist.onnx"))
    parser.add_argument("--data", help="real inputs for comparison")
    parser.add_argument("--preprocess")
    parser.add_argument("--samples", type=int, help="maximum number of real samples")
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sheet", help="a picture of synthetic inputs (.png)")
    parser.add_argument("--columns", type=int, default=24)
    parser.add_argument("--rows", type=int, default=6)
    parser.add_argument("--zoom", type=int, default=1)
    parser.add_argument("--input-shape", help="shape of the only input, such as 1x3x48x192")
    options = parser.parse_args()
    model = load(options.model).model
    names = [v.name for v in model.graph.input]
    shapes = {names[0]: tuple(map(int, options.input_shape.split("x")))} if options.input_shape else None
    start = time.perf_counter()
    evolved = synthesize(model, options.count, options.seed, shapes)
    middle = time.perf_counter()
    made = synthesize(model, options.count, options.seed, shapes, refine=refinement())
    end = time.perf_counter()
    print(f"{options.model}: {made.notes[0]}; {middle - start:.0f} s without gradients, {end - middle:.0f} s with\n")
    columns = {"evolved": fit(model, evolved), "evolved and refined": fit(model, made)}
    if options.data:
        real = load_data(options.data, model, preprocess=options.preprocess, samples=options.samples)
        columns["real"] = fit(model, real)
    columns["noise"] = fit(model, random_data(model, options.count, options.seed, shapes))
    if all(columns.values()):
        print(table({name: f for name, f in columns.items() if f}))
    if options.data:
        print("\n" + spoiled(model, real))
    if options.sheet:
        write_sheet(made, options.sheet, options.columns, options.rows, options.zoom)


if __name__ == "__main__":
    main()
