#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How well latencies of cuts are predicted, on cuts that the model was not fitted to; multiply-accumulates alone beside it.

usage: python tools/latency.py MODEL.onnx [...] [--ratios 0.2,0.4,0.6,0.8]
Of each model 26 random cuts are timed and the latency model is fitted to them, as `--latency` does; then the cuts by `--ratio`
are timed that are asked for, with the default criterion and alignment, at the sizes that the file states. Prints a Markdown
table: the relative errors of the predicted latency over these cuts, and those of a line through the original whose latency
falls with the multiply-accumulates.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from figures import processor
from onnx import ModelProto

from onnxprune.analysis.analyse import analyse
from onnxprune.cost.benchmark import in_this_process
from onnxprune.cost.macs import macs_model
from onnxprune.cost.model import of_original
from onnxprune.cost.size import cost
from onnxprune.ir.facts import read_graph
from onnxprune.ir.files import load
from onnxprune.pipeline.latency import stopwatch
from onnxprune.rewrite.cut import cut
from onnxprune.selection.alignment import auto_alignment
from onnxprune.selection.criteria import Scorer
from onnxprune.selection.sizing import Sizing
from onnxprune.selection.space import space_of
from onnxprune.types import silent


def errors(model: ModelProto, ratios: Sequence[float]) -> tuple[list[float], list[float]]:
    """The relative errors for the cuts by these ratios: of the latency model, and of multiply-accumulates alone."""
    analysis = analyse(read_graph(model))
    coupled, groups = analysis.coupled, analysis.groups
    watch = stopwatch(model, cost(model).inputs, None, 1, in_this_process, 0, silent, auto_alignment().multiple)
    latency, macs = watch.model(coupled), macs_model(coupled)
    scores = [s for s in Scorer("ccprune").score(coupled, groups).scores if s is not None]
    space = space_of(coupled, groups, scores, Sizing("global", auto_alignment().multiple))
    found, plain = list[float](), list[float]()
    for ratio in ratios:
        dropped = space.dropped(space.by_ratio(ratio))
        measured = watch.milliseconds(cut(coupled, dropped))
        found.append(latency.of(dropped) / measured - 1)
        plain.append(watch.whole * macs.of(dropped) / of_original(macs, len(dropped)) / measured - 1)
    return found, plain


def summary(values: Sequence[float]) -> str:
    """Median and largest size of errors."""
    sizes = np.abs(values)
    return f"{np.median(sizes):.1%} | {sizes.max():.1%}"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--ratios", default="0.2,0.4,0.6,0.8")
    options = parser.parse_args()
    ratios = [float(r) for r in options.ratios.split(",")]
    print(f"{processor()}, onnxruntime {onnxruntime.__version__}, one thread\n")
    print("| model | " + " | ".join(f"{r:g}" for r in ratios) + " | median | largest | MACs alone: median | largest |")
    print("|---" * (len(ratios) + 5) + "|")
    every: list[float] = []
    alone: list[float] = []
    for path in options.models:
        found, plain = errors(load(path).model, ratios)
        every, alone = every + found, alone + plain
        shown = " | ".join(f"{e:+.1%}" for e in found)
        print(f"| {path.stem} | {shown} | {summary(found)} | {summary(plain)} |", flush=True)
    tail = [f"{np.median(np.abs(x)):.1%}, 90th percentile {np.percentile(np.abs(x), 90):.1%}" for x in (every, alone)]
    print(f"\nAll cuts: median error {tail[0]}; MACs alone {tail[1]}.")


if __name__ == "__main__":
    main()
