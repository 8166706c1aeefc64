# SPDX-License-Identifier: Apache-2.0
"""`synthesize`: typical inputs for a model whose data is not available."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from onnx import ModelProto

from onnxprune.cost.size import cost
from onnxprune.data.arrays import counts_samples, fixed_batch, inputs_of
from onnxprune.data.classes import classes_of
from onnxprune.data.samples import Data
from onnxprune.data.synthetic.evolve import Population, Sampler, evolve, with_fitted_ranges
from onnxprune.data.synthetic.inputs import Constant, read_inputs
from onnxprune.data.synthetic.statistics import ODD, Fit, Layer, fit, norm_layers, probing
from onnxprune.types import Advance, Rng, unwatched

NO_LAYERS = (
    "the model has no BatchNorm statistics (folded at export?) to fit synthetic inputs to: a fixed mixture "
    "is used, and results based on it are unreliable; use real inputs, or an export that keeps BatchNorm"
)
FIRST, CHILDREN, ROUNDS, LEAST_ROUNDS = 4, 2, 8, 2
"""New samples, and children per round, for each requested sample; maximum and minimum number of rounds."""
MACS = 8e12
"""Multiply-accumulates that a search may use: all rounds up to the size of a MobileNet, some for a ResNet-50."""
VALUES = 2**28
"""Maximum number of input values in memory (512 MiB of samples)."""
STEPS, LEAST_STEPS, DESCENT, RUNS = 20, 5, 2e12, 4
"""Maximum and minimum number of gradient descent steps, the multiply-accumulates that they may use, and the cost of a step in
runs of the model."""
LEAST_TRIED, TRIED = 16, 64
"""Minimum and maximum number of samples on which ranges of values are tried, depending on the cost of the model."""


Refinement = Callable[[ModelProto, Data, int, Advance], Data]
"""(model, samples, steps, progress) -> samples that fit the model's BatchNorm statistics better, or the same samples."""


def synthesize(
    model: ModelProto,
    count: int = 256,
    seed: int = 0,
    shapes: Mapping[str, Sequence[int]] | None = None,
    progress: Advance = unwatched,
    refine: Refinement | None = None,
) -> Data:
    """Samples that reproduce the running means and variances of the model's BatchNorm layers, without data.

    The search uses no gradients. If `refine` is given and the model is small enough, a few steps of gradient descent follow,
    which bring the samples closer still.

    Args:
        model: the model.
        count: number of samples; fewer if they would take too much memory.
        seed: for all random choices.
        shapes: input name -> shape, for dynamic sizes.
        progress: called with the fraction that is done.
        refine: performs steps of gradient descent.

    Returns:
        The samples, with a note on how well they fit.

    Raises:
        DataError: an input is of a kind that cannot be synthesized.
    """
    rng, facts = np.random.default_rng(seed), inputs_of(model)
    unit = (fixed_batch(facts) or 1) if counts_samples(facts) else 1
    sampler = Sampler(model, read_inputs(model, shapes), unit)
    values = sum(math.prod(i.shape) for i in sampler.inputs if not isinstance(i, Constant))
    count = _whole(max(1, min(count, VALUES // ((FIRST + 1) * max(values, 1)))), unit)
    layers = norm_layers(model)
    if not layers:
        return replace(sampler.data(sampler.pool(rng, count)), notes=(NO_LAYERS,))
    macs = max(1, cost(model, shapes).macs // unit)
    affordable = MACS / macs
    sampler = _in_range(sampler, layers, rng, int(np.clip(affordable / 64, LEAST_TRIED, TRIED)))
    rounds = int(np.clip((affordable / count - FIRST) / CHILDREN, LEAST_ROUNDS, ROUNDS))
    steps = min(STEPS, int(DESCENT / (RUNS * macs * count)))
    refine = refine if steps >= LEAST_STEPS else None
    share = 0.5 if refine else 1.0  # approximate fraction of the time
    data = sampler.data(_search(sampler, layers, rng, count, rounds, lambda done: progress(share * done)))
    if refine:
        data = refine(model, data, steps, lambda done: progress(share + (1 - share) * done))
    return replace(data, notes=(_note(len(data), fit(model, data)),))


def _whole(count: int, unit: int) -> int:
    return -(-count // unit) * unit


def _in_range(sampler: Sampler, layers: Sequence[Layer], rng: Rng, tried: int) -> Sampler:
    """Fit the ranges of values to the first layers, which reveal them best and cost least."""
    with probing(sampler.model, layers[: max(3, len(layers) // 6)]) as probe:
        return with_fitted_ranges(sampler, probe, rng, _whole(tried, sampler.unit))


def _search(
    sampler: Sampler,
    layers: Sequence[Layer],
    rng: Rng,
    count: int,
    rounds: int,
    progress: Advance,
) -> Population:
    model, classes = sampler.model, classes_of(sampler.model)
    scores = [model.graph.output[0].name] if classes and classes <= count else []
    with probing(model, layers, scores) as probe:
        return evolve(sampler, probe, rng, count, FIRST * count, rounds, CHILDREN * count, progress)


def _note(count: int, found: Fit | None) -> str:
    far = "" if found and found.mismatch < ODD else "; this is a poor fit, so evaluate results on real inputs"
    return f"{count} synthetic inputs, fitted to the BatchNorm statistics: {found}{far}"
