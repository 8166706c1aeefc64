#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Reproduce CCPrune (Chen et al., Neurocomputing 2021) on Fashion-MNIST or CIFAR-10, beside other criteria and Torch-Pruning.

usage: python tools/reproduce.py [--list | --table] [--data FOLDER] [--only PATTERN] [--hours H] [--full]

Each job cuts one trained network and retrains it; jobs with the same network, sparsity and seed share that network. A job that
is done is a line in models/reproduction.jsonl and is not run again, so the script can be stopped at any time: a kill loses the
job that it was at. Epochs are chosen by 5,000 held-out training images; the test set is read when a job is done.
Needs torch and accelerate, and torch-pruning for its rows. `--list` says how long the jobs take on two cores. Two copies with
OMP_NUM_THREADS=1 take less time than one, if --only gives each its own seeds.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from reproduction.jobs import jobs
from reproduction.results import done, listed, run, table

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

from reproduction.work import Bench, result

from models.datasets import DEBIAN, read
from models.training import Settings
from onnxprune.errors import PruneError

RESULTS = Path(__file__).resolve().parents[1] / "models" / "reproduction.jsonl"
WORK = Path.home() / ".cache" / "onnxprune-reproduction"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEBIAN)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--work", type=Path, default=WORK, help="folder for trained networks")
    parser.add_argument("--only", default="", metavar="PATTERN", help="only jobs whose name has this (a regular expression)")
    parser.add_argument("--hours", type=float, default=float("inf"), help="start no job after so many hours")
    parser.add_argument("--full", action="store_true", help="also VGG-19 and ResNet-50 at full width")
    parser.add_argument("--list", action="store_true", help="print the jobs and how long they take")
    parser.add_argument("--table", action="store_true", help="print the table of all results")
    parser.add_argument("--cpu", action="store_true", help="stay on the CPU")
    parser.add_argument("--precision", choices=("no", "bf16", "fp16"), help="mixed precision")
    parser.add_argument("--subset", type=int, default=0, metavar="N", help="only N images of each part, for tries")
    options = parser.parse_args()
    asked = [job for job in jobs(options.full) if re.search(options.only, job.name)]
    if options.list or options.table:
        print("\n".join((listed if options.list else table)(asked, done(options.results))))
        return
    try:
        data = read(options.data)
        data = data.first(options.subset) if options.subset else data
        settings = Settings(keep_best=True, precision=options.precision, cpu=options.cpu)
        bench = Bench(data, options.work, settings)
        run(asked, options.results, options.hours, lambda job: result(job, bench))
    except PruneError as e:
        sys.exit(f"error: {e.message}")


if __name__ == "__main__":
    main()
