#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The cut law on many more random networks than the test suite has time for.

usage: python tools/random_graphs.py [--examples 20000] [--first 0] [--jobs 2]
Each example is a network of tests/test_random_graphs.py, cut at random and compared with the masked original. Exit status 1 if
any differs; the line that is printed names the seed and the layers, `--first SEED --examples 1` runs it again.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from rich.progress import track

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.models import cut_some
from tests.test_random_graphs import LAYERS, network


def examine(seed: int) -> tuple[int, str]:
    """How many channels of network `seed` are free, and what is wrong with its cut (empty: nothing)."""
    rng = np.random.default_rng([7, seed])
    layers = rng.integers(0, len(LAYERS), int(rng.integers(1, 9))).tolist()
    try:
        return cut_some(network(layers, seed), seed).atoms, ""
    except Exception as e:  # every kind of failure is a finding
        named = [LAYERS[k].__name__ for k in layers]
        return 0, f"seed {seed}: {named}: {type(e).__name__}: {' '.join(str(e).split())[:300]}"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=20000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="networks at a time")
    options = parser.parse_args()
    seeds = range(options.first, options.first + options.examples)
    atoms, bad = [], 0
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as pool:
        examined = pool.map(examine, seeds, chunksize=max(1, min(50, len(seeds) // options.jobs)))
        for free, wrong in track(examined, "random networks", len(seeds), disable=not sys.stderr.isatty()):
            if wrong:
                bad += 1
                print(wrong, flush=True)
            else:
                atoms.append(free)
    share, each = (float(np.mean(x)) if atoms else 0.0 for x in ([a > 0 for a in atoms], atoms))
    print(f"random networks: {len(seeds)} cut, {bad} wrong; {share:.0%} have free channels, {each:.1f} on average")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
