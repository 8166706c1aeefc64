# SPDX-License-Identifier: Apache-2.0
"""Least-squares reconstruction: every layer of the cut network is fitted to reproduce the output of the original layer.

In graph order, each sum of linear nodes (a site) is fitted by ridge regression. The target is what the *original* network
computes there; the inputs are those that the *pruned and already refitted* network provides, so that errors do not accumulate.
After ThiNet (Luo et al., 2017), channel pruning by regression (He et al., 2017) and the sequential form of OSSCAR (2024),
extended to sums: what an identity shortcut has already lost is corrected by the last convolution before the addition.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto

from onnxprune.analysis.coupling import Coupled
from onnxprune.calibration.jobs import Job, ordered
from onnxprune.calibration.linear import at_positions
from onnxprune.calibration.moments import RIDGES, Moments, Solution, fitted
from onnxprune.calibration.stages import stages
from onnxprune.calibration.sums import LinearSum, find_sums
from onnxprune.ir.facts import read_graph
from onnxprune.recovery.editor import Editor, Fitted, offset_slots
from onnxprune.types import Advance, Array, Feeds, Mask, Rng, unwatched

Values = dict[str, Array]


@dataclass(frozen=True, slots=True)
class FitSettings:
    """Settings of a reconstruction.

    Attributes:
        rows: output positions to use per layer, over all samples; more if the layer has many inputs.
        rows_per_input: minimum number of rows per input of a layer.
        ridges: candidates for the ridge.
        seed: seed for choosing positions.
    """

    rows: int = 40_000
    rows_per_input: int = 12
    ridges: tuple[float, ...] = RIDGES
    seed: int = 0


def reconstruct(
    coupled: Coupled,
    dropped: Mask,
    pruned: ModelProto,
    batches: Sequence[Feeds],
    knobs: FitSettings = FitSettings(),
    progress: Advance = unwatched,
) -> Fitted:
    """The pruned model with refitted weights; graph, names and shapes do not change (but a layer may gain a bias).

    Args:
        coupled, dropped: the analysis of the original, and the labels (n_labels,) that were removed.
        pruned: the cut model.
        batches: calibration inputs.
        knobs: settings of the fit.
        progress: called with the fraction done, 0 to 1.
    """
    model = ModelProto()
    model.CopyFrom(pruned)
    graph = read_graph(model)
    jobs = ordered(graph, [s for s in find_sums(graph) if s.total in coupled.graph.producers])
    targets = [[s.total for s in job] for job in jobs]
    wants = [[name for s in job for name in s.wants] for job in jobs]
    editor = Editor(model)
    with stages(coupled.graph.model, targets, batches) as original, stages(model, wants, batches) as student:
        for k, job in enumerate(jobs):
            pairs = zip(original.advance(k), student.advance(k), strict=True)
            folds = gather(job, editor, knobs, len(batches), ((kept_of(coupled, dropped, a), b) for a, b in pairs))
            _refit(job[0], editor, folds, knobs)
            progress((k + 1) / len(jobs))
    return editor.fitted()


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
    rows = max(knobs.rows, knobs.rows_per_input * sum(_n_inputs(site, editor) for site in job[:1]))
    per_batch = -(-rows // (n_batches * len(job)))
    folds: list[list[Moments]] = [[], []]
    for b, (target, given) in enumerate(pairs):
        for site in job:
            x, y = _rows(site, target[site.total], given, per_batch, rng)
            folds[b % 2] = [sum(folds[b % 2], Moments.of(x, y))]
    return [fold[0] for fold in folds if fold]


def _n_inputs(site: LinearSum, editor: Editor) -> int:
    return sum(t.linear.matrix(editor.weights[t.linear.weight].array).shape[1] for t in site.terms)


def _rows(site: LinearSum, target: Array, given: Values, count: int, rng: Rng) -> tuple[Array, Array]:
    """Inputs (groups, n, d) and targets (groups, n, o) at sampled positions."""
    axis = site.channel_axis % target.ndim
    n_positions = target.size // target.shape[axis]
    positions = np.arange(n_positions)
    if n_positions > count:
        positions = np.sort(rng.choice(n_positions, count, replace=False))
    y = at_positions(target, axis, positions).astype(np.float32)
    for name in site.addends:
        y = y - at_positions(np.broadcast_to(given[name], target.shape), axis, positions)
    parts = [t.linear.rows(given[t.linear.node.inputs[0]], positions).astype(np.float32) for t in site.terms]
    x = np.concatenate(parts, 2)
    return x, y.reshape(len(positions), len(x), -1).transpose(1, 0, 2)


def _refit(site: LinearSum, editor: Editor, folds: Sequence[Moments], knobs: FitSettings) -> None:
    """Solve, and store the solution in the weights."""
    groups = site.terms[0].linear.groups
    affines = [editor.affine(t) for t in site.terms]
    scales = [scale.reshape(groups, 1, -1) for scale, _ in affines]
    starts = [t.linear.matrix(editor.array(t.linear.weight)) * s for t, s in zip(site.terms, scales, strict=True)]
    offset = np.sum([o for _, o in affines], 0).reshape(groups, -1)
    free = offset_slots(site, editor)
    found = fitted(folds, np.concatenate(starts, 1), None if free else offset, knobs.ridges)
    _put(site, editor, found, scales, [s.shape[1] for s in starts])
    for place in free[:1]:
        place.add(editor, (found.offset - offset).ravel())


def _put(site: LinearSum, editor: Editor, found: Solution, scales: Sequence[Array], sizes: Sequence[int]) -> None:
    parts = np.split(found.matrix, np.cumsum(sizes)[:-1], axis=1)
    for term, scale, part in zip(site.terms, scales, parts, strict=True):
        name = term.linear.weight
        editor.put(name, term.linear.stored(part / np.where(scale == 0, 1, scale), editor.weights[name].shape))
