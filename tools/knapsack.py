#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Widths by a knapsack beside widths in order of score, within the same multiply-accumulates.

usage: python tools/knapsack.py [FOLDER] [--macs 50,25] [--criteria obs,ccprune] [--only NAME,...]
FOLDER holds the inputs that `train_networks.py` wrote. Each network is cut to each share of its MACs, once in order of score
and once by a knapsack of the same scores, reconstructed on the same inputs, and judged by its metric on others. Prints a
Markdown table, with the seconds that the knapsack takes beyond the order.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from figures import processor
from trained.judging import Held, Judge
from trained.registry import CACHE, Trained, at_hand
from uniform import judged

from onnxprune.cli.options import shapes_of
from onnxprune.ir.files import load
from onnxprune.options import Options
from onnxprune.pipeline.components import DEFAULT
from onnxprune.pipeline.prune import prune_loaded
from onnxprune.pipeline.resolve import resolved
from onnxprune.selection.knapsack import knapsack
from onnxprune.selection.space import Space
from onnxprune.selection.strategy import Chosen, Limit, Strategy, greedy


def rows(networks: Sequence[Trained], folder: Path, macs: Sequence[str], criteria: Sequence[str]) -> Iterator[str]:
    """A row per network, criterion and share."""
    for network in networks:
        judge = Judge(network.metric, network.model, Held.read(folder / f"{network.name}.held.npz"), network.parts)
        for criterion in criteria:
            for share in macs:
                taken: list[list[float]] = [[], []]
                ways = [_timed(way, times) for way, times in zip((greedy, knapsack), taken, strict=True)]
                found = [one(network, folder, share, criterion, judge, way) for way in ways]
                values = " | ".join(f"{x:.1%}" for x in found)
                gain, more = 100 * (found[1] - found[0]), sum(taken[1]) - sum(taken[0])
                yield f"| {network.name} | {criterion} | {share} % | {values} | {gain:+.1f} | {more:.1f} s |"


def one(network: Trained, folder: Path, share: str, criterion: str, judge: Judge, way: Strategy) -> float:
    """The metric of a cut."""
    loaded, data = load(network.model), str(folder / f"{network.name}.fit.npz")
    shapes = shapes_of([network.shape], loaded) if network.shape else {}
    asked = Options.of(
        macs=f"{share}%",
        criterion=criterion,
        data=data,
        recover="reconstruct",
        verify=False,
        bench=False,
        input_shape=shapes,
    )
    return judged(judge, prune_loaded(loaded, resolved(asked), components=replace(DEFAULT, strategy=way)).model).metric


def _timed(way: Strategy, taken: list[float]) -> Strategy:
    def timed(space: Space, limits: Sequence[Limit]) -> Chosen:
        start = time.perf_counter()
        found = way(space, limits)
        taken.append(time.perf_counter() - start)
        return found

    return timed


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=CACHE)
    parser.add_argument("--macs", default="50,25")
    parser.add_argument("--criteria", default="obs,ccprune")
    parser.add_argument("--only", default="", help="only networks whose name contains one of these, separated by commas")
    options = parser.parse_args()
    networks = [t for t in at_hand(options.folder) if any(name in t.name for name in options.only.split(","))]
    if not networks:
        parser.error(f"{options.folder}: no inputs; run tools/train_networks.py first")
    print(f"{processor()}\n")
    print("| network | criterion | MACs | in order | knapsack | gain | longer by |")
    print("|---" * 7 + "|")
    for row in rows(networks, options.folder, options.macs.split(","), options.criteria.split(",")):
        print(row, flush=True)


if __name__ == "__main__":
    main()
