#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Criteria at equal MACs and at equal latency, on every trained network at hand: the basis for the default with data.

usage: python tools/equal.py [FOLDER] [--macs 35,50,70] [--at 50] [--latency 70] [--criteria obs,...] [--only NAME]
       [--out equal.jsonl]
FOLDER holds what `train_networks.py` wrote. Each network is cut to each share of its MACs by each criterion, reconstructed on
real inputs (NAME.fit.npz) and judged by its metric on others (NAME.held.npz). Prints two Markdown tables, a row per network:
the metric at AT percent of the MACs, and at LATENCY percent of the latency (interpolated between cuts; empty beyond them).
Then the ratio: MACs that remain by `--ratio` with data, relative to the same ratio without. Runs in OUT are not repeated.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from trained.judging import Held, Judge
from trained.registry import CACHE, Trained, at_hand
from truth import known, measured

RATIOS = (0.3, 0.5, 0.7)
NEAR = 0.02
"""How far outside the measured cuts a share may lie."""


def cut(network: Trained, output: Path, *options: str) -> dict[str, Any] | None:
    """The report of a cut; None if it was refused."""
    command = [sys.executable, "-m", "onnxprune", str(network.model), "-o", str(output), "--format", "json", "--no-verify"]
    out, _, _, _ = measured([*command, *options])
    return json.loads(out) if output.is_file() else None


def by_criterion(network: Trained, folder: Path, criterion: str, macs: str, judge: Judge) -> dict[str, Any]:
    """The metric, the MACs and the latency of one cut."""
    with tempfile.TemporaryDirectory() as temporary:
        output, data = Path(temporary) / "cut.onnx", folder / f"{network.name}.fit.npz"
        options = ("--macs", f"{macs}%", "--criterion", criterion, "--data", str(data), "--recover", "reconstruct")
        report = cut(network, output, *options)
        found: dict[str, Any] = {"name": network.name, "criterion": criterion, "macs": macs}
        if report is None:
            return {**found, "metric": None}
        truth, latencies = judge.judge(output), report["benchmark"]["latencies"]
        share = latencies[1]["median_ms"] / latencies[0]["median_ms"]
        return {**found, "metric": truth.metric, "original": truth.original, "kept": report["macs"]["kept"], "latency": share}


def by_ratio(network: Trained, folder: Path, ratio: float) -> dict[str, Any]:
    """The MACs that remain by a ratio, with data and without."""
    with tempfile.TemporaryDirectory() as temporary:
        output, data = Path(temporary) / "cut.onnx", folder / f"{network.name}.fit.npz"
        common = ("--ratio", str(ratio), "--no-bench", "--force", "--recover", "none")
        shape = ("--input-shape", network.shape) if network.shape else ()
        without = cut(network, output, *common, *shape)
        given = cut(network, output, *common, "--criterion", "obs", "--data", str(data), "--samples", "64")
    kept = [r["macs"]["kept"] if r else None for r in (without, given)]
    return {"name": network.name, "ratio": ratio, "without": kept[0], "given": kept[1]}


def rows(networks: Sequence[Trained], folder: Path, criteria: Sequence[str], macs: Sequence[str], out: Path) -> None:
    """Run what OUT does not hold."""
    done = {(r["name"], r.get("criterion"), r.get("macs"), r.get("ratio")) for r in known(out)}
    for network in networks:
        wanted = [(c, m) for c in criteria for m in macs if (network.name, c, m, None) not in done]
        ratios = [r for r in RATIOS if (network.name, None, None, r) not in done]
        judge = Judge(network.metric, network.model, Held.read(folder / f"{network.name}.held.npz"), network.parts)
        found: Iterator[dict[str, Any]] = (by_criterion(network, folder, c, m, judge) for c, m in wanted)
        with out.open("a", encoding="utf-8") as file:
            for row in (*found, *(by_ratio(network, folder, r) for r in ratios)):
                file.write(json.dumps(row) + "\n")
                file.flush()


def at(cuts: Sequence[dict[str, Any]], axis: str, share: float) -> float | None:
    """The metric at a share of MACs (`kept`) or of the latency, interpolated; None where no cuts lie around it."""
    known_cuts = sorted((c[axis], c["metric"]) for c in cuts if c["metric"] is not None)
    places, metrics = ([float(pair[k]) for pair in known_cuts] for k in (0, 1))
    if not places or not places[0] - NEAR <= share <= places[-1] + NEAR:
        return None
    return float(np.interp(share, places, metrics))


def table(found: Sequence[dict[str, Any]], axis: str, share: float, criteria: Sequence[str]) -> Iterator[str]:
    """A row per network, the best criterion in bold."""
    yield f"| at {share:.0%} of the {'MACs' if axis == 'kept' else 'latency'} | original | " + " | ".join(criteria) + " |"
    yield "|---" * (2 + len(criteria)) + "|"
    for name in dict.fromkeys(r["name"] for r in found):
        mine = [r for r in found if r["name"] == name and r.get("metric") is not None]
        values = [at([r for r in mine if r["criterion"] == c], axis, share) for c in criteria]
        best = max((v for v in values if v is not None), default=None)
        if best is None:
            continue
        cells = ["" if v is None else f"**{v:.1%}**" if v == best else f"{v:.1%}" for v in values]
        yield f"| {name} | {mine[0]['original']:.1%} | " + " | ".join(cells) + " |"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=CACHE)
    parser.add_argument("--macs", default="35,50,70")
    parser.add_argument("--at", type=float, default=50)
    parser.add_argument("--latency", type=float, default=70)
    parser.add_argument("--criteria", default="obs,subset_fidelity,ccprune,l2")
    parser.add_argument("--only", default="", help="only networks whose name contains one of these, separated by commas")
    parser.add_argument("--out", type=Path, help="JSON lines; FOLDER/equal.jsonl")
    options = parser.parse_args()
    out, criteria, only = options.out or options.folder / "equal.jsonl", options.criteria.split(","), options.only.split(",")
    networks = [t for t in at_hand(options.folder) if any(name in t.name for name in only)]
    if not networks:
        parser.error(f"{options.folder}: no trained networks; run tools/train_networks.py first")
    rows(networks, options.folder, criteria, options.macs.split(","), out)
    found = [r for r in known(out) if any(r["name"] == t.name for t in networks)]
    cuts = [r for r in found if "criterion" in r]
    for axis, percent in (("kept", options.at), ("latency", options.latency)):
        print("\n".join(table(cuts, axis, percent / 100, criteria)), end="\n\n")
    print("| MACs by ratio, with data / without | " + " | ".join(map(str, RATIOS)) + " |")
    print("|---" * (1 + len(RATIOS)) + "|")
    for name in dict.fromkeys(r["name"] for r in found if "ratio" in r):
        mine = {r["ratio"]: r for r in found if r["name"] == name and "ratio" in r}
        cells = [f"{r['given'] / r['without']:.2f}" if r["given"] and r["without"] else "refused" for r in mine.values()]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
