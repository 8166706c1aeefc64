# SPDX-License-Identifier: Apache-2.0
"""Samples bred until the activations that they cause have the moments that BatchNorm remembers.

No gradients: a pool of procedural signals is made, the subset whose mean moments come nearest to the running statistics is
chosen (`select.herd`), children are made of the chosen ones, and so on. What is matched is what ZeroQ (Cai et al., 2020) and
DeepInversion (Yin et al., 2020) match by gradient descent on pixels.
"""

from __future__ import annotations

from collections.abc import Callable
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

Genomes = dict[str, Array]
FRESH = 2
"""One in so many of a round is no child but new, so that the chosen ones do not all become relatives."""


@dataclass(frozen=True)
class Breeder:
    """Makes samples for the inputs of a model, and measures them.

    Attributes:
        model: the model.
        inputs: what its inputs are like.
        unit: how many samples the model takes at a time, at least.
    """

    model: ModelProto
    inputs: tuple[Input, ...]
    unit: int = 1

    def pool(self, rng: Rng, size: int) -> Genomes:
        """New genomes."""
        at = {i.name: i.at for i in self.inputs}
        return {i.name: np.stack([i.make(rng, at[i.name]) for _ in range(size)]) for i in self.inputs}

    def children(self, rng: Rng, genomes: Genomes, size: int) -> Genomes:
        """Genomes made of pairs."""
        at, many = {i.name: i.at for i in self.inputs}, len(next(iter(genomes.values())))
        pairs = rng.integers(0, many, (size, 2))
        return {
            i.name: np.stack([i.child(rng, at[i.name], genomes[i.name][a], genomes[i.name][b]) for a, b in pairs])
            for i in self.inputs
        }

    def data(self, genomes: Genomes) -> Data:
        """The samples of genomes."""
        return data_of_chunks([{i.name: i.fed(genomes[i.name]) for i in self.inputs}], self.model, "synthetic")

    def features(self, genomes: Genomes, probe: Probe) -> Array:
        """One vector a sample; a set of samples is the better, the nearer its mean is to zero.

        Where the probe also tells the scores of classes, classes are asked to be equally frequent.
        """
        size, step, rows = len(next(iter(genomes.values()))), -(-64 // self.unit) * self.unit, []
        for k in range(0, size, step):
            for moments, outputs in probe(self.data({name: x[k : k + step] for name, x in genomes.items()})):
                parts = [features(moments), *(_imbalance(y) for y in outputs)]
                rows.append(np.concatenate(parts, 1))
        return np.concatenate(rows)


def _imbalance(scores: Array) -> Array:
    """How much more likely each class is than all are on the mean; it weighs as much as one layer."""
    scores = scores.reshape(len(scores), -1).astype(np.float64)
    if not are_probabilities(scores):
        scores = np.exp(scores - scores.max(1, keepdims=True))
        scores /= scores.sum(1, keepdims=True)
    many = scores.shape[1]
    return np.asarray((scores - 1 / many) * np.sqrt(many), np.float32)


def evolve(
    breeder: Breeder, probe: Probe, rng: Rng, count: int, first: int, rounds: int, children: int, progress: Advance
) -> Genomes:
    """The best `count` genomes out of `first` new ones and `rounds` times `children` that descend from the best."""
    genomes = breeder.pool(rng, first)
    rows = breeder.features(genomes, probe)
    products = rows @ rows.T
    best = herd(products, count)
    for k in range(rounds):
        progress((k + 1) / (rounds + 1))
        genomes, rows, products = _of(genomes, best), rows[best], products[np.ix_(best, best)]
        born = _joined(breeder.children(rng, genomes, children - children // FRESH), breeder.pool(rng, children // FRESH))
        new = breeder.features(born, probe)
        across = rows @ new.T
        products = np.block([[products, across], [across.T, new @ new.T]])
        genomes = _joined(genomes, born)
        rows = np.concatenate([rows, new])
        best = herd(products, count)
    progress(1.0)
    return _of(genomes, best)


def _joined(a: Genomes, b: Genomes) -> Genomes:
    return {name: np.concatenate([x, b[name]]) for name, x in a.items()}


def _of(genomes: Genomes, chosen: NDArray[np.intp]) -> Genomes:
    return {name: x[chosen] for name, x in genomes.items()}


def ranged(breeder: Breeder, probe: Probe, rng: Rng, size: int) -> Breeder:
    """The same with values of black and white for every signal under which a few samples fit best.

    Usual ranges are tried; only where none of them fits, the best is moved, narrowed and widened.
    """
    for k, signal in enumerate(breeder.inputs):
        if isinstance(signal, Signal) and signal.dtype.kind == "f":
            genomes = breeder.pool(rng, size)
            loss = partial(_loss, breeder, probe, k, genomes)
            found = {ends: loss(ends) for ends in dict.fromkeys([(signal.low, signal.high), *usual_ranges(signal.channels)])}
            best = min(found, key=lambda ends: found[ends])
            breeder = _with_ends(breeder, k, best if found[best] < POOR * len(probe.layers) else _climbed(best, loss))
    return breeder


def _loss(breeder: Breeder, probe: Probe, k: int, genomes: Genomes, ends: tuple[Any, Any]) -> float:
    """How well the best quarter of some genomes fits when input `k` has other ends."""
    rows = _with_ends(breeder, k, ends).features(genomes, probe)
    products = rows @ rows.T
    return norm_of_mean(products, herd(products, max(1, len(rows) // 4)))


def _with_ends(breeder: Breeder, k: int, ends: tuple[Any, Any]) -> Breeder:
    inputs, signal = list(breeder.inputs), breeder.inputs[k]
    assert isinstance(signal, Signal)
    inputs[k] = replace(signal, low=ends[0], high=ends[1])
    return replace(breeder, inputs=tuple(inputs))


POOR = 1.0
"""Squared mismatch of a layer from which on no usual range fits."""
MOVES = ((0.0, -0.3), (0.0, 0.4), (-0.2, 0.0), (0.2, 0.0), (0.15, 0.15), (-0.15, -0.15))
"""Changes of black and of white, as shares of the distance between them."""


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
