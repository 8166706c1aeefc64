#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the program says about a cut beside what real inputs say, for every trained network at hand.

usage: python tools/truth.py [FOLDER] [--ratios 0.3,0.5,0.7] [--ways default,none,bias,made] [--only NAME] [--out truth.jsonl]
FOLDER holds what `train_networks.py` wrote. Ways: `default`, the usual call without data; `none`, `bias`: that recovery;
`made`: weights reconstructed on made-up inputs, trusted or not (`made-...`: on inputs that fit worse); `real`: reconstructed on
real ones (NAME.fit.npz). The same channels are cut in all. Appends a JSON line per run to OUT (and skips runs that it holds),
for `border.py`; prints a Markdown table. Error: of what varies over inputs, the worst output or part; MB: peak memory of the
program's process.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from trained.judging import Held, Judge, Truth
from trained.made import KINDS, Made, made
from trained.reading import Said, said
from trained.registry import CACHE, Trained, at_hand

PLAIN = ("--no-bench", "--no-verify", "--criterion", "ccprune")
WAYS = ("default", "none", "bias", "real", *KINDS)
"""`default` is the usual call, all of it; the others leave out what does not change the model."""


def arguments(way: str, network: Trained, folder: Path) -> list[str]:
    """Options of the program for a way."""
    if way == "default":
        return []
    if way in ("none", "bias"):
        return [*PLAIN, "--recover", way]
    data = folder / f"{network.name}.{'fit' if way == 'real' else way}.npz"
    return [*PLAIN, "--recover", "reconstruct", "--data", str(data)]


@dataclass(frozen=True)
class Run:
    """One run of the program, and the truth about what it wrote.

    Attributes:
        seconds, megabytes: the time and the peak memory of the program.
        said: what the report says; None if the program refused.
        truth: what real inputs say.
        why: why the program refused.
    """

    name: str
    family: str
    metric: str
    ratio: float
    way: str
    seconds: float
    megabytes: float
    said: Said | None = None
    truth: Truth | None = None
    why: str = ""
    made: Made = field(default_factory=Made)

    @property
    def key(self) -> tuple[str, float, str]:
        """What is not run twice."""
        return self.name, self.ratio, self.way

    def row(self) -> str:
        """A row of the table."""
        head = f"| {self.name} | {self.ratio} | {self.way} "
        tail = f"| {self.seconds:.0f} | {self.megabytes:.0f} |"
        if self.said is None or self.truth is None:
            return f"{head}| refused: {self.why[:80]} | | | | {tail}"
        t = self.truth
        figures = f"{t.error:.2f} | {t.agreement:.1%} | {t.metric:.1%} of {t.original:.1%}"
        return f"{head}| {self.said} | {self.said.macs:.0%} | {figures} {tail}"


LAUNCHER = """
import resource, subprocess, sys
status = subprocess.call(sys.argv[2:])
with open(sys.argv[1], "w") as file:
    file.write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024))
sys.exit(status)
"""
"""A small process between, because a child's peak memory includes that of its parent when it was started."""


def measured(command: Sequence[str]) -> tuple[str, str, float, float]:
    """Run a command: stdout, stderr, seconds, and the peak memory of its process in MB."""
    with tempfile.NamedTemporaryFile("r") as file:
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-S", "-c", LAUNCHER, file.name, *command], capture_output=True, text=True)
        return done.stdout, done.stderr, time.perf_counter() - start, float(file.read())


def run(network: Trained, ratio: float, way: str, folder: Path, judge: Judge) -> Run:
    """Cut a network one way, and judge the result."""
    with tempfile.TemporaryDirectory() as temporary:
        output = Path(temporary) / "cut.onnx"
        command = [sys.executable, "-m", "onnxprune", str(network.model), "--ratio", str(ratio), "-o", str(output)]
        command += ["--format", "json", *arguments(way, network, folder)]
        if network.shape and "--data" not in command:
            command += ["--input-shape", network.shape]
        out, err, seconds, megabytes = measured(command)
        about = Run(network.name, network.family, network.metric, ratio, way, round(seconds, 1), round(megabytes))
        if not output.is_file():
            return replace(about, why=(err.strip().splitlines() or [""])[-1])
        return replace(about, said=said(json.loads(out)), truth=judge.judge(output))


def known(path: Path) -> list[dict[str, Any]]:
    """The runs that a file holds."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def runs(networks: Sequence[Trained], folder: Path, ratios: Sequence[float], ways: Sequence[str], out: Path) -> Iterator[Run]:
    """All runs that OUT does not hold."""
    done = {(r["name"], r["ratio"], r["way"]) for r in known(out)}
    for network in networks:
        wanted = [(r, w) for r in ratios for w in ways if (network.name, r, w) not in done]
        if not wanted:
            continue
        judge = Judge(network.metric, network.model, Held.read(folder / f"{network.name}.held.npz"), network.parts)
        for ratio, way in wanted:
            inputs = made(network, folder, way) if way in KINDS else Made()
            if not inputs.why:
                yield replace(run(network, ratio, way, folder, judge), made=inputs)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=CACHE)
    parser.add_argument("--ratios", default="0.3,0.5,0.7")
    parser.add_argument("--ways", default="default,none,bias,made", help=f"some of {', '.join(WAYS)}")
    parser.add_argument("--only", default="", help="only networks whose name contains one of these, separated by commas")
    parser.add_argument("--out", type=Path, help="JSON lines; FOLDER/truth.jsonl")
    options = parser.parse_args()
    out, only = options.out or options.folder / "truth.jsonl", options.only.split(",")
    networks = [t for t in at_hand(options.folder) if any(name in t.name for name in only)]
    if not networks:
        parser.error(f"{options.folder}: no trained networks; run tools/train_networks.py first")
    print("| network | ratio | way | the report says | MACs | real error | same as original | real metric | s | MB |")
    print("|---" * 10 + "|")
    ratios = [float(r) for r in options.ratios.split(",")]
    for found in runs(networks, options.folder, ratios, options.ways.split(","), out):
        print(found.row(), flush=True)
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(found)) + "\n")


if __name__ == "__main__":
    main()
