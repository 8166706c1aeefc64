#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What training for blocks of one magnitude is worth: the ResNet-20 of `models/`, with ADMM before the projection and without.

usage: python tools/admm.py [--data FOLDER] [--images 12000] [--seeds 2]
Prints a Markdown table: accuracy on the test images right after the projection, and after the training that follows it, in
which signs are fixed. Both ways train for two epochs on the same images.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from torch import nn

if __name__ == "__main__":  # the root in place of this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from models.datasets import DEBIAN, Data, read
from models.networks import NETWORKS
from models.training import Settings, accuracy, train
from onnxprune.training.sparsity import Unification

NETWORK = Path(__file__).resolve().parents[1] / "models" / "resnet20-fashion-mnist.onnx"
RATE, BATCH = 0.02, 32
WAYS = {"ADMM, then fixed": (1, 1), "fixed at once": (0, 2)}
"""Epochs before the projection and after it."""


def network(data: Data) -> nn.Module:
    """ResNet-20 with the weights of the file, which stores equal biases of layers that are added once."""
    found = NETWORKS["resnet20"](data.classes, 1, 1.0, data.mean, data.std)
    stored = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in onnx.load(NETWORK).graph.initializer}
    for stage in ("layer2.0", "layer3.0"):
        stored[f"{stage}.shortcut.1.bias"] = stored[f"{stage}.bn2.bias"]
    found.load_state_dict(stored, strict=False)
    return found


def reached(data: Data, way: str, seed: int, options: argparse.Namespace) -> tuple[float, float]:
    """Accuracy on the test images right after the projection, and in the end."""
    model, test = network(data), data.read_test()
    sparsity = Unification(options.block, rho=options.rho, update_every=options.every)
    before, after = (Settings(epochs=max(1, n), batch=BATCH, rate=RATE, cpu=True) for n in WAYS[way])
    if WAYS[way][0]:
        train(model, data, replace(before, seed=seed), sparsity)
    sparsity.finish(model)
    projected = accuracy(model, test.images, test.labels)
    train(model, data, replace(after, seed=seed + 1), sparsity)
    return projected, accuracy(model, test.images, test.labels)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEBIAN)
    parser.add_argument("--images", type=int, default=12_000)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--block", default="16")
    parser.add_argument("--rho", type=float, default=0.5)
    parser.add_argument("--every", type=int, default=20)
    options = parser.parse_args()
    data = read(options.data)
    data = replace(data, train=data.train.at(slice(0, options.images)), held=data.held.at(slice(0, 500)))
    print("| way | seed | projected | in the end |\n|---|---|---|---|")
    for way in WAYS:
        for seed in range(options.seeds):
            projected, end = reached(data, way, seed, options)
            print(f"| {way} | {seed} | {projected:.2%} | {end:.2%} |", flush=True)


if __name__ == "__main__":
    main()
