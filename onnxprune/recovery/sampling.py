# SPDX-License-Identifier: Apache-2.0
"""Rows of inputs and targets at sampled positions: what a layer reads in the cut model, and what it makes in the original."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from onnxprune.analysis.coupling import Coupled
from onnxprune.calibration.jobs import Job
from onnxprune.calibration.linear import at_positions
from onnxprune.calibration.moments import VALUES, Moments, Tally
from onnxprune.calibration.sums import LinearSum
from onnxprune.recovery.editor import Editor
from onnxprune.recovery.effort import FitSettings
from onnxprune.types import Array, Indices, Mask, Rng

Values = dict[str, Array]


def kept_of(coupled: Coupled, dropped: Mask, values: Values) -> Values:
    """Tensors of the original, restricted to the kept channels."""
    found = {}
    for name, value in values.items():
        for axis, labels in enumerate(coupled.flows[name].axes):
            if labels is not None and dropped[labels].any():
                value = np.compress(~dropped[labels], value, axis)
        found[name] = value
    return found


def gather(
    job: Job, editor: Editor, knobs: FitSettings, n_batches: int, pairs: Iterator[tuple[Values, Values]]
) -> list[Moments]:
    """Normal equations of a job over all batches, in two folds."""
    rng = np.random.default_rng(knobs.seed)
    inputs = n_inputs(job[0], editor)
    per_batch = -(-max(knobs.rows, knobs.rows_per_input * inputs) // (n_batches * len(job)))
    folds = [Tally() for _ in range(min(2, n_batches))]
    for b, (target, given) in enumerate(pairs):
        for site in job:
            for positions in _positions(target[site.total], site.channel_axis, per_batch, inputs, rng):
                folds[b % 2].add(*_rows(site, target[site.total], given, positions))
    return [fold.moments() for fold in folds]


def _positions(target: Array, axis: int, count: int, inputs: int, rng: Rng) -> Iterator[Indices]:
    """At most `count` positions drawn at random, in parts whose input rows fit into memory."""
    n_positions = target.size // target.shape[axis]
    found = np.arange(n_positions)
    if n_positions > count:
        found = np.sort(rng.choice(n_positions, count, replace=False))
    yield from np.array_split(found, -(-len(found) * inputs // VALUES) or 1)


def n_inputs(site: LinearSum, editor: Editor) -> int:
    """The number of inputs of each row of a site."""
    return sum(t.linear.matrix(editor.weights[t.linear.weight].array).shape[1] for t in site.terms)


def _rows(site: LinearSum, target: Array, given: Values, positions: Indices) -> tuple[Array, Array]:
    """Inputs (groups, n, d) and targets (groups, n, o) at some positions."""
    axis = site.channel_axis % target.ndim
    y = at_positions(target, axis, positions).astype(np.float32)
    for name in site.addends:
        y = y - at_positions(np.broadcast_to(given[name], target.shape), axis, positions)
    parts = [t.linear.rows(given[t.linear.node.inputs[0]], positions).astype(np.float32) for t in site.terms]
    x = np.concatenate(parts, 2)
    return x, y.reshape(len(positions), len(x), -1).transpose(1, 0, 2)
