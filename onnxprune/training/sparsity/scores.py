# SPDX-License-Identifier: Apache-2.0
"""How much each channel matters while a network is trained, and which are the first to go."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from onnxprune.analysis.groups import Group
from onnxprune.selection.order import order_of
from onnxprune.selection.sizing import Sizing
from onnxprune.selection.units import units_of
from onnxprune.training.channels import FILTER, SCALE, ChannelGroup
from onnxprune.training.sparsity.binding import Bound, Part
from onnxprune.types import Vector


def unit_mean(x: Tensor) -> Tensor:
    """`x` divided by its mean; zeros stay zeros."""
    mean = x.mean()
    return x / torch.where(mean > 0, mean, 1.0)


@torch.no_grad()
def joint(bound: Bound) -> Tensor:
    """|W|_1 / mean * |gamma| / mean of each channel (n,), higher = keep, as the criterion `ccprune` ranks them.

    Each factor is averaged over the weights that produce the channels, and over their normalisations. Without a normalisation
    it is the first, without either the norm of everything that the channel owns. After CCPrune (Chen et al., 2021).
    """
    found = [_mean(bound, list(bound.of(role))) for role in (FILTER, SCALE)]
    factors = [x for x in found if x is not None]
    if not factors:
        return unit_mean(bound.norms(bound.parts))
    return torch.stack(factors).prod(0)


def _mean(bound: Bound, parts: Sequence[Part]) -> Tensor | None:
    if not parts:
        return None
    sums = [unit_mean(p.total(torch.abs)).to(bound.parts[0].tensor.device) for p in parts]
    return unit_mean(torch.stack(sums).mean(0))


def lowest(groups: Sequence[ChannelGroup], scores: Sequence[Tensor], ratio: float, scope: str) -> list[Tensor]:
    """Which channels go first: for each group (n,) bool. They are chosen as a cut by `onnxprune.prune` chooses them.

    Args:
        scores: for each group (n,); higher = keep.
        ratio: the share of all channels that go.
        scope: "global" ranks all channels together; "local" takes the same share of every group.
    """
    plain = [_plain(g) for g in groups]
    units = [units_of(g, vector(s)) for g, s in zip(plain, scores, strict=True)]
    order = order_of(plain, units, Sizing(scope))
    total = sum(map(len, plain))
    widths = order.widths(order.nearest(round(ratio * total), total))
    kept = [u.best(w) for u, w in zip(units, widths, strict=True)]
    return [torch.from_numpy(~k).to(s.device) for k, s in zip(kept, scores, strict=True)]


def _plain(group: ChannelGroup) -> Group:
    """What the selection of channels reads of a group."""
    return Group(group.name, np.arange(group.size), (), (), 1, group.blocks)


def vector(x: Tensor) -> Vector:
    """A copy on the CPU, in double precision."""
    found: Vector = x.detach().double().cpu().numpy()
    return found
