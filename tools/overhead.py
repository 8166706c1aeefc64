#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Whole-process time of a cut relative to a Python process that only loads and saves the same file with onnx.

usage: python tools/overhead.py MODEL.onnx [--ratio 0.5] [--runs 7]
Both run in turn (A B A B ...) after one warm-up each; prints medians, spreads, and the median of the paired ratios.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LOAD_AND_SAVE = "import sys, onnx; onnx.save(onnx.load(sys.argv[1]), sys.argv[2])"


def timed(command: list[str]) -> float:
    """Seconds from start to end of a process, which must succeed."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--ratio", default="0.5")
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "out.onnx")
        base = [sys.executable, "-c", LOAD_AND_SAVE, options.model, out]
        prune = [sys.executable, "-m", "onnxprune", options.model, "--ratio", options.ratio, "--no-bench", "--no-verify"]
        prune += ["--recover", "none"]
        prune += ["-o", out, "--force"]
        pairs = [(timed(base), timed(prune)) for _ in range(options.runs + 1)][1:]
    for name, times in zip(("load and save with onnx", "onnxprune"), zip(*pairs, strict=True), strict=True):
        print(
            f"{name:<24} median {statistics.median(times):.2f} s   {min(times):.2f}-{max(times):.2f} s over {len(times)} runs"
        )
    ratios = sorted(b / a for a, b in pairs)
    print(f"ratio                    median {statistics.median(ratios):.2f}x  {ratios[0]:.2f}-{ratios[-1]:.2f}x (at most 2.5x)")


if __name__ == "__main__":
    main()
