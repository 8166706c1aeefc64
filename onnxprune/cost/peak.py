# SPDX-License-Identifier: Apache-2.0
"""Peak memory of loading and running a model, measured in a process of its own.

From each peak that of a model of one node is taken off: the interpreter and onnxruntime itself.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, helper

from onnxprune.errors import DataError
from onnxprune.ir.files import runnable
from onnxprune.ir.scratch import scratch
from onnxprune.ort import session
from onnxprune.types import Feeds

TIMEOUT = 300
"""Seconds after which a process is stopped."""
RUNS = 2
CHILD = "from onnxprune.cost.peak import main; main()"


def peak_memory(models: Sequence[ModelProto], feeds: Feeds, threads: int = 1) -> list[float]:
    """Bytes that each model takes at most while it is loaded and run.

    Args:
        feeds: inputs for all models.
        threads: threads that onnxruntime may use inside an operator.

    Raises:
        DataError: this system does not tell, or a model does not run there.
    """
    value = helper.make_tensor_value_info
    node = helper.make_node("Identity", ["x"], ["y"])
    bare = helper.make_model(
        helper.make_graph([node], "bare", [value("x", TensorProto.FLOAT, [1])], [value("y", TensorProto.FLOAT, [1])]),
        opset_imports=[helper.make_opsetid("", 13)],
        ir_version=8,
    )
    least = _peak(bare, {"x": np.zeros(1, np.float32)}, threads)
    return [max(0.0, _peak(model, feeds, threads) - least) for model in models]


def _peak(model: ModelProto, feeds: Feeds, threads: int) -> float:
    with ExitStack() as stack:
        folder = stack.enter_context(scratch())
        source = stack.enter_context(runnable(model))
        path = Path(source) if isinstance(source, str) else folder / "model.onnx"
        if isinstance(source, bytes):
            path.write_bytes(source)
        np.savez(folder / "inputs.npz", np.array([*feeds]), *feeds.values())  # by number: an input may have any name
        found = folder / "peak.txt"
        command = [sys.executable, "-c", CHILD, str(path), str(folder / "inputs.npz"), str(threads), str(found)]
        paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        try:
            subprocess.run(command, env=environment, capture_output=True, timeout=TIMEOUT, check=True)
            return float(found.read_text(encoding="ascii"))
        except (OSError, ValueError, subprocess.SubprocessError) as e:
            raise DataError("peak memory is unknown: this system does not tell it, or a model does not run on its own") from e


def main() -> None:
    """Run a model in this process, and write its peak memory in bytes to a file, or nothing if that is not known."""
    path, inputs, threads, found = sys.argv[1:]
    with np.load(inputs) as stored:
        names, *arrays = (stored[f"arr_{k}"] for k in range(len(stored.files)))
        feeds = dict(zip(names.tolist(), arrays, strict=True))
    opened = session(path, int(threads))
    for _ in range(RUNS):
        opened.run(None, feeds)
    Path(found).write_text(_high_water_mark(), encoding="ascii")


def _high_water_mark() -> str:
    """Bytes. (`ru_maxrss` is no use: where a process is started by spawning, it begins with that of its parent.)"""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    return str(int(found[1]) * 1024) if found else ""
