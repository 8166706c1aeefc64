# SPDX-License-Identifier: Apache-2.0
"""Convolutional classifiers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.cases.modules.case import Case


class Plain(nn.Module):
    """Convolutions with BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.conv2, self.bn2 = nn.Conv2d(12, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.leaky_relu(self.bn2(self.conv2(x)), 0.1)
        return self.fc(torch.flatten(self.pool(x), 1))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al., 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += identity
        return self.relu(y)


class Bottleneck(nn.Module):
    """1x1, 3x3 (with groups: ResNeXt, Xie et al., 2017) and 1x1 convolutions and a shortcut."""

    def __init__(self, inputs: int, width: int, outputs: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, stride, 1, groups=groups, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.skip = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.skip(x))


class PreActivation(nn.Module):
    """BatchNorm and activation before each convolution (He et al., 2016)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(width), nn.Conv2d(width, 12, 3, padding=1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(12), nn.Conv2d(12, width, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(torch.relu(self.norm1(x)))
        return x + self.conv2(torch.relu(self.norm2(y)))


class Padded(nn.Module):
    """A shortcut that appends channels of zeros (option A of He et al., 2016), as many as the branch has more."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, y.shape[1] - x.shape[1]))
        return F.relu(y + shortcut)


class Staged(nn.Module):
    """A stem, a body and a linear classifier over the mean of the positions."""

    def __init__(self, width: int, body: nn.Module, last: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.body = body
        self.fc = nn.Linear(last, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(self.stem(x)).mean((2, 3)))


class VGG(nn.Module):
    """Convolutions, then Flatten, so that each channel feeds several columns of the first linear layer."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for width in (8, "M", 12, 16, "M"):
            if isinstance(width, str):
                layers.append(nn.MaxPool2d(2))
                continue
            layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(True)]
            inputs = width
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d((2, 2))
        self.classifier = nn.Sequential(nn.Linear(16 * 4, 20), nn.ReLU(True), nn.Dropout(), nn.Linear(20, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


class DenseLayer(nn.Module):
    """A bottleneck whose output is concatenated to its input (Huang et al., 2017)."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, 2 * growth, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(2 * growth), nn.Conv2d(2 * growth, growth, 3, padding=1, bias=False)

    def forward(self, features: list[Tensor]) -> Tensor:
        y = self.conv1(F.relu(self.norm1(torch.cat(features, 1))))
        return self.conv2(F.relu(self.norm2(y)))


class DenseBlock(nn.Module):
    """Dense layers; each reads all before it."""

    def __init__(self, inputs: int, growth: int, count: int) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({f"layer{k}": DenseLayer(inputs + k * growth, growth) for k in range(count)})

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.layers.values():
            features.append(layer(features))
        return torch.cat(features, 1)


class ConvBN(nn.Sequential):
    """Convolution, BatchNorm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
        )


class Inception(nn.Module):
    """Four branches, concatenated (Szegedy et al., 2015)."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch1 = ConvBN(inputs, 8)
        self.branch2 = nn.Sequential(ConvBN(inputs, 6), ConvBN(6, 8, 3))
        self.branch3 = nn.Sequential(ConvBN(inputs, 4), ConvBN(4, 8, 5))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), ConvBN(inputs, 4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], dim=1)


class Unscaled(nn.Module):
    """Normalisations without scales: an export states them, as constants that are not the module's."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12, affine=False)
        self.conv2, self.norm2 = nn.Conv2d(12, 10, 3, padding=1), nn.InstanceNorm2d(10)
        self.out = nn.Conv2d(10, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.conv1(x)))
        return self.out(F.relu(self.norm2(self.conv2(x))))


class Functional(nn.Module):
    """Convolutions and BatchNorm as functions of the module's own parameters and buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(12, 3, 3, 3) / 4)
        self.shift_bias = nn.Parameter(torch.randn(12, 1, 1))
        self.second = nn.Parameter(torch.randn(10, 12, 1, 1) / 3)
        self.gain, self.bias = nn.Parameter(torch.ones(10)), nn.Parameter(torch.zeros(10))
        self.register_buffer("running_mean", torch.zeros(10))
        self.register_buffer("running_var", torch.ones(10))
        self.head = nn.Parameter(torch.randn(10, 5) / 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.conv2d(x, self.kernel, padding=1) + self.shift_bias)
        x = F.conv2d(x, self.second, stride=2)
        x = F.batch_norm(x, self.get_buffer("running_mean"), self.get_buffer("running_var"), self.gain, self.bias)
        return torch.sigmoid(x).mean((2, 3)) @ self.head


def resnext() -> nn.Module:
    """Two bottlenecks with groups."""
    return Staged(8, nn.Sequential(Bottleneck(8, 16, 12, groups=4), Bottleneck(12, 12, 12, groups=2)), 12)


def sequential() -> nn.Module:
    """Nothing but nn.Sequential."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.Hardswish(),
        nn.Conv2d(8, 12, 3, padding=1),
        nn.ELU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(12 * 16, 10),
        nn.Tanh(),
        nn.Linear(10, 5),
    )


def resnet() -> nn.Module:
    """Two stages with a 1x1 shortcut between them."""
    return Staged(8, nn.Sequential(BasicBlock(8, 8), BasicBlock(8, 16, 2), BasicBlock(16, 16)), 16)


def dense() -> nn.Module:
    """Two dense blocks and the transition between them."""
    transition = nn.Sequential(nn.BatchNorm2d(14), nn.ReLU(), nn.Conv2d(14, 8, 1, bias=False), nn.AvgPool2d(2))
    return Staged(8, nn.Sequential(DenseBlock(8, 3, 2), transition, DenseBlock(8, 4, 2), nn.BatchNorm2d(16), nn.ReLU()), 16)


IMAGE = ((2, 3, 8, 8),)
CASES = {
    "plain": Case(Plain, IMAGE, 14),
    "resnet": Case(resnet, IMAGE, 32),
    "bottleneck": Case(lambda: Staged(8, nn.Sequential(Bottleneck(8, 6, 16), Bottleneck(16, 8, 24, 2)), 24), IMAGE, 38),
    "pre-activation": Case(
        lambda: Staged(8, nn.Sequential(PreActivation(8), PreActivation(8), nn.BatchNorm2d(8), nn.ReLU()), 8), IMAGE, 16
    ),
    "padded shortcut": Case(lambda: Staged(8, nn.Sequential(Padded(8, 12), Padded(12, 20)), 20), IMAGE, 26),
    "vgg": Case(VGG, IMAGE, 28),
    "resnext": Case(resnext, IMAGE, 35),
    "dense": Case(dense, IMAGE, 29),
    "inception": Case(lambda: Staged(8, nn.Sequential(Inception(8), Inception(28)), 28), IMAGE, 42),
    "unscaled": Case(Unscaled, IMAGE, 11),
    "functional": Case(Functional, IMAGE, 11),
    "sequential": Case(sequential, IMAGE, 15),
}
