# SPDX-License-Identifier: Apache-2.0
"""The statistics of normalisation, measured anew on the pruned network.

Behind a BatchNormalization that is running mean and variance (as in EagleEye, Li et al., 2020, and REPAIR, Jordan et al.,
2023); where it was folded, scale and bias of the layer, so that mean and variance of each channel are the original's again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from onnxprune.calibration.moments import Moments
from onnxprune.calibration.sites import Site, Term, find_sites
from onnxprune.calibration.stages import stages
from onnxprune.coupling import Coupled
from onnxprune.facts import read_graph
from onnxprune.graph import Graph
from onnxprune.ops.normalization import trains
from onnxprune.recover.editor import Editor, places
from onnxprune.recover.reconstruct import Knobs, gather, left_of
from onnxprune.verify import Feeds

Vector = NDArray[np.float64]


def reestimate(
    coupled: Coupled,
    dropped: NDArray[np.bool_],
    pruned: ModelProto,
    batches: Sequence[Feeds],
    progress: Callable[[float], None] = lambda _: None,
) -> ModelProto:
    """The pruned model with statistics that fit its own activations, layer by layer in the order of the graph.

    Args:
        coupled, dropped: the analysis of the original, and the labels (n_labels,) that were removed.
        pruned: the pruned model, refitted or not.
        batches: calibration inputs.
        progress: told how much is done, 0 to 1.
    """
    model = ModelProto()
    model.CopyFrom(pruned)
    graph = read_graph(model)
    norms = [n for n in graph.nodes if n.op == "BatchNormalization" and not trains(n) and _stored(graph, n.inputs[1:])]
    if norms:
        _batch_norms(model, [(n.index, n.inputs[0]) for n in norms], batches, progress)
    else:
        _layers(coupled, dropped, model, _single(graph, coupled), batches, progress)
    return model


def _stored(graph: Graph, names: Sequence[str]) -> bool:
    return all(name in graph.weights for name in names)


def _single(graph: Graph, coupled: Coupled) -> list[Site]:
    """Each linear layer by itself, whatever sum it enters."""
    terms = [t for s in find_sites(graph) for t in s.terms if t.end in coupled.graph.producers]
    return [Site(t.end, (t,), (), t.linear.channel_axis) for t in sorted(terms, key=lambda t: t.linear.node.index)]


def _batch_norms(
    model: ModelProto, norms: Sequence[tuple[int, str]], batches: Sequence[Feeds], progress: Callable[[float], None]
) -> None:
    editor = Editor(model)
    with stages(model, [[x] for _, x in norms], batches) as run:
        for k, (index, x) in enumerate(norms):
            mean, variance = _statistics((values[x] for values in run.advance(k)), 1)
            editor.set_operand(index, 3, mean, editor.operand(index, 3))
            editor.set_operand(index, 4, variance, editor.operand(index, 4))
            progress((k + 1) / len(norms))


def _layers(
    coupled: Coupled,
    dropped: NDArray[np.bool_],
    model: ModelProto,
    sites: Sequence[Site],
    batches: Sequence[Feeds],
    progress: Callable[[float], None],
) -> None:
    editor, knobs = Editor(model), Knobs()
    # what a layer makes follows from what it reads: its own output would be stale as soon as it is scaled
    targets, wants = [[s.total] for s in sites], [s.wants for s in sites]
    with stages(coupled.graph.model, targets, batches) as original, stages(model, wants, batches) as student:
        for k, site in enumerate(sites):
            pairs = zip(original.advance(k), student.advance(k), strict=True)
            folds = gather([site], editor, knobs, len(batches), ((left_of(coupled, dropped, a), b) for a, b in pairs))
            _match(site, editor, sum(folds[1:], folds[0]))
            progress((k + 1) / len(sites))


def _match(site: Site, editor: Editor, m: Moments) -> None:
    """Scale and shift a layer so that its channels have the original's mean and variance, those of `m.y`."""
    term, free = site.terms[0], places(site, editor)
    if not free or editor.users[term.linear.weight] > 1:
        return
    scale, offset = editor.affine(term)
    matrix = term.linear.matrix(editor.array(term.linear.weight)) * scale.reshape(term.linear.groups, 1, -1)
    mean = np.einsum("gd,gdo->go", m.x / m.n, matrix).ravel()
    variance = np.einsum("gdo,gdo->go", matrix, m.xx @ matrix).ravel() / m.n - mean**2
    wanted = (m.y / m.n).ravel()
    deviation = np.sqrt(np.maximum((m.yy / m.n).ravel() - wanted**2, 0.0))
    lively = variance > 1e-3 * max(variance.mean(), 1e-30)
    factor = np.where(lively, np.clip(deviation / np.sqrt(np.where(lively, variance, 1.0)), 0.1, 10.0), 1.0)
    _scale(term, editor, factor)
    free[0].add(editor, wanted - factor * mean - offset)


def _scale(term: Term, editor: Editor, factor: Vector) -> None:
    name, groups = term.linear.weight, term.linear.groups
    matrix = term.linear.matrix(editor.array(name)) * factor.reshape(groups, 1, -1)
    editor.put(name, term.linear.stored(matrix, editor.weights[name].shape))


def _statistics(values: Iterable[NDArray[np.generic]], axis: int) -> tuple[Vector, Vector]:
    """Mean and variance (channels,) over all samples and places."""
    n, total, squares = 0, np.zeros(1), np.zeros(1)
    for x in values:
        flat = np.moveaxis(x, axis, -1).reshape(-1, x.shape[axis]).astype(np.float64)
        n, total, squares = n + len(flat), total + flat.sum(0), squares + np.square(flat).sum(0)
    mean = total / max(n, 1)
    return mean, np.maximum(squares / max(n, 1) - mean**2, 0.0)
