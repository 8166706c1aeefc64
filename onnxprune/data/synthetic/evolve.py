# SPDX-License-Identifier: Apache-2.0
"""Samples evolved until their activations have the moments that BatchNorm stores.

No gradients: from a pool of procedural signals, the subset whose mean moments are nearest to the running statistics is chosen
(`select.herd`), the chosen samples produce children, and so on. ZeroQ (Cai et al., 2020) and DeepInversion (Yin et al., 2020)
match the same statistics by gradient descent on pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from onnxprune.data.arrays import data_of_chunks
from onnxprune.data.classes import are_probabilities
from onnxprune.data.samples import Data
from onnxprune.data.synthetic.inputs import Input, Signal, usual_ranges
from onnxprune.data.synthetic.select import herd, norm_of_mean
from onnxprune.data.synthetic.statistics import Probe, features
from onnxprune.types import Advance, Array, Rng

Population = dict[str, Array]
"""Samples before scaling: input name -> one array, samples first."""
FRESH = 2
"""One in FRESH samples of a round is new, not a child, so that the chosen samples do not all become relatives."""


@dataclass(frozen=True)
class Sampler:
    """Makes samples for the inputs of a model, and evaluates them.

    Attributes:
        model: the model.
        inputs: descriptions of its inputs.
        unit: minimum number of samples that the model takes at a time.
    """

    model: ModelProto
    inputs: tuple[Input, ...]
    unit: int = 1

    def pool(self, rng: Rng, size: int) -> Population:
        """New samples, with random textures."""
        at = {i.name: i.at for i in self.inputs}
        return {i.name: np.stack([i.make(rng, at[i.name]) for _ in range(size)]) for i in self.inputs}

    def children(self, rng: Rng, samples: Population, size: int) -> Population:
        """Children of random pairs of samples."""
        at, count = {i.name: i.at for i in self.inputs}, len(next(iter(samples.values())))
        pairs = rng.integers(0, count, (size, 2))
        return {
            i.name: np.stack([i.child(rng, at[i.name], samples[i.name][a], samples[i.name][b]) for a, b in pairs])
            for i in self.inputs
        }

    def data(self, samples: Population) -> Data:
        """The samples as the model takes them."""
        return data_of_chunks([{i.name: i.fed(samples[i.name]) for i in self.inputs}], self.model, "synthetic")

    def features(self, samples: Population, probe: Probe) -> Array:
        """One vector per sample; the nearer the mean of a set of samples is to zero, the better the set.

        If the probe also returns class scores, unequal class frequencies count as a mismatch.
        """
        size, step, rows = len(next(iter(samples.values()))), -(-64 // self.unit) * self.unit, []
        for k in range(0, size, step):
            for moments, outputs in probe(self.data({name: x[k : k + step] for name, x in samples.items()})):
                parts = [features(moments), *(_imbalance(y) for y in outputs)]
                rows.append(np.concatenate(parts, 1))
        return np.concatenate(rows)


def _imbalance(scores: Array) -> Array:
    """How much more likely each class is than the average class; weighted as much as one layer."""
    scores = scores.reshape(len(scores), -1).astype(np.float64)
    if not are_probabilities(scores):
        scores = np.exp(scores - scores.max(1, keepdims=True))
        scores /= scores.sum(1, keepdims=True)
    classes = scores.shape[1]
    return np.asarray((scores - 1 / classes) * np.sqrt(classes), np.float32)


def evolve(
    sampler: Sampler,
    probe: Probe,
    rng: Rng,
    count: int,
    first: int,
    rounds: Iterable[int],
    children: int,
    progress: Advance,
) -> Population:
    """The best `count` samples of `first` new ones and `children` more per round, derived from the best so far."""
    samples = sampler.pool(rng, first)
    rows = sampler.features(samples, probe)
    products = rows @ rows.T
    best = herd(products, count)
    for k in rounds:
        progress(1 - 0.8 ** (k + 1))  # there may be time for fewer rounds than intended
        samples, rows, products = _of(samples, best), rows[best], products[np.ix_(best, best)]
        added = _joined(sampler.children(rng, samples, children - children // FRESH), sampler.pool(rng, children // FRESH))
        new = sampler.features(added, probe)
        across = rows @ new.T
        products = np.block([[products, across], [across.T, new @ new.T]])
        samples = _joined(samples, added)
        rows = np.concatenate([rows, new])
        best = herd(products, count)
    progress(1.0)
    return _of(samples, best)


def _joined(a: Population, b: Population) -> Population:
    return {name: np.concatenate([x, b[name]]) for name, x in a.items()}


def _of(samples: Population, chosen: NDArray[np.intp]) -> Population:
    return {name: x[chosen] for name, x in samples.items()}


def with_fitted_ranges(sampler: Sampler, probe: Probe, rng: Rng, size: int) -> Sampler:
    """The same sampler, with the low and high value of each signal that make a few samples fit best.

    Common ranges are tried; only if none fits is the best one shifted, narrowed and widened.
    """
    for k, signal in enumerate(sampler.inputs):
        if isinstance(signal, Signal) and signal.dtype.kind == "f":
            samples = sampler.pool(rng, size)
            loss = partial(_loss, sampler, probe, k, samples)
            found = {ends: loss(ends) for ends in dict.fromkeys([(signal.low, signal.high), *usual_ranges(signal.channels)])}
            best = min(found, key=lambda ends: found[ends])
            sampler = _with_ends(sampler, k, best if found[best] < POOR * len(probe.layers) else _climbed(best, loss))
    return sampler


def _loss(sampler: Sampler, probe: Probe, k: int, samples: Population, ends: tuple[Any, Any]) -> float:
    """Mismatch of the best quarter of some samples if the values of input `k` range between `ends`."""
    rows = _with_ends(sampler, k, ends).features(samples, probe)
    products = rows @ rows.T
    return norm_of_mean(products, herd(products, max(1, len(rows) // 4)))


def _with_ends(sampler: Sampler, k: int, ends: tuple[Any, Any]) -> Sampler:
    inputs, signal = list(sampler.inputs), sampler.inputs[k]
    assert isinstance(signal, Signal)
    inputs[k] = replace(signal, low=ends[0], high=ends[1])
    return replace(sampler, inputs=tuple(inputs))


POOR = 1.0
"""Squared mismatch per layer from which a range does not fit."""
MOVES = ((0.0, -0.3), (0.0, 0.4), (-0.2, 0.0), (0.2, 0.0), (0.15, 0.15), (-0.15, -0.15))
"""Changes of the low and the high value, as fractions of the distance between them."""


def _climbed(best: tuple[Any, Any], loss: Callable[[tuple[Any, Any]], float], most: int = 8) -> tuple[Any, Any]:
    least = loss(best)
    for _ in range(most):
        near = {ends: loss(ends) for ends in (_moved(best, *move) for move in MOVES)}
        better = min(near, key=lambda ends: near[ends])
        if near[better] > 0.95 * least:
            break
        best, least = better, near[better]
    return best


def _moved(ends: tuple[Any, Any], low: float, high: float) -> tuple[Any, Any]:
    pairs = list(zip(*ends, strict=True))
    return tuple(a + low * (b - a) for a, b in pairs), tuple(b + high * (b - a) for a, b in pairs)
