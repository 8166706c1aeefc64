#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Train a dozen small networks of different kinds on data that needs no network, and export them with held-out inputs.

usage: python tools/train_networks.py [FOLDER] [--only NAME] [--clothes FOLDER] [--words FILE] [--seed 0]
Writes NAME.onnx, NAME.fit.npz (inputs without labels, never trained on), NAME.held.npz (other inputs, with labels) and README,
one line per network with the range of its inputs, its metric and what it reaches. A file that exists is not made again.
Needs torch, Pillow, scikit-image (for its photographs) and Debian's dataset-fashion-mnist. About a minute per network.
"""

from __future__ import annotations

import argparse
import time
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import torch
from trained import borrowed, datasets
from trained.forms import written
from trained.judging import METRICS, Held, outputs
from trained.registry import CACHE, RECIPES, Recipe, Trained, at_hand, not_trained_here, trained_here
from trained.training import exported, trained


@cache
def data_set(name: str) -> datasets.Dataset:
    """A data set, made once."""
    return datasets.DATASETS[name]()


def make(recipe: Recipe, folder: Path, seed: int) -> None:
    """Train a network, unless its file is there, and write all its forms with their inputs."""
    data, scale, first = data_set(recipe.data), datasets.SCALES[recipe.scale], folder / f"{recipe.name}.onnx"
    example = scale(data.fit.inputs[:2]).astype(np.float32)
    kept = onnx.load(first) if first.is_file() else exported(trained(recipe, data, seed), torch.from_numpy(example))
    for form in recipe.forms:
        stem = recipe.file(form)
        onnx.save(written(kept, form, example.ndim), folder / f"{stem}.onnx")
        np.savez_compressed(folder / f"{stem}.fit.npz", input=scale(data.fit.inputs).astype(np.float32))
        held = scale(data.held.inputs).astype(np.float32)
        np.savez_compressed(folder / f"{stem}.held.npz", input=held, label=data.held.truth)


def line(network: Trained, folder: Path) -> str:
    """One line about a network: its inputs, its metric and what it reaches."""
    held = Held.read(folder / f"{network.name}.held.npz")
    found = outputs(network.model, held)
    reached = METRICS[network.metric](found[0], found[0] if held.truth is None else held.truth)
    sizes = ", ".join("x".join(map(str, x.shape[1:])) for x in held.feeds.values())
    values = ", ".join(f"{x.min():.4g}..{x.max():.4g}" for x in held.feeds.values())
    return f"{network.name}: {network.inputs}; {sizes}; values {values}; {network.metric} {reached:.4f}"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=CACHE)
    parser.add_argument("--only", default="", help="only networks whose name contains one of these, separated by commas")
    parser.add_argument("--clothes", type=Path, default=datasets.CLOTHES, help="folder with the files of Fashion-MNIST")
    parser.add_argument("--words", type=Path, default=borrowed.WORDS, help="a list of words, one per line")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    datasets.CLOTHES, borrowed.WORDS = options.clothes, options.words
    torch.set_num_threads(1)  # many small layers: a second thread costs more than it gives on a busy machine
    only = options.only.split(",")
    options.folder.mkdir(parents=True, exist_ok=True)
    for recipe in RECIPES:
        files = [options.folder / f"{recipe.file(form)}.onnx" for form in recipe.forms]
        if any(name in recipe.name for name in only) and not all(f.is_file() for f in files):
            start = time.perf_counter()
            make(recipe, options.folder, options.seed)
            names = {recipe.file(form) for form in recipe.forms}
            for network in trained_here(options.folder):
                if network.name in names:
                    print(f"{line(network, options.folder)} ({time.perf_counter() - start:.0f} s)", flush=True)
    for network in not_trained_here():
        if any(name in network.name for name in only) and network.model.is_file():
            borrowed.write_inputs(network, options.folder)
    lines = [line(network, options.folder) for network in at_hand(options.folder)]
    (options.folder / "README").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
