# SPDX-License-Identifier: Apache-2.0
"""Measured latency of models that run in turn, and the speedup of each over the first."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from onnx import ModelProto

from onnxprune.errors import DataError, first_line
from onnxprune.ir.facts import CASES_OF_BENCHMARK, read_once
from onnxprune.ir.files import runnable
from onnxprune.ir.graph import free_inputs
from onnxprune.ir.infer import fact_of_type
from onnxprune.ir.ranges import numbers_of
from onnxprune.ort import PROVIDER, sample, session
from onnxprune.types import Advance, Array, Feeds, Shapes, Vector, unwatched

CONFIDENCE = 0.9
"""Of the interval of a median."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Wall time of one inference.

    Attributes:
        median_ms: median over `runs`.
        low_ms, high_ms: 10th and 90th percentile.
        runs: number of timed runs.
    """

    median_ms: float
    low_ms: float
    high_ms: float
    runs: int


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Latencies of several models, measured in turn in one process.

    Attributes:
        latencies: one per model, in the order given.
        speedup: for each model, how many times faster it is than the first; median of the ratios of neighbouring runs.
        speedup_low, speedup_high: 10th and 90th percentile of those ratios.
        speedup_least, speedup_most: where that median lies with 90 % confidence.
    """

    latencies: tuple[Latency, ...]
    speedup: tuple[float, ...]
    speedup_low: tuple[float, ...]
    speedup_high: tuple[float, ...]
    speedup_least: tuple[float, ...]
    speedup_most: tuple[float, ...]
    threads: int
    provider: str
    inputs: Mapping[str, tuple[int, ...]]


class Runner(Protocol):
    """Runs models in turn, here or on another machine."""

    def __call__(self, models: Sequence[ModelProto], feeds: Feeds, threads: int, seconds: float, progress: Advance) -> Array:
        """Wall times in seconds (rounds, models), the models in turn (A B A B ...), after a warm-up.

        Raises:
            DataError: a model does not run on these inputs.
        """


def in_this_process(
    models: Sequence[ModelProto], feeds: Feeds, threads: int, seconds: float, progress: Advance = unwatched
) -> Array:
    """A `Runner`: one session per model, in onnxruntime on the CPU."""
    return _in_turn(models, feeds, threads, seconds, progress, True)


def many_in_this_process(
    models: Sequence[ModelProto], feeds: Feeds, threads: int, seconds: float, progress: Advance = unwatched
) -> Array:
    """The same for dozens of models: threads that wait do not spin, for they would take the cores from the model that runs."""
    return _in_turn(models, feeds, threads, seconds, progress, False)


def _in_turn(models: Sequence[ModelProto], feeds: Feeds, threads: int, seconds: float, progress: Advance, spins: bool) -> Array:
    sessions = [_open(m, threads, spins) for m in models]
    return in_turn([partial(_run, s, feeds) for s in sessions], seconds, progress)


def in_turn(calls: Sequence[Callable[[], float]], seconds: float, progress: Advance = unwatched) -> Array:
    """Times of calls made in turn (A B A B ...), as many rounds as fit into `seconds`, but 7 to 300, after a warm-up.

    Args:
        calls: each returns the time that it took, in seconds.
        seconds: approximate total time.
        progress: called with the fraction of the rounds done, 0 to 1.

    Returns:
        Times in seconds (rounds, len(calls)).
    """
    for call in calls:
        call()
    start = time.perf_counter()
    for call in calls:
        for _ in range(2):
            call()
    per_round = max(1e-5, (time.perf_counter() - start) / 2)
    rounds = int(np.clip(seconds / per_round, 7, 300))
    times = np.empty((rounds, len(calls)))
    for r in range(rounds):
        times[r] = [call() for call in calls]
        progress((r + 1) / rounds)
    return times


def benchmark(
    models: Sequence[ModelProto],
    feeds: Feeds,
    threads: int = 1,
    seconds: float = 4.0,
    progress: Advance = unwatched,
    run: Runner = in_this_process,
) -> Benchmark:
    """Time models in turn (A B A B ...), so that a slowdown of the machine affects all of them.

    Args:
        feeds: inputs for all models.
        threads: threads that onnxruntime may use inside an operator.
        seconds: approximate total measuring time; at least 7 rounds are run.
        run: runs the models.
    """
    times = run(models, feeds, threads, seconds, progress)
    ratios = times[:, :1] / times
    low, median, high = np.percentile(times * 1e3, (10, 50, 90), axis=0)
    slow, usual, fast = np.percentile(ratios, (10, 50, 90), axis=0)
    least, most = around_median(ratios)
    return Benchmark(
        tuple(Latency(float(m), float(a), float(b), len(times)) for m, a, b in zip(median, low, high, strict=True)),
        tuple(usual.tolist()),
        tuple(slow.tolist()),
        tuple(fast.tolist()),
        tuple(least.tolist()),
        tuple(most.tolist()),
        threads,
        PROVIDER,
        {name: tuple(x.shape) for name, x in feeds.items()},
    )


def around_median(values: Array, confidence: float = CONFIDENCE) -> tuple[Vector, Vector]:
    """The ends of an interval that holds the median with at least this confidence: two of the sorted values.

    The number of values below the median is binomial, whatever their distribution (David & Nagaraja, Order Statistics, 2003,
    section 7.1). Fewer than five values are too few for 90 %: then the ends are the smallest and the largest.

    Args:
        values: (n_values, n_columns).

    >>> [float(x[0]) for x in around_median(np.arange(1.0, 101.0)[:, None])]
    [42.0, 59.0]
    """
    from scipy.special import bdtr  # on demand, for a quick start

    n = len(values)
    beyond = int((bdtr(np.arange(n // 2), n, 0.5) <= (1 - confidence) / 2).sum())
    ranked = np.sort(values, axis=0)
    k = max(beyond - 1, 0)
    return ranked[k], ranked[n - 1 - k]


def _open(model: ModelProto, threads: int, spins: bool) -> Any:
    with runnable(model) as source:
        try:
            return session(source, threads, spins=spins)
        except Exception as e:  # anything onnxruntime does not implement
            raise DataError(f"onnxruntime cannot run the model: {first_line(e)}; use --no-bench") from e


def _run(ort_session: Any, feeds: Feeds) -> float:
    start = time.perf_counter()
    try:
        ort_session.run(None, feeds)
    except Exception as e:  # sizes that the model does not accept
        shapes = ", ".join(f"{n}:{'x'.join(map(str, x.shape))}" for n, x in feeds.items())
        what = first_line(e, 160)
        raise DataError(
            f"onnxruntime fails on inputs {shapes}: {what}; set suitable sizes with --input-shape, or use --no-bench"
        ) from e
    return time.perf_counter() - start


def random_feeds(model: ModelProto, shapes: Shapes, numbers: Mapping[str, Array] | None = None, seed: int = 0) -> Feeds:
    """Seeded inputs of the given shapes.

    Args:
        numbers: for some inputs, the numbers to draw from; by default, what the tables allow that they index.
    """
    rng = np.random.default_rng(seed)
    reading, names = read_once(model, CASES_OF_BENCHMARK, shapes)
    valid = {**numbers_of(names, reading.elementary(), reading.facts), **(numbers or {})}
    return {
        v.name: sample(rng, fact_of_type(v.type).dtype, tuple(shapes[v.name]), valid.get(v.name)) for v in free_inputs(model)
    }
