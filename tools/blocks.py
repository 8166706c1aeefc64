#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Blocks of one magnitude beside integer codes of more values: size, accuracy, latency and time to load.

usage: python tools/blocks.py [--data FOLDER] [--seeds 3] [--only PATTERN]     the ResNet-20 of models/, Fashion-MNIST in FOLDER
   or: python tools/blocks.py --model MODEL.onnx --data SOURCE [--preprocess ...] [--labels ...] [--seeds 3]
Prints a Markdown table. Every row changes the same weights (all that `onnxprune unify` may), in the same operators. Sizes are
of files, in KB, for each type of codes that has all values, then of the smallest under Zstandard; bits a weight are what a
file has more than one without these weights, plain and under Zstandard. Accuracy is that of all test images (of another
model: of samples held out; without labels, how much of the original's answers is kept), with weights only projected or
rounded, then with the error made up for on at most 1,000 samples without labels: median of the seeds, lowest to highest.
Latency and time to load are those of the smallest file relative to the original: medians in five processes, which run both in
turn, lowest to highest.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from figures import processor
from neighbours import probe
from neighbours.ways import ANY, Rounded, Unified, Way, task_of
from onnx import ModelProto

from onnxprune.compression.blocks import BlockShape
from onnxprune.compression.eligible import eligible
from onnxprune.cost.benchmark import random_feeds
from onnxprune.data.load import load_data
from onnxprune.data.samples import Data
from onnxprune.evaluation.evaluator import Evaluator
from onnxprune.ir.facts import read_graph
from onnxprune.ir.files import load
from onnxprune.ir.packing import packed_size
from onnxprune.types import Shapes

HERE = Path(__file__).resolve().parents[1]
OURS = HERE / "models" / "resnet20-fashion-mnist.onnx"
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
SAMPLES, PROCESSES = 1_000, 5
HALF = {"unify": "16", "share": 0.5}
ROWS: tuple[Way, ...] = (
    Rounded("255 values, a scale per output", 127),
    Rounded("255 values, a scale per 32", 127, "32"),
    Rounded("15 values, a scale per output", 7),
    Rounded("15 values, a scale per 64", 7, "64"),
    Rounded("15 values, a scale per 32", 7, "32"),
    Rounded("15 values, a scale per 16", 7, "16"),
    Rounded("7 values, a scale per output", 3),
    Rounded("7 values, a scale per 32", 3, "32"),
    Rounded("-1, 0 and 1, a scale per output", 1),
    Rounded("-1, 0 and 1, a scale per 16", 1, "16"),
    *(Unified(f"unified, blocks of {n}", {"unify": n}) for n in ("4", "8", "16", "32", "64", "4x4")),
    Unified("unified, half of the blocks of 16", HALF),
    Unified("the same, for onnxruntime 1.24", {**HALF, "runtime": "1.24"}),
    Unified("the same, `--scope local`", {**HALF, "block_scope": "local"}),
    Unified("the same, in super-blocks of 4 x 4 blocks", HALF, tiles=4),
    Unified("unified, nine tenths of the blocks of 16, for onnxruntime 1.32", {"unify": "16", "share": 0.9, "runtime": "1.32"}),
    Unified("zeroed, 30 % of the blocks of 16", {"unify": "16", "zero": 0.3, "share": 0.0}),
    Unified("the same, the others unified", {"unify": "16", "zero": 0.3}),
)
HEADS = (
    *("weights", "INT8 codes", "INT4", "INT2", "zstd", "bits a weight", "under zstd"),
    *("only changed", "compensated", "latency", "load"),
)


@dataclass(frozen=True)
class Case:
    """A network, samples to fit to, and samples to judge on."""

    model: ModelProto
    fit: Data
    judge: Evaluator

    def figure(self, model: ModelProto) -> float:
        """Accuracy, or without labels how much of the original's answers is kept, in percent."""
        found = self.judge.judge(model)
        return 100 * (1 - found.lost if found.accuracy is None else found.accuracy)


@dataclass(frozen=True)
class Sizes:
    """Bytes of the rest of a file: without the weights that are stored in fewer bits, plain and packed; and their number."""

    rest: int
    packed: int
    weights: int

    @classmethod
    def of(cls, model: ModelProto) -> Sizes:
        """Those of a model."""
        names = eligible(read_graph(model), BlockShape.parse(ANY))
        left = ModelProto()
        left.CopyFrom(model)
        kept = [t for t in model.graph.initializer if t.name not in names]
        del left.graph.initializer[:]
        left.graph.initializer.extend(kept)
        data = left.SerializeToString()
        return cls(len(data), packed_size(data), sum(int(np.prod(b.shape)) for b in names.values()))

    def cells(self, files: Mapping[str, ModelProto]) -> list[str]:
        """Sizes of the files of a row, in KB, and bits a weight."""
        data = {kind: one.SerializeToString() for kind, one in files.items()}
        least, packed = min(map(len, data.values())), min(map(packed_size, data.values()))
        plain = [f"{len(data[kind]) / 1e3:.0f}" if kind in data else "" for kind in ("INT8", "INT4", "INT2")]
        bits = [8 * (a - b) / self.weights for a, b in ((least, self.rest), (packed, self.packed))]
        return [*plain, f"{packed / 1e3:.0f}", *(f"{b:.2f}" for b in bits)]


def ours(folder: Path) -> tuple[ModelProto, Data, Data]:
    """The network of models/, training images without labels, and test images."""
    from recovery import fashion_mnist

    model = load(OURS).model
    train, test = (load_data(x, model) for x in fashion_mnist(folder))
    return model, train, test


def another(options: argparse.Namespace) -> tuple[ModelProto, Data, Data]:
    """A model, and its samples: a fifth is held out."""
    model = load(options.model).model
    data = load_data(options.data, model, preprocess=options.preprocess, labels=options.labels)
    fit, held = data.split(0.2)
    return model, fit, held


def row(case: Case, way: Way, seeds: int) -> tuple[dict[str, ModelProto], list[str]]:
    """The files of a row, fitted with the first seed, and its figures."""
    tasks = [task_of(case.model, replace(case.fit.take(SAMPLES, seed), labels=None), seed) for seed in range(seeds)]
    changed = case.figure(_smallest(way.made(tasks[0], False)))
    fitted = [way.made(task, True) for task in tasks]
    return fitted[0], [f"{changed:.2f}", spread([case.figure(_smallest(files)) for files in fitted])]


def _smallest(files: Mapping[str, ModelProto]) -> ModelProto:
    return list(files.values())[-1]


def spread(values: Sequence[float]) -> str:
    """The median, lowest and highest."""
    low, middle, high = np.percentile(values, (0, 50, 100))
    return f"{middle:.2f}" + (f" ({low:.2f}-{high:.2f})" if len(values) > 1 else "")


def timed(model: ModelProto, files: Sequence[ModelProto], shapes: Shapes, processes: int) -> list[list[str]]:
    """Latency and time to load of each file relative to the model."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = [str(folder / f"{k}.onnx") for k in range(len(files) + 1)]
        for path, one in zip(paths, (model, *files), strict=True):
            onnx.save(one, path)
        probe.save(folder / "inputs.npz", random_feeds(model, shapes))
        command = [sys.executable, probe.__file__, str(folder / "inputs.npz"), *paths]
        runs = [json.loads(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(processes)]
    return [[spread([run[path][what] for run in runs]) for what in ("latency", "load")] for path in paths[1:]]


def table(case: Case, ways: Sequence[Way], seeds: int, processes: int) -> Iterator[str]:
    """Markdown."""
    sizes, made = Sizes.of(case.model), list[tuple[str, dict[str, ModelProto], list[str]]]()
    for way in ways:
        start = time.perf_counter()
        files, figures = row(case, way, seeds)
        made.append((way.name, files, figures))
        print(f"{way.name}: {', '.join(figures)}, {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    shapes = {name: (1, *x.shape[1:]) for name, x in case.fit.chunks[0].items()}
    times = timed(case.model, [_smallest(files) for _, files, _ in made], shapes, processes)
    data = case.model.SerializeToString()
    yield "| " + " | ".join(HEADS) + " |\n" + "|---" * len(HEADS) + "|"
    before = [f"{packed_size(data) / 1e3:.0f}", *[""] * 2, f"{case.figure(case.model):.2f}", *[""] * 3]
    yield "| " + " | ".join([f"float32, {len(data) / 1e3:.0f} KB", *[""] * 3, *before]) + " |"
    for (name, files, figures), times_of in zip(made, times, strict=True):
        yield "| " + " | ".join([name, *sizes.cells(files), *figures, *times_of]) + " |"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="another model than that of models/")
    parser.add_argument("--data", help="its samples; or the folder of Fashion-MNIST", default=str(DEBIAN))
    parser.add_argument("--preprocess")
    parser.add_argument("--labels")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=PROCESSES)
    parser.add_argument("--judge", type=int, help="at most so many samples to judge on")
    parser.add_argument("--only", default="", help="only rows whose name matches this pattern")
    options = parser.parse_args()
    model, fit, held = another(options) if options.model else ours(Path(options.data))
    held = held.take(options.judge or len(held))
    case = Case(model, fit, Evaluator(model, held))
    print(f"{processor()}, onnxruntime {onnxruntime.__version__}, {len(held):,} samples to judge on, {options.seeds} seeds\n")
    for line in table(case, [way for way in ROWS if re.search(options.only, way.name)], options.seeds, options.processes):
        print(line, flush=True)


if __name__ == "__main__":
    main()
