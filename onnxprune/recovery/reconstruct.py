# SPDX-License-Identifier: Apache-2.0
"""Least-squares reconstruction: every layer of the cut network is fitted to reproduce the output of the original layer.

In graph order, each sum of linear nodes (a site) is fitted by ridge regression. The target is what the *original* network
computes there; the inputs are those that the *pruned and already refitted* network provides, so that errors do not accumulate.
After ThiNet (Luo et al., 2017), channel pruning by regression (He et al., 2017) and the sequential form of OSSCAR (2024),
extended to sums: what an identity shortcut has already lost is corrected by the last convolution before the addition.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from onnx import ModelProto

from onnxprune.analysis.coupling import Coupled
from onnxprune.calibration.jobs import Job, ordered
from onnxprune.calibration.mixes import mixed
from onnxprune.calibration.moments import Moments, Solution, fitted
from onnxprune.calibration.stages import stages
from onnxprune.calibration.sums import LinearSum, find_sums
from onnxprune.ir.facts import read_graph
from onnxprune.ir.tensors import size_of
from onnxprune.recovery.batch_norm import match
from onnxprune.recovery.editor import Editor, Fitted, offset_slots
from onnxprune.recovery.effort import FitSettings as FitSettings
from onnxprune.recovery.effort import Layer, Pace, Speed, measured
from onnxprune.recovery.sampling import gather, kept_of, n_inputs
from onnxprune.types import Advance, Array, Feeds, Mask, Vector, unwatched

DEFAULTS = FitSettings()


@dataclass(frozen=True, eq=False)
class Constrained:
    """A fitted layer whose weights must get a structure.

    Attributes:
        site, editor: where its weights are.
        matrix: the fit without a structure (groups, d, o), scaled as the layer's output is.
        moments: second moments of its inputs (groups, d, d); of deviations from the mean, if a bias makes up for the mean.
        scales: what stored weights are multiplied by to get `matrix` (groups, d, o), never 0.
    """

    site: LinearSum
    editor: Editor
    matrix: Vector
    moments: Vector
    scales: Vector


Constrain = Callable[[Constrained], Vector]
"""Weights (groups, d, o) that have the structure, scaled as `Constrained.matrix`."""
FEW = 2_000
"""Rows to match the mean and deviation of a layer with."""


def reconstruct(
    coupled: Coupled,
    dropped: Mask,
    pruned: ModelProto,
    batches: Sequence[Feeds],
    knobs: FitSettings = DEFAULTS,
    progress: Advance = unwatched,
    constrain: Constrain | None = None,
) -> Fitted:
    """The pruned model with refitted weights; graph, names and shapes do not change (but a layer may gain a bias).

    Args:
        coupled, dropped: the analysis of the original, and the labels (n_labels,) that were removed.
        pruned: the cut model.
        batches: calibration inputs, one sample in each position of the first axis of every input.
        knobs: settings of the fit.
        progress: called with the fraction done, 0 to 1.
        constrain: gives the weights of each fitted layer a structure.
    """
    model = ModelProto()
    model.CopyFrom(pruned)
    graph, editor, pace = read_graph(model), Editor(model), Pace(knobs)
    jobs = ordered(graph, [s for s in find_sums(graph) if s.total in coupled.graph.producers])
    if knobs.seconds is not None and jobs:
        layers, speed = _measured(coupled.graph.model, jobs, editor, batches[0])
        pace.start(layers, sum(map(n_samples, batches)), len(batches), speed, _mixable(model))
    knobs, given = pace.settings, chosen(batches, pace.settings)
    batches = given + mixed(given, knobs.mixes, knobs.seed)
    targets = [[s.total for s in job] for job in jobs]
    wants = [[name for s in job for name in s.wants] for job in jobs]
    with stages(coupled.graph.model, targets, batches) as original, stages(model, wants, batches) as student:
        for k, job in enumerate(jobs):
            fits = pace.batches(len(batches))
            if not fits and not pace.match():
                break
            if fits:
                original.limit(fits)
                student.limit(fits)
            pairs = zip(original.advance(k), student.advance(k), strict=True)
            kept = ((kept_of(coupled, dropped, a), b) for a, b in pairs)
            folds = gather(
                job, editor, knobs if fits else replace(knobs, rows=FEW, rows_per_input=0), len(student.batches), kept
            )
            if fits:
                _refit(job[0], editor, folds, knobs, constrain)
            else:
                match(job[0], editor, sum(folds[1:], folds[0]))
            progress((k + 1) / len(jobs))
    return replace(editor.fitted(), work=pace.work(sum(map(n_samples, given))))


def _mixable(model: ModelProto) -> bool:
    """Whether the first axis of every input counts samples, as far as the file tells: its size is open, or 1."""
    stored = {t.name for t in model.graph.initializer}
    shapes = [v.type.tensor_type.shape.dim for v in model.graph.input if v.name not in stored]
    return all(len(dims) > 1 and dims[0].dim_value <= 1 for dims in shapes)  # 0: a symbol or nothing; -1: open, by Paddle


def n_samples(feeds: Feeds) -> int:
    """The number of samples of a batch; 1 if its inputs do not share their first axis."""
    sizes = {np.shape(x)[0] if np.ndim(x) else 1 for x in feeds.values()}
    return sizes.pop() if len(sizes) == 1 else 1


def chosen(batches: Sequence[Feeds], knobs: FitSettings) -> list[Feeds]:
    """As many batches as hold `knobs.samples`, in random order: the first few of them resemble all."""
    order = np.random.default_rng(knobs.seed).permutation(len(batches))
    before = np.cumsum([0, *(n_samples(batches[k]) for k in order)])[:-1]
    return [batches[k] for k in order[before < (math.inf if knobs.samples is None else knobs.samples)]]


def _measured(original: ModelProto, jobs: Sequence[Job], editor: Editor, batch: Feeds) -> tuple[list[Layer], Speed]:
    """The sizes of all fits, and the speeds of this machine, from running a batch of the original twice."""
    totals = list(dict.fromkeys(s.total for job in jobs for s in job))
    shapes: dict[str, tuple[int, ...]] = {}
    seconds = []
    with stages(original, [totals, totals], [batch, batch]) as run:
        start = time.perf_counter()
        for values in run.advance(0):
            shapes = {name: x.shape for name, x in values.items()}
            seconds.append(time.perf_counter() - start)
            start = time.perf_counter()
    per_sample = n_samples(batch)

    def layer(job: Job) -> Layer:
        groups, _, outputs = job[0].terms[0].linear.matrix(editor.weights[job[0].terms[0].linear.weight].array).shape
        shape = shapes[job[0].total]
        return Layer(
            groups, n_inputs(job[0], editor), outputs, math.prod(shape) / shape[job[0].channel_axis] / per_sample * len(job)
        )

    return [layer(job) for job in jobs], measured(2 * seconds[-1] / per_sample)


def _refit(site: LinearSum, editor: Editor, folds: Sequence[Moments], knobs: FitSettings, constrain: Constrain | None) -> None:
    """Solve, and store the solution in the weights."""
    groups = site.terms[0].linear.groups
    affines = [editor.affine(t) for t in site.terms]
    scales = [scale.reshape(groups, 1, -1) for scale, _ in affines]
    starts = [t.linear.matrix(editor.array(t.linear.weight)) * s for t, s in zip(site.terms, scales, strict=True)]
    offset = np.sum([o for _, o in affines], 0).reshape(groups, -1)
    free = offset_slots(site, editor)
    found = fitted(folds, np.concatenate(starts, 1), None if free else offset, knobs.ridges)
    if constrain is not None:
        sizes = [np.broadcast_to(np.where(s == 0, 1, s), start.shape) for s, start in zip(scales, starts, strict=True)]
        total = sum(folds[1:], folds[0])
        layer = Constrained(site, editor, found.matrix, second_moments(total, bool(free)), np.concatenate(sizes, 1))
        found = _with_matrix(constrain(layer), total, found.offset, bool(free))
    _put(site, editor, found, scales, [s.shape[1] for s in starts])
    for place in free[:1]:
        place.add(editor, (found.offset - offset).ravel())


def room_for_offsets(model: ModelProto) -> int:
    """Bytes that a fit may add to a model: biases, and tensors that nodes no longer share."""
    copy = ModelProto()
    copy.CopyFrom(model)
    graph, editor = read_graph(copy), Editor(copy)
    for job in ordered(graph, find_sums(graph)):
        for place in offset_slots(job[0], editor)[:1]:
            place.add(editor, np.zeros(len(place.factor)))
    return size_of(copy) - size_of(model)


def second_moments(total: Moments, centred: bool) -> Vector:
    """Those of the inputs (groups, d, d); with a free offset, of their deviations from the mean."""
    mean = total.x / total.n
    found: Vector = total.xx / total.n - (np.einsum("gd,ge->gde", mean, mean) if centred else 0)
    return found


def _with_matrix(matrix: Vector, total: Moments, offset: Vector, free: bool) -> Solution:
    """A solution with this matrix, and the offset that fits it best if one is free."""
    best = (total.y - np.einsum("gd,gdo->go", total.x, matrix)) / total.n
    return Solution(matrix, best if free else offset)


def _put(site: LinearSum, editor: Editor, found: Solution, scales: Sequence[Array], sizes: Sequence[int]) -> None:
    """Store the matrices of a site, of `sizes` inputs, in the weights of its terms, whose outputs are scaled by `scales`."""
    parts = np.split(found.matrix, np.cumsum(sizes)[:-1], axis=1)
    for term, scale, part in zip(site.terms, scales, parts, strict=True):
        name = term.linear.weight
        editor.put(name, term.linear.stored(part / np.where(scale == 0, 1, scale), editor.weights[name].shape))
