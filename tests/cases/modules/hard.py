# SPDX-License-Identifier: Apache-2.0
"""Modules that cannot follow a cut, because `forward` states sizes. The docstrings say which."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.cases.modules.attention import GPT, SENTENCE, Block, Multihead
from tests.cases.modules.case import Case
from tests.cases.modules.convolutional import IMAGE, ConvBN
from tests.cases.modules.mobile import shuffle


class View(nn.Module):
    """The number of channels in a view."""

    rest = 64

    def __init__(self) -> None:
        super().__init__()
        self.conv = ConvBN(3, 12, 3)
        self.fc = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = x.view(x.shape[0], 12, self.rest)
        return self.fc(x.mean(2))


class OpenView(View):
    """The same with open positions, which take what the channels leave."""

    rest = -1


class Flattened(nn.Module):
    """The number of features before the first linear layer, as tutorials write it; the batch takes what is missing."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = ConvBN(3, 12, 3)
        self.fc1, self.fc2 = nn.Linear(12 * 4 * 4, 10), nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.conv(x), 2)
        x = x.view(-1, 12 * 4 * 4)
        x = F.relu(self.fc1(x))
        return self.fc2(x)


class EmbeddedAttention(nn.Module):
    """The size of a head, computed from the embedding, which keeps its size."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        qkv = self.qkv(x).reshape(n, t, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4)
        weights = (qkv[0] @ qkv[1].transpose(-2, -1) * self.scale).softmax(-1)
        return self.proj((weights @ qkv[2]).transpose(1, 2).flatten(2))


class Sentence(nn.Module):
    """An embedding, a block, a classifier."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.embed, self.block, self.out = nn.Embedding(20, 12), block, nn.Linear(12, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(self.block(self.embed(tokens)).mean(1))


class SplitBranches(nn.Module):
    """The sizes of a split."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = ConvBN(3, 16, 3)
        self.left, self.right = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        left, right = torch.split(self.conv(x), [8, 8], dim=1)
        return self.left(left) + self.right(right)


class Halves(nn.Module):
    """The size of both halves of a split, stored as a number: the halves may keep different numbers (C2f of YOLOv8)."""

    def __init__(self) -> None:
        super().__init__()
        self.c = 8
        self.cv1, self.cv2 = nn.Conv2d(3, 16, 1), nn.Conv2d(24, 4, 1)
        self.m = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.cv1(x).split((self.c, self.c), 1)
        return self.cv2(torch.cat((first, second, F.silu(self.m(second))), 1))


class Across(nn.Module):
    """A convolution across the channels (ECA, Wang et al., 2020): fewer channels have other neighbours."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gate = ConvBN(3, 16, 3), nn.Conv1d(1, 1, 3, padding=1, bias=False)
        self.out = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        gate = self.gate(x.mean((2, 3)).unsqueeze(1)).transpose(1, 2).unsqueeze(-1)
        return self.out(x * torch.sigmoid(gate))


class Asserted(nn.Module):
    """A check of the number of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = ConvBN(3, 16, 3)
        self.out = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        assert x.shape[1] == 16, "expected 16 channels"
        return self.out(x)


class Sliced(nn.Module):
    """The end of a slice: the kept channels are those of another layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = ConvBN(3, 16, 3)
        self.out = nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        first = x[:, :6]
        return self.out(first)


class FixedPadding(nn.Module):
    """The numbers of appended channels (the option A that is copied most)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvBN(3, 8, 3)
        self.conv1, self.conv2 = nn.Conv2d(8, 16, 3, 2, 1), nn.Conv2d(16, 16, 3, 1, 1)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.conv2(F.relu(self.conv1(x)))
        y = y + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))
        return self.fc(F.relu(y).mean((2, 3)))


class Recurrent(nn.Module):
    """The size of the first state."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.update, self.out = nn.Linear(6, 12), nn.Linear(12, 12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros(x.shape[0], 12)
        for k in range(x.shape[1]):
            state = torch.tanh(self.read(x[:, k]) + self.update(state))
        return self.out(state)


class Unused(nn.Module):
    """No size; but the export has no weights that no output needs, and so the plan does not cut them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = ConvBN(3, 12, 3)
        self.out, self.auxiliary = nn.Conv2d(12, 4, 1), nn.Conv2d(12, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        extra = self.auxiliary(x)
        return torch.cat([self.out(x), extra], 1) if self.training else self.out(x)


class FunctionalNorm(nn.Module):
    """The shape over which a function normalises."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.out = nn.Linear(6, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = F.layer_norm(x, (16,))
        return self.out(F.gelu(x))


class HeadSize(nn.Module):
    """The size of a head: two heads that lose half of their size are taken for one whole head, without any error."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(6, 8, bias=False) for _ in range(3))
        self.out = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (-1, 4)).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = (q @ k.transpose(-2, -1) / 2).softmax(-1) @ v
        return self.out(y.transpose(1, 2).flatten(2))


def sentence() -> nn.Module:
    """A transformer whose attention takes the size of a head from the embedding."""
    return Sentence(Block(12, EmbeddedAttention(12, 3), 20))


HARD: dict[str, Case] = {
    "view": Case(View, IMAGE, 6, fault="x = x.view(x.shape[0], 12, self.rest)"),
    "view, rest open": Case(OpenView, IMAGE, 6, fault="return self.fc(x.mean(2))"),
    "view, batch open": Case(Flattened, IMAGE, 7, fault="x = x.view(-1, 12 * 4 * 4)", options={"ratio": 0.3, "scope": "local"}),
    "view, batch halved": Case(Flattened, IMAGE, 11, fault="x = F.relu(self.fc1(x))", options={"ratio": 0.5, "scope": "local"}),
    "embedded attention": Case(
        sentence,
        SENTENCE,
        2,
        tokens=20,
        mixes=True,
        fault="qkv = self.qkv(x).reshape(n, t, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4)",
        options={"include": "*.qkv.weight"},
    ),
    "split": Case(SplitBranches, IMAGE, 8, fault="left, right = torch.split(self.conv(x), [8, 8], dim=1)"),
    "halves": Case(Halves, IMAGE, 12, fault="first, second = self.cv1(x).split((self.c, self.c), 1)"),
    "assert": Case(Asserted, IMAGE, 8, fault='assert x.shape[1] == 16, "expected 16 channels"'),
    "slice": Case(Sliced, IMAGE, 8, fault="return self.out(first)"),
    "fixed padding": Case(FixedPadding, IMAGE, 16, fault="y = y + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))"),
    "first state": Case(Recurrent, ((2, 3, 6),), 6, fault="state = torch.tanh(self.read(x[:, k]) + self.update(state))"),
    "chunks of attention": Case(
        GPT,
        SENTENCE,
        41,
        tokens=20,
        mixes=True,
        fault="q, k, v = (t.view(shape).transpose(1, 2) for t in self.c_attn(x).chunk(3, dim=2))",
        options={"allow_renormalising": True, "ratio": 0.6},
    ),
    "unused layer": Case(Unused, IMAGE, 6, fault="extra = self.auxiliary(x)"),
    "functional norm": Case(
        FunctionalNorm, ((2, 5, 6),), 8, mixes=True, fault="x = F.layer_norm(x, (16,))", options={"allow_renormalising": True}
    ),
}
"""Modules that stop: the line is the one that fails after the cut."""

REFUSED: dict[str, Case] = {
    "head size": Case(HeadSize, ((2, 5, 6),), 4, mixes=True, options={"scope": "local"}),
    "scale of attention": Case(
        GPT, SENTENCE, 34, tokens=20, mixes=True, options={"allow_renormalising": True, "scope": "local"}
    ),
    "across channels": Case(Across, IMAGE, 8),
    "across channels, renormalising": Case(Across, IMAGE, 8, options={"allow_renormalising": True}),
    "multihead": Case(Multihead, ((2, 5, 6),), 20, mixes=True, fault="'attn'"),
    "shuffle": Case(shuffle, IMAGE, 22),
}
"""Modules that would run, or be cut in part, but compute something else."""
