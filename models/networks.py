# SPDX-License-Identifier: Apache-2.0
"""Networks for small images: VGG-19, ResNet-20, ResNet-50, ResNet-56 and MobileNetV2, each with BatchNormalization.

`NETWORKS` makes one from its name. All take images (n, channels, height, width) in [0, 1] of 28 x 28 pixels or more and return
logits (n, classes). `forward` names no number of channels and no image size, so that channels can be removed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

VGG19 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 256, 0, 512, 512, 512, 512, 0, 512, 512, 512, 512)
"""Channels of each convolution; 0 is a pooling. The fifth pooling is the mean at the end (as in Liu et al., 2017)."""
MOBILENET_V2 = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, channels, blocks and first stride of each stage. For ImageNet, the first layer and stage 2 have stride 2, too."""


def scaled(channels: int, width: float) -> int:
    """A number of channels times a width multiplier, to a multiple of 8 and at least 8.

    >>> scaled(64, 0.5), scaled(24, 0.3), scaled(16, 0.1)
    (32, 8, 8)
    """
    return max(8, round(channels * width / 8) * 8)


class Normalize(nn.Module):
    """(x - mean) / std, by channel. Both are constants: neither is trained, or a part of `state_dict`."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def normed(inputs: int, outputs: int, size: int = 1, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution that keeps the size of the image, up to its stride, and its BatchNormalization."""
    conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    """The identity, or a 1x1 convolution where the shape changes."""
    same = stride == 1 and inputs == outputs
    return nn.Identity() if same else nn.Sequential(*normed(inputs, outputs, 1, stride))


class Basic(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al., 2016)."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = normed(inputs, width, 3, stride)
        self.conv2, self.bn2 = normed(width, width, 3)
        self.shortcut = shortcut(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut (He et al., 2016); the 3x3 convolution has the stride."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = self.expansion * width
        self.conv1, self.bn1 = normed(inputs, width)
        self.conv2, self.bn2 = normed(width, width, 3, stride)
        self.conv3, self.bn3 = normed(width, outputs)
        self.shortcut = shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """Stages of residual blocks; each stage after the first halves the image. Its first layer is a 3x3 convolution."""

    def __init__(
        self,
        block: type[Basic] | type[Bottleneck],
        blocks: Sequence[int],
        first: int,
        classes: int = 10,
        channels: int = 1,
        width: float = 1.0,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
    ) -> None:
        super().__init__()
        widths = [scaled(first * 2**k, width) for k in range(len(blocks))]
        ends = [widths[0], *(block.expansion * w for w in widths)]
        self.normalize = Normalize(mean, std)
        self.conv, self.bn = normed(channels, widths[0], 3)
        self.stages = [f"layer{k + 1}" for k in range(len(blocks))]
        for k, (name, count) in enumerate(zip(self.stages, blocks, strict=True)):
            starts = [ends[k], *[ends[k + 1]] * (count - 1)]
            stage = [block(n, widths[k], 2 if k and not i else 1) for i, n in enumerate(starts)]
            self.add_module(name, nn.Sequential(*stage))
        self.fc = nn.Linear(ends[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.conv(self.normalize(x))))
        for name in self.stages:
            x = self.get_submodule(name)(x)
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


class VGG(nn.Module):
    """A chain of 3x3 convolutions and poolings (Simonyan and Zisserman, 2015), with BatchNormalization and one linear layer."""

    def __init__(
        self,
        layers: Sequence[int],
        classes: int = 10,
        channels: int = 1,
        width: float = 1.0,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
    ) -> None:
        super().__init__()
        widths = [channels, *(scaled(n, width) for n in layers if n)]
        pairs = iter(pairwise(widths))
        steps = [[*normed(*next(pairs), 3), nn.ReLU()] if n else [nn.MaxPool2d(2)] for n in layers]
        self.normalize = Normalize(mean, std)
        self.features = nn.Sequential(*(m for step in steps for m in step))
        self.fc = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.features(self.normalize(x)).mean((2, 3)))
        return logits


class InvertedResidual(nn.Module):
    """A 1x1 convolution that expands, a depthwise one and a 1x1 one that projects; a shortcut where shapes are equal."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = expansion * inputs
        wider = [*normed(inputs, inner), nn.ReLU6()] if expansion > 1 else []
        depthwise = [*normed(inner, inner, 3, stride, groups=inner), nn.ReLU6()]
        self.conv = nn.Sequential(*wider, *depthwise, *normed(inner, outputs))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.residual else y


class MobileNetV2(nn.Module):
    """Inverted residuals with linear bottlenecks (Sandler et al., 2018), with fewer strides for small images."""

    def __init__(
        self,
        classes: int = 10,
        channels: int = 1,
        width: float = 1.0,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
    ) -> None:
        super().__init__()
        first, last = scaled(32, width), scaled(1280, max(1.0, width))
        rows = [(t, scaled(c, width), s if i == 0 else 1) for t, c, n, s in MOBILENET_V2 for i in range(n)]
        widths = [first, *(outputs for _, outputs, _ in rows)]
        blocks = [InvertedResidual(n, c, s, t) for n, (t, c, s) in zip(widths, rows, strict=False)]
        self.normalize = Normalize(mean, std)
        self.first = nn.Sequential(*normed(channels, first, 3), nn.ReLU6())
        self.blocks = nn.Sequential(*blocks)
        self.last = nn.Sequential(*normed(widths[-1], last), nn.ReLU6())
        self.fc = nn.Linear(last, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.last(self.blocks(self.first(self.normalize(x))))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


NETWORKS: Mapping[str, Callable[..., nn.Module]] = {
    "resnet20": partial(ResNet, Basic, (3, 3, 3), 16),
    "resnet56": partial(ResNet, Basic, (9, 9, 9), 16),
    "resnet50": partial(ResNet, Bottleneck, (3, 4, 6, 3), 64),
    "vgg19": partial(VGG, VGG19),
    "mobilenetv2": MobileNetV2,
}
"""Name -> constructor(classes=10, channels=1, width=1.0, mean=(0.0,), std=(1.0,)).

`channels` are those of the images; `width` multiplies the channels of all layers; `mean` and `std` are those of the training
images, one of each per channel."""
