# SPDX-License-Identifier: Apache-2.0
"""`synthesize`: typical inputs for a model of which nobody has the data."""

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
from onnxprune.data.synthetic.evolve import Breeder, Genomes, evolve, ranged
from onnxprune.data.synthetic.inputs import Still, read_inputs
from onnxprune.data.synthetic.statistics import ODD, Fit, Layer, fit, norm_layers, probing
from onnxprune.types import Advance, Rng, unwatched

NO_LAYERS = (
    "the model has no BatchNorm statistics (folded away at export?) that synthetic inputs could be fitted to: a fixed mixture "
    "is used, and what is judged by it is uncertain; real inputs, or an export that keeps BatchNorm, do better"
)
FIRST, CHILDREN, ROUNDS, LEAST_ROUNDS = 4, 2, 8, 2
"""New samples, and children of each round, for each sample that is wanted; rounds at most and at least."""
MACS = 8e12
"""Multiply-accumulates that a search may take: all rounds up to a MobileNet's size, some for a ResNet-50."""
VALUES = 2**28
"""Input values held at once (512 MiB of genomes)."""
STEPS, LEAST_STEPS, DESCENT, RUNS = 20, 5, 2e12, 4
"""Steps of gradient descent at most and at least, the multiply-accumulates that they may take, and as how many runs of the
model one counts."""
LEAST_TRIED, TRIED = 16, 64
"""Samples on which ranges of values are tried, by the work that this is."""


Refinement = Callable[[ModelProto, Data, int, Advance], Data]
"""(model, samples, steps, progress) -> samples that fit the model's BatchNorm statistics better, or the same ones."""


def synthesize(
    model: ModelProto,
    count: int = 256,
    seed: int = 0,
    shapes: Mapping[str, Sequence[int]] | None = None,
    progress: Advance = unwatched,
    refine: Refinement | None = None,
) -> Data:
    """Samples that drive the model's BatchNorm layers to their running means and variances, without data.

    Gradients are needed for none of it; where something can follow them (`refine`) and the model is small enough, a few steps
    of gradient descent follow, which bring the samples nearer still.

    Args:
        model: the model.
        count: how many samples; fewer where they would take too much memory.
        seed: of everything that is random.
        shapes: input name -> shape, for sizes that the file leaves open.
        progress: told how much is done.
        refine: takes steps of gradient descent.

    Returns:
        The samples, with a note on how well they fit.

    Raises:
        DataError: an input is of a kind that nothing can be made up for.
    """
    rng, facts = np.random.default_rng(seed), inputs_of(model)
    unit = (fixed_batch(facts) or 1) if counts_samples(facts) else 1
    breeder = Breeder(model, read_inputs(model, shapes), unit)
    values = sum(math.prod(i.shape) for i in breeder.inputs if not isinstance(i, Still))
    count = _whole(max(1, min(count, VALUES // ((FIRST + 1) * max(values, 1)))), unit)
    layers = norm_layers(model)
    if not layers:
        return replace(breeder.data(breeder.pool(rng, count)), notes=(NO_LAYERS,))
    macs = max(1, cost(model, shapes).macs // unit)
    affordable = MACS / macs
    breeder = _in_range(breeder, layers, rng, int(np.clip(affordable / 64, LEAST_TRIED, TRIED)))
    rounds = int(np.clip((affordable / count - FIRST) / CHILDREN, LEAST_ROUNDS, ROUNDS))
    steps = min(STEPS, int(DESCENT / (RUNS * macs * count)))
    refine = refine if steps >= LEAST_STEPS else None
    share = 0.5 if refine else 1.0  # of the time, about
    data = breeder.data(_search(breeder, layers, rng, count, rounds, lambda done: progress(share * done)))
    if refine:
        data = refine(model, data, steps, lambda done: progress(share + (1 - share) * done))
    return replace(data, notes=(_note(len(data), fit(model, data)),))


def _whole(count: int, unit: int) -> int:
    return -(-count // unit) * unit


def _in_range(breeder: Breeder, layers: Sequence[Layer], rng: Rng, tried: int) -> Breeder:
    """Black and white by the first layers, which tell them best and cost least."""
    with probing(breeder.model, layers[: max(3, len(layers) // 6)]) as probe:
        return ranged(breeder, probe, rng, _whole(tried, breeder.unit))


def _search(
    breeder: Breeder,
    layers: Sequence[Layer],
    rng: Rng,
    count: int,
    rounds: int,
    progress: Advance,
) -> Genomes:
    model, classes = breeder.model, classes_of(breeder.model)
    scores = [model.graph.output[0].name] if classes and classes <= count else []
    with probing(model, layers, scores) as probe:
        return evolve(breeder, probe, rng, count, FIRST * count, rounds, CHILDREN * count, progress)


def _note(count: int, found: Fit | None) -> str:
    far = "" if found and found.mismatch < ODD else "; that is far, so results should be judged by real inputs"
    return f"{count} synthetic inputs, fitted to the BatchNorm statistics: {found}{far}"
