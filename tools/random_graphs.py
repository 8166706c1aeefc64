#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The cut law on many more random networks than the test suite has time for.

usage: python tools/random_graphs.py [--examples 20000] [--first 0]
Each example is a network of tests/test_random_graphs.py, cut at random and compared with the masked original. Exit status 1 if
any differs; the line that is printed names the seed and the layers, `--first SEED --examples 1` runs it again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from rich.progress import track

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.models import cut_some
from tests.test_random_graphs import LAYERS, network


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=20000)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    atoms, bad = [], 0
    seeds = range(options.first, options.first + options.examples)
    for seed in track(seeds, "random networks", disable=not sys.stderr.isatty()):
        rng = np.random.default_rng([7, seed])
        layers = rng.integers(0, len(LAYERS), int(rng.integers(1, 9))).tolist()
        try:
            atoms.append(cut_some(network(layers, seed), seed).atoms)
        except Exception as e:  # every kind of failure is a finding
            bad += 1
            print(f"seed {seed}: {[LAYERS[k].__name__ for k in layers]}: {type(e).__name__}: {' '.join(str(e).split())[:300]}")
    free = float(np.mean([a > 0 for a in atoms])) if atoms else 0.0
    print(
        f"random networks: {len(seeds)} cut, {bad} wrong; {free:.0%} have free channels, {np.mean(atoms or [0]):.1f} on average"
    )
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
