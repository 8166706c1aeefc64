# SPDX-License-Identifier: Apache-2.0
"""Criteria: how much each atom of a group matters, higher = keep.

A criterion maps one producer (a weight that makes the channels, with the BatchNormalization that follows it) to one number per
channel. `Scorer` brings these numbers to a common scale (each producer's mean becomes 1, so that layers are comparable) and
averages over *all* producers of the group: every branch of a residual stream counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from onnxprune.analysis.coupling import Coupled
from onnxprune.analysis.groups import Group
from onnxprune.analysis.rules.site import Use
from onnxprune.errors import DataError, OptionError, did_you_mean
from onnxprune.ir.quantization import dequantized
from onnxprune.ir.tensors import slabs
from onnxprune.selection.criteria import calibrated
from onnxprune.selection.criteria.names import CALIBRATED
from onnxprune.types import Array, Feeds, Indices, Vector

Norms = dict[tuple[str, int], tuple[Vector, Vector]]
"""(weight, axis) -> the L1 and the L2 norm of each slice."""


@dataclass(frozen=True, eq=False, slots=True)
class Producer:
    """A weight that makes channels, summarised by row.

    Attributes:
        l1: sum of |w| over each output channel's weights (n,).
        l2: root of the sum of w^2 (n,).
        gamma: |scale| of the BatchNormalization that follows (n,); None if there is none (or it was folded).
        deviation: sqrt(running variance + epsilon) of that BatchNormalization (n,).
    """

    l1: Vector
    l2: Vector
    gamma: Vector | None
    deviation: Vector | None


def unit_mean(x: Vector) -> Vector:
    """`x` divided by its mean, so that layers of different scale are comparable; zeros stay zeros."""
    mean = float(x.mean()) if len(x) else 0.0
    return x / mean if mean > 0 else x


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


CRITERIA: Mapping[str, Callable[[Producer], Vector]] = MappingProxyType(
    {
        "ccprune": ccprune_product,
        "ccprune.product": ccprune_product,
        "ccprune.sum": ccprune_sum,
        "ccprune.folded": ccprune_folded,
        "l1": l1,
        "l2": l2,
        "bn_scale": bn_scale,
    }
)
"""Criteria by name. `random` is separate because it needs no weights. The paper's exact formula is not public, so `ccprune` is
a family; its default is the member that kept the most accuracy when measured (`tools/criteria.py`, docs/criteria.md)."""
NAMES = (*CRITERIA, *CALIBRATED, "random")
NEEDS_BATCH_NORM = frozenset({"ccprune", "ccprune.product", "ccprune.sum", "ccprune.folded", "bn_scale"})


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores of all groups.

    Attributes:
        scores: for each group (n_atoms,) float64; higher = keep. None: nothing is known, and the group is kept as it is.
        without_batch_norm: names of groups scored by weights alone because no BatchNormalization follows a producer.
    """

    scores: tuple[Vector | None, ...]
    without_batch_norm: tuple[str, ...] = ()


class Scorer:
    """Scores every atom of every group by a named criterion, and caches what it has read.

    If a node rejects a cut, the same model is scored again with fewer groups. Norms of weights and statistics of activations do
    not change.

    Args:
        criterion: name of the criterion.
        seed: random seed.
        batches: calibration inputs, for criteria that use activations.

    Raises:
        OptionError: the criterion does not exist, or needs inputs.
    """

    def __init__(self, criterion: str, seed: int = 0, batches: Sequence[Feeds] = ()) -> None:
        if criterion not in NAMES:
            hint = did_you_mean(criterion, NAMES)
            raise OptionError(f"--criterion: got '{criterion}'; {hint}expected one of {', '.join(NAMES)}")
        if criterion in CALIBRATED and not batches:
            raise OptionError(f"--criterion {criterion}: uses activations; pass inputs with --data (or use synthetic ones)")
        self._criterion, self._seed = criterion, seed
        self._norms: Norms = {}
        self._statistics = calibrated.Statistics(batches, seed)

    def score(self, coupled: Coupled, groups: tuple[Group, ...]) -> Scored:
        """Scores of all groups."""
        if self._criterion == "random":
            rng = np.random.default_rng(self._seed)
            return Scored(tuple(rng.random(len(g)) for g in groups))
        reader = _Reader(coupled, self._norms)
        if self._criterion in CALIBRATED:
            return self._calibrated(coupled, groups, reader)
        bare = tuple(g.name for g in groups if all(reader.batch_norm(u) is None for u in g.producers))
        scores = tuple(_score(reader, g, CRITERIA[self._criterion]) for g in groups)
        return Scored(scores, bare if self._criterion in NEEDS_BATCH_NORM else ())

    def _calibrated(self, coupled: Coupled, groups: tuple[Group, ...], reader: _Reader) -> Scored:
        """Scores by activations; groups that no linear layer reads are scored by their weights, on the scale of the others."""
        readers = self._statistics.read(coupled)
        found: list[Vector | None] = []
        for g in groups:
            mine = calibrated.readers_of(g, readers)
            found.append(calibrated.CALIBRATED[self._criterion](g, mine) if mine else None)
        known = [x for x in found if x is not None]
        typical = float(np.median(np.concatenate(known))) if known else 1.0
        weights = (unit_mean(_score(reader, g, l2)) * typical for g, x in zip(groups, found, strict=True) if x is None)
        return Scored(tuple(next(weights) if x is None else x for x in found))


def _score(reader: _Reader, group: Group, criterion: Callable[[Producer], Vector]) -> Vector:
    total = np.zeros(len(group))
    for u in group.producers:
        total += unit_mean(reader.to_atoms(group, u, unit_mean(criterion(reader.producer(u)))))
    if not group.producers:
        return reader.by_slices(group)
    return total / len(group.producers)


class _Reader:
    """Reads weights of a coupled graph row by row, each weight once."""

    def __init__(self, coupled: Coupled, norms: Norms | None = None) -> None:
        self.coupled = coupled
        self._rows = {} if norms is None else norms
        self._batch_norms: dict[int, dict[int, Use]] = {}
        nodes = coupled.graph.nodes
        for use in coupled.uses:
            if use.op == "BatchNormalization":
                source = coupled.graph.producers.get(nodes[use.node].inputs[0])
                if source is not None and len(coupled.graph.consumers[nodes[use.node].inputs[0]]) == 1:
                    self._batch_norms.setdefault(source.index, {})[use.operand] = use

    def batch_norm(self, use: int) -> Use | None:
        """The scale of the BatchNormalization that is the only consumer of the use's node."""
        return self._batch_norms.get(self.coupled.uses[use].node, {}).get(1)

    def producer(self, use: int) -> Producer:
        """Norms of the weight rows of a use, with the BatchNormalization that follows."""
        u = self.coupled.uses[use]
        scale = self.batch_norm(use)
        variance = self._batch_norms.get(u.node, {}).get(4)
        gamma = deviation = None
        if scale is not None and len(scale.labels) == len(u.labels):
            gamma = self._values(scale.labels, 0)
            node = self.coupled.graph.nodes[scale.node]
            if variance is not None:
                deviation = np.sqrt(self._values(variance.labels, 0) + node.attribute("epsilon", 1e-5))
        return Producer(self._values(u.labels, 0), self._values(u.labels, 1), gamma, deviation)

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
    # einsum squares without a copy of the weight
    letters = "abcdefgh"[: w.ndim]
    return np.abs(w).sum(others).astype(np.float64), np.einsum(f"{letters},{letters}->{letters[axis]}", w, w)


def check_scores(coupled: Coupled, groups: tuple[Group, ...], given: Mapping[str, Array]) -> None:
    """Check that external scores name weights that make channels, with one finite number per channel.

    Raises:
        DataError: a name is not in the model, makes no channels, or has a different number of channels.
    """
    owners = _first_uses(coupled, groups)
    for name, values in given.items():
        if name not in owners:
            raise DataError(f"--scores: '{name}' does not make prunable channels; weights that do: {_some(list(owners))}")
        size = len(coupled.uses[owners[name]].labels)
        if values.shape != (size,) or not np.isfinite(values.astype(np.float64)).all():
            raise DataError(
                f"--scores: '{name}' has shape {values.shape}, expected ({size},) finite numbers, one per output channel"
            )


def _first_uses(coupled: Coupled, groups: tuple[Group, ...]) -> dict[str, int]:
    """Weight that makes channels -> its first use."""
    found: dict[str, int] = {}
    for g in groups:
        for u in g.producers:
            found.setdefault(coupled.owners[coupled.owner_of[coupled.uses[u].labels[0]]].weight, u)
    return found


def scores_from_file(coupled: Coupled, groups: tuple[Group, ...], given: Mapping[str, Array]) -> Scored:
    """External scores: weight name -> one score per output channel of that weight, higher = keep.

    Groups without a named producer are kept as they are.

    Raises:
        DataError: the scores do not fit (`check_scores`).
    """
    check_scores(coupled, groups, given)
    reader = _Reader(coupled)
    names = {u: name for name, u in _first_uses(coupled, groups).items()}
    scores: list[Vector | None] = []
    for g in groups:
        parts = [reader.to_atoms(g, u, given[names[u]].astype(np.float64)) for u in g.producers if names.get(u) in given]
        scores.append(np.mean(parts, 0) if parts else None)
    return Scored(tuple(scores))


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
