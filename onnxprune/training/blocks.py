# SPDX-License-Identifier: Apache-2.0
"""Sums over blocks of a weight, as tensors; differentiable."""

from __future__ import annotations

import torch
from torch import Tensor

from onnxprune.compression.blocks import Blocks


def per_block(blocks: Blocks, x: Tensor) -> Tensor:
    """The sum over each block, on the grid of blocks."""
    # by axes and not by index_add, whose order of additions differs from run to run on a GPU
    for axis, (n, run) in enumerate(zip(blocks.shape, blocks.runs, strict=True)):
        padding = x.new_zeros(*x.shape[:axis], -n % run, *x.shape[axis + 1 :])
        x = torch.cat([x, padding], axis).reshape(*x.shape[:axis], -1, run, *x.shape[axis + 1 :]).sum(axis + 1)
    return x


def spread(blocks: Blocks, values: Tensor) -> Tensor:
    """The inverse: the value of its block at each weight."""
    for axis, (n, run) in enumerate(zip(blocks.shape, blocks.runs, strict=True)):
        values = values.repeat_interleave(run, axis).narrow(axis, 0, n)
    return values
