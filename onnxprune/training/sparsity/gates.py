# SPDX-License-Identifier: Apache-2.0
"""One factor for each coupled channel, driven to zero, and always multiplied into the weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from onnxprune.training.channels import FILTER, OTHER, SCALE, ChannelGroup
from onnxprune.training.sparsity.base import LOG_EVERY, Regularizer, Tensors
from onnxprune.training.sparsity.binding import Bound, Part, check_roles
from onnxprune.training.sparsity.rates import rate_of, rates
from onnxprune.training.sparsity.schedule import Schedule, Strength


class Gates(Regularizer):
    """L1 on one factor per channel, by a proximal step after the optimizer's: whole channels become exactly zero.

    The factor of a channel is the norm of its scales and shifts of normalisations, relative to the root mean square over its
    group at the start: y = g * (gamma * x + beta), with g multiplied into gamma and beta. Channels without a normalisation have
    it multiplied into filters and biases. The model needs no new parameters, and nothing is left to fold before an export.

    Source: SSS (Huang and Wang, Data-Driven Sparse Structure Selection, ECCV 2018), which keeps its factors in layers of their
    own and accelerates the proximal gradient with a momentum; here it is that of the optimizer.

    Args:
        groups: from `channel_groups`.
        strength: a number or a schedule (step -> strength). In a step a factor shrinks by strength * learning rate /
            (1 - momentum); it starts at 1 on average.
        log_every: the number of steps between records in `history`.

    Raises:
        OptionError: the strength is negative or not a number, or there are no groups.
    """

    def __init__(
        self, groups: Sequence[ChannelGroup], strength: float | Schedule = 2e-3, *, log_every: int = LOG_EVERY
    ) -> None:
        super().__init__(groups, log_every=log_every)
        self.strength = Strength("Gates strength", strength)
        self._units: list[Tensor] | None = None

    def _penalty(self, model: nn.Module) -> Tensor:
        bounds = self._bound(model)
        check_roles(bounds, (FILTER, SCALE), self.name)
        self._gates(model)  # what counts as 1 is fixed before the first step
        return super()._penalty(model)

    def _act(self, model: nn.Module, optimizer: Optimizer | None) -> None:
        known, size = rates(optimizer, self.name), self.strength.at(self.steps)
        rate = rate_of(known, self._sparse(model), self.name)
        for bound, gate in zip(self._bound(model), self._gates(model), strict=True):
            for part in gated(bound):
                by = size * rate.get(part.slice.name, 0.0)
                factor = (1 - by / gate.clamp(min=1e-12)).clamp(min=0)
                part.tensor.mul_(part.spread(factor.to(part.tensor.device, part.tensor.dtype), 1.0))

    @torch.no_grad()
    def _gates(self, model: nn.Module) -> list[Tensor]:
        """The factor of each channel, by group (n,)."""
        norms = [b.norms(gated(b)) for b in self._bound(model)]
        if self._units is None:
            self._units = [n.square().mean().sqrt() for n in norms]
        units = (unit.to(n.device) for n, unit in zip(norms, self._units, strict=True))
        return [n / torch.where(unit > 0, unit, 1.0) for n, unit in zip(norms, units, strict=True)]

    def _sparse(self, model: nn.Module) -> Tensors:
        return {p.slice.name: p.tensor for b in self._bound(model) for p in gated(b)}

    def _scores(self, model: nn.Module) -> Tensors:
        names = (b.group.name for b in self._bound(model))
        return dict(zip(names, self._gates(model), strict=True))

    def _chosen_state(self) -> Any:
        return self._units

    def _choose(self, chosen: Any) -> None:
        self._units = chosen

    def _forget(self) -> None:
        self._units = None


def gated(bound: Bound) -> list[Part]:
    """What the factors of a group are multiplied into.

    Where a filter has no normalisation of its own, its channel would pass it: then filters are multiplied, too.
    """
    filters, scales = (list(bound.of(role, trained=True)) for role in (FILTER, SCALE))
    normalised = len(scales) >= len(filters)
    return [*scales, *([] if normalised else filters), *bound.of(OTHER, trained=True)]
