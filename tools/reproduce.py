#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Reproduce CCPrune (Chen et al., Neurocomputing 2021) on Fashion-MNIST or CIFAR-10, beside other criteria and Torch-Pruning.

usage: python tools/reproduce.py [--list | --time | --table] [--data FOLDER] [--only PATTERN] [--workers N] [--hours H] [--full]

Each job cuts one trained network and retrains it; jobs with the same network, sparsity and seed share that network. A job that
is done is a line in models/reproduction.jsonl and is not run again. The script can be stopped at any time: a training goes on
after its last whole epoch. Results of another data set, or of --subset, need a file of their own (--results).

Epochs are chosen by 5,000 held-out training images; the test set is read when a job is done. Needs torch and accelerate, and
torch-pruning for its rows. `--list` says how long the jobs take on two cores. Jobs run side by side, one thread each; `--time`
times their networks afterwards, one by one, on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from reproduction.jobs import Job, jobs

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

from reproduction.results import append, done, listed, rewrite, table
from reproduction.schedule import run
from reproduction.work import Place, bench_at, latency, result_at, train_at

from models.datasets import DEBIAN
from models.training import Settings
from onnxprune.errors import OptionError, PruneError

RESULTS = Path(__file__).resolve().parents[1] / "models" / "reproduction.jsonl"
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""Read by the libraries when a process loads them."""
WORK = Path.home() / ".cache" / "onnxprune-reproduction"


def at_least_one(text: str) -> int:
    """A whole number above 0."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text}, expected at least 1")
    return int(text)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEBIAN)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--work", type=Path, default=WORK, help="folder for trained networks")
    parser.add_argument("--only", default="", metavar="PATTERN", help="only jobs whose name has this (a regular expression)")
    parser.add_argument(
        "--workers", type=at_least_one, default=os.cpu_count() or 1, help="jobs at a time (default: one per core)"
    )
    parser.add_argument("--hours", type=float, default=float("inf"), help="start no job after so many hours")
    parser.add_argument("--full", action="store_true", help="also VGG-19 and ResNet-50 at full width")
    parser.add_argument("--list", action="store_true", help="print the jobs and how long they take")
    parser.add_argument("--time", action="store_true", help="time the networks of all jobs that are done")
    parser.add_argument("--table", action="store_true", help="print the table of all results")
    parser.add_argument("--cpu", action="store_true", help="stay on the CPU")
    parser.add_argument("--precision", choices=("no", "bf16", "fp16"), help="mixed precision")
    parser.add_argument("--subset", type=int, default=0, metavar="N", help="only N images of each part, for tries")
    options = parser.parse_args()
    asked = [job for job in jobs(options.full) if re.search(options.only, job.name)]
    if options.list or options.table:
        print("\n".join((listed if options.list else table)(asked, done(options.results))))
        return
    settings = Settings(keep_best=True, precision=options.precision, cpu=options.cpu)
    place = Place(options.data, options.work, settings, options.subset)
    try:
        (time_all if options.time else run_all)(asked, place, options)
    except PruneError as e:
        sys.exit(f"error: {e.message}")


def run_all(asked: Sequence[Job], place: Place, options: argparse.Namespace) -> None:
    """Run the jobs that have no result yet.

    Raises:
        OptionError: the results are those of another data set.
    """
    data = bench_at(place).data.name  # a missing data set is one line here, and a traceback in each process
    known = done(options.results)
    if other := next((r["data"] for r in known.values() if r["data"] != data), ""):
        raise OptionError(f"--results {options.results}: holds results of {other}, not of {data}; choose another file")
    os.environ.update(ONE_THREAD if options.workers > 1 else {})
    with ProcessPoolExecutor(options.workers, get_context("spawn")) as pool:
        left = (job for job in asked if job.name not in known)
        at = partial(train_at, place), partial(result_at, place)
        for record in run(left, 3600 * options.hours, pool, options.workers, *at):
            append(options.results, record)


def time_all(asked: Sequence[Job], place: Place, options: argparse.Namespace) -> None:
    """Time the networks of the jobs that are done, as far as their files are there."""
    known, bench = done(options.results), bench_at(place)
    for job in asked:
        if job.name in known and bench.pruned(job).exists():
            known[job.name] |= latency(job, bench)
            print(f"{job.name}: {known[job.name]['ms']:.2f} ms", flush=True)
    rewrite(options.results, known.values())


if __name__ == "__main__":
    main()
