#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Which releases of onnxruntime load files of `onnxprune unify`, and how fast they run there.

usage: python tools/runtimes.py [--releases 1.20.1,1.22.1,1.24.4,1.32.0] [--folder ENVIRONMENTS]
   or: python tools/runtimes.py ORIGINAL.onnx FILE.onnx ...
Makes a fresh virtual environment for each release by `python -m venv` and `pip install onnxruntime==RELEASE numpy`, or takes
the one that is in FOLDER from an earlier run. Without files, ResNet-20 and a small network of matrix products are unified, in
codes of all types, and compared with files that store the same weights as numbers. Prints a Markdown table: latency relative to
that file (median of the ratios in five processes, which run both in turn, with default session options on one thread; lowest to
highest), and the largest relative difference of outputs if it is more than rounding. Below it is what onnxruntime said of files
that it refused.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from blocks import spread
from figures import processor
from neighbours import probe
from onnx import ModelProto, numpy_helper

import onnxprune
from onnxprune.compression.carrier import KINDS, Codes, carried, fusible, restored
from onnxprune.cost.benchmark import random_feeds
from onnxprune.ir.files import load
from onnxprune.pipeline.blocks import divisions_of

HERE = Path(__file__).resolve().parents[1]
RELEASES = ("1.20.1", "1.22.1", "1.24.4", "1.32.0")
SIZES, PROCESSES = (2304, 256, 256, 10), 5
ROUNDING = 1e-6
Found = dict[str, dict[str, Any]]
"""What `probe.py` says about each file."""


def products(*sizes: int) -> ModelProto:
    """A network of matrix products with seeded weights, between layers of these sizes."""
    rng = np.random.default_rng(0)
    tensors = [
        numpy_helper.from_array((rng.standard_normal(pair) / pair[0] ** 0.5).astype(np.float32), f"w{k}")
        for k, pair in enumerate(pairwise(sizes))
    ]
    body = "".join(f"a{k} = MatMul({f'b{k - 1}' if k else 'x'}, w{k})\nb{k} = Relu(a{k})\n" for k in range(len(tensors) - 1))
    body += f"y = MatMul(b{len(tensors) - 2}, w{len(tensors) - 1})"
    found = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 17]> net (float[1,{sizes[0]}] x) => (float[1,{sizes[-1]}] y) {{ {body} }}'
    )
    found.graph.initializer.extend(tensors)
    return found


def unified(model: ModelProto, block: str, kinds: Sequence[Codes] = KINDS, **options: Any) -> dict[str, ModelProto]:
    """A model with unified weights, first as numbers, then in codes of each type, and for fused products."""
    found: dict[str, ModelProto] = {}
    for kind in kinds:
        runtime = ".".join(map(str, kind.runtime))
        result = onnxprune.unify(model, block, recover="none", bench=False, runtime=runtime, **options)
        numbers = restored(result.model)[0]
        divisions = divisions_of(result.plan, numbers)
        found.setdefault("numbers", numbers)
        found[f"{kind.name} codes"] = result.model
        if names := fusible(numbers, divisions, kind):
            found[f"{kind.name} codes, fused"] = carried(numbers, divisions, kind, names)
    return found


def environment(folder: Path, release: str) -> Path:
    """The Python of a virtual environment with a release of onnxruntime; made if it is not there.

    Raises:
        SystemExit: pip cannot install it.
    """
    python = folder / release / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder / release)], check=True)
        wanted = [f"onnxruntime=={release}", "numpy"]
        made = subprocess.run([str(python), "-m", "pip", "install", "--quiet", *wanted], capture_output=True, text=True)
        if made.returncode:
            raise SystemExit(f"onnxruntime {release}: pip cannot install it: {made.stderr.strip().splitlines()[-1]}")
    return python


def probed(python: Path, folder: Path, models: Mapping[str, ModelProto], processes: int) -> list[Found]:
    """What each process of an environment says about all models but the first, by their names."""
    paths = {str(folder / f"{k}.onnx"): name for k, name in enumerate(models)}
    for path, one in zip(paths, models.values(), strict=True):
        onnx.save(one, path)
    first = next(iter(models.values()))
    shapes = {v.name: [max(d.dim_value, 1) for d in v.type.tensor_type.shape.dim] for v in first.graph.input}
    probe.save(folder / "inputs.npz", random_feeds(first, shapes))
    command = [str(python), probe.__file__, str(folder / "inputs.npz"), *paths]
    runs = [subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(processes)]
    return [{paths[path]: said for path, said in json.loads(run).items()} for run in runs]


def lines(title: str, models: Mapping[str, ModelProto], found: Mapping[str, Sequence[Found]]) -> Iterator[str]:
    """Rows of the table: a row per file."""
    for name in list(models)[1:]:
        cells = [cell([run[name] for run in runs]) for runs in found.values()]
        yield f"| {title}, {name} | {models[name].ByteSize() / 1e3:.0f} | {' | '.join(cells)} |"


def cell(said: Sequence[Mapping[str, Any]]) -> str:
    """How much longer a file takes, and by how much its outputs differ if that is more than rounding."""
    if "error" in said[0]:
        return "no"
    off = max(s["difference"] for s in said)
    return spread([s["latency"] for s in said]) + (f", off by {off:.0e}" if off > ROUNDING else "")


def failures(title: str, found: Mapping[str, Sequence[Found]]) -> Iterator[str]:
    """What onnxruntime said, without paths."""
    for release, runs in found.items():
        for name, said in runs[0].items():
            if "error" in said:
                yield f"- {title}, {name}, {release}: {re.split(r' : |failed:.*[)] ', said['error'])[-1]}"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="the original, then others that are compared with it")
    parser.add_argument("--releases", default=",".join(RELEASES))
    parser.add_argument("--folder", type=Path, help="where environments are kept")
    parser.add_argument("--processes", type=int, default=PROCESSES)
    options = parser.parse_args()
    if len(options.files) == 1:
        parser.error("give another file to compare with the original")
    if options.files:
        cases = [(Path(options.files[0]).stem, {Path(file).name: onnx.load(file) for file in options.files})]
    else:
        network = load(HERE / "models" / "resnet20-fashion-mnist.onnx").model
        cases = [
            ("ResNet-20", unified(network, "16")),
            # free blocks have other values in codes of each type
            *(("ResNet-20, half of its blocks", unified(network, "16", [kind], share=0.5)) for kind in KINDS if kind.levels),
            ("MatMul", unified(products(*SIZES), "32", all_layers=True)),
        ]
    releases, said = options.releases.split(","), list[str]()
    print(f"{processor()}, Python {sys.version.split()[0]}\n")
    print("| file | KB | " + " | ".join(releases) + " |\n" + "|---" * (2 + len(releases)) + "|")
    with tempfile.TemporaryDirectory() as name:
        folder = options.folder or Path(name)
        for title, models in cases:
            pythons = {release: environment(folder, release) for release in releases}
            found = {release: probed(python, Path(name), models, options.processes) for release, python in pythons.items()}
            print("\n".join(lines(title, models, found)), flush=True)
            said += failures(title, found)
    print("\n" + "\n".join(said))


if __name__ == "__main__":
    main()
