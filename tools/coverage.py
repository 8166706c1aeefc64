#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Cut every graph of a zoo, verify each cut, and print the table of docs/coverage.md.

usage: python tools/coverage.py [ZOO] [--ratio 0.5] [--scope local] [--only GLOB] [--every N] [--jobs 2] [--page FILE.md]
Without ZOO: the part of it that lies in tests/cases/zoo. With `--check EXACT.py`, or where the zoo has such a file beside it, a
cut is verified by that script, which is independent of the package; otherwise by `onnxprune.verify_files`. If float32 is too
coarse end to end (some seeded networks amplify rounding errors), our node-by-node check is used, and the table says so. A
`peer.json` in the zoo gives the share of the MACs that Torch-Pruning keeps at ratio 0.5 in every group; the table shows it too.
Progress: stderr. Exit status 1 if any graph crashes or is not verified.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib.util
import json
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import onnxruntime
from figures import processor
from hydrate import hydrate as drawn
from rich.console import Console
from rich.progress import track

import onnxprune

HERE = Path(__file__).resolve().parent.parent
OWN_ZOO = HERE / "tests" / "cases" / "zoo"
SUFFIX = ".onnx.gz"
FORMS = {"ts": "TorchScript", "dy": "dynamo"}
BATCH_NORM = {"bn": "kept", "fold": "folded"}


@dataclass(frozen=True)
class Task:
    """One graph to cut, and how."""

    path: Path
    check: Path | None
    ratio: float
    scope: str


@dataclass(frozen=True)
class Row:
    """The result for one graph; `why` is empty if the cut is verified."""

    graph: str
    exporter: str
    family: str
    nodes: int = 0
    channels: float = 0.0
    macs: float = 0.0
    error: float = 0.0
    analysis: float = 0.0
    seconds: float = 0.0
    verified_by: str = ""
    why: str = ""


@lru_cache(4)
def module(path: Path) -> ModuleType:
    """A Python file, imported as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def hydrate(path: Path) -> onnx.ModelProto:
    """The graph with weights; a zoo may bring its own script to fill them in."""
    script = path.parent / "hydrate.py"
    if not path.name.endswith(SUFFIX):
        return onnx.load(path)
    fill: Callable[[Path], onnx.ModelProto] = module(script).hydrate if script.exists() else drawn
    return fill(path)


def exporter_of(path: Path, model: onnx.ModelProto) -> str:
    """The exporter: PyTorch's two by the name of the file, others by the producer recorded in it."""
    form, _, norm = path.name.removesuffix(SUFFIX).rpartition(".")[2].partition("_")
    if form in FORMS and norm in BATCH_NORM:
        return f"{FORMS[form]}, BatchNorm {BATCH_NORM[norm]}"
    return model.producer_name or "unknown"


def family_of(model: onnx.ModelProto) -> str:
    """A rough kind of network, judged by its operators and its input."""
    ops = {n.op_type for n in model.graph.node}
    if ops & {"QuantizeLinear", "DequantizeLinear", "ConvInteger", "MatMulInteger", "QLinearConv"}:
        return "quantized"
    if ops & {"LSTM", "GRU", "RNN"}:
        return "recurrent"
    if len(model.graph.input[0].type.tensor_type.shape.dim) == 5:
        return "video"
    if len(model.graph.output) > 1 or ops & {"NonMaxSuppression", "RoiAlign"}:
        return "detection, several outputs"
    if len(model.graph.output[0].type.tensor_type.shape.dim) == 4:
        return "segmentation, image to image"
    return "attention" if {"Softmax", "MatMul"} <= ops else "convolution and MLP"


def run(task: Task) -> Row:
    """Cut one graph and verify it; an exception is a result too."""
    name = task.path.name.removesuffix(SUFFIX)
    try:
        model = hydrate(task.path)
    except Exception as e:  # every failure belongs in the table
        return Row(name, "", "", why=f"cannot be filled in: {type(e).__name__}: {e}"[:200])
    about = (name, exporter_of(task.path, model), family_of(model), len(model.graph.node))
    try:
        with tempfile.TemporaryDirectory() as folder:
            files = [Path(folder) / f for f in ("a.onnx", "b.onnx", "b.plan.json")]
            onnx.save(model, files[0])
            del model
            return Row(*about, **_cut(task, *map(str, files)))
    except Exception as e:
        return Row(*about, why=f"{type(e).__name__}: {' '.join(str(e).split())}"[:200])


def _cut(task: Task, original: str, pruned: str, plan: str) -> dict[str, Any]:
    """The measured cells of a row."""
    start = time.process_time()
    onnxprune.analyze(original)
    analysis, start = time.process_time() - start, time.perf_counter()
    options: dict[str, Any] = {"scope": task.scope, "criterion": "l2", "align": "none", "recover": "none"}
    result = onnxprune.prune(original, task.ratio, verify=False, bench=False, **options)
    seconds = time.perf_counter() - start
    found = {"channels": result.report.ratio, "macs": result.report.macs.kept, "analysis": analysis, "seconds": seconds}
    result.save(pruned, plan)
    del result
    if task.check is not None:
        said = module(task.check).check(original, pruned, plan)
        if said["ok"]:
            return found | {"macs": said["macs_kept"], "error": said["rel_err"], "verified_by": task.check.name}
        if not said.get("rel_err"):
            return found | {"why": said.get("why", "not exact")}
    verification = onnxprune.verify_files(original, pruned, plan)
    return found | {"error": verification.error, "verified_by": verification.engine}


def warm_up() -> None:
    """Do the imports of the first analysis, so that they are not timed."""
    onnxprune.analyze(str(HERE / "models" / "resnet20-fashion-mnist.onnx"))


def rows(options: argparse.Namespace) -> Iterator[Row]:
    """Each graph with its result, in the order of the names."""
    zoo = Path(options.zoo)
    beside = zoo.resolve().parent / "check" / "exact.py"
    script = options.check or (beside if beside.exists() else None)
    found = [p for kind in (f"*{SUFFIX}", "*.onnx") for p in zoo.glob(kind) if fnmatch.fnmatch(p.name, options.only)]
    tasks = [Task(p, script, options.ratio, options.scope) for p in sorted(found)][:: options.every]
    console = Console(stderr=True)
    quiet = not console.is_terminal or sys.stdout.isatty()  # the rows themselves show progress
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn"), initializer=warm_up) as pool:
        yield from track(pool.map(run, tasks), "coverage", len(tasks), console=console, disable=quiet)


def peers(zoo: Path) -> dict[str, float | None]:
    """Graph -> share of the MACs that Torch-Pruning keeps, None if it fails; empty without its results."""
    files = [zoo / "peer.json", zoo / "index.json"]
    if not all(f.exists() for f in files):
        return {}
    found, index = (json.loads(f.read_text(encoding="utf-8")) for f in files)
    names = {row["file"].removesuffix(SUFFIX): row["name"] for row in index}
    return {graph: found[name]["macs_kept"] if found[name]["ok"] else None for graph, name in names.items() if name in found}


COLUMNS = (
    *("graph", "exporter", "nodes", "channels removed", "MACs kept"),
    *("Torch-Pruning", "error", "analysis", "seconds", "verified by"),
)
HEAD = f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|"


def line(r: Row, peer: dict[str, float | None]) -> str:
    """One row of the table."""
    theirs = peer.get(r.graph, 0.0)
    beside = "fails" if theirs is None else f"{theirs:.1%}" if theirs else ""
    if r.why:
        return f"| {r.graph} | {r.exporter} | {r.nodes} | FAILED | | {beside} | | | | {r.why} |"
    figures = f"{r.channels:.1%} | {r.macs:.1%} | {beside} | {r.error:.0e} | {r.analysis:.1f} | {r.seconds:.1f}"
    return f"| {r.graph} | {r.exporter} | {r.nodes} | {figures} | {r.verified_by} |"


def summary(found: list[Row], peer: dict[str, float | None]) -> list[str]:
    """A line for each family and exporter, and one for the comparison."""
    lines = ["| kind | graphs | verified | MACs kept, mean | at most 1.05x Torch-Pruning's |", "|---|---|---|---|---|"]
    kinds: dict[str, list[Row]] = {}
    for r in found:
        for kind in (r.family, r.exporter):
            kinds.setdefault(kind or "unknown", []).append(r)
    for kind, mine in [*sorted(kinds.items()), ("all", found)]:
        good = [r for r in mine if not r.why]
        both = [(r, theirs) for r in good if (theirs := peer.get(r.graph))]
        near = f"{sum(r.macs <= 1.05 * theirs for r, theirs in both)} of {len(both)}" if both else ""
        mean = f"{sum(r.macs for r in good) / len(good):.1%}" if good else ""
        lines.append(f"| {kind} | {len(mine)} | {len(good)} | {mean} | {near} |")
    fails = [r for r in found if not r.why and peer.get(r.graph, 0.0) is None]
    if fails:
        lines.append(f"\nTorch-Pruning fails on the networks of {len(fails)} of these graphs.")
    good = [r for r in found if not r.why]
    if good:
        slow, median = max(good, key=lambda r: r.analysis), statistics.median(r.analysis for r in good)
        lines.append(f"\nAnalysis takes {median:.2f} s (median), {slow.analysis:.2f} s at most ({slow.graph}).")
    return lines


def page(options: argparse.Namespace, found: list[Row], peer: dict[str, float | None]) -> str:
    """The text of docs/coverage.md."""
    versions = f"onnxprune {onnxprune.__version__}, onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}"
    how = f"--ratio {options.ratio:g} --scope {options.scope} --criterion l2 --align none --recover none"
    about = (
        "# Coverage\n\n"
        "Graphs of real architectures (torchvision, timm), exported by PyTorch's two exporters, filled with seeded weights and "
        f"cut with\n`{how}`. Printed by `python tools/coverage.py ZOO --page FILE.md`; {versions}; {processor()}, "
        f"Python {platform.python_version()}, {options.jobs} graphs at a time. [Other ratios](coverage-ratios.md).\n\n"
        "- **error**: largest difference between the outputs of the pruned model and of the original with the removed channels "
        "zeroed,\n  relative to the largest output, on seeded inputs; at most 1e-3 counts as verified. **verified by**: "
        "`exact.py` is an\n  independent script that reads the two files and the plan; `onnxruntime, node by node` is our own "
        "check, used if a seeded\n  network amplifies rounding until its outputs carry no information.\n"
        "- **analysis**: processor seconds from the file to the groups of channels. **seconds**: wall time to load, analyse, "
        "select and\n  cut, without verification.\n"
        "- **Torch-Pruning**: version 1.6.1 on the same PyTorch module: L2 norm, half of every group, no rounding, classifier "
        "kept.\n  It counts MACs of convolutions and linear layers; here products of two computed tensors (in attention) count "
        "too.\n"
    )
    table = [HEAD, *(line(r, peer) for r in found)]
    return "\n".join([about, *summary(found, peer), "", *table]) + "\n"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zoo", nargs="?", default=str(OWN_ZOO))
    parser.add_argument("--check", type=Path, help="a script that verifies a cut: check(original, pruned, plan) -> dict")
    parser.add_argument("--only", default="*", metavar="GLOB", help="names of graphs")
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--scope", choices=("local", "global"), default="local")
    parser.add_argument("--every", type=int, default=1, help="take every n-th graph")
    parser.add_argument("--jobs", type=int, default=2, help="graphs at a time")
    parser.add_argument("--page", type=Path, help="write docs/coverage.md there")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    peer = peers(Path(options.zoo)) if options.ratio == 0.5 and options.scope == "local" else {}
    print(HEAD, flush=True)
    found = []
    for r in rows(options):
        found.append(r)
        print(line(r, peer), flush=True)
    bad = sum(bool(r.why) for r in found)
    print("\n".join(["", *summary(found, peer), ""]))
    if options.page:
        options.page.write_text(page(options, found, peer), encoding="utf-8")
    print(f"zoo check: {len(found)} graphs cut at ratio {options.ratio:g}, {len(found) - bad} verified, {bad} not")
    sys.exit(1 if bad or not found else 0)


if __name__ == "__main__":
    main()
