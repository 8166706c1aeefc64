#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the program on damaged and odd inputs, and says what came of it.

usage: python tools/fuzz.py {models,plans,data,images,options} [--count 300] [--first 0] [--seed 0] [--jobs 2] [--out FOLDER]
                            [--only NAME] [--seeds FOLDER] [--check EXACT.py] [--package FOLDER]
       python tools/fuzz.py compare OTHER_CHECKOUT [the same]

Mutant k of a seed is always the same bytes. Each is run in a forked process, within 30 s and 4 GiB; a second one tries
whether onnxruntime runs the file at all, a third one runs the result. With --out, each run is a line of FOLDER/KIND.jsonl, runs
that are there already are not repeated, and the files of those that failed are kept, each with a `case.txt`. `compare` runs the
code of another checkout on the same models: which mutants that onnxruntime runs does it cut, and this one not? Exit status 1 if
anything is at fault. Linux only.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from fuzzing.arrays import data
from fuzzing.cases import Case
from fuzzing.child import scratch
from fuzzing.mutation import mutant
from fuzzing.outcome import Row, tables
from fuzzing.pictures import images
from fuzzing.running import Runner
from fuzzing.seeds import seeds
from fuzzing.texts import plans
from fuzzing.words import options as words

HERE = Path(__file__).resolve().parent.parent
STILL_CUT = 0.95
"""The share of what another checkout cuts that must still be cut."""
ALONE = {"ORT_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""Settings without which libraries start threads when they are imported; a process that forks must have none."""
OTHERS: dict[str, Callable[[str, int], Case]] = {"plans": plans, "data": data, "images": images, "options": words}


def names(options: argparse.Namespace) -> list[str]:
    """The names of the mutants that are asked for."""
    if options.only:
        return [options.only.removeprefix(f"{options.kind}/")]
    wanted = range(options.first, options.first + options.count)
    if options.kind != "models":
        return [str(k) for k in wanted]
    found = sorted(seeds(options.seeds))
    return [f"{found[k % len(found)]}/{k // len(found)}" for k in wanted]


def case_of(name: str, options: argparse.Namespace) -> Case:
    """A mutant."""
    if options.kind != "models":
        return OTHERS[options.kind](name, options.seed)
    makers = seeds(options.seeds)
    found, seed = sorted(makers), name.rpartition("/")[0]
    other = makers[found[(found.index(seed) + 1) % len(found)]]().SerializeToString()
    return mutant(name, options.seed, makers[seed], other)


def run(options: argparse.Namespace, folder: Path) -> list[Row]:
    """Run all cases that have no line in the folder yet, in several processes, and return all rows."""
    lines = folder / f"{options.kind}.jsonl"
    lines.parent.mkdir(parents=True, exist_ok=True)
    lines.touch()
    asked = names(options)
    known = {row.name for row in read(lines)}
    runner = Runner(options.package, options.check, folder / "failed" if options.out else None, bool(options.only))
    runner.prepare()
    workers = []
    for worker in range(options.jobs):
        pid = os.fork()
        if not pid:
            status = 1
            try:
                for name in asked[worker :: options.jobs]:
                    if f"{options.kind}/{name}" not in known or options.only:
                        row = runner.run(case_of(name, options)).as_json() + "\n"
                        with lines.open("a", encoding="utf-8") as file:
                            file.write(row)
                status = 0
            except Exception:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(status)
        workers.append(pid)
    statuses = [os.waitpid(pid, 0)[1] for pid in workers]
    if any(statuses):
        raise SystemExit("fuzz: a worker ended early; see its traceback above")
    wanted = {f"{options.kind}/{name}" for name in asked}
    return list({row.name: row for row in read(lines) if row.name in wanted}.values())


def read(lines: Path) -> list[Row]:
    """The rows of a file; a line cut short by an interruption is left out."""
    text = lines.read_text(encoding="utf-8") if lines.exists() else ""
    return [Row.of(line) for line in text.splitlines() if line.endswith("}")]


def compare(options: argparse.Namespace, folder: Path) -> bool:
    """Whether what another checkout cuts is still cut here."""
    options.kind = "models"
    other = folder / "other"
    words = [*sys.argv[:1], "models", "--package", str(options.other), "--out", str(other)]
    words += [
        w
        for name in ("count", "first", "seed", "jobs", "seeds")
        if (value := getattr(options, name)) is not None
        for w in (f"--{name}", str(value))
    ]
    subprocess.run([sys.executable, *words], check=False, stdout=subprocess.DEVNULL)
    mine, theirs = {row.name: row for row in run(options, folder / "own")}, read(other / "models.jsonl")
    cut = [row for row in theirs if row.name in mine and row.runs and row.cut and row.done]
    lost = [row for row in cut if not (mine[row.name].cut and mine[row.name].done)]
    for row in lost:
        now = mine[row.name]
        print(f"{row.name}: {row.what}\n    onnxprune {' '.join(row.arguments)}\n    {now.outcome}: {now.said}")
    share = 1 - len(lost) / max(1, len(cut))
    more = sum(r.name in mine and mine[r.name].cut and bool(r.runs) and not r.cut for r in theirs)
    print(f"\nof {len(cut)} mutants that run and are cut by {options.other}, {share:.1%} are still cut; {more} more are")
    return share >= STILL_CUT


def main() -> None:
    """Command line."""
    if not ALONE.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ALONE})
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("models", *OTHERS, "compare"))
    parser.add_argument("other", nargs="?", type=Path, help="for compare: another checkout")
    parser.add_argument("--count", type=int, default=300, help="how many mutants")
    parser.add_argument("--first", type=int, default=0, help="the number of the first")
    parser.add_argument("--seed", type=int, default=0, help="other mutants")
    parser.add_argument("--jobs", type=int, default=2, help="mutants at a time")
    parser.add_argument("--out", type=Path, help="where results are kept; runs that are there are not repeated")
    parser.add_argument("--only", metavar="NAME", help="one mutant, such as 'plain/3'; what it prints is shown")
    parser.add_argument("--seeds", type=Path, help="a folder of small .onnx files to mutate instead of our own")
    parser.add_argument("--check", type=Path, help="a script that verifies a cut: check(original, pruned, plan) -> dict")
    parser.add_argument("--package", type=Path, default=HERE, help="a folder that holds the package; by default this checkout")
    options = parser.parse_args()
    if (options.kind == "compare") != (options.other is not None):
        parser.error("compare needs another checkout, the other commands take none")
    start = time.monotonic()
    with scratch() as made:
        folder = (options.out or made).resolve()
        if options.kind == "compare":
            sys.exit(not compare(options, folder))
        rows = run(options, folder)
    print(f"\n{options.kind}: {len(rows)} mutants, {time.monotonic() - start:.0f} s\n")
    print("\n".join(tables(rows)))
    sys.exit(any(row.faults for row in rows))


if __name__ == "__main__":
    main()
