# SPDX-License-Identifier: Apache-2.0
"""`synthesize`: typical inputs for a model whose data is not available."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from onnx import ModelProto

from onnxprune.data.arrays import counts_samples, fixed_batch, inputs_of
from onnxprune.data.classes import classes_of
from onnxprune.data.samples import Data, MadeUp
from onnxprune.data.synthetic.evolve import Population, Sampler, evolve, with_fitted_ranges
from onnxprune.data.synthetic.inputs import Constant, Signal, read_inputs
from onnxprune.data.synthetic.statistics import Layer, Probe, fit, norm_layers, probing
from onnxprune.effort import Effort
from onnxprune.types import Advance, Ends, Rng, unwatched

FIRST, CHILDREN, ROUNDS, LEAST_ROUNDS = 4, 2, 8, 2
"""New samples, and children per round, for each requested sample; maximum and minimum number of rounds."""
VALUES = 2**28
"""Maximum number of input values in memory (512 MiB of samples)."""
FEWEST = 16
"""Minimum number of samples, however slow the model is."""
EVOLVED = 0.4
"""Fraction of the time for the search; the rest is for gradient descent."""
LEAST_TRIED, TRIED = 16, 64
"""Minimum and maximum number of samples on which ranges of values are tried."""


Refinement = Callable[[ModelProto, Data, Effort, Advance], Data]
"""(model, samples, effort, progress) -> samples that fit the model's BatchNorm statistics better, or the same samples."""


def synthesize(
    model: ModelProto,
    count: int = 256,
    seed: int = 0,
    shapes: Mapping[str, Sequence[int]] | None = None,
    progress: Advance = unwatched,
    refine: Refinement | None = None,
    effort: Effort | None = None,
    ends: Ends | None = None,
) -> Data:
    """Samples that reproduce the running means and variances of the model's BatchNorm layers, without data.

    The search uses no gradients. If `refine` is given and there is time, a few steps of gradient descent follow, which bring
    the samples closer still.

    Args:
        model: the model.
        count: number of samples; fewer if there is no time or memory for so many.
        seed: for all random choices.
        shapes: input name -> shape, for dynamic sizes.
        progress: called with the fraction that is done.
        refine: performs steps of gradient descent.
        effort: the time that there is.
        ends: the lowest and the highest value of the input, if known; else they are found by the statistics.

    Returns:
        The samples; `made` tells their ranges and how well they fit.

    Raises:
        DataError: an input is of a kind that cannot be synthesized.
    """
    rng, facts, effort = np.random.default_rng(seed), inputs_of(model), effort or Effort()
    unit = (fixed_batch(facts) or 1) if counts_samples(facts) else 1
    sampler = Sampler(model, read_inputs(model, shapes, ends), unit)
    values = sum(math.prod(i.shape) for i in sampler.inputs if not isinstance(i, Constant))
    count = _whole(max(1, min(count, VALUES // ((FIRST + 1) * max(values, 1)))), unit)
    layers = norm_layers(model)
    if not layers:
        samples = sampler.data(sampler.pool(rng, count))
        return replace(samples, made=MadeUp(_ranges(sampler)))
    sampler = _in_range(sampler, layers, rng, effort.within(0.2), ends is not None)
    data = sampler.data(_search(sampler, layers, rng, count, effort.within(EVOLVED if refine else 1.0), progress))
    if refine:
        data = refine(model, data, effort, lambda done: progress(EVOLVED + (1 - EVOLVED) * done))
    found = fit(model, data)
    assert found is not None
    return replace(data, made=MadeUp(_ranges(sampler), found.mismatch, len(found.layers)))


def _whole(count: int, unit: int) -> int:
    return -(-count // unit) * unit


def _ranges(sampler: Sampler) -> dict[str, Ends]:
    return {i.name: (i.low, i.high) for i in sampler.inputs if isinstance(i, Signal)}


def _in_range(sampler: Sampler, layers: Sequence[Layer], rng: Rng, effort: Effort, known: bool) -> Sampler:
    """Fit the ranges of values to the first layers, which reveal them best and cost least."""
    if known or not _ranges(sampler):
        return sampler
    with probing(sampler.model, layers[: max(3, len(layers) // 6)]) as probe:
        each = _seconds(sampler, probe, rng)
        tried = effort.amount("samples to find ranges of values", TRIALS * each, LEAST_TRIED, TRIED)
        return with_fitted_ranges(sampler, probe, rng, _whole(tried, sampler.unit))


TRIALS = 20
"""Typical number of ranges that are tried."""


def _seconds(sampler: Sampler, probe: Probe, rng: Rng) -> float:
    """Seconds that it takes to make and to examine a sample."""
    size = _whole(4, sampler.unit)
    for _ in range(2):  # the first run also prepares the session
        start = time.perf_counter()
        sampler.features(sampler.pool(rng, size), probe)
    return (time.perf_counter() - start) / size


def _search(sampler: Sampler, layers: Sequence[Layer], rng: Rng, count: int, effort: Effort, progress: Advance) -> Population:
    model, classes = sampler.model, classes_of(sampler.model)
    scores = [model.graph.output[0].name] if classes and classes <= count else []
    with probing(model, layers, scores) as probe:
        each = (FIRST + CHILDREN * LEAST_ROUNDS) * _seconds(sampler, probe, rng)
        count = effort.amount("made-up inputs", each, min(FEWEST, count), count)
        count = _whole(count, sampler.unit)
        rounds = effort.steps("rounds to make inputs", LEAST_ROUNDS, ROUNDS)
        return evolve(sampler, probe, rng, count, FIRST * count, rounds, CHILDREN * count, progress)
