#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A text recogniser in blocks of one magnitude: size and accuracy for several shares of its blocks.

usage: python tools/ocr_blocks.py MODEL.onnx [--shares 1,0.95,0.9,0.85] [--runtimes 1.20,1.24] [--recover reconstruct]
       [--time-budget 10m] [--block 16]
The model, the words and the fonts are those of ocr_case.py. All layers are divided. Prints a Markdown table: the file relative
to the original, plain and under Zstandard; characters read right on test words, and relative to the original's; ± is the
standard error over test words.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import ocr_words as ocr
from figures import processor
from ocr_case import Bench, Reading, judged, prepared

import onnxprune
from onnxprune.ir.packing import packed_size


@dataclass(frozen=True)
class Asked:
    """What every row is made with.

    Attributes:
        block: size of a block.
        recover, budget: how weights are fitted, and in which time.
        seed: chooses blocks and rows.
    """

    block: str
    recover: str
    budget: str
    seed: int


def row(bench: Bench, runtime: str, share: float, asked: Asked, before: Reading) -> str:
    """One share of blocks, for one release of onnxruntime."""
    start = time.perf_counter()
    found = onnxprune.unify(
        bench.model,
        asked.block,
        share=share,
        runtime=runtime,
        all_layers=True,
        data=replace(bench.fit, labels=None),
        recover=asked.recover,
        time_budget=asked.budget,
        seed=asked.seed,
        bench=False,
    )
    seconds, reading = time.perf_counter() - start, judged(bench, found.model)
    file, whole = found.model.SerializeToString(), len(bench.model.SerializeToString())
    sizes = [f"{size / whole:.1%}" for size in (len(file), packed_size(file))]
    assert found.report.unification is not None
    codes = found.report.unification.carrier.codes
    cells = [f"{share:g}", codes, *sizes, str(reading), f"{reading.characters / before.characters:.1%}"]
    return f"| {' | '.join(cells)} | {seconds:.0f} |"


def table(bench: Bench, shares: list[float], runtimes: list[str], asked: Asked) -> Iterator[str]:
    """Markdown."""
    before = judged(bench, bench.model)
    yield "| share | codes | file | zstd | characters | words | of the original | seconds |"
    yield "|---" * 8 + "|"
    yield f"| the original | | | | {before} | | |"
    yield from (row(bench, runtime, share, asked, before) for runtime in runtimes for share in shares)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--shares", default="1,0.95,0.9,0.85")
    parser.add_argument("--runtimes", default="1.20", help="oldest releases that must load the file: 1.20, 1.24 or 1.32")
    parser.add_argument("--block", default="16")
    parser.add_argument("--recover", default="reconstruct")
    parser.add_argument("--time-budget", default="10m")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fonts", type=Path, default=ocr.FOLDER, help="folder of .ttf files")
    parser.add_argument("--words", type=Path, default=ocr.LIST, help="one word per line")
    parser.add_argument("--calibration", type=int, default=256, help="number of calibration words")
    parser.add_argument("--test", type=int, default=1000, help="number of test words")
    parser.set_defaults(seconds=0.0)
    options = parser.parse_args()
    try:
        bench, _ = prepared(options)
    except ocr.MissingError as e:
        parser.error(str(e))
    shares = [float(s) for s in options.shares.split(",")]
    asked = Asked(options.block, options.recover, options.time_budget, options.seed)
    print(f"{processor()}; blocks of {asked.block}, {asked.recover}; {len(bench.fit)} words; {options.test} test words\n")
    for line in table(bench, shares, options.runtimes.split(","), asked):
        print(line, flush=True)


if __name__ == "__main__":
    main()
