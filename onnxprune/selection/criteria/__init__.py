# SPDX-License-Identifier: Apache-2.0
"""Criteria: how much each atom of a group matters, higher = keep.

A criterion maps one producer (a weight that makes the channels, with the BatchNormalization that follows it) to one number per
channel. `Scorer` brings these numbers to a common scale (each producer's mean becomes 1, so that layers are comparable) and
averages over *all* producers of the group: every branch of a residual stream counts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from onnxprune.analysis.coupling import Coupled
from onnxprune.analysis.groups import Group
from onnxprune.effort import Effort
from onnxprune.errors import OptionError, did_you_mean
from onnxprune.selection.criteria.names import CALIBRATED
from onnxprune.selection.criteria.weights import (
    BY_GROUP,
    CRITERIA,
    NEEDS_BATCH_NORM,
    NORMALISERS,
    Norms,
    WeightReader,
    l2,
    score,
    unit_mean,
)
from onnxprune.types import Feeds, Vector

if TYPE_CHECKING:
    from onnxprune.selection.criteria.calibrated import Statistics

NORMALISATIONS = frozenset(
    "LayerNormalization GroupNormalization InstanceNormalization RMSNormalization LpNormalization".split()
)
LARGE_BIAS = 0.15
"""Biases of this size beside their filters hold the shift of a BatchNormalization: 0.27 in folded networks, 0.07 where training
starts without one."""
NUMBERED = re.compile(r"onnx::Conv_[0-9]+")
"""Names of filters and biases that PyTorch's older exporter has computed."""
NAMES = (*CRITERIA, *BY_GROUP, *CALIBRATED, "random")


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores of all groups.

    Attributes:
        scores: for each group (n_atoms,) float64; higher = keep. None: nothing is known, and the group is kept as it is.
        without_batch_norm: names of groups scored by weights alone because no BatchNormalization follows a producer.
        folded: whether one seems to have been folded into them.
    """

    scores: tuple[Vector | None, ...]
    without_batch_norm: tuple[str, ...] = ()
    folded: bool = False


def seems_folded(coupled: Coupled, groups: Sequence[Group]) -> bool:
    """Whether BatchNormalization seems to have been folded into convolutions that produce channels of these groups."""
    reader = WeightReader(coupled, {})
    return _folded(reader, [g for g in groups if all(reader.batch_norm(u) is None for u in g.producers)])


def _folded(reader: WeightReader, groups: Sequence[Group]) -> bool:
    """The same, for groups without BatchNormalization.

    PyTorch's older exporter keeps the names of the weights that it does not touch, and numbers the others; elsewhere the size
    of the biases tells.
    """
    if not groups:
        return False
    if reader.coupled.graph.model.producer_name == "pytorch" and any(_renamed(reader.coupled, g) for g in groups):
        return True
    if not NORMALISATIONS.isdisjoint(node.op for node in reader.coupled.graph.elementary):
        return False
    sizes = [reader.bias(u) for g in groups for u in g.producers if reader.coupled.uses[u].op == "Conv"]
    return bool(sizes) and float(np.median(sizes)) > LARGE_BIAS


def _renamed(coupled: Coupled, group: Group) -> bool:
    """Whether a convolution that produces a group has a filter or a bias with a number instead of a name."""
    nodes = (coupled.graph.nodes[coupled.uses[u].node] for u in group.producers if coupled.uses[u].op == "Conv")
    names = (name for node in nodes for name in node.inputs[1:3] if name in coupled.graph.weights)
    return any(NUMBERED.fullmatch(coupled.graph.origin(name)) for name in names)


def normalised(found: Scored, how: str | None) -> Scored:
    """The same scores on the scale that `how` names, one of `NORMALISERS`; None: as the criterion is meant."""
    if how is None:
        return found
    scores = [None if s is None else NORMALISERS[how](s) for s in found.scores]
    least = min((float(s.min()) for s in scores if s is not None and len(s)), default=0.0)
    # standard scores may be negative, and scores are divided by costs
    return replace(found, scores=tuple(None if s is None else s - min(least, 0.0) for s in scores))


class Scorer:
    """Scores every atom of every group by a named criterion, and caches what it has read.

    If a node rejects a cut, the same model is scored again with fewer groups. Norms of weights and statistics of activations do
    not change.

    Args:
        criterion: name of the criterion.
        seed: random seed.
        normalise: how scores of a group are brought to the scale of all others, a name in `NORMALISERS`; None: as the criterion
            is meant.
        batches: calibration inputs, for criteria that use activations.
        effort: the time that there is to gather their statistics; None: unlimited.

    Raises:
        OptionError: the criterion does not exist, or needs inputs.
    """

    def __init__(
        self,
        criterion: str,
        seed: int = 0,
        batches: Sequence[Feeds] = (),
        effort: Effort | None = None,
        normalise: str | None = None,
    ) -> None:
        if criterion not in NAMES:
            hint = did_you_mean(criterion, NAMES)
            raise OptionError(f"--criterion: got '{criterion}'; {hint}expected one of {', '.join(NAMES)}")
        if criterion in CALIBRATED and not batches:
            raise OptionError(f"--criterion {criterion}: uses activations; pass inputs with --data (or use synthetic ones)")
        self._criterion, self._seed, self._normalise = criterion, seed, normalise
        self._norms: Norms = {}
        self._batches, self._effort = batches, effort
        self._statistics: Statistics | None = None

    def score(self, coupled: Coupled, groups: tuple[Group, ...]) -> Scored:
        """Scores of all groups."""
        return normalised(self._scored(coupled, groups), self._normalise)

    def _scored(self, coupled: Coupled, groups: tuple[Group, ...]) -> Scored:
        if self._criterion == "random":
            rng = np.random.default_rng(self._seed)
            return Scored(tuple(rng.random(len(g)) for g in groups))
        reader = WeightReader(coupled, self._norms)
        if self._criterion in CALIBRATED:
            return self._calibrated(coupled, groups, reader)
        if self._criterion in BY_GROUP:
            return Scored(tuple(BY_GROUP[self._criterion](reader, g) for g in groups))
        scores = tuple(score(reader, g, CRITERIA[self._criterion]) for g in groups)
        if self._criterion not in NEEDS_BATCH_NORM:
            return Scored(scores)
        bare = [g for g in groups if all(reader.batch_norm(u) is None for u in g.producers)]
        return Scored(scores, tuple(g.name for g in bare), _folded(reader, bare))

    def _calibrated(self, coupled: Coupled, groups: tuple[Group, ...], reader: WeightReader) -> Scored:
        """Scores by activations; groups that no linear layer reads are scored by their weights, on the scale of the others."""
        from onnxprune.selection.criteria import calibrated  # on demand, for a quick start

        if self._statistics is None:
            ranks = self._criterion == "hrank"
            self._statistics = calibrated.Statistics(self._batches, self._seed, self._effort, ranks)
        readers = self._statistics.read(coupled)
        found: list[Vector | None] = []
        for g in groups:
            mine = calibrated.readers_of(g, readers)
            found.append(calibrated.CALIBRATED[self._criterion](g, mine) if mine else None)
        known = [x for x in found if x is not None]
        typical = float(np.median(np.concatenate(known))) if known else 1.0
        weights = (unit_mean(score(reader, g, l2)) * typical for g, x in zip(groups, found, strict=True) if x is None)
        return Scored(tuple(next(weights) if x is None else x for x in found))
