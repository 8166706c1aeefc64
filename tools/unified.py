#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Accuracy after unification in blocks, fitted and then trained, on the whole test set.

usage: python tools/unified.py --fashion-mnist FOLDER [MODEL.onnx] [--blocks 16,64] [--seeds 2] [--seconds 300 | --steps N]

Rows are sizes of blocks and seeds. A thousand unlabelled training images, chosen by the seed, are fitted to; a tenth of them
chooses the best weights of the training. With --steps the training lasts as many steps, however busy the machine is
(OMP_NUM_THREADS=1: on one thread).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from onnx import ModelProto
from recovery import OURS, fashion_mnist

from onnxprune.analysis.analyse import analyse
from onnxprune.compression.blocks import SHARED, BlockShape
from onnxprune.compression.division import Division
from onnxprune.compression.eligible import eligible
from onnxprune.data.load import load_data
from onnxprune.data.samples import Data
from onnxprune.effort import Clock, Effort
from onnxprune.evaluation.evaluator import accuracy
from onnxprune.ir.facts import read_graph
from onnxprune.ir.files import load
from onnxprune.pipeline.blocks import check_divisions
from onnxprune.recovery.methods import Task
from onnxprune.recovery.unification import by_compensation, by_held_blocks
from onnxprune.training.distillation.distill import STAIR, STAIRS, STEPS
from onnxprune.types import silent

SAMPLES = 1000


@dataclass(frozen=True)
class Bench:
    """What every row is measured with."""

    model: ModelProto
    train: Data
    test: Data
    seconds: float
    steps: int | None

    def effort(self) -> Effort:
        """The time that there is, or a number of steps."""
        if self.steps is None:
            return Effort(Clock(self.seconds))
        known = {f"{STAIR}{k}": self.steps * k // STAIRS for k in range(STAIRS)}
        return Effort(Clock(1e9), {**known, STEPS: self.steps})

    def top1(self, model: ModelProto) -> float:
        """Accuracy in percent on the whole test set."""
        return 100 * (accuracy(model, self.test) or 0.0)


def row(bench: Bench, block: str, seed: int) -> str:
    """Accuracy of one fit, and of a training with a fit of its own."""
    coupled = analyse(read_graph(bench.model)).coupled
    blocks = eligible(coupled.graph, BlockShape.parse(block))
    divisions = {name: Division(b, np.full(b.count, SHARED)) for name, b in blocks.items()}
    fit = replace(bench.train.take(SAMPLES, seed), labels=None)
    cells = []
    for way in (by_compensation, by_held_blocks):
        task = Task(coupled, np.zeros(len(coupled.free), bool), bench.model, fit, bench.effort(), seed)
        start = time.perf_counter()
        found = way(task, silent, bench.model, divisions).model
        cells += [f"{bench.top1(found):.2f}", f"{time.perf_counter() - start:.0f}"]
        check_divisions(found, divisions)
    return f"| {block} | {seed} | {' | '.join(cells)} | {task.effort.done[STEPS]} |"


def lines(bench: Bench, blocks: list[str], seeds: int) -> Iterator[str]:
    """The table."""
    yield f"original: {bench.top1(bench.model):.2f}"
    yield "| block | seed | fitted | seconds | trained | seconds | steps |\n|---|---|---|---|---|---|---|"
    for block in blocks:
        yield from (row(bench, block, seed) for seed in range(seeds))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, default=OURS)
    parser.add_argument("--fashion-mnist", type=Path, required=True)
    parser.add_argument("--blocks", default="16,64")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=300, help="time for fit and training")
    parser.add_argument("--steps", type=int, help="steps of the training, instead of --seconds")
    options = parser.parse_args()
    model = load(options.model).model
    train, test = (load_data(x, model) for x in fashion_mnist(options.fashion_mnist))
    bench = Bench(model, train, test, options.seconds, options.steps)
    for line in lines(bench, options.blocks.split(","), options.seeds):
        print(line, flush=True)


if __name__ == "__main__":
    main()
