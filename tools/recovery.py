#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Accuracy after a cut with every recovery method: medians of three seeds on the whole test set.

usage: python tools/recovery.py MODEL.onnx --fit TRAIN.npz --test TEST.npz [--seconds 300] [--seeds 3] [--out FILE.md]
   or: python tools/recovery.py --fashion-mnist FOLDER [--torch-pruning]     the model in models/, the data set in FOLDER

Rows are recovery methods, columns the MACs kept: the same fraction of every group removed by L2 norm (residual spine
included), then free widths by `obs`. Fitting uses N unlabelled samples of TRAIN, chosen by the seed; accuracy is measured on
all of TEST. With --torch-pruning, Torch-Pruning cuts the network's PyTorch module to the same MACs and its BatchNorm statistics
are re-estimated on the same samples (`torch_pruning_peer.py`). --only, --without, --columns and --seeds restrict the table;
--knobs top=1,share=0 changes settings of distillation.
"""

from __future__ import annotations

import argparse
import ast
import itertools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from figures import processor
from numpy.typing import NDArray
from onnx import ModelProto

from onnxprune.analysis.analyse import analyse
from onnxprune.data.batching import batched
from onnxprune.data.load import load_data
from onnxprune.data.samples import Data
from onnxprune.data.synthetic.synthesize import synthesize
from onnxprune.effort import Clock, Effort
from onnxprune.evaluation.evaluator import accuracy
from onnxprune.ir.facts import read_graph
from onnxprune.ir.files import load
from onnxprune.options import Options
from onnxprune.pipeline.decide import Decision, decide
from onnxprune.pipeline.samples import refinement
from onnxprune.recovery.bias import absorb
from onnxprune.recovery.methods import Method, Task, by_bias, by_distillation, by_least_squares
from onnxprune.types import silent

HERE = Path(__file__).resolve().parent.parent
OURS = HERE / "models" / "resnet20-fashion-mnist.onnx"
UNIFORM = ("57%", "26%")
COLUMNS = {"57%": ("57%", False), "26%": ("26%", False), "free": ("26%", True)}


@dataclass(frozen=True)
class Bench:
    """What every row is measured with."""

    model: ModelProto
    train: Data
    test: Data
    seconds: float
    seeds: range
    columns: list[tuple[str, bool]]

    def top1(self, model: ModelProto) -> float:
        """Accuracy in percent on the whole test set."""
        return 100 * (accuracy(model, self.test) or 0.0)

    def some(self, n: int, seed: int) -> Data:
        """`n` samples without labels."""
        return replace(self.train.take(n, seed), labels=None)


@dataclass(frozen=True)
class Row:
    """A recovery method, and what it is fitted to."""

    name: str
    samples: int | str
    way: Callable[[Task], ModelProto]


def plain(task: Task) -> ModelProto:
    """No recovery."""
    return task.pruned


def closed_form(task: Task) -> ModelProto:
    """Biases from BatchNormalization, without any input."""
    return absorb(task.coupled, task.dropped, task.pruned).model


def quietly(way: Method) -> Callable[[Task], ModelProto]:
    """A recovery method without progress reports."""
    return lambda task: way(task, silent).model


ROWS = (
    Row("plain cut", 0, plain),
    Row("bias, closed form", 0, closed_form),
    Row("bias, measured", 1000, quietly(by_bias)),
    Row("reconstruct", 1000, quietly(by_least_squares)),
    Row("reconstruct", 32, quietly(by_least_squares)),
    Row("reconstruct", "synthetic", quietly(by_least_squares)),
    Row("reconstruct", "evolved only", quietly(by_least_squares)),
    Row("reconstruct", "random", quietly(by_least_squares)),
    Row("distill", 1000, quietly(by_distillation)),
)


def chosen(only: str, without: str, knobs: str) -> list[Row]:
    """The requested rows; `knobs` are settings of distillation."""
    turned = {name: ast.literal_eval(value) for name, _, value in (k.partition("=") for k in knobs.split(",") if k)}
    rows = [r for r in ROWS if only in f"{r.name} {r.samples}" and not (without and without in r.name)]
    if not turned:
        return rows
    way = quietly(partial(by_distillation, **turned))
    return [replace(r, name=f"{r.name}, {knobs}", way=way) if r.name == "distill" else r for r in rows]


def cut(bench: Bench, macs: str, free: bool, fit: Data) -> Decision:
    """The cut of a column."""
    selection = {"criterion": "obs"} if free else {"criterion": "l2", "scope": "local"}
    options = Options.of(macs=macs, align="none", data="x", **selection)
    return decide(analyse(read_graph(bench.model)), options, "model", batched(fit, bench.model) if free else ())


def inputs(bench: Bench, row: Row, seed: int) -> Data:
    """The samples that a row is fitted to."""
    if row.samples == "evolved only":  # synthetic, as without torch
        return synthesize(bench.model, 256, seed)
    if isinstance(row.samples, str):
        return load_data(row.samples, bench.model, samples=256, seed=seed, refine=refinement())
    return bench.some(max(row.samples, 8), seed)


def measure(bench: Bench, row: Row, macs: str, free: bool, seed: int) -> tuple[float, float]:
    """Accuracy in percent, and seconds."""
    data = inputs(bench, row, seed)
    decision = cut(bench, macs, free, data)
    coupled, dropped, pruned = decision.analysis.coupled, decision.dropped, decision.pruned
    task = Task(coupled, dropped, pruned, data, Effort(Clock(bench.seconds or 600.0)), seed)
    start = time.perf_counter()
    found = row.way(task)
    seconds = time.perf_counter() - start
    return bench.top1(found), seconds


def lines(bench: Bench, rows: Sequence[Row]) -> Iterator[str]:
    """The table."""
    heads = " | ".join(f"{m} of MACs, {'widths by obs' if free else 'uniform'} | seconds" for m, free in bench.columns)
    before = bench.top1(bench.model)
    tests, seeds = f"{len(bench.test):,} test samples", f"{len(bench.seeds)} seeds"
    yield f"{before:.2f} % before the cut, {tests}; median of {seeds} (lowest to highest)\n"
    yield f"| recovery | fitted to | {heads} |"
    yield "|---" * (2 + 2 * len(bench.columns)) + "|"
    for row in rows:
        cells = []
        for macs, free in bench.columns:
            found = np.array([measure(bench, row, macs, free, seed) for seed in bench.seeds])
            low, middle, high = np.percentile(found[:, 0], (0, 50, 100))
            cells.append(f"{middle:.2f} ({low:.2f}-{high:.2f}) | {np.median(found[:, 1]):.0f}")
        told = f"{row.samples:,} samples" if isinstance(row.samples, int) and row.samples else str(row.samples or "nothing")
        yield f"| {row.name} | {told} | {' | '.join(cells)} |"


def peer(bench: Bench) -> Iterator[str]:
    """Rows of Torch-Pruning on the same network: plain, and with BatchNorm re-estimated."""
    import torch_pruning_peer as other

    images, labels = bench.test.chunks[0]["image"], bench.test.labels
    assert labels is not None
    rows: dict[str, list[str]] = {"plain cut": [], "BatchNorm re-estimated": []}
    for macs in UNIFORM:
        net, share = other.pruned(bench.model, float(macs.rstrip("%")) / 100)
        rows["plain cut"].append(f"{other.top1(net, images, labels):.2f} at {share:.1%}")
        fits = [bench.some(1000, seed).chunks[0]["image"] for seed in bench.seeds]
        found = [other.top1(other.reestimated(net, fit), images, labels) for fit in fits]
        low, middle, high = np.percentile(found, (0, 50, 100))
        rows["BatchNorm re-estimated"].append(f"{middle:.2f} ({low:.2f}-{high:.2f}) at {share:.1%}")
    for name, cells in rows.items():
        fitted = "1,000 samples" if name != "plain cut" else "nothing"
        yield f"| Torch-Pruning, {name} | {fitted} | {' | | '.join(cells)} | | | |"


def fashion_mnist(folder: Path) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """Training images, and test images with their classes, from the four idx files (gzipped or not)."""
    sys.path.insert(1, str(HERE))
    from models.datasets import read_idx

    images = [read_idx(folder, f"{part}-images-idx3-ubyte")[:, None].astype(np.float32) / 255 for part in ("train", "t10k")]
    labels = read_idx(folder, "t10k-labels-idx1-ubyte")
    return {"image": images[0]}, {"image": images[1], "label": labels.astype(np.int64)}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, default=OURS)
    parser.add_argument("--fit", type=Path)
    parser.add_argument("--test", type=Path)
    parser.add_argument("--fashion-mnist", type=Path)
    parser.add_argument("--seconds", type=float, default=300, help="time for distillation")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--columns", default=",".join(COLUMNS), help=f"some of {', '.join(COLUMNS)}".replace("%", "%%"))
    parser.add_argument(
        "--knobs", default="", metavar="NAME=VALUE,...", help="distillation settings: fields of TrainingSettings"
    )
    parser.add_argument("--only", default="", help="only rows whose name or inputs contain this")
    parser.add_argument("--without", default="", help="omit rows whose name contains this")
    parser.add_argument("--torch-pruning", action="store_true", help="also Torch-Pruning, for the model in models/")
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    options = parser.parse_args()
    model = load(options.model).model
    if options.fashion_mnist:
        train, test = (load_data(x, model) for x in fashion_mnist(options.fashion_mnist))
    elif options.fit and options.test:
        train, test = (load_data(x, model) for x in (options.fit, options.test))
    else:
        parser.error("give --fit and --test, or --fashion-mnist")
    columns = [COLUMNS[c] for c in options.columns.split(",")]
    bench = Bench(model, train, test, options.seconds, range(options.seeds), columns)
    told = [f"{processor()}, onnxruntime {onnxruntime.__version__}"]
    for line in itertools.chain(told[:], lines(bench, chosen(options.only, options.without, options.knobs))):
        print(line, flush=True)
        told.append(line)
    if options.torch_pruning:
        for line in peer(bench):
            print(line, flush=True)
            told.append(line)
    if options.out:
        options.out.write_text("\n".join(told[1:]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
