# SPDX-License-Identifier: Apache-2.0
"""Normalisation statistics, re-estimated on the pruned network.

If a BatchNormalization follows a layer, its running mean and variance are re-estimated (as in EagleEye, Li et al., 2020, and
REPAIR, Jordan et al., 2023). If there is none, or it was folded, the scale and bias of the layer are adjusted so that the mean
and variance of each channel match the original's again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from onnxprune.analysis.coupling import Coupled
from onnxprune.calibration.moments import Moments
from onnxprune.calibration.stages import stages
from onnxprune.calibration.sums import LinearSum, find_sums
from onnxprune.ir.facts import read_graph
from onnxprune.ir.graph import Graph, Node
from onnxprune.ir.semantics import uses_batch_statistics
from onnxprune.recovery.editor import Editor, Fitted, offset_slots
from onnxprune.recovery.effort import FitSettings
from onnxprune.recovery.sampling import Values, gather, kept_of
from onnxprune.types import Advance, Feeds, Mask, Vector, unwatched

Pairs = Iterator[tuple[Values, Values]]


def reestimate(
    coupled: Coupled,
    dropped: Mask,
    pruned: ModelProto,
    batches: Sequence[Feeds],
    progress: Advance = unwatched,
) -> Fitted:
    """The pruned model with statistics that fit its own activations, re-estimated layer by layer in graph order.

    Args:
        coupled, dropped: the analysis of the original, and the labels (n_labels,) that were removed.
        pruned: the pruned model, refitted or not.
        batches: calibration inputs.
        progress: called with the fraction done, 0 to 1.
    """
    model = ModelProto()
    model.CopyFrom(pruned)
    graph, editor = read_graph(model), Editor(model)
    steps = sorted([*_norms(graph), *_layers(graph, coupled, len(batches))], key=lambda s: s.index)
    # a layer's statistics are computed from its inputs, because its output is stale as soon as the layer is scaled
    targets, wants = [s.targets for s in steps], [s.wants for s in steps]
    with stages(coupled.graph.model, targets, batches) as original, stages(model, wants, batches) as student:
        for k, step in enumerate(steps):
            pairs = zip(original.advance(k), student.advance(k), strict=True)
            step.settle(editor, ((kept_of(coupled, dropped, a), b) for a, b in pairs))
            progress((k + 1) / len(steps))
    return editor.fitted()


@dataclass(frozen=True, eq=False)
class _Measurement:
    """One measurement, and the weights that it sets.

    Attributes:
        index: position in the graph.
        targets: tensors of the original to record.
        wants: tensors of the pruned model to record.
        settle: measures both, batch by batch, and sets the weights.
    """

    index: int
    targets: tuple[str, ...]
    wants: tuple[str, ...]
    settle: Callable[[Editor, Pairs], None]


def _norms(graph: Graph) -> Iterator[_Measurement]:
    """Every BatchNormalization: the statistics of its input are no longer those that it was trained with."""
    for node in graph.nodes:
        if (
            node.op == "BatchNormalization"
            and not node.body
            and not uses_batch_statistics(node)
            and all(n in graph.weights for n in node.inputs[1:])
        ):
            yield _Measurement(node.index, (), node.inputs[:1], partial(_reestimate_norm, node))


def _reestimate_norm(node: Node, editor: Editor, pairs: Pairs) -> None:
    mean, variance = _statistics((values[node.inputs[0]] for _, values in pairs), 1)
    editor.set_operand(node.place, 3, mean, editor.operand(node.place, 3))
    editor.set_operand(node.place, 4, variance, editor.operand(node.place, 4))


def _layers(graph: Graph, coupled: Coupled, n_batches: int) -> Iterator[_Measurement]:
    """Every linear layer that no BatchNormalization follows, on its own, even if it is a term of a larger sum."""
    for term in (t for s in find_sums(graph) for t in s.terms if t.end in coupled.graph.producers):
        if not any(step.node.op == "BatchNormalization" for step in term.steps):
            site = LinearSum(term.end, (term,), (), term.axis)
            yield _Measurement(term.linear.node.index, (site.total,), site.wants, partial(_match_layer, site, n_batches))


def _match_layer(site: LinearSum, n_batches: int, editor: Editor, pairs: Pairs) -> None:
    folds = gather([site], editor, FitSettings(), n_batches, pairs)
    match(site, editor, sum(folds[1:], folds[0]))


def match(site: LinearSum, editor: Editor, m: Moments) -> None:
    """Scale and shift the layers of a sum so that its channels match the original's (`m.y`) in mean and variance."""
    free = offset_slots(site, editor)
    if not free or any(editor.users[t.linear.weight] > 1 for t in site.terms):
        return
    groups, affines = site.terms[0].linear.groups, [editor.affine(t) for t in site.terms]
    matrices = [t.linear.matrix(editor.array(t.linear.weight)) for t in site.terms]
    matrix = np.concatenate([w * scale.reshape(groups, 1, -1) for w, (scale, _) in zip(matrices, affines, strict=True)], 1)
    mean = np.einsum("gd,gdo->go", m.x / m.n, matrix).ravel()
    variance = np.einsum("gdo,gdo->go", matrix, m.xx @ matrix).ravel() / m.n - mean**2
    target = (m.y / m.n).ravel()
    deviation = np.sqrt(np.maximum((m.yy / m.n).ravel() - target**2, 0.0))
    active = variance > 1e-3 * max(variance.mean(), 1e-30)
    factor = np.where(active, np.clip(deviation / np.sqrt(np.where(active, variance, 1.0)), 0.1, 10.0), 1.0)
    for term, w in zip(site.terms, matrices, strict=True):
        name = term.linear.weight
        editor.put(name, term.linear.stored(w * factor.reshape(groups, 1, -1), editor.weights[name].shape))
    free[0].add(editor, target - factor * mean - np.sum([offset for _, offset in affines], 0))


def _statistics(values: Iterable[NDArray[np.generic]], axis: int) -> tuple[Vector, Vector]:
    """Mean and variance (channels,) over all samples and positions."""
    n, total, squares = 0, np.zeros(1), np.zeros(1)
    for x in values:
        flat = np.moveaxis(x, axis, -1).reshape(-1, x.shape[axis]).astype(np.float64)
        n, total, squares = n + len(flat), total + flat.sum(0), squares + np.square(flat).sum(0)
    mean = total / max(n, 1)
    return mean, np.maximum(squares / max(n, 1) - mean**2, 0.0)
