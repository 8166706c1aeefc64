# SPDX-License-Identifier: Apache-2.0
"""Centripetal training: channels of a cluster become identical, and identical channels merge into one without loss."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from onnxprune.errors import TrainingError
from onnxprune.training.channels import FILTER, READER, ChannelGroup
from onnxprune.training.export import Example
from onnxprune.training.modules import unwrapped
from onnxprune.training.sparsity.base import LOG_EVERY, Regularizer, Tensors
from onnxprune.training.sparsity.binding import Bound, Part, check_roles
from onnxprune.training.sparsity.clusters import centroids, firsts, ward
from onnxprune.training.sparsity.merging import Merged, merge_clusters
from onnxprune.training.sparsity.rates import rate_of, rates
from onnxprune.training.sparsity.schedule import Schedule, Strength, count, share

MOST = 0.5
"""The largest fraction of a deviation that disappears in one step."""


class Centripetal(Regularizer):
    """Filters of a cluster get the mean of their updates and approach their centroid, until they are identical; `merge` then
    makes one channel of each cluster, and zeros of the others, without changing what the network computes.

    Channels are clustered within each group by all filters that produce them, so on a residual stream all branches agree. All
    that makes a channel approaches the centroid: filters, biases, scales and shifts.

    Source: C-SGD (Ding et al., Centripetal SGD, CVPR 2019). Clusters are found by Ward's method instead of k-means.

    Args:
        groups: from `channel_groups`.
        ratio: the share of each group that will be merged away. A cut to half of the multiply-accumulates takes about 0.3.
        strength: a number or a schedule (step -> strength): in a step a deviation shrinks by strength * learning rate /
            (1 - momentum) of itself.
        start: the step at which clusters are chosen; let a new network train for a while before.
        log_every: the number of steps between records in `history`, whose scores are relative distances from the centroid (1
            for the first channel of each cluster, which stays).

    Raises:
        OptionError: a number is out of range, or there are no groups.
    """

    def __init__(
        self,
        groups: Sequence[ChannelGroup],
        ratio: float,
        strength: float | Schedule = 1e-2,
        *,
        start: int = 0,
        log_every: int = LOG_EVERY,
    ) -> None:
        super().__init__(groups, log_every=log_every)
        self.ratio, self.strength = share(ratio, "Centripetal ratio"), Strength("Centripetal strength", strength)
        self.start = count(start, "Centripetal start", 0)
        self._clusters: list[Tensor | None] | None = None
        self._apart: dict[tuple[int, int], Tensor] = {}
        self._merged = False

    @property
    def clusters(self) -> Tensors:
        """Name of the group -> the number of each channel's cluster (n,); empty before step `start`."""
        assert self._binder is not None
        found = zip(self._binder.groups, self._clusters or (), strict=False)
        return {group.name: clusters for group, clusters in found if clusters is not None}

    def merge(self, model: nn.Module, example_inputs: Example) -> Merged:
        """Make one channel of each cluster, in place; an ordinary cut then removes the others, which are zero, without loss.

        Scales, shifts, biases and statistics become those of the centroid; weights that read the channels are summed. Groups
        whose channels are not only read by weights (a product of queries and keys, a LayerNorm) cannot be merged: each group is
        tried on the example, and restored if the outputs change.

        Args:
            model: the trained model, wrapped or not.
            example_inputs: a tensor, or one for each argument of `forward`.

        Raises:
            TrainingError: the model is not that of the groups, or was merged before.
        """
        if self._merged:
            raise TrainingError(
                f"{self.name}: the model is merged; cut it, then call regroup(channel_groups(model, example_inputs))"
            )
        bounds = self._bound(model)
        merged = merge_clusters(unwrapped(model), bounds, self._chosen(bounds), example_inputs)
        self._merged = True
        return merged

    def _penalty(self, model: nn.Module) -> Tensor:
        bounds = self._bound(model)
        check_roles(bounds, (FILTER,), self.name)
        if self._clusters is None and self.steps >= self.start:
            self._chosen(bounds)
            self._apart = {key: _apart(p, c) for key, p, c in self._members(bounds)}
        return super()._penalty(model)

    def _act(self, model: nn.Module, optimizer: Optimizer | None) -> None:
        if self._clusters is None or self._merged:  # zeros of a merged model are not to approach a centroid
            return
        known, size, bounds = rates(optimizer, self.name), self.strength.at(self.steps), self._bound(model)
        rate = rate_of(known, {p.slice.name: p.tensor for b in bounds for p in b.made()}, self.name)
        for key, part, clusters in self._members(bounds):
            left = 1 - min(MOST, size * rate.get(part.slice.name, 0.0))
            self._apart[key] = self._apart[key].to(part.tensor.device) * left
            # the mean of the members has moved by the mean of their updates; deviations do not follow single updates
            part.put(centroids(part.blocks(), clusters) + self._apart[key])

    @torch.no_grad()
    def _chosen(self, bounds: Sequence[Bound]) -> list[Tensor | None]:
        """The cluster of each channel, by group (n,); None if its channels cannot be compared."""
        if self._clusters is None:
            self._clusters = [_clusters(b, self.ratio) for b in bounds]
        return self._clusters

    def _members(self, bounds: Sequence[Bound]) -> Iterable[tuple[tuple[int, int], Part, Tensor]]:
        """A key, the slice, and the clusters, for all that makes channels."""
        for k, (bound, clusters) in enumerate(zip(bounds, self._clusters or (), strict=True)):
            if clusters is not None:
                yield from (((k, i), p, clusters.to(p.tensor.device)) for i, p in enumerate(bound.made()))

    def _scores(self, model: nn.Module) -> Tensors:
        bounds = self._bound(model)
        found = zip(bounds, self._clusters or [None] * len(bounds), strict=True)
        return {b.group.name: torch.ones_like(b.zeros()) if c is None else _distances(b, c) for b, c in found}

    def _chosen_state(self) -> Any:
        return None if self._clusters is None else {"clusters": self._clusters, "apart": self._apart, "merged": self._merged}

    def _choose(self, chosen: Any) -> None:
        self._clusters, self._apart, self._merged = chosen["clusters"], dict(chosen["apart"]), chosen["merged"]

    def _forget(self) -> None:
        self._clusters, self._apart, self._merged = None, {}, False


@torch.no_grad()
def _apart(part: Part, clusters: Tensor) -> Tensor:
    blocks = part.blocks()
    return blocks - centroids(blocks, clusters)


def _clusters(bound: Bound, ratio: float) -> Tensor | None:
    """The cluster of each channel (n,); None if they cannot be compared, or no weight reads them."""
    filters = list(bound.of(FILTER))
    if not filters or not any(True for _ in bound.of(READER)) or not all(p.layout.even for p in bound.parts):
        return None
    found = torch.zeros_like(bound.zeros(), dtype=torch.long)
    # every layer has a say, whatever the scale of its filters
    rows = [p.blocks().flatten(1).to(found.device) for p in filters]
    joined = torch.cat([r / r.square().sum().sqrt().clamp(min=1e-12) for r in rows], 1)
    for channels in _comparable(bound.group):
        found[channels] = ward(joined[channels], max(1, len(channels) - round(ratio * len(channels)))) + found.max() + 1
    clusters: Tensor = torch.unique(found, return_inverse=True)[1]
    return clusters


def _comparable(group: ChannelGroup) -> list[Tensor]:
    """Channels among which clusters may form: equal filters of different groups of a convolution read different inputs."""
    blocks = [torch.from_numpy(row) for rows in group.blocks for row in rows]
    rest = torch.ones(group.size, dtype=torch.bool)
    for row in blocks:
        rest[row] = False
    return [*blocks, *([rest.nonzero().flatten()] if bool(rest.any()) else [])]


def _distances(bound: Bound, clusters: Tensor) -> Tensor:
    """The distance of each channel's filters from the centroid of its cluster, relative to the mean norm (n,)."""
    found, filters = bound.zeros(), list(bound.of(FILTER))
    for part in filters:
        typical = part.blocks().flatten(1).norm(dim=1).mean().clamp(min=1e-12)
        found += (_apart(part, clusters.to(part.tensor.device)).flatten(1).norm(dim=1) / typical).to(found.device)
    return torch.where(firsts(clusters), 1.0, found / len(filters))
