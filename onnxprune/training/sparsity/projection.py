# SPDX-License-Identifier: Apache-2.0
"""Soft filter pruning: channels are set to zero again and again, and may come back."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.optim import Optimizer

from onnxprune.training.channels import FILTER, ChannelGroup
from onnxprune.training.sparsity.base import LOG_EVERY, Regularizer
from onnxprune.training.sparsity.binding import Bound, check_roles
from onnxprune.training.sparsity.schedule import count, share
from onnxprune.training.sparsity.scores import lowest, unit_mean


class SoftPruning(Regularizer):
    """Every `every` steps the channels with the smallest filters are set to zero, with scales and shifts; all go on learning.

    The same share of every group is set to zero. A channel that is exactly zero gets no gradient through a ReLU: what lets it
    come back is the momentum of the optimizer (SGD with momentum, Adam).

    Source: SFP (He et al., Soft Filter Pruning, IJCAI 2018), on coupled channels: the norm is that of all filters of a channel,
    each layer on the scale where its mean is 1.

    Args:
        groups: from `channel_groups`.
        ratio: the share of each group that is set to zero. A cut to half of the multiply-accumulates takes about 0.3.
        every: the number of steps between; the paper takes one epoch. Let the last step of the training be one of them, or let
            the learning rate fall to zero.
        log_every: the number of steps between records in `history`.

    Raises:
        OptionError: a number is out of range, or there are no groups.
    """

    def __init__(self, groups: Sequence[ChannelGroup], ratio: float, every: int = 100, *, log_every: int = LOG_EVERY) -> None:
        super().__init__(groups, log_every=log_every)
        self.ratio, self.every = share(ratio, "SoftPruning ratio"), count(every, "SoftPruning every")

    def _penalty(self, model: nn.Module) -> Tensor:
        check_roles(self._bound(model), (FILTER,), self.name)
        return super()._penalty(model)

    def _act(self, model: nn.Module, optimizer: Optimizer | None) -> None:
        if (self.steps + 1) % self.every:
            return
        bounds = self._bound(model)
        chosen = lowest([b.group for b in bounds], [filter_norms(b) for b in bounds], self.ratio, "local")
        for bound, mine in zip(bounds, chosen, strict=True):
            for part in bound.made():
                part.clear(mine)


def filter_norms(bound: Bound) -> Tensor:
    """The Euclidean norm of each channel's filters (n,): the mean over layers, each with a mean of 1."""
    found = list(bound.of(FILTER)) or list(bound.parts)
    total = bound.zeros()
    for part in found:
        total += unit_mean(part.total(lambda x: x.square()).sqrt()).to(total.device)
    return total / len(found)
