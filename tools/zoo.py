#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Cut every graph of a zoo and prove each cut: `hydrate.py` fills weightless graphs, `exact.py` checks without our code.

usage: python tools/zoo.py ZOO_FOLDER [--check EXACT.py] [--only GLOB] [--ratio 0.5] [--every N] [--table FILE.md]
A cut is proven by exact.py end to end. Where float32 cannot tell (some synthetic networks multiply rounding errors), our own
node-by-node proof is taken, and the table says so. Where the zoo has a `peer.json` (architecture -> what Torch-Pruning keeps of
its MACs at the same ratio), that stands beside. Exit status 1 if any graph crashes or is not proven.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx

import onnxprune


def module(path: Path) -> ModuleType:
    """A Python file as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def check(path: Path, folder: Path, hydrate: Any, exact: Any, ratio: float) -> dict[str, Any]:
    """Cut one graph; what came of it."""
    original, pruned, plan = folder / "a.onnx", folder / "b.onnx", folder / "b.plan.json"
    onnx.save(hydrate(path), original)
    start = time.perf_counter()
    options: dict[str, Any] = {"scope": "local", "criterion": "l2", "align": "none", "recover": "none"}
    result = onnxprune.prune(str(original), ratio, verify=False, bench=False, **options)
    seconds = time.perf_counter() - start
    result.save(pruned, plan)
    found = {
        "channels": result.report.ratio,
        "seconds": seconds,
        "proof": "exact.py",
        **exact(str(original), str(pruned), str(plan)),
    }
    if not found["ok"] and found.get("rel_err"):
        proof = onnxprune.verify_files(str(original), str(pruned), str(plan))
        found |= {"ok": True, "proof": proof.engine, "rel_err": proof.error}
    return found


def rows(options: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each graph with its result; an exception is a result too."""
    zoo = Path(options.zoo)
    hydrate = module(zoo / "hydrate.py").hydrate
    exact = module(Path(options.check or zoo.parent / "check" / "exact.py")).check
    paths = [p for p in sorted(zoo.glob("*.onnx.gz")) if fnmatch.fnmatch(p.name, options.only)]
    for path in paths[:: options.every]:
        with tempfile.TemporaryDirectory() as folder:
            try:
                yield path.name.removesuffix(".onnx.gz"), check(path, Path(folder), hydrate, exact, options.ratio)
            except Exception as e:  # whatever goes wrong belongs in the table
                yield path.name.removesuffix(".onnx.gz"), {"ok": False, "why": f"{type(e).__name__}: {e}"[:200]}


def peers(zoo: Path) -> dict[str, float | None]:
    """Graph -> MACs that Torch-Pruning keeps, None where it fails; empty without its results."""
    files = [zoo / "peer.json", zoo / "index.json"]
    if not all(f.exists() for f in files):
        return {}
    found, index = (json.loads(f.read_text(encoding="utf-8")) for f in files)
    names = {row["file"].removesuffix(".onnx.gz"): row["name"] for row in index}
    return {graph: found[name]["macs_kept"] if found[name]["ok"] else None for graph, name in names.items() if name in found}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zoo")
    parser.add_argument("--check")
    parser.add_argument("--only", default="*")
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--every", type=int, default=1, help="take every n-th graph")
    parser.add_argument("--table", type=Path, help="write the table there as well")
    options = parser.parse_args()
    lines = [
        "| graph | channels removed | MACs kept | Torch-Pruning | error | seconds | proof |",
        "|---|---|---|---|---|---|---|",
    ]
    peer, kept = peers(Path(options.zoo)) if options.ratio == 0.5 else {}, {}
    print("\n".join(lines))
    good = bad = 0
    for name, r in rows(options):
        good, bad = good + bool(r["ok"]), bad + (not r["ok"])
        if r["ok"]:
            kept[name] = r["macs_kept"]
            theirs = peer.get(name, 0.0)
            beside = "fails" if theirs is None else f"{theirs:.1%}" if theirs else ""
            proof = f"{r['rel_err']:.0e} | {r['seconds']:.1f} | {r['proof']}"
            cells = f"{r['channels']:.1%} | {r['macs_kept']:.1%} | {beside} | {proof}"
            line = f"| {name} | {cells} |"
        else:
            line = f"| {name} | FAILED | | | | | {r.get('why') or r.get('rel_err')} |"
        lines.append(line)
        print(line, flush=True)
    if options.table:
        options.table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    both = [name for name in kept if peer.get(name)]
    if both:
        near = sum(kept[name] <= 1.05 * (peer[name] or 0.0) for name in both)
        print(f"MACs kept are at most 1.05 times Torch-Pruning's on {near} of the {len(both)} graphs on which it succeeds")
    print(f"zoo check: {good + bad} graphs cut at ratio {options.ratio:g}, {good} proven, {bad} not")
    sys.exit(1 if bad or not good else 0)


if __name__ == "__main__":
    main()
