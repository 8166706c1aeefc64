#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Prints the table of docs/figures.md: size, speed and error of cuts of real models, measured on this machine.

usage: python tools/figures.py [--ratios 0.15 0.3 0.5] [--align auto] [--scope global] [MODEL.onnx[=DATA.npz] ...]
Without models: the ResNet-20 in models/ with its part of the test set. Every cut is verified equal to the masked original
before timing; original and pruned run in turn in one process, one thread; the spread is the 10th to 90th percentile.
"""

from __future__ import annotations

import argparse
import platform
from pathlib import Path

import onnxruntime

import onnxprune

MODELS = Path(__file__).resolve().parent.parent / "models"
DEFAULT = f"{MODELS / 'resnet20-fashion-mnist.onnx'}={MODELS / 'resnet20-fashion-mnist.npz'}"


def processor() -> str:
    """The name of the processor, from the system."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model"))]
    return names[0] if names else platform.machine()


def row(model: str, data: str, ratio: float, align: str, scope: str) -> str:
    """One line of the table."""
    r = onnxprune.prune(model, ratio, align=align, scope=scope, data=data or None, recover="none").report
    assert r.benchmark is not None
    assert r.verification is not None
    a, b = r.benchmark.latencies
    hits = f"{100 * r.accuracy.before:.1f} -> {100 * r.accuracy.after:.1f} %" if r.accuracy else ""
    spread = f"{r.benchmark.speedup_low[1]:.2f}-{r.benchmark.speedup_high[1]:.2f}"
    cells = (
        Path(model).name.removesuffix(".onnx"),
        f"{ratio:g}",
        f"{r.ratio:.1%}",
        f"{r.macs.before / 1e6:,.1f} -> {r.macs.after / 1e6:,.1f} M ({r.macs.kept:.0%})",
        f"{r.bytes.before / 1e6:.2f} -> {r.bytes.after / 1e6:.2f} MB",
        f"{a.median_ms:.2f} -> {b.median_ms:.2f} ms",
        f"**{r.benchmark.speedup[1]:.2f}x** ({spread})",
        f"{r.verification.error:.0e}",
        hits,
    )
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=[DEFAULT], metavar="MODEL.onnx[=DATA.npz]")
    parser.add_argument("--ratios", nargs="+", type=float, default=[0.15, 0.3, 0.5])
    parser.add_argument("--align", default="auto")
    parser.add_argument("--scope", default="global")
    options = parser.parse_args()
    print(f"{processor()}, one thread, onnxruntime {onnxruntime.__version__}, align {options.align}, scope {options.scope}\n")
    print(
        "| model | `--ratio` | removed | MACs | file | latency | speed-up (10-90 %) | verification error | top-1, no recovery |"
    )
    print("|---" * 9 + "|")
    for entry in options.models:
        model, _, data = entry.partition("=")
        for ratio in options.ratios:
            print(row(model, data, ratio, options.align, options.scope), flush=True)


if __name__ == "__main__":
    main()
