# SPDX-License-Identifier: Apache-2.0
"""Least-squares reconstruction: every layer that is left learns to make what the original layer made.

Walking the graph in order, each sum of linear nodes (`sites`) is fitted by ridge regression to what the *original* network
computes there, from what the *pruned and already refitted* network offers as inputs, so that errors do not pile up. After
ThiNet (Luo et al., 2017), channel pruning by regression (He et al., 2017) and the sequential form of OSSCAR (2024), extended to
sums: what an identity shortcut has lost already is corrected by the last convolution before the add.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from onnxprune.coupling import Coupled
from onnxprune.facts import read_graph
from onnxprune.graph import Graph, Weight, read_weights
from onnxprune.calibration.linear import at_positions
from onnxprune.calibration.sites import Site, Term, affine, find_sites
from onnxprune.calibration.stages import stages
from onnxprune.calibration.moments import RIDGES, Moments, Solution, fitted
from onnxprune.verify import Feeds

Array = NDArray[Any]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Knobs:
    """How a reconstruction works.

    Attributes:
        rows: output positions of each layer that are looked at, over all samples; more where the layer has many inputs.
        rows_per_input: at least so many rows for each input of a layer.
        ridges: candidates for the ridge.
        seed: of the choice of positions.
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
    knobs: Knobs = Knobs(),  # noqa: B008 - frozen
    progress: Callable[[float], None] = lambda _: None,
) -> ModelProto:
    """The pruned model with refitted weights; graph, names and shapes stay.

    Args:
        coupled, dropped: the analysis of the original, and the labels that were removed.
        pruned: what `cut` made of them.
        batches: calibration inputs.
    """
    model = ModelProto()
    model.CopyFrom(pruned)
    graph = read_graph(model)
    jobs = ordered(graph, [s for s in find_sites(graph) if s.total in coupled.graph.producers])
    teacher = coupled.graph.model
    names = [[s.total for s in job] for job in jobs]
    wants = [[name for s in job for name in s.wants] for job in jobs]
    editor = Editor(model)
    with stages(teacher, names, batches) as original, stages(model, wants, batches) as student:
        for k, job in enumerate(jobs):
            pairs = zip(original.advance(k), student.advance(k), strict=True)
            folds = _gather(job, editor, knobs, len(batches), ((_cut(coupled, dropped, a), b) for a, b in pairs))
            if folds is not None:
                _refit(job, editor, folds, knobs)
            progress((k + 1) / len(jobs))
    return model


def ordered(graph: Graph, sites: Sequence[Site]) -> list[list[Site]]:
    """Sites that share a weight form one job; jobs in an order in which everything that one reads is settled before it."""
    jobs: list[list[Site]] = []
    by_weight: dict[str, list[Site]] = {}
    for site in sites:
        shared = [by_weight[t.linear.weight] for t in site.terms if t.linear.weight in by_weight]
        if shared and len(site.terms) == 1 and len(shared[0][0].terms) == 1:
            shared[0].append(site)
            continue
        if shared:
            continue
        job = [site]
        jobs.append(job)
        for t in site.terms:
            by_weight[t.linear.weight] = job
    above = _ancestors(graph)
    return _sorted(graph, [_independent(graph, above, job) for job in jobs], above)


def _ancestors(graph: Graph) -> dict[str, int]:
    """Tensor -> the set of linear nodes it depends on, as bits."""
    found: dict[str, int] = {}
    for node in graph.nodes:
        bits = 1 << node.index
        for name in (*node.inputs, *node.implicit):
            bits |= found.get(name, 0)
        for name in node.outputs:
            found[name] = bits
    return found


def _own(job: Sequence[Site]) -> int:
    return sum({1 << t.linear.node.index for s in job for t in s.terms})


def _read(site: Site, above: dict[str, int]) -> int:
    bits = 0
    for name in site.wants:
        bits |= above.get(name, 0)
    return bits


def _independent(graph: Graph, above: dict[str, int], job: list[Site]) -> list[Site]:
    """The sites of a job whose inputs do not depend on the job's own weights, as they would in a recurrent use."""
    own = _own(job)
    return [s for s in job if not _read(s, above) & own] or job[:1]


def _sorted(graph: Graph, jobs: list[list[Site]], above: dict[str, int]) -> list[list[Site]]:
    """Topological order; a circle is broken at its first job."""
    own = [_own(job) for job in jobs]
    reads = []
    for job in jobs:
        bits = 0
        for site in job:
            bits |= _read(site, above)
        reads.append(bits)
    left, order = list(range(len(jobs))), []
    while left:
        open_bits = 0
        for k in left:
            open_bits |= own[k]
        ready = next((k for k in left if not reads[k] & (open_bits & ~own[k])), left[0])
        order.append(jobs[ready])
        left.remove(ready)
    return order


def _cut(coupled: Coupled, dropped: Mask, values: dict[str, Array]) -> dict[str, Array]:
    """Tensors of the original with only the channels that are left."""
    found = {}
    for name, value in values.items():
        for axis, labels in enumerate(coupled.flows[name].axes):
            if labels is not None and dropped[labels].any():
                value = np.compress(~dropped[labels], value, axis)
        found[name] = value
    return found


class Editor:
    """Reads and replaces the weights of one model."""

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self.weights = read_weights(model)
        self.users: dict[str, int] = {}
        for node in model.graph.node:
            for name in node.input:
                self.users[name] = self.users.get(name, 0) + 1

    def array(self, name: str) -> NDArray[np.float64]:
        """A weight in double precision."""
        return self.weights[name].array.astype(np.float64)

    def put(self, name: str, value: Array) -> None:
        """Replace a weight's values."""
        tensor = self.weights[name].tensor
        kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        new = onnx.numpy_helper.from_array(np.ascontiguousarray(value.reshape(tensor.dims), kind), tensor.name)
        new.doc_string = tensor.doc_string
        tensor.CopyFrom(new)

    def own(self, index: int, operand: int) -> str:
        """Let a node's stored operand be read by nobody else; returns its name."""
        node = self.model.graph.node[index]
        name = node.input[operand]
        if self.users[name] > 1:
            self.users[name] -= 1
            node.input[operand] = self.add(f"{name}_{index}", self.weights[name].array)
        return node.input[operand]

    def add(self, stem: str, value: Array) -> str:
        """A new initializer."""
        name, n = f"{stem}_refit", 1
        while name in self.weights or name in self.users:
            name, n = f"{stem}_refit{n}", n + 1
        tensor: TensorProto = self.model.graph.initializer.add()
        tensor.CopyFrom(onnx.numpy_helper.from_array(value, name))
        self.weights[name], self.users[name] = Weight(name, tensor), 1
        return name


def _gather(
    job: Sequence[Site], editor: Editor, knobs: Knobs, n_batches: int, pairs: Iterator[tuple[dict[str, Array], dict[str, Array]]]
) -> list[Moments] | None:
    """Normal equations of a job over all batches, in two folds."""
    rng = np.random.default_rng(knobs.seed)
    inputs = sum(_n_inputs(t, editor) for t in job[0].terms)
    rows = max(knobs.rows, knobs.rows_per_input * inputs)
    each = -(-rows // (n_batches * len(job)))
    folds: list[Moments | None] = [None, None]
    for b, (target, given) in enumerate(pairs):
        for site in job:
            x, y = _rows(site, target[site.total], given, each, rng)
            moments = Moments.of(x, y)
            before = folds[b % 2]
            folds[b % 2] = moments if before is None else before + moments
    return [f for f in folds if f is not None] or None


def _n_inputs(term: Term, editor: Editor) -> int:
    return int(np.prod(editor.weights[term.linear.weight].shape)) // max(1, _channels(term, editor))


def _channels(term: Term, editor: Editor) -> int:
    """Number of output channels of a term."""
    g, _, o = term.linear.matrix(editor.weights[term.linear.weight].array).shape
    return int(g * o)


def _rows(
    site: Site, target: Array, given: dict[str, Array], count: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Inputs (groups, n, d) and targets (groups, n, o) at some positions."""
    axis = site.channel_axis % target.ndim
    places = target.size // max(1, target.shape[axis])
    positions = np.arange(places) if places <= count else np.sort(rng.choice(places, count, replace=False))
    y = at_positions(target, axis, positions).astype(np.float32)
    for name in site.addends:
        y = y - at_positions(np.broadcast_to(given[name], target.shape), axis, positions)
    parts = [t.linear.rows(given[t.linear.node.inputs[0]], target.shape, positions).astype(np.float32) for t in site.terms]
    x = np.concatenate(parts, 2)
    return x, y.reshape(len(positions), x.shape[0], -1).transpose(1, 0, 2)


def _refit(job: Sequence[Site], editor: Editor, folds: list[Moments], knobs: Knobs) -> None:
    """Solve, and put the solution into the weights."""
    site = job[0]
    affines = [affine(t, editor.weights, _channels(t, editor)) for t in site.terms]
    groups = site.terms[0].linear.groups
    scales = [s.reshape(groups, 1, -1) for s, _ in affines]
    starts = [
        t.linear.matrix(editor.array(t.linear.weight)) * s for t, s in zip(site.terms, scales, strict=True)
    ]
    place = bias_place(site, editor)
    offset = sum(_offset(t, a, editor) for t, a in zip(site.terms, affines, strict=True)).reshape(groups, -1)
    found = fitted(folds, np.concatenate(starts, 1), None if place else offset, knobs.ridges)
    _put(site, editor, found, scales, [s.shape[1] for s in starts])
    if place:
        place(editor, found.offset.ravel() - offset.ravel())


def _offset(term: Term, pair: tuple[Array, Array], editor: Editor) -> Array:
    """What a term adds to each channel whatever its input."""
    scale, offset = pair
    node, bias = editor.model.graph.node[term.linear.node.index], term.linear.bias
    if bias is not None and len(node.input) > bias and node.input[bias]:
        offset = offset + scale * np.broadcast_to(editor.array(node.input[bias]).ravel(), scale.shape)
    return offset


def _put(site: Site, editor: Editor, found: Solution, scales: Sequence[Array], sizes: Sequence[int]) -> None:
    parts = np.split(found.matrix, np.cumsum(sizes)[:-1], axis=1)
    for term, scale, part in zip(site.terms, scales, parts, strict=True):
        name = term.linear.weight
        editor.put(name, term.linear.stored(part / np.where(scale == 0, 1, scale), editor.weights[name].shape))


def bias_place(site: Site, editor: Editor) -> Callable[[Editor, Array], None] | None:
    """Where a change of the sum's offset (channels,) can go: the last stored vector that is added, else a bias."""
    for term in site.terms:
        after = np.ones(_channels(term, editor))
        for k in reversed(range(len(term.steps))):
            step = term.steps[k]
            if step.operand is not None:
                return _into_step(term, k, after)
            scale, _ = affine(Term(term.linear, term.steps[k : k + 1], ""), editor.weights, len(after))
            after = after * scale
    for term in site.terms:
        if term.linear.bias is not None:
            scale, _ = affine(term, editor.weights, _channels(term, editor))
            return _into_bias(term, scale)
    return None


def _into_step(term: Term, k: int, after: Array) -> Callable[[Editor, Array], None]:
    step = term.steps[k]

    def change(editor: Editor, delta: Array) -> None:
        name = editor.own(step.node.index, step.operand or 0)
        shape, delta = editor.weights[name].shape, delta / np.where(after == 0, 1, after)
        delta = -delta if step.node.op == "Sub" else delta
        rank = len(shape)
        if int(np.prod(shape)) == len(delta):
            editor.put(name, editor.array(name) + delta.reshape(shape))
            return
        # one number for all channels: it becomes one for each
        wide = np.broadcast_to(editor.array(name).ravel(), delta.shape) + delta
        axis = term.linear.channel_axis
        value = wide if axis == -1 else wide.reshape(-1, *(1,) * max(0, max(rank, len(term.linear.kernel) + 1) - 1))
        editor.model.graph.node[step.node.index].input[step.operand or 0] = editor.add(name, value.astype(np.float32))

    return change


def _into_bias(term: Term, scale: Array) -> Callable[[Editor, Array], None]:
    def change(editor: Editor, delta: Array) -> None:
        index, place = term.linear.node.index, term.linear.bias or 0
        node, delta = editor.model.graph.node[index], delta / np.where(scale == 0, 1, scale)
        if len(node.input) <= place or not node.input[place]:
            node.input.extend([""] * (place + 1 - len(node.input)))
            kind = editor.weights[term.linear.weight].array.dtype
            node.input[place] = editor.add(f"{term.linear.weight}_bias", delta.astype(kind))
            return
        name = editor.own(index, place)
        old = editor.array(name)
        editor.put(name, (old.ravel() + delta).reshape(old.shape)) if old.size == len(delta) else node.input.__setitem__(
            place, editor.add(name, (old.ravel() + delta).astype(editor.weights[name].array.dtype))
        )

    return change
