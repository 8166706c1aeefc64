# SPDX-License-Identifier: Apache-2.0
"""LayerNorm, GroupNorm, RMSNorm and mixers of tokens without attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.cases.modules.case import Case
from tests.cases.modules.convolutional import IMAGE, Staged


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution, LayerNorm and MLP with channels last, layer scale (Liu et al., 2022)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pwconv1, self.act, self.pwconv2 = nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim)
        self.gamma = nn.Parameter(1e-6 * torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        y = self.dwconv(x).permute(0, 2, 3, 1)
        y = self.gamma * self.pwconv2(self.act(self.pwconv1(self.norm(y))))
        return x + y.permute(0, 3, 1, 2)


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of images, as the authors of ConvNeXt wrote it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.eps = 1e-6
        self.normalized_shape = (channels,)

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class GroupNormed(nn.Module):
    """Two convolutions with GroupNorm."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(inputs, hidden, 3, padding=1), nn.GroupNorm(4, hidden)
        self.conv2, self.norm2 = nn.Conv2d(hidden, inputs, 3, padding=1), nn.GroupNorm(2, inputs)

    def forward(self, x: Tensor) -> Tensor:
        y = F.silu(self.norm1(self.conv1(x)))
        return x + F.silu(self.norm2(self.conv2(y)))


class Mlp(nn.Module):
    """Two linear layers."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class MixerBlock(nn.Module):
    """An MLP over tokens, then one over channels (Tolstikhin et al., 2021)."""

    def __init__(self, tokens: int, dim: int) -> None:
        super().__init__()
        self.norm1, self.tokens = nn.LayerNorm(dim), Mlp(tokens, 12)
        self.norm2, self.channels = nn.LayerNorm(dim), Mlp(dim, 24)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class Mixer(nn.Module):
    """Patches, two mixer blocks, the mean of the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 12, 2, stride=2)
        self.blocks = nn.Sequential(MixerBlock(16, 12), MixerBlock(16, 12))
        self.norm, self.head = nn.LayerNorm(12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.blocks(x)).mean(1))


class RMSNorm(nn.Module):
    """x / sqrt(mean of squares), scaled (Zhang and Sennrich, 2019), as most language models write it."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.eps, self.weight = 1e-6, nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


class Gated(nn.Module):
    """Pre-norm SwiGLU blocks (Shazeer, 2020) over tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 12)
        self.norm, self.gate, self.up, self.down = RMSNorm(12), nn.Linear(12, 20), nn.Linear(12, 20), nn.Linear(20, 12)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        y = self.norm(x)
        return self.head(x + self.down(F.silu(self.gate(y)) * self.up(y)))


def convnext() -> nn.Module:
    """Two blocks; the norm between them is the authors' own."""
    return Staged(8, nn.Sequential(ConvNeXtBlock(8, 24), ChannelNorm(8), nn.Conv2d(8, 12, 2, 2), ConvNeXtBlock(12, 20)), 12)


CASES = {
    "convnext": Case(convnext, IMAGE, 32, mixes=True, renormalises=("norm",)),
    "group norm": Case(
        lambda: Staged(8, nn.Sequential(GroupNormed(8, 16), GroupNormed(8, 12)), 8), IMAGE, 6, renormalises=("norm2",)
    ),
    "mixer": Case(Mixer, IMAGE, 42, mixes=True, renormalises=("norm",)),
    "rms norm": Case(Gated, ((2, 5, 6),), 16, mixes=True, renormalises=("norm",)),
}
