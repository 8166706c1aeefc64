# SPDX-License-Identifier: Apache-2.0
"""What a model costs: multiply-accumulates, parameters, bytes, and measured latency in onnxruntime on the CPU."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import ModelProto

from onnxprune.errors import DataError
from onnxprune.ir.facts import CASES_OF_BENCHMARK, read_once
from onnxprune.ir.files import runnable
from onnxprune.ir.graph import free_inputs, read_weights
from onnxprune.ir.infer import fact_of_type
from onnxprune.ir.products import macs_of
from onnxprune.ir.protofile import size_of
from onnxprune.ort import sample, session
from onnxprune.types import Advance, Feeds, Shapes, unwatched


@dataclass(frozen=True, slots=True)
class Cost:
    """Size of a model.

    Attributes:
        macs: multiply-accumulates of convolutions and matrix products for `inputs`.
        params: stored numbers, floating-point tensors and integer tensors of rank 2 or more.
        bytes: size of the serialized model with its external data.
        inputs: the input shapes that `macs` is for.
    """

    macs: int
    params: int
    bytes: int
    inputs: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Latency:
    """Wall time of one inference.

    Attributes:
        median_ms: median over `runs`.
        low_ms, high_ms: 10th and 90th percentile.
        runs: how many were timed.
    """

    median_ms: float
    low_ms: float
    high_ms: float
    runs: int


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Latencies of several models, measured in turn in one process.

    Attributes:
        latencies: one for each model, in the order given.
        speedup: for each model, how many times faster than the first; median of the ratios of neighbouring runs.
        speedup_low, speedup_high: 10th and 90th percentile of those ratios.
    """

    latencies: tuple[Latency, ...]
    speedup: tuple[float, ...]
    speedup_low: tuple[float, ...]
    speedup_high: tuple[float, ...]
    threads: int
    provider: str
    inputs: Mapping[str, tuple[int, ...]]


def cost(model: ModelProto, fed: Mapping[str, Sequence[int]] | None = None, size: int | None = None) -> Cost:
    """Count what a model stores and multiplies, at the given input shapes or at usual ones where the file leaves them open.

    Args:
        size: bytes of the file, where they are known; counting them means to serialize the model.
    """
    weights = read_weights(model)
    reading, inputs = read_once(model, CASES_OF_BENCHMARK, fed or {})
    macs, shapes = (
        sum(macs_of(n, reading.facts) for n in reading.elementary()),
        {n: reading.facts[n].shape or () for n in inputs},
    )
    params = sum(int(np.prod(w.shape)) for w in weights.values() if w.is_float or len(w.shape) > 1)
    size = size_of(model) if size is None else size
    return Cost(macs, params, size, shapes)


def benchmark(
    models: Sequence[ModelProto],
    feeds: Feeds,
    threads: int = 1,
    seconds: float = 4.0,
    progress: Advance = unwatched,
) -> Benchmark:
    """Time models in turn (A B A B ...), so that a machine that slows down slows them all.

    Args:
        feeds: inputs for all models.
        threads: threads that onnxruntime may use inside an operator.
        seconds: about how long to measure in all; at least 7 rounds.
    """
    sessions = [_open(m, threads) for m in models]
    for s in sessions:
        _run(s, feeds)
    start = time.perf_counter()
    for s in sessions:
        for _ in range(2):
            _run(s, feeds)
    per_round = max(1e-5, (time.perf_counter() - start) / 2)
    rounds = int(np.clip(seconds / per_round, 7, 300))
    times = np.empty((rounds, len(sessions)))
    for r in range(rounds):
        for k, s in enumerate(sessions):
            times[r, k] = _run(s, feeds)
        progress((r + 1) / rounds)
    ratios = times[:, :1] / times
    low, median, high = np.percentile(times * 1e3, (10, 50, 90), axis=0)
    slow, usual, fast = np.percentile(ratios, (10, 50, 90), axis=0)
    return Benchmark(
        tuple(Latency(float(m), float(a), float(b), rounds) for m, a, b in zip(median, low, high, strict=True)),
        tuple(usual.tolist()),
        tuple(slow.tolist()),
        tuple(fast.tolist()),
        threads,
        "CPUExecutionProvider",
        {name: tuple(x.shape) for name, x in feeds.items()},
    )


def _open(model: ModelProto, threads: int) -> Any:
    with runnable(model) as source:
        try:
            return session(source, threads)
        except Exception as e:  # whatever onnxruntime does not implement
            raise DataError(f"onnxruntime cannot run the model: {str(e).splitlines()[0][:200]}; use --no-bench") from e


def _run(ort_session: Any, feeds: Feeds) -> float:
    start = time.perf_counter()
    try:
        ort_session.run(None, feeds)
    except Exception as e:  # sizes that do not suit the model
        shapes = ", ".join(f"{n}:{'x'.join(map(str, x.shape))}" for n, x in feeds.items())
        what = str(e).splitlines()[0][:160]
        raise DataError(
            f"onnxruntime fails on inputs {shapes}: {what}; give suitable sizes with --input-shape, or --no-bench"
        ) from e
    return time.perf_counter() - start


def random_feeds(model: ModelProto, shapes: Shapes) -> Feeds:
    """Seeded inputs of given shapes."""
    rng = np.random.default_rng(0)
    return {v.name: sample(rng, fact_of_type(v.type).dtype, tuple(shapes[v.name])) for v in free_inputs(model)}
