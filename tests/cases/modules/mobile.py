# SPDX-License-Identifier: Apache-2.0
"""Depthwise convolutions, channel shuffles, gates."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.cases.modules.case import Case
from tests.cases.modules.convolutional import IMAGE, Staged


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution, projection (MobileNetV2, Sandler et al., 2018)."""

    def __init__(self, inputs: int, outputs: int, stride: int, expand: int) -> None:
        super().__init__()
        self.stride, hidden = stride, inputs * expand
        self.use_res_connect = stride == 1 and inputs == outputs
        self.conv = nn.Sequential(
            nn.Conv2d(inputs, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(inplace=True),
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(inplace=True),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.use_res_connect else self.conv(x)


class SqueezeExcite(nn.Module):
    """A gate for each channel from the means of all (Hu et al., 2018)."""

    def __init__(self, channels: int, reduced: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(channels, reduced), nn.ReLU(), nn.Linear(reduced, channels), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        b, c, _, _ = x.size()
        gate = self.fc(x.mean((2, 3))).view(b, c, 1, 1)
        return x * gate.expand_as(x)


class Excited(nn.Module):
    """A residual branch with squeeze-and-excitation."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.expand = nn.Sequential(nn.Conv2d(channels, hidden, 3, padding=1, bias=False), nn.BatchNorm2d(hidden), nn.SiLU())
        self.se = SqueezeExcite(hidden, 6)
        self.project = nn.Sequential(nn.Conv2d(hidden, channels, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.project(self.se(self.expand(x)))


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Channels of the groups in turn (ShuffleNet, Zhang et al., 2018)."""
    batch, channels, height, width = x.size()
    x = x.view(batch, groups, channels // groups, height, width)
    return torch.transpose(x, 1, 2).contiguous().view(batch, -1, height, width)


class ShuffleUnit(nn.Module):
    """Half of the channels pass, half are convolved, then both are shuffled (ShuffleNetV2, Ma et al., 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.branch = nn.Sequential(
            nn.Conv2d(half, half, 1, bias=False),
            nn.BatchNorm2d(half),
            nn.ReLU(inplace=True),
            nn.Conv2d(half, half, 3, 1, 1, groups=half, bias=False),
            nn.BatchNorm2d(half),
            nn.Conv2d(half, half, 1, bias=False),
            nn.BatchNorm2d(half),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        x1, x2 = x.chunk(2, dim=1)
        return channel_shuffle(torch.cat((x1, self.branch(x2)), dim=1), 2)


class ShuffleDown(nn.Module):
    """Both branches are convolved with a stride."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half = outputs // 2
        self.left = nn.Sequential(
            nn.Conv2d(inputs, inputs, 3, 2, 1, groups=inputs, bias=False),
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, half, 1, bias=False),
            nn.BatchNorm2d(half),
            nn.ReLU(),
        )
        self.right = nn.Sequential(nn.Conv2d(inputs, half, 3, 2, 1, bias=False), nn.BatchNorm2d(half), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return channel_shuffle(torch.cat((self.left(x), self.right(x)), 1), 2)


class GroupShuffle(nn.Module):
    """Grouped 1x1 convolutions with a shuffle between them (ShuffleNet, Zhang et al., 2018)."""

    def __init__(self, inputs: int, hidden: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.reduce = nn.Conv2d(inputs, hidden, 1, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(hidden)
        self.restore = nn.Conv2d(hidden, inputs, 1, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm(self.reduce(x)))
        n, c, h, w = y.shape
        y = y.reshape(n, self.groups, c // self.groups, h, w).permute(0, 2, 1, 3, 4).reshape(n, c, h, w)
        return x + self.restore(y)


class Ghost(nn.Module):
    """Half of the channels from a convolution, half from a depthwise one on those (GhostNet, Han et al., 2020)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half = outputs // 2
        self.primary_conv = nn.Sequential(nn.Conv2d(inputs, half, 1, bias=False), nn.BatchNorm2d(half), nn.ReLU())
        self.cheap_operation = nn.Sequential(
            nn.Conv2d(half, half, 3, 1, 1, groups=half, bias=False), nn.BatchNorm2d(half), nn.ReLU()
        )

    def forward(self, x: Tensor) -> Tensor:
        x1 = self.primary_conv(x)
        return torch.cat([x1, self.cheap_operation(x1)], dim=1)


class GhostBottleneck(nn.Module):
    """Two ghost modules and a shortcut."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.ghost1, self.ghost2 = Ghost(inputs, hidden), Ghost(hidden, inputs)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.ghost2(self.ghost1(x))


class PerChannel(nn.Module):
    """PReLU with one slope a channel, and InstanceNorm with scales."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.act1 = nn.Conv2d(3, 12, 3, padding=1), nn.PReLU(12)
        self.conv2, self.norm2 = nn.Conv2d(12, 10, 3, padding=1), nn.InstanceNorm2d(10, affine=True)
        self.act2 = nn.PReLU()
        self.conv3 = nn.Conv2d(10, 4, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act1(self.conv1(x))
        return self.conv3(self.act2(self.norm2(self.conv2(x))))


def mobile() -> nn.Module:
    """Three inverted residuals, one with a shortcut."""
    return Staged(
        6,
        nn.Sequential(InvertedResidual(6, 8, 1, 2), InvertedResidual(8, 8, 1, 3), InvertedResidual(8, 10, 2, 2)),
        10,
    )


def shuffle() -> nn.Module:
    """Three units; the channels that are shuffled have to keep their number, those inside the branches do not."""
    return Staged(8, nn.Sequential(ShuffleDown(8, 12), ShuffleUnit(12), ShuffleUnit(12)), 12)


CASES = {
    "mobilenet": Case(mobile, IMAGE, 38),
    "squeeze-excite": Case(lambda: Staged(8, nn.Sequential(Excited(8, 16), Excited(8, 12)), 8), IMAGE, 24),
    "shufflenet": Case(shuffle, IMAGE, 10, options={"include": ["stem.*", "body.0.left.0.*", "body.?.branch.[03].*"]}),
    "shuffled groups": Case(
        lambda: Staged(12, nn.Sequential(GroupShuffle(12, 16, 2), GroupShuffle(12, 8, 2)), 12),
        IMAGE,
        3,
        options={"include": ["stem.*", "*.restore.*"]},
    ),
    "ghostnet": Case(lambda: Staged(8, nn.Sequential(GhostBottleneck(8, 12), GhostBottleneck(8, 16)), 8), IMAGE, 9),
    "per channel": Case(PerChannel, IMAGE, 11),
}
