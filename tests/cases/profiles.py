# SPDX-License-Identifier: Apache-2.0
"""Machines whose latency has steps of a known size, and their profiles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
from onnx import ModelProto

from onnxprune.cost.machine import Machine, this_machine
from onnxprune.cost.profile import Profile
from onnxprune.cost.staircase import Curve
from onnxprune.types import Advance, Array, Feeds

PI = Machine("Raspberry Pi 4 Model B Rev 1.4, part 0xd08", ("asimd",), "Linux aarch64", "ondemand", "1.24.4", "CPU", 4)
WIDTHS = (*range(16, 65), 72, 80, 88, 96)


def rounded(size: int, step: int) -> int:
    return -(-size // step) * step if size > 3 else size  # kernels are no channels


def steps_of(step: int, noise: float = 0.0, seconds: float = 1e-11) -> Any:
    """A runner on which channels count as multiples of `step`, and a multiply-accumulate takes `seconds`."""
    rng = np.random.default_rng(0)

    def run(models: Sequence[ModelProto], feeds: Feeds, threads: int, seconds_: float, progress: Advance) -> Array:
        positions = prod(feeds["x"].shape) / 16
        work = [sum(prod(rounded(n, step) for n in t.dims) for t in m.graph.initializer if len(t.dims) > 1) for m in models]
        times = 1e-5 + seconds * positions * np.array(work)
        return np.asarray(times * (1 + noise * rng.standard_normal((9, len(models)))))

    return run


def curve(time: Callable[[int], float], noise: float = 0.0, seed: int = 0, kind: str = "convolution") -> Curve:
    """A curve with the latency `time(width)`."""
    wrong = 1 + noise * np.random.default_rng(seed).standard_normal(len(WIDTHS))
    return Curve(kind, "float", 28, {w: float(time(w) * f) for w, f in zip(WIDTHS, wrong, strict=True)})


def profile(multiple: int = 16, machine: Machine | None = None) -> Profile:
    """The profile of a machine with steps, by default of this one."""
    found = Profile.of(machine or this_machine(1), "2026-11-28", [curve(lambda w: rounded(w, multiple) ** 2)])
    assert found.multiple == multiple
    return found
