# SPDX-License-Identifier: Apache-2.0
"""A small residual network, a task for it, and a user's training loop with a regulariser."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from onnxprune.training.channels import ChannelGroup, channel_groups
from onnxprune.training.sparsity import Regularizer

X = torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(1))
Y = (X.mean((1, 2, 3)) > 0).long() + (X[:, 0, :4].mean((1, 2)) > 0).long()
"""Images and labels 0, 1, 2."""


class Residual(nn.Module):
    """One block: a stream of 8 channels that two layers write to, and 6 channels inside the block.

    Args:
        norm: whether convolutions are followed by BatchNorm.
        factor: multiplies the stream; neither a parameter nor a buffer.
    """

    def __init__(self, norm: bool = True, factor: Tensor | None = None) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(1, 8, 3, bias=not norm), nn.BatchNorm2d(8) if norm else nn.Identity()
        self.conv1, self.bn1 = nn.Conv2d(8, 6, 3, padding=1), nn.BatchNorm2d(6) if norm else nn.Identity()
        self.conv2, self.bn2 = nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8) if norm else nn.Identity()
        self.fc, self.factor = nn.Linear(8, 3), factor

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = F.relu(self.bn(self.conv(x)))
        x = F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        logits: Tensor = self.fc((x if self.factor is None else x * self.factor).mean((2, 3)))
        return logits


def residual(norm: bool = True, seed: int = 0) -> Residual:
    """The network with seeded weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Residual(norm)


def groups_of(model: nn.Module) -> tuple[ChannelGroup, ...]:
    return channel_groups(model, X[:2])


def sgd(model: nn.Module, rate: float = 0.1, momentum: float = 0.9, decay: float = 0.0) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), rate, momentum, weight_decay=decay)


def train(model: nn.Module, sparsity: Regularizer | None, optimizer: torch.optim.Optimizer, steps: int) -> None:
    """A user's loop; a regulariser adds two lines."""
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(X), Y)
        if sparsity is not None:
            loss = loss + sparsity(model)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if sparsity is not None:
            sparsity.step(optimizer)


def outputs(model: nn.Module) -> Tensor:
    """In eval mode, for all images."""
    with torch.no_grad():
        found: Tensor = model.eval()(X)
    return found


def parameters(model: nn.Module) -> dict[str, Tensor]:
    """Copies by name."""
    return {n: t.detach().clone() for n, t in model.named_parameters()}
