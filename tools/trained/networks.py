# SPDX-License-Identifier: Apache-2.0
"""Small networks of the usual kinds. Every builder takes (input channels, classes) and its own settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def as_tensor(x: Tensor) -> Tensor:
    """The same; modules return values that have no type."""
    return x


def conv(a: int, b: int, size: int = 3, stride: int = 1, groups: int = 1, norm: bool = True) -> nn.Sequential:
    """A convolution, then BatchNorm unless there is no normalisation."""
    layer = nn.Conv2d(a, b, size, stride, size // 2, groups=groups, bias=not norm)
    if norm:
        return nn.Sequential(layer, nn.BatchNorm2d(b))
    nn.init.kaiming_normal_(layer.weight)  # nothing else keeps activations from fading
    return nn.Sequential(layer)


class Pooled(nn.Module):
    """Features, their mean over positions, a linear classifier."""

    def __init__(self, features: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.features, self.fc = features, nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        y = self.features(x)
        return as_tensor(self.fc(y.mean(tuple(range(2, y.ndim)))))


def vgg(inputs: int, classes: int, widths: Sequence[int], norm: bool = True) -> nn.Module:
    """Two convolutions per stage, then max pooling."""
    layers, a = list[nn.Module](), inputs
    for k, b in enumerate(widths):
        layers += [conv(a, b, norm=norm), nn.ReLU(), conv(b, b, norm=norm), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if k < len(widths) - 1 else []
        a = b
    return Pooled(nn.Sequential(*layers), a, classes)


class Residual(nn.Module):
    """Two convolutions and a shortcut (He et al., 2016)."""

    def __init__(self, a: int, b: int, stride: int) -> None:
        super().__init__()
        self.one, self.two = conv(a, b, stride=stride), conv(b, b)
        self.shortcut = nn.Identity() if a == b and stride == 1 else conv(a, b, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.two(F.relu(self.one(x))) + self.shortcut(x))


def resnet(inputs: int, classes: int, widths: Sequence[int], blocks: int) -> nn.Module:
    """A stem and stages of residual blocks."""
    layers, a = [conv(inputs, widths[0], stride=2), nn.ReLU()], widths[0]
    for k, b in enumerate(widths):
        for j in range(blocks):
            layers.append(Residual(a, b, 2 if j == 0 and k > 0 else 1))
            a = b
    return Pooled(nn.Sequential(*layers), a, classes)


class Inverted(nn.Module):
    """Expansion, depthwise convolution, projection; a shortcut where the shape stays (Sandler et al., 2018)."""

    def __init__(self, a: int, b: int, stride: int, factor: int = 4) -> None:
        super().__init__()
        wide = a * factor
        self.body = nn.Sequential(conv(a, wide, 1), nn.ReLU6(), conv(wide, wide, 3, stride, wide), nn.ReLU6(), conv(wide, b, 1))
        self.same = a == b and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        y = as_tensor(self.body(x))
        return x + y if self.same else y


def mobile(inputs: int, classes: int, widths: Sequence[int]) -> nn.Module:
    """A small MobileNet."""
    layers, a = [conv(inputs, widths[0], stride=2), nn.ReLU6()], widths[0]
    for k, b in enumerate(widths[1:]):
        layers += [Inverted(a, b, 2 if k else 1), Inverted(b, b, 1)]
        a = b
    return Pooled(nn.Sequential(*layers, conv(a, 2 * a, 1), nn.ReLU6()), 2 * a, classes)


def mlp(inputs: int, classes: int, widths: Sequence[int]) -> nn.Module:
    """Linear layers with BatchNorm on flattened images."""
    layers, a = list[nn.Module]([nn.Flatten()]), 28 * 28 * inputs
    for b in widths:
        layers += [nn.Linear(a, b, bias=False), nn.BatchNorm1d(b), nn.ReLU()]
        a = b
    return nn.Sequential(*layers, nn.Linear(a, classes))


def sounds(inputs: int, classes: int, widths: Sequence[int]) -> nn.Module:
    """1-D convolutions with strides on a waveform."""
    layers, a = list[nn.Module](), inputs
    for k, b in enumerate(widths):
        size, stride = (33, 8) if k == 0 else (9, 2)
        layers += [nn.Conv1d(a, b, size, stride, size // 2, bias=False), nn.BatchNorm1d(b), nn.ReLU()]
        layers += [nn.Conv1d(b, b, 5, 1, 2, bias=False), nn.BatchNorm1d(b), nn.ReLU()]
        a = b
    return Pooled(nn.Sequential(*layers), a, classes)


class Layer(nn.Module):
    """A pre-norm transformer layer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.norms = heads, nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        split = self.qkv(self.norms[0](x)).reshape(n, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = split[0], split[1], split[2]
        weights = torch.softmax(q @ k.transpose(2, 3) * (width // self.heads) ** -0.5, -1)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(n, length, width))
        return x + as_tensor(self.mlp(self.norms[1](x)))


class Transformer(nn.Module):
    """Patches of 4 x 4, layers, the mean over positions."""

    def __init__(self, inputs: int, classes: int, width: int, depth: int) -> None:
        super().__init__()
        self.patches, self.place = nn.Conv2d(inputs, width, 4, 4), nn.Parameter(torch.randn(1, 49, width) * 0.02)
        self.layers = nn.Sequential(*[Layer(width, 4) for _ in range(depth)])
        self.norm, self.fc = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        y = self.patches(x).flatten(2).transpose(1, 2) + self.place
        return as_tensor(self.fc(self.norm(self.layers(y)).mean(1)))


class Detector(nn.Module):
    """A YOLO in small: boxes in pixels and scores of classes, concatenated: (n, 4 + classes, 64) for images of 64 x 64."""

    def __init__(self, inputs: int, classes: int, widths: Sequence[int], cell: int = 8) -> None:
        super().__init__()
        layers, a = [conv(inputs, widths[0], stride=2), nn.SiLU()], widths[0]
        for b in widths[1:3]:
            layers += [conv(a, b, stride=2), nn.SiLU(), Residual(b, b, 1)]
            a = b
        self.body, wide = nn.Sequential(*layers, Residual(a, a, 1)), widths[3]
        self.box = nn.Sequential(conv(a, wide), nn.SiLU(), nn.Conv2d(wide, 4, 1))
        self.score = nn.Sequential(conv(a, wide), nn.SiLU(), nn.Conv2d(wide, classes, 1))
        nn.init.constant_(self.score[2].bias, -4.0)  # type: ignore[arg-type]
        rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
        self.register_buffer("grid", (torch.stack([columns.flatten(), rows.flatten()])[None] + 0.5) * cell)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        box, score = self.box(y).flatten(2), self.score(y).flatten(2)
        centre = self.grid + 8 * box[:, :2]
        return torch.cat([centre, 16 * torch.exp(box[:, 2:]), torch.sigmoid(score)], 1)


NETWORKS: Mapping[str, Callable[..., nn.Module]] = {
    "vgg": vgg, "resnet": resnet, "mobile": mobile, "mlp": mlp, "sounds": sounds, "transformer": Transformer,
    "detector": Detector,
}  # fmt: skip
