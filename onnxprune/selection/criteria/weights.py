# SPDX-License-Identifier: Apache-2.0
"""Criteria computed from the weights alone: a function of a `Producer`, and what reads producers from a model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import numpy as np

from onnxprune.analysis.coupling import Coupled
from onnxprune.analysis.groups import Group
from onnxprune.analysis.rules.site import Use
from onnxprune.calibration.chains import ChannelOp, Follower, affine
from onnxprune.ir.quantization import dequantized
from onnxprune.ir.semantics import PRODUCERS
from onnxprune.ir.tensors import slabs
from onnxprune.types import Array, Indices, Vector

TINY = 1e-300
Norms = dict[tuple[str, int], tuple[Vector, Vector]]
"""(weight, axis) -> the L1 and the L2 norm of each slice."""


@dataclass(frozen=True, eq=False, slots=True)
class Producer:
    """A weight that makes channels, summarised by row.

    Attributes:
        l1: sum of |w| over each output channel's weights (n,), times what scales the channel before a BatchNormalization.
        l2: root of the sum of w^2 (n,), scaled likewise.
        gamma: |scale| of the BatchNormalization that follows (n,), times what scales the channel after it; None if there is
            none. If it was folded or written out, only gamma / deviation is known: the weights or `l1` and `l2` contain it.
        deviation: sqrt(running variance + epsilon) of that BatchNormalization (n,).
        shift: |beta| of it (n,), scaled as gamma.
        filters: reads the weights of the output channels (n, inputs), scaled as `l1`; None if no single weight holds them.
    """

    l1: Vector
    l2: Vector
    gamma: Vector | None
    deviation: Vector | None
    shift: Vector | None = None
    filters: Callable[[], Vector] | None = None


def unit_mean(x: Vector) -> Vector:
    """`x` divided by its mean, so that layers of different scale are comparable; zeros stay zeros."""
    mean = float(x.mean()) if len(x) else 0.0
    return x / mean if 0 < mean < np.inf else x


def ccprune_product(p: Producer) -> Vector:
    """|W|_1 / mean * |gamma| / mean: a channel must be strong in both. After CCPrune (Chen et al., 2021)."""
    return p.l1 if p.gamma is None else unit_mean(p.l1) * unit_mean(p.gamma)


def ccprune_sum(p: Producer) -> Vector:
    """(|W|_1 / mean + |gamma| / mean) / 2: strong in either is enough. After CCPrune (Chen et al., 2021)."""
    return p.l1 if p.gamma is None else (unit_mean(p.l1) + unit_mean(p.gamma)) / 2


def ccprune_folded(p: Producer) -> Vector:
    """|gamma| / sqrt(var + eps) * |W|_1: the L1 norm of the convolution with BatchNormalization folded in, as in inference."""
    return p.l1 if p.gamma is None or p.deviation is None else p.l1 * p.gamma / p.deviation


def l1(p: Producer) -> Vector:
    """Sum of absolute weights of the filter. Li et al., Pruning Filters for Efficient ConvNets, 2017."""
    return p.l1


def l2(p: Producer) -> Vector:
    """Euclidean norm of the filter."""
    return p.l2


def bn_scale(p: Producer) -> Vector:
    """|gamma| of BatchNormalization. Liu et al., Network Slimming, 2017. Without BatchNormalization: l1."""
    return p.l1 if p.gamma is None else p.gamma


def bn_shift(p: Producer) -> Vector:
    """sqrt(gamma^2 + beta^2): the root mean square of what BatchNormalization puts out, N(beta, gamma^2) by its statistics.

    After Zhao et al., Variational Convolutional Neural Network Pruning, CVPR 2019, who let the scale gate the shift too: a
    channel that hardly varies still matters if its constant does. (Their distributions are learned in training; these are the
    stored ones.) Without BatchNormalization, or where only the scale is known: `bn_scale`.
    """
    return bn_scale(p) if p.gamma is None or p.shift is None else np.hypot(p.gamma, p.shift)


def fpgm(p: Producer) -> Vector:
    """Sum over all filters j of |W_i - W_j|_2: what lies nearest to the geometric median is the most replaceable.

    He et al., Filter Pruning via Geometric Median, CVPR 2019. Where filters lie in several weights: `l2`.
    """
    if p.filters is None:
        return p.l2
    w = p.filters()
    squares = np.einsum("nd,nd->n", w, w)
    found: Vector = np.sqrt(np.maximum(squares[:, None] + squares - 2 * w @ w.T, 0)).sum(1)
    return found


def lamp(p: Producer) -> Vector:
    """|W_i|^2 / sum of |W_j|^2 over all filters j of the layer that are not smaller: what is lost beside what would be left.

    Lee et al., Layer-adaptive Sparsity for the Magnitude-based Pruning, ICLR 2021, with filters in place of weights. Scores of
    different layers are comparable as they are.
    """
    order = np.argsort(p.l2, kind="stable")
    squares = p.l2[order] ** 2
    found = np.empty_like(squares)
    found[order] = squares / np.maximum(np.cumsum(squares[::-1])[::-1], TINY)
    return found


def optimal_threshold(p: Producer) -> Vector:
    """Sum of gamma_j^2 over all channels j of the layer that are not larger, as a share of the layer: what is lost so far.

    Ye et al., Channel Pruning via Optimal Thresholding, 2020: one limit on this share decides in all layers, so that scores of
    different layers are comparable as they are. Without BatchNormalization: with L1 norms of filters.
    """
    sizes = bn_scale(p)
    order = np.argsort(sizes, kind="stable")
    found = np.empty(len(order))
    found[order] = np.cumsum(sizes[order] ** 2)
    return found / max(float(found.max(initial=0.0)), TINY)


CRITERIA: Mapping[str, Callable[[Producer], Vector]] = MappingProxyType(
    {
        "ccprune": ccprune_product,
        "ccprune.product": ccprune_product,
        "ccprune.sum": ccprune_sum,
        "ccprune.folded": ccprune_folded,
        "l1": l1,
        "l2": l2,
        "bn_scale": bn_scale,
        "bn_shift": bn_shift,
        "fpgm": fpgm,
        "lamp": lamp,
        "optimal_threshold": optimal_threshold,
    }
)
"""Criteria by name. `random` is separate because it needs no weights. The paper's exact formula is not public, so `ccprune` is
a family; its default is the member that kept the most accuracy when measured (`tools/criteria.py`, docs/criteria.md)."""
NEEDS_BATCH_NORM = frozenset(
    {"ccprune", "ccprune.product", "ccprune.sum", "ccprune.folded", "bn_scale", "bn_shift", "optimal_threshold"}
)
COMPARABLE = frozenset({lamp, optimal_threshold})
"""Criteria whose scores are comparable between layers as they are."""


def score(reader: WeightReader, group: Group, criterion: Callable[[Producer], Vector]) -> Vector:
    """Scores of a group (n_atoms,): the mean over its producers, each on the scale where its own mean is 1."""
    scaled = as_they_are if criterion in COMPARABLE else unit_mean
    total = np.zeros(len(group))
    for u in group.producers:
        total += scaled(reader.to_atoms(group, u, scaled(criterion(reader.producer(u)))))
    if not group.producers:
        return reader.by_slices(group)
    return total / len(group.producers)


def group_norm(reader: WeightReader, group: Group) -> Vector:
    """Mean over everything that hangs on a channel of the sum of its squared weights (n_atoms,): the filters that make it, the
    slices of the filters that read it, and scales of BatchNormalization.

    Fang et al., DepGraph: Towards Any Structural Pruning, CVPR 2023, with p = 2.
    """
    found = [reader.to_atoms(group, u, reader.squares(u)) for u in reader.uses_of(group) if is_summed(reader.coupled.uses[u])]
    return unit_mean(np.mean(found, 0)) if found else reader.by_slices(group)


def is_summed(use: Use) -> bool:
    """Whether a use is one of a weight that is multiplied: of a linear layer, or the scale of BatchNormalization."""
    return use.op in PRODUCERS or (use.op == "BatchNormalization" and use.operand == 1)


BY_GROUP: Mapping[str, Callable[[WeightReader, Group], Vector]] = MappingProxyType({"group_norm": group_norm})
"""Criteria that look at all that hangs on a channel, by name."""


def as_they_are(x: Vector) -> Vector:
    """The scores themselves."""
    return x


def unit_max(x: Vector) -> Vector:
    """`x` divided by its largest value."""
    largest = float(x.max(initial=0.0))
    return x / largest if largest > 0 else x


def standard(x: Vector) -> Vector:
    """`x` less its mean, divided by its standard deviation."""
    deviation = float(x.std()) if len(x) else 0.0
    found: Vector = (x - x.mean()) / deviation if deviation > 0 else np.zeros_like(x)
    return found


NORMALISERS: Mapping[str, Callable[[Vector], Vector]] = MappingProxyType(
    {"none": as_they_are, "mean": unit_mean, "max": unit_max, "standard": standard}
)
"""How the scores of a group are brought to the scale of all others, by name."""


class WeightReader:
    """Reads weights of a coupled graph row by row, each weight once."""

    def __init__(self, coupled: Coupled, norms: Norms | None = None) -> None:
        self.coupled = coupled
        self._rows = {} if norms is None else norms
        self._follower = Follower(coupled.graph)
        self._batch_norms: dict[int, dict[int, Use]] = {}
        for use in coupled.uses:
            if use.op == "BatchNormalization":
                self._batch_norms.setdefault(use.node, {})[use.operand] = use

    @cached_property
    def _uses_by_class(self) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {}
        for k, use in enumerate(self.coupled.uses):
            for root in np.unique(self.coupled.roots[use.labels]).tolist():
                found.setdefault(root, []).append(k)
        return found

    def uses_of(self, group: Group) -> list[int]:
        """The uses of all weights that own slices of the channels of a group (indices into `Coupled.uses`)."""
        return self._uses_by_class.get(int(group.roots[0]), [])

    def squares(self, use: int) -> Vector:
        """The sum of the squared weights of each position of a use (n,)."""
        found: Vector = self._values(self.coupled.uses[use].labels, 1) ** 2
        return found

    def filters(self, use: int) -> Callable[[], Vector] | None:
        """Reads the weights of each position of a use (n, others); None if they lie in several weights or are not stored."""
        labels = self.coupled.uses[use].labels
        owner = np.unique(self.coupled.owner_of[labels])
        if len(owner) != 1 or owner[0] < 0:
            return None
        o = self.coupled.owners[int(owner[0])]
        stored = self.coupled.graph.weights[o.weight]

        def read() -> Vector:
            w = stored.array if stored.is_float else dequantized(self.coupled.graph, o.weight)
            rows: Vector = np.moveaxis(w, o.axis, 0)[labels - o.start].reshape(len(labels), -1).astype(np.float64)
            return rows

        return read

    def batch_norm(self, use: int) -> Use | None:
        """The scale of the BatchNormalization that follows the use's node, with only per-channel operators between them."""
        found = next((s for s in self._steps(self.coupled.uses[use]) if s.node.op == "BatchNormalization"), None)
        return None if found is None else self._batch_norms.get(found.node.index, {}).get(1)

    def bias(self, use: int) -> float:
        """How large the biases of a convolution are beside its filters (root mean squares); 0 without biases."""
        u = self.coupled.uses[use]
        inputs = self.coupled.graph.nodes[u.node].inputs
        stored = self.coupled.graph.weights.get(inputs[2]) if u.op == "Conv" and len(inputs) > 2 else None
        if stored is None or len(stored.shape) != 1 or u.operand != 1:
            return 0.0
        filters = float((self._values(u.labels, 1) ** 2).mean())
        return float(np.sqrt((self._norms(inputs[2], 0)[1] ** 2).mean() / filters)) if filters else 0.0

    def producer(self, use: int) -> Producer:
        """Norms of the weight rows of a use, with the per-channel operators that follow."""
        u = self.coupled.uses[use]
        steps = self._steps(u)
        norm = next((k for k, s in enumerate(steps) if s.node.op == "BatchNormalization"), len(steps))
        before = self._scale(steps[:norm], len(u.labels))
        l1, l2 = self._values(u.labels, 0) * before, self._values(u.labels, 1) * before
        read = self.filters(use)
        filters = None if read is None else lambda: before[:, None] * read()
        uses = self._batch_norms.get(steps[norm].node.index, {}) if norm < len(steps) else {}
        if 1 not in uses or len(uses[1].labels) != len(u.labels):
            return Producer(l1, l2, None, None, filters=filters)
        after = self._scale(steps[norm + 1 :], len(u.labels))
        gamma = self._values(uses[1].labels, 0) * after
        shift = self._values(uses[2].labels, 0) * after if 2 in uses else None
        epsilon = steps[norm].node.attribute("epsilon", 1e-5)
        deviation = np.sqrt(self._values(uses[4].labels, 0) + epsilon) if 4 in uses else None
        return Producer(l1, l2, gamma, deviation, shift, filters)

    def _steps(self, use: Use) -> tuple[ChannelOp, ...]:
        """The per-channel operators that follow the node of a use on the axis of its channels."""
        graph, roots = self.coupled.graph, self.coupled.roots
        name = graph.nodes[use.node].outputs[0]
        for axis, labels in enumerate(self.coupled.flows[name].axes):
            if labels is not None and np.array_equal(roots[labels], roots[use.labels]):
                return self._follower.follow(name, axis).steps
        return ()

    def _scale(self, steps: Sequence[ChannelOp], channels: int) -> Vector:
        return np.abs(affine(steps, self.coupled.graph.weights, channels)[0])

    def to_atoms(self, group: Group, use: int, values: Vector) -> Vector:
        """Mean of `values` (one per position of the use) over the positions of each atom; 0 for atoms it does not make."""
        roots = self.coupled.roots[self.coupled.uses[use].labels]
        order = np.argsort(group.roots)
        place = np.searchsorted(group.roots, roots, sorter=order).clip(0, len(group) - 1)
        atom = order[place]
        mine = group.roots[atom] == roots
        count = np.bincount(atom[mine], minlength=len(group))
        return np.bincount(atom[mine], values[mine], len(group)) / np.maximum(count, 1)

    def by_slices(self, group: Group) -> Vector:
        """Scores of channels without a producer: the norm of everything they own."""
        total = np.zeros(len(group))
        for o in self.coupled.owners:
            if (o.weight, o.axis) in group.members:
                labels = np.arange(o.start, o.start + o.size)
                place = {root: k for k, root in enumerate(group.roots.tolist())}
                for label, value in zip(labels, self._values(labels, 1), strict=True):
                    if (k := place.get(int(self.coupled.roots[label]))) is not None:
                        total[k] += value
        return unit_mean(total)

    def _values(self, labels: Indices, which: int) -> Vector:
        """The L1 (0) or L2 (1) norm of the slice that each label owns; 0 for labels without an owner."""
        result = np.zeros(len(labels))
        owner = self.coupled.owner_of[labels]
        for k in np.unique(owner[owner >= 0]).tolist():
            o = self.coupled.owners[k]
            here = owner == k
            result[here] = self._norms(o.weight, o.axis)[which][labels[here] - o.start]
        return result

    def _norms(self, weight: str, axis: int) -> tuple[Vector, Vector]:
        key = (weight, axis)
        if key not in self._rows:
            stored = self.coupled.graph.weights[weight]
            parts = slabs(stored.tensor) if stored.is_float else [(slice(None), dequantized(self.coupled.graph, weight))]
            sums, squares = np.zeros(stored.shape[axis]), np.zeros(stored.shape[axis])
            for rows, part in parts:
                part_sums, part_squares = _sums(part, axis)
                here = rows if axis == 0 else slice(None)
                sums[here] += part_sums
                squares[here] += part_squares
            self._rows[key] = (sums, np.sqrt(squares))
        return self._rows[key]


def _sums(w: Array, axis: int) -> tuple[Vector, Vector]:
    """Sums of |w| and of w^2 over all axes but one."""
    if w.dtype.itemsize != 4:
        w = w.astype(np.float32 if w.dtype.itemsize < 4 else np.float64)
    others = tuple(k for k in range(w.ndim) if k != axis)
    flat = w.reshape(math.prod(w.shape[:axis]), w.shape[axis], -1)
    # einsum squares without a copy of the weight
    return np.abs(w).sum(others).astype(np.float64), np.einsum("abc,abc->b", flat, flat)
