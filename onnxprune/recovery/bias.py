# SPDX-License-Identifier: Apache-2.0
"""The mean contribution of removed channels is added to the biases of the layers that read them. Nothing is fitted.

The mean of a removed channel after its activation follows from BatchNormalization alone, whose output is roughly normal with
mean beta and standard deviation |gamma| (DFQ, Nagel et al., 2019): the nodes between it and the reader are run on normal
samples. With calibration inputs the means are measured instead, which also works if BatchNormalization was folded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from onnxprune.analysis.coupling import Coupled
from onnxprune.calibration.stages import Piece, part, read_by, stages
from onnxprune.calibration.sums import LinearSum, find_sums
from onnxprune.ir.facts import read_graph
from onnxprune.ir.files import runnable
from onnxprune.ir.graph import Graph, Node
from onnxprune.ir.semantics import BY_CHANNEL, uses_batch_statistics
from onnxprune.ort import session
from onnxprune.recovery.editor import Editor, Fitted, offset_slots
from onnxprune.types import Feeds, Mask, Rng, Vector

POINTS = 4096


def absorb(coupled: Coupled, dropped: Mask, pruned: ModelProto, batches: Sequence[Feeds] = (), seed: int = 0) -> Fitted:
    """The pruned model with biases that compensate for the means of removed channels.

    Args:
        coupled, dropped: the analysis of the original, and the labels (n_labels,) that were removed.
        pruned: the result of `cut`.
        batches: calibration inputs to measure means on; if empty, means are derived from BatchNormalization where there is one.
        seed: seed of the normal samples.
    """
    losing = [t.linear.node for site in find_sums(coupled.graph) if _loses(coupled, dropped, site) for t in site.terms]
    axes = {node.inputs[0]: input_axis(node) for node in losing}
    graph = coupled.graph
    means = _measured(graph, axes, batches) if batches else _expected(graph, list(axes), seed)
    return with_means(coupled, dropped, pruned, means)


def with_means(coupled: Coupled, dropped: Mask, model: ModelProto, means: Mapping[str, Vector], masked: bool = False) -> Fitted:
    """A model whose biases add what removed channels contributed.

    Args:
        coupled, dropped: the analysis of the original, and the labels (n_labels,) that were removed.
        model: the original without them.
        means: what the channels of the inputs of layers hold (channels,), by the names of these inputs.
        masked: whether removed channels are still there, as zeros.
    """
    new = ModelProto()
    new.CopyFrom(model)
    editor = Editor(new)
    original = {s.total: s for s in find_sums(coupled.graph)}
    for site in find_sums(read_graph(new)):
        old = original.get(site.total)
        delta = None if old is None else _mean_loss(coupled, dropped, old, means)
        if old is None or delta is None:
            continue
        labels = coupled.flows[old.total].axes[old.channel_axis]
        gone = np.zeros(len(delta), bool) if labels is None else dropped[labels]
        delta = np.where(gone, 0, delta) if masked else delta[~gone]
        for place in offset_slots(site, editor)[:1]:
            place.add(editor, delta)
    return editor.fitted()


def input_axis(node: Node) -> int:
    """The channel axis of the first operand of a linear node."""
    return 1 if node.op in ("Conv", "ConvTranspose") else -1


def _input_axis(site: LinearSum, k: int) -> int:
    node = site.terms[k].linear.node
    return {"Conv": 1, "ConvTranspose": 0, "MatMul": 0, "Gemm": 1 if node.attribute("transB", 0) else 0}[node.op]


def _removed_inputs(coupled: Coupled, dropped: Mask, site: LinearSum, k: int) -> Mask | None:
    """Mask of a layer's removed inputs; None if there are none, or if the layer is grouped and loses them with its outputs."""
    linear = site.terms[k].linear
    labels = coupled.flows[linear.weight].axes[_input_axis(site, k)]
    return dropped[labels] if labels is not None and linear.groups == 1 and dropped[labels].any() else None


def _loses(coupled: Coupled, dropped: Mask, site: LinearSum) -> bool:
    return any(_removed_inputs(coupled, dropped, site, k) is not None for k in range(len(site.terms)))


def _mean_loss(coupled: Coupled, dropped: Mask, site: LinearSum, means: Mapping[str, Vector]) -> Vector | None:
    """Mean loss of a site (channels,); None if it loses nothing or the loss is unknown."""
    total = None
    for k, term in enumerate(site.terms):
        removed, mean = _removed_inputs(coupled, dropped, site, k), means.get(term.linear.node.inputs[0])
        if removed is None or mean is None or len(mean) != len(removed):
            continue
        editor = Editor(coupled.graph.model)
        matrix = term.linear.matrix(editor.array(term.linear.weight))[0]
        scale, _ = editor.affine(term)
        lost = scale * ((removed * mean).repeat(len(matrix) // len(mean)) @ matrix)
        total = lost if total is None else total + lost
    return total


def _measured(graph: Graph, axes: Mapping[str, int], batches: Sequence[Feeds]) -> dict[str, Vector]:
    """Mean of each channel over samples and positions; `axes` gives the channel axis of each tensor."""
    sums = {name: np.zeros(1) for name in axes}
    with stages(graph.model, [list(axes)], batches) as run:
        for values in run.advance(0):
            for name, axis in axes.items():
                x = values[name]
                sums[name] = sums[name] + np.moveaxis(x, axis, -1).reshape(-1, x.shape[axis]).mean(0, np.float64)
    return {name: total / len(batches) for name, total in sums.items()}


def _expected(graph: Graph, names: Sequence[str], seed: int) -> dict[str, Vector]:
    """Mean of each channel of tensors that only channel-wise operators separate from the BatchNormalizations above."""
    found = {}
    rng = np.random.default_rng(seed)
    normal: dict[str, NDArray[np.float32]] = {}
    for name in names:
        traced = _trace(graph, name)
        if traced is None:
            continue
        nodes, sources = traced
        for source in sources:
            if source.outputs[0] not in normal:
                normal[source.outputs[0]] = _normal(graph, source, rng)
        values = {s.outputs[0]: normal[s.outputs[0]] for s in sources}
        x = _run(graph.model, nodes, name, values)
        if x is not None and x.ndim > 1 and x.size:  # a window larger than one position may leave nothing
            found[name] = x.mean(tuple(k for k in range(x.ndim) if k != 1), dtype=np.float64)
    return found


def _trace(graph: Graph, name: str) -> tuple[list[int], list[Node]] | None:
    """The nodes between a tensor and the BatchNormalizations above it; None if any of them is not channel-wise."""
    between: set[int] = set()
    sources: dict[int, Node] = {}
    stack = [name]
    while stack:
        tensor = stack.pop()
        node = graph.producers.get(tensor)
        if tensor in graph.weights:
            continue
        if node is None or node.op not in BY_CHANNEL:
            return None
        if _is_source(graph, node):
            sources[node.index] = node
        elif node.place not in between:
            between.add(node.place)
            stack += read_by(node)
    return (sorted(between), [sources[k] for k in sorted(sources)]) if sources else None


def _is_source(graph: Graph, node: Node) -> bool:
    return (
        node.op == "BatchNormalization"
        and not uses_batch_statistics(node)
        and all(n in graph.weights for n in node.inputs[1:3])
    )


def _normal(graph: Graph, node: Node, rng: Rng) -> NDArray[np.float32]:
    """Simulated BatchNormalization output (points, channels, 1, ...): normal samples with exactly its mean and deviation."""
    gamma, beta = (graph.weights[n].array.astype(np.float64).ravel() for n in node.inputs[1:3])
    rank = len(graph.facts[node.outputs[0]].cases[0].shape or (0, 0))
    z = rng.standard_normal((POINTS, len(gamma)))
    z = (z - z.mean(0)) / z.std(0)
    return np.asarray(beta + np.abs(gamma) * z, np.float32).reshape(POINTS, len(gamma), *(1,) * (rank - 2))


def _run(model: ModelProto, nodes: Sequence[int], name: str, values: Feeds) -> NDArray[np.float32] | None:
    if not nodes:
        return values[name]
    try:
        with runnable(part(model, Piece(tuple(nodes), tuple(values), (name,)), values)) as source:
            return np.asarray(session(source).run([name], values)[0], np.float32)
    except Exception:  # a window larger than one position or a hard-coded shape: the mean is unknown
        return None
