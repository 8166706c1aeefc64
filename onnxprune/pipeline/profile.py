# SPDX-License-Identifier: Apache-2.0
"""Measure the profile of this machine, and remember it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timezone
from itertools import product
from pathlib import Path

import numpy as np

from onnxprune.cost.benchmark import Runner, many_in_this_process
from onnxprune.cost.machine import Machine, this_machine
from onnxprune.cost.profile import Profile
from onnxprune.cost.stacks import KINDS, PRECISIONS, feeds, stack
from onnxprune.cost.staircase import Curve
from onnxprune.errors import DataError, OptionError, OutputError
from onnxprune.ir.placing import write_text
from onnxprune.types import Progress, silent

WIDTHS = (*range(16, 65), 72, 80, 88, 96)
"""Every width up to 64, so that steps of any size show, and some wider ones."""
SIZES = (14, 28, 56)
"""Heights and widths of feature maps; larger ones only if there is time for them."""
SECONDS, LIMIT = 0.4, 45.0
"""Time for each curve, and for all; slow machines take longer for the first size."""
ROUNDS = 10
"""At least so many times is each stack run."""
TYPICAL = 25
"""The percentile of the times of a stack: work of others makes some runs slower, none faster."""
STAGE = "profile of this machine (up to a minute)"

Profiler = Callable[[int, Progress], Profile]
"""The number of threads, and how progress is shown -> the profile of the machine on which latencies are measured."""


def measured(
    threads: int = 1, run: Runner = many_in_this_process, progress: Progress = silent, machine: Machine | None = None
) -> Profile:
    """Time stacks of layers over their width, those of one curve in turn, at one size after the other.

    Args:
        threads: threads inside an operator.
        run: runs the models.
        progress: called with the name of the stage and the fraction done, 0 to 1.
        machine: where they run; None: here.
    """
    curves: list[Curve] = []
    start = time.monotonic()
    for level, size in enumerate(SIZES):
        needed = sum(_seconds(c, size) for c in curves if c.size == SIZES[level - 1])
        if time.monotonic() - start + needed > LIMIT:
            break
        for curve in _curves(size, threads, run):
            curves.append(curve)
            progress(STAGE, len(curves) / (len(SIZES) * len(KINDS) * len(PRECISIONS)))
    progress(STAGE, 1.0)
    date = datetime.now(timezone.utc).date().isoformat()
    return Profile.of(machine or this_machine(threads), date, curves)


def own_profile(threads: int, progress: Progress = silent) -> Profile:
    """The profile of this machine: the one that is remembered, or else one that is measured now."""
    path = remembered(this_machine(threads))
    with suppress(DataError):  # there is none, or it is damaged
        return Profile.read(path)
    return kept(measured(threads, progress=progress))


def check_same_machine(profile: Profile, threads: int) -> None:
    """Reject a profile that was not measured on this machine, as it is now.

    Raises:
        OptionError: it was not.
    """
    if differs := this_machine(threads).differs(profile.machine):
        raise OptionError(
            f"--profile: was measured elsewhere, or otherwise ({differs}), but --latency is measured here; leave out "
            "--profile, or mix both with --other-machine"
        )


def kept(profile: Profile) -> Profile:
    """The same profile, remembered for this machine if its folder can be written."""
    path = remembered(profile.machine)
    with suppress(OSError, OutputError):  # a read-only home: it is measured again next time
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, profile.to_json())
    return profile


def remembered(machine: Machine) -> Path:
    """The file in the user's cache for the profile of a machine."""
    from platformdirs import user_cache_path  # on demand, for a quick start

    return user_cache_path("onnxprune", appauthor=False) / f"profile-{machine.key}.json"


def _curves(size: int, threads: int, run: Runner) -> Iterator[Curve]:
    """The curves of all kinds and precisions at one size."""
    for kind, precision in product(KINDS, PRECISIONS):
        models = [stack(kind, precision, width, size) for width in WIDTHS]
        times = run(models, feeds(kind, size), threads, SECONDS, lambda _: None)
        typical = np.percentile(times, TYPICAL, axis=0) * 1e3
        milliseconds = (float(f"{ms:.4g}") for ms in typical)  # as many digits as can be told apart
        yield Curve(kind, precision, size, dict(zip(WIDTHS, milliseconds, strict=True)))


def _seconds(curve: Curve, size: int) -> float:
    """About how long it takes to time such a curve at another size."""
    return max(SECONDS, (size / curve.size) ** 2 * ROUNDS * sum(curve.milliseconds.values()) / 1e3)
