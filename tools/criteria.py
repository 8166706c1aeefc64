#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Accuracy after a plain cut (no retraining, no recovery) for every criterion: the basis for the default.

usage: python tools/criteria.py [--align none] [MODEL.onnx DATA.npz]
Prints a Markdown table: a row per criterion, a column per scope and ratio; top-1 on the data, and the mean over the columns.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

import onnxprune
from onnxprune.data.load import load_data
from onnxprune.evaluation.evaluator import accuracy
from onnxprune.ir.files import load
from onnxprune.selection.criteria import NAMES
from onnxprune.selection.criteria.names import CALIBRATED

MODELS = Path(__file__).resolve().parent.parent / "models"
RATIOS = (0.05, 0.1, 0.15, 0.2, 0.3)


def top1(model: str, data: str, ratio: float, scope: str, criterion: str, align: str, seed: int = 0) -> float:
    """Accuracy in percent of one cut."""
    options: dict[str, Any] = {"scope": scope, "criterion": criterion, "align": align, "seed": seed, "recover": "none"}
    result = onnxprune.prune(model, ratio, verify=False, bench=False, **options)
    found = accuracy(result.model, load_data(data, result.model))
    return 100 * (found or 0.0)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default=str(MODELS / "resnet20-fashion-mnist.onnx"))
    parser.add_argument("data", nargs="?", default=str(MODELS / "resnet20-fashion-mnist.npz"))
    parser.add_argument("--align", default="none")
    options = parser.parse_args()
    data = load_data(options.data, load(options.model).model)
    before = accuracy(load(options.model).model, data)
    columns = [(scope, r) for scope in ("global", "local") for r in RATIOS]
    print(f"{options.model}: {100 * (before or 0):.1f} % on {len(data)} samples before the cut; align {options.align}\n")
    print("| criterion | " + " | ".join(f"{scope} {r:.0%}" for scope, r in columns) + " | mean |")
    print("|---" * (len(columns) + 2) + "|")
    for criterion in (name for name in NAMES if name not in CALIBRATED):
        seeds = range(3) if criterion == "random" else range(1)
        rows = [[top1(options.model, options.data, r, s, criterion, options.align, seed) for s, r in columns] for seed in seeds]
        values = np.median(rows, 0)
        print(f"| `{criterion}` | " + " | ".join(f"{v:.1f}" for v in values) + f" | {values.mean():.1f} |", flush=True)


if __name__ == "__main__":
    main()
