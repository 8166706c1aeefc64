#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Whether two checkouts do the same: plans, reports and cut files of the same models, byte for byte.

usage: python tools/compare.py BEFORE AFTER --models FOLDER [FOLDER ...] [--zoo FOLDER] [--graphs 30] [--only GLOB]
       [--keep FOLDER] [--words FILE]

BEFORE and AFTER are folders that hold the package, such as two clones of the repository at different commits. Every job is one
command line, run in a process of its own; a model is called by the same relative path in both. What is measured (seconds,
latency) is left out. Each row says `same`; `words` where nothing differs but stderr and sentences of the report (--words FILE:
the texts); or `DIFFERENT`, and where: a name that differs, such as the criterion or the recovery method, is no matter of words.
With --keep, results that lie in that folder from an earlier call are used again. Exit status 1 if any is different.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

MEASURED = {"seconds", "benchmark"}
"""Entries of a report that no two runs share."""
SENTENCES = {"align_reason", "notes", "reason", "source", "warnings", "why"}
"""Entries of a report that are written for a reader: their wording may differ."""
QUICK = ["--no-bench", "--format", "json"]
CUT = ["--recover", "none", *QUICK]
ZOO_JOBS = {"half": ["--ratio", "0.5", "--scope", "local", *CUT], "inspect": []}
REAL_JOBS = {
    "third": ["--ratio", "0.3", *CUT],
    "half of the MACs": ["--macs", "50%", "--criterion", "l1", *CUT],
    "free": ["--ratio", "0.5", "--scope", "local", "--align", "none", "--criterion", "l2", *CUT],
    "renormalising": ["--ratio", "0.5", "--allow-renormalising", *CUT],
    "inspect": [],
}
"""Name of a job -> options of `prune`; none for `inspect`."""
DATA_JOBS = {
    "data": ["--ratio", "0.3", *QUICK],
    "data, deep": ["--macs", "26%", "--scope", "local", "--samples", "200", *QUICK],
    "data, subset": ["--ratio", "0.5", "--criterion", "subset_fidelity", "--samples", "100", "--recover", "bias", *QUICK],
    "data, activation": ["--ratio", "0.4", "--criterion", "activation", "--samples", "100", "--recover", "reconstruct", *QUICK],
    "data, rounds": ["--ratio", "0.5", "--rounds", "3", "--samples", "100", *QUICK],
}
SYNTHETIC = ["--ratio", "0.3", *QUICK]
SMALL = 2**21
"""Files below this many bytes are also recovered on synthetic inputs."""


class Job(NamedTuple):
    """One command line on one model, and the folder where its model lies."""

    name: str
    model: Path
    options: list[str]


class Result(NamedTuple):
    """What a job left: exit status, the report, and a digest of each file."""

    status: int
    report: Any
    files: dict[str, str]
    said: str


def jobs(models: list[Path], zoo: list[Path]) -> Iterator[Job]:
    """All command lines."""
    for model in zoo:
        yield from (Job(name, model, options) for name, options in ZOO_JOBS.items())
    for model in models:
        yield from (Job(name, model, options) for name, options in REAL_JOBS.items())
        if model.stat().st_size < SMALL:
            yield Job("synthetic", model, SYNTHETIC)
        if model.with_suffix(".npz").exists():
            data = ["--data", str(model.with_suffix(".npz").resolve())]
            yield from (Job(name, model, [*options, *data]) for name, options in DATA_JOBS.items())


def run(package: Path, job: Job, folder: Path) -> Result:
    """Run a job with the package that lies in a folder."""
    kept = folder / "result.json"
    if kept.exists():
        return Result(**json.loads(kept.read_text(encoding="utf-8")))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    local = folder / job.model.name
    local.symlink_to(job.model.resolve())
    words = [local.name, *job.options, "-o", "cut.onnx"] if job.options else ["inspect", local.name, "--format", "json"]
    env = {**os.environ, "PYTHONPATH": str(package.resolve()), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "onnxprune", *words], cwd=folder, env=env, capture_output=True, text=True, check=False
    )
    files = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.glob("cut*"))}
    report = json.loads(done.stdout) if done.stdout.startswith("{") else done.stdout
    result = Result(done.returncode, report, files, done.stderr)
    kept.write_text(json.dumps(result._asdict()), encoding="utf-8")
    return result


Place = tuple[str, ...]
"""The keys on the way to an entry of a report."""


def leaves(value: Any, at: Place = ()) -> Iterator[tuple[Place, Any]]:
    """(place, value) of everything in a report that is not measured."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key not in MEASURED:
                yield (*at, key), type(inner).__name__
                yield from leaves(inner, (*at, key))
    elif isinstance(value, list):
        yield at, len(value)
        for k, inner in enumerate(value):
            yield from leaves(inner, (*at, str(k)))
    else:
        yield at, value


def difference(a: Result, b: Result) -> tuple[str, list[str]]:
    """`same`, `words` or `DIFFERENT`, and where."""
    x, y = list(leaves(a.report)), list(leaves(b.report))
    unequal = [(p, v, w, p == q and _sentence(p, v, w)) for (p, v), (q, w) in zip(x, y, strict=False) if (p, v) != (q, w)]
    told = [_change(p, v, w) for p, v, w, sentence in unequal if sentence]
    hard = [_change(p, v, w) for p, v, w, sentence in unequal if not sentence]
    hard += [f"{len(x)} entries -> {len(y)}"] * (len(x) != len(y))
    hard += [f"status {a.status} -> {b.status}: {b.said[-300:]}"] * (a.status != b.status)
    hard += [f"file {n}" for n in {*a.files, *b.files} if a.files.get(n) != b.files.get(n)]
    told += [f"stderr: {a.said!r} -> {b.said!r}"] * (a.said != b.said)
    return ("DIFFERENT", hard) if hard else ("words", told) if told else ("same", [])


def _sentence(place: Place, a: Any, b: Any) -> bool:
    return isinstance(a, str) and isinstance(b, str) and not SENTENCES.isdisjoint(place)


def _change(place: Place, a: Any, b: Any) -> str:
    return f"{'/'.join(place)}: {a!r} -> {b!r}"


def hydrated(zoo: Path, count: int, folder: Path) -> list[Path]:
    """`count` graphs of a zoo, spread over it, with weights."""
    files = sorted(zoo.glob("*.onnx.gz"))
    found = []
    folder.mkdir(parents=True, exist_ok=True)
    for file in files[:: max(1, len(files) // count)][:count]:
        path = folder / file.name.removesuffix(".gz")
        if not path.exists():
            subprocess.run([sys.executable, str(zoo / "hydrate.py"), "-o", str(folder), str(file)], check=True)
        found.append(path)
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument(
        "--models", type=Path, nargs="+", required=True, help="folders of .onnx files, perhaps with an .npz each"
    )
    parser.add_argument("--zoo", type=Path, help="a folder of graphs without weights and hydrate.py")
    parser.add_argument("--graphs", type=int, default=30, help="how many graphs of the zoo")
    parser.add_argument("--only", default="*", help="a pattern of model names")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--keep", type=Path, default=Path("compared"), help="where results lie")
    parser.add_argument("--words", type=Path, help="a file for the texts that differ")
    args = parser.parse_args()
    models = [m for folder in args.models for m in sorted(folder.glob("*.onnx"))]
    zoo = hydrated(args.zoo, args.graphs, args.keep / "zoo") if args.zoo else []
    work = [job for job in jobs(models, zoo) if fnmatch.fnmatch(job.model.stem, args.only)]

    def both(job: Job) -> tuple[str, list[str]]:
        at = f"{job.model.stem}/{job.name}"
        return difference(run(args.before, job, args.keep / "before" / at), run(args.after, job, args.keep / "after" / at))

    counts: dict[str, int] = {}
    texts: list[str] = []
    with ThreadPoolExecutor(args.jobs) as pool:
        for job, (verdict, where) in zip(work, pool.map(both, work), strict=True):
            counts[verdict] = counts.get(verdict, 0) + 1
            print(f"{verdict:<10} {job.model.stem}: {job.name}", flush=True)
            if verdict == "DIFFERENT":
                print("\n".join(f"           {w[:300]}" for w in where[:5]), flush=True)
            texts += [f"{job.model.stem}: {job.name}", *where]
    if args.words:
        args.words.write_text("\n".join(texts) + "\n", encoding="utf-8")
    print(", ".join(f"{n} {verdict}" for verdict, n in counts.items()))
    sys.exit("DIFFERENT" in counts)


if __name__ == "__main__":
    main()
