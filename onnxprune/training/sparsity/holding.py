# SPDX-License-Identifier: Apache-2.0
"""Blocks of weights as tensors: what a weight is projected to, and what is held of it while training goes on."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from onnxprune.compression.blocks import FREE, ZERO, Blocks
from onnxprune.compression.division import Division
from onnxprune.training.blocks import per_block, spread
from onnxprune.training.sparsity.scores import vector


def single(tensor: Tensor) -> Tensor:
    """In at least single precision."""
    return tensor if tensor.dtype.itemsize >= 4 else tensor.float()


def projected(division: Division, w: Tensor) -> Tensor:
    """The nearest weight whose blocks do what was decided, in at least single precision."""
    # rounded once, from equal numbers: the magnitudes of a block stay exactly equal
    return torch.from_numpy(np.ascontiguousarray(division.projected(vector(w)))).to(w.device, single(w).dtype)


@dataclass(frozen=True, eq=False)
class Held:
    """What is held of one weight.

    Attributes:
        blocks: how it is divided.
        target: its values when they were fixed.
        signs: -1 or 1, and 0 in blocks that are zero.
        sizes: the number of weights of each block, on the grid of blocks.
        free: where weights are not held.
    """

    blocks: Blocks = field(repr=False)
    target: Tensor = field(repr=False)
    signs: Tensor = field(repr=False)
    sizes: Tensor = field(repr=False)
    free: Tensor = field(repr=False)

    @classmethod
    def of(cls, division: Division, target: Tensor) -> Held:
        """What is held of a projected weight."""
        action = torch.from_numpy(division.actions[division.blocks.numbers]).to(target.device)
        signs = torch.where(target < 0, -1.0, 1.0).to(target.dtype) * (action != ZERO)
        return cls(division.blocks, target, signs, per_block(division.blocks, torch.ones_like(target)), action == FREE)

    def kept(self, w: Tensor, magnitudes: bool) -> Tensor:
        """The nearest weight with the same signs and zeros, and free weights as they are; or, without magnitudes, the same."""
        if not magnitudes:
            return torch.where(self.free, w, self.target)
        means = per_block(self.blocks, w * self.signs) / self.sizes
        return torch.where(self.free, w, self.signs * spread(self.blocks, means.clamp(min=0)))
