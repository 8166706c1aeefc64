# SPDX-License-Identifier: Apache-2.0
"""What a test needs to know about a module, and how its weights come to look trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Case:
    """A module of a user.

    Attributes:
        build: makes the module with the weights that PyTorch draws; `make` makes it with those that tests need.
        shapes: of its inputs, the batch (2) first.
        removed: the least number of channels that a ratio of 0.5, without alignment, removes.
        tokens: if not zero, the inputs are token numbers below it.
        mixes: whether it has LayerNorm or attention.
        renormalises: layers whose exact cut needs nodes that a module cannot have.
        options: for `prune`, where the default makes a cut that another test is about.
        fault: the line of `forward` that cannot follow a cut.
    """

    build: Callable[[], nn.Module]
    shapes: tuple[tuple[int, ...], ...]
    removed: int
    tokens: int = 0
    mixes: bool = False
    renormalises: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    fault: str = ""

    def make(self, seed: int = 0) -> nn.Module:
        """The module in eval mode, with seeded weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return settled(self.build())

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """Seeded example inputs."""
        generator = torch.Generator().manual_seed(7)
        if self.tokens:
            return tuple(torch.randint(self.tokens, shape, generator=generator) for shape in self.shapes)
        return tuple(torch.randn(shape, generator=generator) for shape in self.shapes)


def settled(module: nn.Module) -> nn.Module:
    """In eval mode, with drawn statistics, scales and shifts of normalisations: none is 0 or 1 by default."""
    with torch.no_grad():
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            if tensor.ndim != 1 or not tensor.is_floating_point():
                continue
            if name.endswith("running_mean"):
                tensor.normal_(0, 0.2)
            elif name.endswith("bias"):
                tensor.normal_(0, 0.1)
            else:  # variances, scales of normalisations, slopes of PReLU, layer scales
                tensor.uniform_(0.5, 1.5)
    return module.eval()
