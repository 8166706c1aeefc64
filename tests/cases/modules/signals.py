# SPDX-License-Identifier: Apache-2.0
"""Images to images, audio, video, text, tables, and modules with several outputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.cases.modules.case import Case
from tests.cases.modules.convolutional import IMAGE, ConvBN


class UNet(nn.Module):
    """Two levels, with skips that are concatenated (Ronneberger et al., 2015)."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = ConvBN(3, 8, 3), ConvBN(8, 12, 3)
        self.middle = ConvBN(12, 16, 3)
        self.up2, self.merge2 = nn.ConvTranspose2d(16, 12, 2, stride=2), ConvBN(24, 12, 3)
        self.up1, self.merge1 = nn.ConvTranspose2d(12, 8, 4, stride=2, padding=1), ConvBN(16, 8, 3)
        self.out = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        d1 = self.down1(x)
        d2 = self.down2(F.max_pool2d(d1, 2))
        y = self.up2(self.middle(F.max_pool2d(d2, 2)))
        y = self.merge2(torch.cat([d2, y], dim=1))
        y = self.merge1(torch.cat([d1, self.up1(y)], dim=1))
        return self.out(y)


class SuperResolution(nn.Module):
    """PixelShuffle (Shi et al., 2016) on the features and, bilinear, on the image."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 8, 3, padding=1)
        self.body = nn.Sequential(nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 8, 3, padding=1))
        self.up = nn.Sequential(nn.Conv2d(8, 6 * 4, 3, padding=1), nn.PixelShuffle(2), nn.ReLU())
        self.tail = nn.Conv2d(6, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(x)
        y = self.up(y + 0.1 * self.body(y))
        return self.tail(y) + F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


class GatedLayer(nn.Module):
    """A dilated convolution with a gate, for the residual path and for the skip (WaveNet, van den Oord et al., 2016)."""

    def __init__(self, channels: int, hidden: int, dilation: int) -> None:
        super().__init__()
        self.pad = (2 * dilation, 0)
        self.filter = nn.Conv1d(channels, hidden, 3, dilation=dilation)
        self.gate = nn.Conv1d(channels, hidden, 3, dilation=dilation)
        self.residual, self.skip = nn.Conv1d(hidden, channels, 1), nn.Conv1d(hidden, 8, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        padded = F.pad(x, self.pad)
        y = torch.tanh(self.filter(padded)) * torch.sigmoid(self.gate(padded))
        return x + self.residual(y), self.skip(y)


class Audio(nn.Module):
    """Causal dilated convolutions over a signal."""

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Conv1d(1, 8, 1)
        self.layers = nn.ModuleList(GatedLayer(8, 10, 2**k) for k in range(3))
        self.last = nn.Conv1d(8, 8, 1)
        self.end = nn.Sequential(nn.ReLU(), nn.Conv1d(8, 12, 1), nn.ReLU(), nn.Conv1d(12, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.start(x)
        total = 0
        for layer in self.layers:
            x, skip = layer(x)
            total = total + skip
        return self.end(total + self.last(x))


class Video(nn.Module):
    """3D convolutions, the second one separable."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv3d(2, 8, 3, padding=1, bias=False), nn.BatchNorm3d(8)
        self.space, self.time = nn.Conv3d(8, 12, (1, 3, 3), padding=(0, 1, 1)), nn.Conv3d(12, 10, (3, 1, 1), padding=(1, 0, 0))
        self.bn2 = nn.BatchNorm3d(10)
        self.pool = nn.AdaptiveAvgPool3d((1, 1, 1))
        self.fc = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool3d(F.relu(self.bn1(self.conv1(x))), (1, 2, 2))
        x = F.relu(self.bn2(self.time(F.relu(self.space(x)))))
        return self.fc(self.pool(x).flatten(1))


class Autoencoder(nn.Module):
    """Linear layers with BatchNorm1d; the code is an output, too."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(20, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))
        self.decoder = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 20))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        code = self.encoder(x)
        return self.decoder(code), code


class BagOfWords(nn.Module):
    """The mean of the embeddings, then two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(30, 16, padding_idx=0)
        self.hidden, self.out = nn.Linear(16, 12), nn.Linear(12, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(F.gelu(self.hidden(self.embedding(tokens).mean(dim=1))))


class Tagger(nn.Module):
    """A recurrent layer in both directions over embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(30, 10)
        self.lstm = nn.LSTM(10, 8, batch_first=True, bidirectional=True)
        self.hidden, self.out = nn.Linear(16, 12), nn.Linear(12, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        y, _ = self.lstm(self.embedding(tokens))
        return self.out(torch.tanh(self.hidden(y)))


class Counter(nn.Module):
    """Recurrent layers, which keep their size; what they read does not."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.gru, self.out = nn.Linear(6, 12), nn.GRU(12, 8, num_layers=2, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.gru(F.relu(self.read(x)))
        return self.out(y[:, -1])


class Siamese(nn.Module):
    """One encoder for two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            ConvBN(3, 8, 3), nn.Conv2d(8, 12, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 10)
        )
        self.out = nn.Linear(10, 1)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return self.out((self.encoder(first) - self.encoder(second)).abs())


class Generator(nn.Module):
    """A linear layer whose outputs become channels of 2 x 2 positions."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(6, 16 * 4)
        self.up = nn.Sequential(
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.ConvTranspose2d(16, 8, 4, 2, 1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.ConvTranspose2d(8, 3, 4, 2, 1),
            nn.Tanh(),
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.up(self.project(z).view(z.size(0), -1, 2, 2))


class GatedUnits(nn.Module):
    """GEGLU (Shazeer, 2020) by chunk, then GLU (Dauphin et al., 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(10, 2 * 12), nn.Linear(12, 8)
        self.gated, self.out = nn.Linear(8, 2 * 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.up(x).chunk(2, dim=-1)
        x = self.down(value * F.gelu(gate))
        return self.out(F.glu(self.gated(x), dim=-1))


class TwoHeads(nn.Module):
    """A trunk, a classifier and a regressor; the outputs have names."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(ConvBN(3, 8, 3), nn.MaxPool2d(2), ConvBN(8, 12, 3))
        self.classes = nn.Linear(12, 5)
        self.mask = nn.Sequential(ConvBN(12, 6, 3), nn.Conv2d(6, 1, 1))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.trunk(x)
        return {"classes": self.classes(features.mean((-2, -1))), "mask": self.mask(features)}


class Detector(nn.Module):
    """Two scales, merged top-down, with one head for both."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2 = ConvBN(3, 8, 3), nn.Sequential(nn.MaxPool2d(2), ConvBN(8, 12, 3))
        self.lateral = nn.ModuleList([nn.Conv2d(8, 10, 1), nn.Conv2d(12, 10, 1)])
        self.tower = ConvBN(10, 10, 3)
        self.scores, self.boxes = nn.Conv2d(10, 3, 3, padding=1), nn.Conv2d(10, 4, 3, padding=1)

    def forward(self, x: Tensor) -> list[Tensor]:
        c1 = self.c1(x)
        c2 = self.c2(c1)
        p2 = self.lateral[1](c2)
        p1 = self.lateral[0](c1) + F.interpolate(p2, scale_factor=2, mode="nearest")
        found = []
        for p in (p1, p2):
            y = self.tower(p)
            found += [self.scores(y), self.boxes(y)]
        return found


class Tied(nn.Module):
    """One linear layer that is applied twice, and an embedding whose weight is the output layer's, too."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 12)
        self.shared = nn.Linear(12, 12)
        self.hidden = nn.Linear(12, 16)
        self.back = nn.Linear(16, 12)
        self.out = nn.Linear(12, 20, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        x = F.relu(self.shared(F.relu(self.shared(x))))
        return self.out(self.back(F.relu(self.hidden(x))))


CASES = {
    "unet": Case(UNet, IMAGE, 38),
    "super-resolution": Case(SuperResolution, IMAGE, 13),
    "audio": Case(Audio, ((2, 1, 24),), 29),
    "video": Case(Video, ((2, 2, 4, 8, 8),), 15),
    "autoencoder": Case(Autoencoder, ((2, 20),), 16),
    "bag of words": Case(BagOfWords, ((2, 7),), 14, tokens=30),
    "tagger": Case(Tagger, ((2, 7),), 6, tokens=30, options={"exclude": "lstm.*"}),
    "recurrent": Case(Counter, ((2, 5, 6),), 6, options={"exclude": "gru.*_hh_*"}),
    "siamese": Case(Siamese, IMAGE * 2, 15),
    "generator": Case(Generator, ((2, 6),), 12),
    "gated units": Case(GatedUnits, ((2, 6, 10),), 14),
    "two heads": Case(TwoHeads, IMAGE, 13),
    "detector": Case(Detector, IMAGE, 20),
    "tied weights": Case(Tied, ((2, 6),), 14, tokens=20),
}
