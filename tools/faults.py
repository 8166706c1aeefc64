#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Kills and errors at every moment, and what they leave.

usage: python tools/faults.py saves                            errors and kills before and after every system call of a save
       python tools/faults.py kills [--count 200] [--seed 0]   whole runs, ended by a signal at random moments

Both print a table, and end with 1 if a model does not load with its own weights, if a plan does not belong to the model
beside it (after a kill, once the next run has begun), if anything is left, or if a run says something untrue. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from itertools import product
from pathlib import Path

import numpy as np
import onnx
from fuzzing import injection
from onnx import ModelProto

from onnxprune.errors import OutputError
from onnxprune.ir.files import mark
from onnxprune.ir.saving import save
from onnxprune.ir.scratch import swept
from onnxprune.ir.tensors import array_of

ROOT = Path(__file__).resolve().parent.parent
OUT, PLAN = "out.onnx", "out.json"
NET = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N,3,8,8] x, float[32,3,3,3] w1, float[16,32,3,3] w2, float[5,16,1,1] w3) => (float[N,5,4,4] y) {
  a = Conv(x, w1) b = Relu(a) c = Conv(b, w2) d = Relu(c) y = Conv(d, w3)
}
"""
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGKILL: -9}
PROGRAM = [sys.executable, "-m", "onnxprune"]
CUT = ["--ratio", "0.5", "-o", OUT, "--force"]
WAYS = (["--no-bench", "--recover", "none"], ["--recover", "none"], ["--no-bench"], ["--time-budget", "1s"])
LONGEST = 60.0
"""Seconds after which a run is said to hang."""


def network(factor: float = 1.0) -> ModelProto:
    """A small network, with other weights for another factor."""
    made = onnx.parser.parse_model(NET)
    rng = np.random.default_rng(0)
    for v in list(made.graph.input)[1:]:
        shape = [d.dim_value for d in v.type.tensor_type.shape.dim]
        values = (factor * rng.standard_normal(shape)).astype(np.float32)
        made.graph.initializer.append(onnx.numpy_helper.from_array(values, v.name))
        made.graph.input.remove(v)
    return made


def marked(factor: float) -> ModelProto:
    """The network as this program writes it."""
    made = network(factor)
    mark(made)
    return made


def saved(folder: Path, factor: float, external: bool) -> None:
    """Save a network, and as its plan the digest of its file."""
    save(marked(factor), folder / OUT, [folder / PLAN], lambda digest: {folder / PLAN: digest}, external)


def factor_in(folder: Path) -> float | None:
    """Which network is in its place; None: none is.

    Raises:
        Exception: it does not load.
        StopIteration: it is neither, or half of one.
    """
    if not (folder / OUT).exists():
        return None
    found = {t.name: array_of(t) for t in onnx.load(folder / OUT).graph.initializer}
    known = {f: {t.name: array_of(t) for t in network(f).graph.initializer} for f in (1.0, 2.0)}
    return next(f for f, each in known.items() if all(np.array_equal(found[name], x) for name, x in each.items()))


def state(folder: Path) -> tuple[float | None, bool]:
    """Which network is in its place, and whether what is in the plan's belongs to it."""
    factor = factor_in(folder)
    digest = sha256((folder / OUT).read_bytes()).hexdigest() if factor else None
    return factor, ((folder / PLAN).read_text() if (folder / PLAN).exists() else None) == digest


def attempts(folder: Path, start: Path, external: bool) -> Iterator[tuple[int, Path]]:
    """A copy of a folder for every point of a save at which a fault can be injected."""
    probe = folder / "probe"
    shutil.copytree(start, probe)
    for point in range(injection.calls(lambda: saved(probe, 2.0, external))):
        place = folder / str(point)
        shutil.copytree(start, place)
        yield point, place
        shutil.rmtree(place)


def contents(folder: Path) -> dict[str, bytes]:
    """The files in a folder."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def belongs(folder: Path) -> set[str]:
    """The names of the files that a saved network has, with its plan."""
    weights = onnx.load(folder / OUT, load_external_data=False).graph.initializer
    return {OUT, PLAN, *(t.external_data[0].value for t in weights if t.external_data)}


def after_error(place: Path, external: bool, point: int) -> str:
    """Save with a disk error at a point: "refused" or "done"; anything else is a fault."""
    before = contents(place)
    try:
        injection.with_fault(lambda: saved(place, 2.0, external), point, injection.disk_error)
    except OutputError:
        return "refused" if contents(place) == before else "said that nothing was changed, but it was"
    return "done" if state(place) == (2.0, True) else "said nothing, but not everything was written"


def after_kill(place: Path, external: bool, point: int) -> str:
    """Save and be killed at a point: "undone" or "done"; anything else is a fault."""
    before = state(place)
    injection.killed(lambda: saved(place, 2.0, external), point)
    try:
        factor_in(place)
    except Exception as e:
        return f"does not load: {type(e).__name__}"
    if lines := swept(place):
        return f"the next run leaves {lines[0]}"
    found = state(place)
    if found not in (before, (2.0, True)):
        return "the plan and the model do not belong together after the next run has begun"
    if hidden := [p.name for p in place.iterdir() if p.name.startswith(".")]:
        return f"{hidden[0]} is left"
    saved(place, 2.0, external)
    if state(place) != (2.0, True) or {p.name for p in place.iterdir()} != belongs(place):
        return "the next run does not put things right"
    return "undone" if found == before else "done"


def saves() -> int:
    """Faults in saves of all kinds; the number of faults of ours."""
    vars(os)["fsync"] = lambda descriptor: None  # thousands of saves need not reach the disk
    names = {None: "nothing", False: "a model", True: "a model and its weights"}
    print("| there was | is written | points | error: refused | done | kill: undone | done | faults |")
    print("|---|---|--:|--:|--:|--:|--:|--:|")
    wrong: Counter[str] = Counter()
    for before, external in product((None, False, True), (False, True)):
        with tempfile.TemporaryDirectory() as folder:
            start, found = Path(folder) / "start", {"error": Counter[str](), "kill": Counter[str]()}
            start.mkdir()
            if before is not None:
                saved(start, 1.0, before)
            for kind, count in found.items():
                for point, place in attempts(Path(folder), start, external):
                    count[(after_error if kind == "error" else after_kill)(place, external, point)] += 1
                shutil.rmtree(Path(folder) / "probe")
        odd = {text: n for count in found.values() for text, n in count.items() if text not in ("refused", "undone", "done")}
        wrong.update(odd)
        error, kill = found["error"], found["kill"]
        cells = (sum(kill.values()), error["refused"], error["done"], kill["undone"], kill["done"], sum(odd.values()))
        print(f"| {names[before]} | {names[external]} | {' | '.join(map(str, cells))} |")
    for text, times in wrong.items():
        print(f"{times} times: {text}")
    return sum(wrong.values())


def kills(count: int, seed: int) -> int:
    """Whole runs that a signal ends; the number of faults of ours."""
    rng, ended, wrong = random.Random(seed), Counter[tuple[str, int]](), Counter[str]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "tmp").mkdir()
        onnx.save(network(), folder / "m.onnx")
        onnx.save(network(), folder / "e.onnx", save_as_external_data=True, location="e.bin", size_threshold=0)
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder / "tmp")}
        longest = 0.0
        for k in range(count):
            number = rng.choice(list(STATUS))
            command = [*PROGRAM, rng.choice(["m.onnx", "e.onnx"]), *CUT, *rng.choice(WAYS)]
            begun = time.monotonic()
            with subprocess.Popen(command, cwd=folder, env=environment, stdout=-1, stderr=-1, text=True) as run:
                if k >= 5:  # the first ones tell how long a run takes
                    time.sleep(rng.uniform(0.15, longest))
                    run.send_signal(number)
                try:
                    _, said = run.communicate(timeout=LONGEST)
                except subprocess.TimeoutExpired:
                    run.kill()
                    wrong["hangs"] += 1
                    continue
            longest = max(longest, time.monotonic() - begun) if k < 5 else longest
            ended[number.name if k >= 5 else "none", run.returncode] += 1
            wrong.update(_odd(folder, number, run.returncode, said.splitlines()))
        final = [*PROGRAM, "m.onnx", *CUT, *WAYS[0]]
        subprocess.run(final, cwd=folder, env=environment, capture_output=True, check=True)
        kept = {"m.onnx", "e.onnx", "e.bin", "tmp", OUT, PLAN.replace(".json", ".plan.json")}
        left = [p.name for p in (*folder.iterdir(), *(folder / "tmp").iterdir()) if p.name not in kept]
        wrong.update({f"left at the end: {', '.join(left)}": 1} if left else {})
    print("| signal | exit status | runs |\n|---|--:|--:|")
    for (name, status), n in sorted(ended.items()):
        print(f"| {name} | {status} | {n} |")
    for text, n in wrong.items():
        print(f"{n} times: {text}")
    return sum(wrong.values())


def _odd(folder: Path, number: signal.Signals, status: int, lines: list[str]) -> Iterator[str]:
    """What is wrong after a run."""
    if status not in (0, STATUS[number], -number):  # the last: before Python itself had started
        yield f"{number.name} gives status {status}: {lines[-1:]}"
    if any(not line.startswith("onnxprune: ") for line in lines):
        yield f"says {lines[0]}"
    if status >= 128 and not (lines and lines[-1].endswith(" written")):
        yield f"does not say what was written: {lines[-1:]}"
    out, plan = folder / OUT, folder / "out.plan.json"
    if out.exists():
        try:
            onnx.load(out)
        except Exception as e:
            yield f"{OUT} does not load after {number.name}: {type(e).__name__}"
    swept(folder)
    if out.exists() != plan.exists():
        yield f"one of two files after {number.name}"
    elif out.exists() and json.loads(plan.read_text())["pruned_sha256"] != sha256(out.read_bytes()).hexdigest():
        yield f"a plan beside another model after {number.name}"


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("saves", "kills"))
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sys.exit(bool(saves() if options.kind == "saves" else kills(options.count, options.seed)))


if __name__ == "__main__":
    main()
