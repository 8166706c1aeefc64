#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Fidelity at equal measured latency: a target for the latency beside uniform pruning to multiples of 16.

usage: python tools/uniform.py [FOLDER] [--ratios 0.3,0.5] [--criteria obs,ccprune] [--only NAME,...] [--threads 1]
FOLDER holds the inputs that `train_networks.py` wrote. Each network loses the same fraction of every group, rounded to
multiples of 16 (Torch-Pruning's `round_to`), and is timed in turn with the original. Then `--latency` asks for the same share,
with the same criterion, inputs and recovery; both cuts are timed in turn, and the target is moved until they take the same time
within two percent. Prints a Markdown table: latency of the uniform cut, how many times faster the other one is, what remains of
the multiply-accumulates of both, and the metric on inputs that neither has seen, with the gain in points.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime
from figures import processor
from onnx import ModelProto
from trained.judging import Held, Judge, Truth
from trained.registry import CACHE, Trained, at_hand

from onnxprune.cli.options import shapes_of
from onnxprune.cost.benchmark import benchmark, random_feeds
from onnxprune.ir.files import load
from onnxprune.options import Options
from onnxprune.pipeline.prune import prune_loaded
from onnxprune.pipeline.resolve import resolved
from onnxprune.pipeline.result import Result

EQUAL, TRIES = 0.02, 6
"""How close latencies must be, and how many targets are tried."""
SECONDS = 6.0


@dataclass(frozen=True)
class Pair:
    """A uniform cut and one by latency that takes the same time.

    Attributes:
        share: the latency of the uniform cut, as a fraction of the original's.
        faster: how many times faster the other one is.
        macs: what remains of the multiply-accumulates of both.
        models: both.
    """

    share: float
    faster: float
    macs: tuple[float, float]
    models: tuple[ModelProto, ModelProto]


def pair(network: Trained, folder: Path, ratio: float, criterion: str, threads: int) -> Pair:
    """Both cuts of a network."""
    loaded, data = load(network.model), folder / f"{network.name}.fit.npz"
    common = {"criterion": criterion, "data": str(data), "recover": "reconstruct", "verify": False, "threads": threads}
    one = _cut(network, {**common, "ratio": ratio, "scope": "local", "align": 16})
    shapes = {name: (1, *shape[1:]) for name, shape in one.report.inputs.items()}
    feeds = random_feeds(loaded.model, shapes)

    def speedups(*models: ModelProto) -> Sequence[float]:
        return benchmark([loaded.model, *models], feeds, threads, SECONDS).speedup

    share = 1 / speedups(one.model)[1]
    asked, found = share, list[Pair]()
    for _ in range(TRIES):
        other = _cut(network, {**common, "latency": f"{min(asked, 0.99):.2%}"})
        uniform, free = speedups(one.model, other.model)[1:]
        macs = one.report.macs.kept, other.report.macs.kept
        found.append(Pair(share, free / uniform, macs, (one.model, other.model)))
        if abs(found[-1].faster - 1) <= EQUAL:
            break
        asked *= free / uniform
    return min(found, key=lambda x: abs(x.faster - 1))


def _cut(network: Trained, options: dict[str, Any]) -> Result:
    loaded = load(network.model)
    shapes = shapes_of([network.shape], loaded) if network.shape else {}
    return prune_loaded(loaded, resolved(Options.of(**options, input_shape=shapes)))


def rows(
    networks: Sequence[Trained], folder: Path, ratios: Sequence[float], criteria: Sequence[str], threads: int
) -> Iterator[str]:
    """A row per network, criterion and ratio."""
    for network in networks:
        judge = Judge(network.metric, network.model, Held.read(folder / f"{network.name}.held.npz"), network.parts)
        for criterion in criteria:
            for ratio in ratios:
                found = pair(network, folder, ratio, criterion, threads)
                uniform, free = (judged(judge, model) for model in found.models)
                shares = f"{found.share:.1%} | {found.faster:.3f} | {found.macs[0]:.1%} | {found.macs[1]:.1%}"
                gain = 100 * (free.metric - uniform.metric)
                metrics = f"{uniform.original:.1%} | {uniform.metric:.1%} | {free.metric:.1%} | {gain:+.1f}"
                yield f"| {network.name} | {criterion} | {ratio:g} | {shares} | {metrics} |"


def judged(judge: Judge, model: ModelProto) -> Truth:
    """What a model in memory is worth."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cut.onnx"
        path.write_bytes(model.SerializeToString())
        return judge.judge(path)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=CACHE)
    parser.add_argument("--ratios", default="0.3,0.5")
    parser.add_argument("--criteria", default="obs,ccprune")
    parser.add_argument("--only", default="", help="only networks whose name contains one of these, separated by commas")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    networks = [t for t in at_hand(options.folder) if any(name in t.name for name in options.only.split(","))]
    if not networks:
        parser.error(f"{options.folder}: no inputs; run tools/train_networks.py first")
    print(f"{processor()}, onnxruntime {onnxruntime.__version__}, threads: {options.threads}\n")
    columns = ("network", "criterion", "ratio", "latency", "faster", "MACs uniform", "by latency")
    print("| " + " | ".join([*columns, "original", "uniform", "by latency", "gain"]) + " |")
    print("|---" * 11 + "|")
    ratios = [float(r) for r in options.ratios.split(",")]
    for row in rows(networks, options.folder, ratios, options.criteria.split(","), options.threads):
        print(row, flush=True)


if __name__ == "__main__":
    main()
