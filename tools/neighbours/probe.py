# SPDX-License-Identifier: Apache-2.0
"""A process that loads and times models beside a first one; it needs onnxruntime and numpy alone.

usage: python probe.py INPUTS.npz ORIGINAL.onnx OTHER.onnx ... [--rounds 60] [--loads 5]
Prints JSON, for each other model {"error": ...} or {"difference", "latency", "load"}: the largest difference of outputs,
relative to the largest output, and medians of paired ratios of times (A B A B ...) to the original, with default options and
one thread.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np
import onnxruntime


def opened(path: str) -> Any:
    """A session as users open one, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def seconds(call: Any, *arguments: Any) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - start


def ratio(pairs: list[tuple[float, float]]) -> float:
    """The median of how much longer the second of a pair takes."""
    return float(np.median([b / a for a, b in pairs]))


def difference(old: list[Any], new: list[Any]) -> float:
    """The largest difference, relative to the largest value."""
    return max(float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-12)) for a, b in zip(old, new, strict=True))


def save(path: Any, feeds: dict[str, Any]) -> None:
    """Write the inputs of a model for `main` to read."""
    np.savez(path, **feeds)


def compared(paths: list[str], feeds: dict[str, Any], rounds: int, loads: int) -> dict[str, dict[str, Any]]:
    """What is found about each model but the first."""
    first = opened(paths[0])
    sessions: dict[str, Any] = {}
    found: dict[str, dict[str, Any]] = {}
    expected = first.run(None, feeds)
    for path in paths[1:]:
        try:
            sessions[path] = opened(path)
            found[path] = {"difference": difference(expected, sessions[path].run(None, feeds))}
        except Exception as e:  # onnxruntime raises many types
            found[path] = {"error": str(e).splitlines()[0]}
    for path, one in sessions.items():
        # one after the other: two sets of weights compete for the processor's caches, not all
        latency = [(seconds(first.run, None, feeds), seconds(one.run, None, feeds)) for _ in range(rounds)]
        load = [(seconds(opened, paths[0]), seconds(opened, path)) for _ in range(loads)]
        found[path] |= {"latency": ratio(latency[1:]), "load": ratio(load[1:])}
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs")
    parser.add_argument("models", nargs="+")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--loads", type=int, default=5)
    options = parser.parse_args()
    with np.load(options.inputs) as stored:
        feeds = dict(stored)
    print(json.dumps(compared(options.models, feeds, options.rounds, options.loads)))


if __name__ == "__main__":
    main()
