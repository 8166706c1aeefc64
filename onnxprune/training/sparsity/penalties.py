# SPDX-License-Identifier: Apache-2.0
"""Penalties on coupled channels: on all of them, or on those that are about to go."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from onnxprune.errors import OptionError
from onnxprune.training.channels import FILTER, OTHER, READER, SCALE, ChannelGroup
from onnxprune.training.sparsity.base import LOG_EVERY, Regularizer
from onnxprune.training.sparsity.binding import Bound, check_roles
from onnxprune.training.sparsity.schedule import Schedule, Strength, count, is_number, share
from onnxprune.training.sparsity.scores import joint, lowest

ALL = (FILTER, READER, SCALE, OTHER)


class GroupLasso(Regularizer):
    """strength * sum over groups of sqrt(p) * sum over channels of the norm of everything a channel owns: p values.

    A channel's filters, scales, shifts and the slices of the weights that read it get to zero together.

    Source: Wen et al., Learning Structured Sparsity, NeurIPS 2016, for single filters; over coupled channels DepGraph (Fang et
    al., CVPR 2023). The factor sqrt(p) makes groups of different size comparable (Yuan and Lin, 2006).

    Args:
        groups: from `channel_groups`.
        strength: a number or a schedule (step -> strength).
        log_every: the number of steps between records in `history`.

    Raises:
        OptionError: the strength is negative or not a number, or there are no groups.
    """

    def __init__(
        self, groups: Sequence[ChannelGroup], strength: float | Schedule = 5e-5, *, log_every: int = LOG_EVERY
    ) -> None:
        super().__init__(groups, log_every=log_every)
        self.strength = Strength("GroupLasso strength", strength)

    def _penalty(self, model: nn.Module) -> Tensor:
        bounds, zero = self._bound(model), super()._penalty(model)
        check_roles(bounds, ALL, self.name)
        terms = [(_root_size(b) * b.norms(b.of(*ALL, trained=True)).sum()).to(zero.device) for b in bounds]
        return self.strength.at(self.steps) * torch.stack([zero, *terms]).sum()


def _root_size(bound: Bound) -> float:
    """The root of the number of trained values that a channel owns, on average."""
    owned = sum(p.tensor.numel() / p.tensor.shape[p.slice.axis] * p.layout.owned for p in bound.of(*ALL, trained=True))
    return math.sqrt(owned / bound.group.size)


class GrowingPenalty(Regularizer):
    """An L2 penalty on the channels that are about to go, which grows until they are gone.

    At step `start` the channels with the lowest scores of all groups are chosen. From then on strength / 2 * the sum of squares
    of everything that they own is added to the loss; every `every` steps the strength grows by `growth`, up to `ceiling`.

    Source: GReg (Wang et al., Neural Pruning via Growing Regularization, ICLR 2021), its first variant, on coupled channels.

    Args:
        groups: from `channel_groups`.
        ratio: the share of all channels that will go. A cut to half of the multiply-accumulates takes about 0.3 to 0.5.
        start: the step at which channels are chosen; let a new network train for a while before.
        growth: by how much the strength grows at a time.
        every: the number of steps between.
        ceiling: the largest strength.
        log_every: the number of steps between records in `history`.

    Raises:
        OptionError: a number is out of range, or there are no groups.
    """

    def __init__(
        self,
        groups: Sequence[ChannelGroup],
        ratio: float,
        *,
        start: int = 0,
        growth: float = 1e-4,
        every: int = 10,
        ceiling: float = 1.0,
        log_every: int = LOG_EVERY,
    ) -> None:
        super().__init__(groups, log_every=log_every)
        self.ratio, self.start = share(ratio, "GrowingPenalty ratio"), count(start, "GrowingPenalty start", 0)
        self.every = count(every, "GrowingPenalty every")
        self.growth, self.ceiling = _positive(growth, "growth"), _positive(ceiling, "ceiling")
        self._chosen: list[Tensor] | None = None

    @property
    def strength(self) -> float:
        """The strength at this step."""
        due = 0 if self.steps < self.start else 1 + (self.steps - self.start) // self.every
        return min(self.ceiling, self.growth * due)

    def _penalty(self, model: nn.Module) -> Tensor:
        bounds, zero = self._bound(model), super()._penalty(model)
        check_roles(bounds, ALL, self.name)
        if self.steps < self.start:
            return zero
        if self._chosen is None:
            self._chosen = lowest([b.group for b in bounds], [joint(b) for b in bounds], self.ratio, "global")
        terms = [_squares(b, c).to(zero.device) for b, c in zip(bounds, self._chosen, strict=True)]
        return 0.5 * self.strength * torch.stack([zero, *terms]).sum()

    def _chosen_state(self) -> Any:
        return self._chosen

    def _choose(self, chosen: Any) -> None:
        self._chosen = chosen

    def _forget(self) -> None:
        self._chosen = None


def _squares(bound: Bound, chosen: Tensor) -> Tensor:
    """The sum of squares of everything that the chosen channels (n,) own."""
    device = bound.parts[0].tensor.device
    sums = [p.total(torch.square).to(device) for p in bound.of(*ALL, trained=True)]
    return (torch.stack([bound.zeros(), *sums]).sum(0) * chosen.to(device)).sum()


def _positive(value: float, name: str) -> float:
    if not is_number(value) or not 0 < value < math.inf:
        raise OptionError(f"GrowingPenalty {name}: got {value!r}, expected a finite number above 0")
    return float(value)
