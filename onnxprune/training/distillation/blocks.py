# SPDX-License-Identifier: Apache-2.0
"""Weights whose blocks share one magnitude, in training: signs stay, and of each block the magnitude is trained.

A weight w is read through a projection: sign(w) mean|w| in a block that shares (as in XNOR-Net, Rastegari et al., 2016), 0 in
one that is zero, w elsewhere. The gradient is that of mean|w|, so that a block moves as one. Letting gradients pass straight
through the signs, so that single weights change theirs, was no better (docs/distill.md). Where the weights of a free block are
few multiples of a step, the step stays and gradients do pass through the rounding (Bengio et al., 2013).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from onnxprune.compression.blocks import FREE, SHARED, ZERO
from onnxprune.compression.division import FINE, Division
from onnxprune.errors import TrainingError
from onnxprune.training.blocks import per_block, spread
from onnxprune.training.converter.module import Module
from onnxprune.types import Array


class HeldBlocks:
    """How a weight is read, so that it has its blocks whatever its values are.

    Args:
        w: the weight, which has its blocks; its steps stay.
    """

    def __init__(self, division: Division, w: Array, device: torch.device) -> None:
        self._blocks, action = division.blocks, division.done_to
        self._levels = division.levels if division.levels < FINE else 0
        steps = division.steps(w)[division.blocks.numbers]
        self._coded = torch.from_numpy((action == FREE) & (steps > 0)).to(device)
        self._steps = torch.from_numpy(np.where(steps > 0, steps, 1)).to(device, torch.float32)
        self._sizes = per_block(self._blocks, torch.ones(self._blocks.shape, device=device))
        self._shared, self._zero = (torch.from_numpy(action == kind).to(device) for kind in (SHARED, ZERO))

    def __call__(self, w: Tensor) -> Tensor:
        """The nearest weight with these blocks; differentiable."""
        signs = torch.where(w < 0, -1.0, 1.0).to(w.dtype)  # that of 0 is 1: a magnitude of 0 must be able to grow
        means = per_block(self._blocks, signs * w) / self._sizes.to(w.dtype)
        if self._levels:
            multiples = torch.clamp(torch.round(w / self._steps), -self._levels, self._levels) * self._steps
            w = torch.where(self._coded, w + (multiples - w).detach(), w)
        return torch.where(self._shared, signs * spread(self._blocks, means), w).masked_fill(self._zero, 0)


def hold(module: Module, divisions: Mapping[str, Division]) -> None:
    """Hold the blocks of a module's weights from now on.

    Args:
        module: its weights have these blocks.
        divisions: by the name of the weight. One that is stored, but not trained, keeps its blocks anyway.

    Raises:
        TrainingError: a division is of another weight.
    """
    for name, division in divisions.items():
        weight = module.program.weights.get(name, module.program.stored.get(name))
        if weight is None:
            raise TrainingError(f"'{name}': a weight to hold the blocks of, but the model stores none of this name")
        if weight.shape != division.blocks.shape:
            raise TrainingError(f"'{name}' {list(weight.shape)}: its blocks divide a weight {list(division.blocks.shape)}")
        if name in module.program.weights:
            module.views[name] = HeldBlocks(division, weight, module.device)
