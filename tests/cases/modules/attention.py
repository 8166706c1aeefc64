# SPDX-License-Identifier: Apache-2.0
"""Transformers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.cases.modules.case import Case
from tests.cases.modules.convolutional import IMAGE
from tests.cases.modules.normalised import Mlp

SENTENCE = ((2, 6),)


class PackedAttention(nn.Module):
    """One linear layer for queries, keys and values; PyTorch's fused product."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, dim // num_heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).flatten(2))


class SeparateAttention(nn.Module):
    """Three linear layers, the softmax written out, a stored scale."""

    def __init__(self, dim: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.num_heads, self.scale = num_heads, head_dim**-0.5
        inner = num_heads * head_dim
        self.q, self.k, self.v = nn.Linear(dim, inner), nn.Linear(dim, inner, bias=False), nn.Linear(dim, inner)
        self.proj = nn.Linear(inner, dim)

    def split(self, x: Tensor) -> Tensor:
        """(batch, heads, tokens, head size)."""
        return x.view(x.shape[0], x.shape[1], self.num_heads, -1).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(self.q(x)), self.split(self.k(x)), self.split(self.v(x))
        weights = (q @ k.transpose(-2, -1) * self.scale).softmax(dim=-1)
        y = (weights @ v).transpose(1, 2)
        return self.proj(y.reshape(*y.shape[:2], -1))


class Block(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, dim: int, attention: nn.Module, hidden: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(dim), attention
        self.norm2, self.mlp = nn.LayerNorm(dim), Mlp(dim, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """Patches, a class token, positions, blocks (Dosovitskiy et al., 2021)."""

    def __init__(self, dim: int, *blocks: nn.Module) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, dim, 4, stride=4)
        self.cls_token, self.pos_embed = nn.Parameter(torch.randn(1, 1, dim)), nn.Parameter(torch.randn(1, 5, dim))
        self.blocks = nn.ModuleList(blocks)
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class CausalAttention(nn.Module):
    """Queries, keys and values by chunk; a stored causal mask."""

    def __init__(self, dim: int, heads: int, context: int) -> None:
        super().__init__()
        self.heads, self.head_size = heads, dim // heads
        self.c_attn, self.c_proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.register_buffer("mask", torch.tril(torch.ones(context, context)).bool(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.size()
        shape = (batch, length, self.heads, self.head_size)
        q, k, v = (t.view(shape).transpose(1, 2) for t in self.c_attn(x).chunk(3, dim=2))
        scores = q @ k.transpose(2, 3) / self.head_size**0.5
        scores = scores.masked_fill(~self.get_buffer("mask")[:length, :length], float("-inf"))
        y = (F.softmax(scores, dim=-1) @ v).transpose(1, 2)
        return self.c_proj(y.contiguous().view(batch, length, -1))


class GPT(nn.Module):
    """A pre-norm decoder (Radford et al., 2019)."""

    def __init__(self) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(20, 12), nn.Embedding(8, 12)
        self.h = nn.ModuleList(Block(12, CausalAttention(12, 3, 8), 20) for _ in range(2))
        self.ln_f, self.lm_head = nn.LayerNorm(12), nn.Linear(12, 20, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x))


class WindowAttention(nn.Module):
    """Attention inside windows, with a bias for each pair of positions (Swin, Liu et al., 2021)."""

    def __init__(self, dim: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.heads, self.window, self.shift, self.scale = heads, window, shift, (dim // heads) ** -0.5
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.bias = nn.Parameter(torch.randn(heads, window**2, window**2))

    def forward(self, x: Tensor) -> Tensor:
        b, h, w, c = x.shape
        size = self.window
        if self.shift:
            x = torch.roll(x, (-self.shift, -self.shift), (1, 2))
        x = x.view(b, h // size, size, w // size, size, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, size * size, c)
        q, k, v = self.qkv(x).reshape(x.shape[0], x.shape[1], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        weights = torch.softmax((q * self.scale) @ k.transpose(-2, -1) + self.bias, -1)
        y = self.proj((weights @ v).transpose(1, 2).flatten(2))
        y = y.view(b, h // size, w // size, size, size, -1).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, -1)
        return torch.roll(y, (self.shift, self.shift), (1, 2)) if self.shift else y


class Merging(nn.Module):
    """Four neighbours become one position."""

    def __init__(self, dim: int, outputs: int) -> None:
        super().__init__()
        self.norm, self.reduction = nn.LayerNorm(4 * dim), nn.Linear(4 * dim, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        quarters = [x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]]
        return self.reduction(self.norm(torch.cat(quarters, -1)))


class Swin(nn.Module):
    """Plain and shifted windows, merging, windows."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 1)
        self.stages = nn.Sequential(
            Block(8, WindowAttention(8, 2, 2, 0), 16),
            Block(8, WindowAttention(8, 2, 2, 1), 16),
            Merging(8, 12),
            Block(12, WindowAttention(12, 3, 2, 0), 16),
        )
        self.norm, self.head = nn.LayerNorm(12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(self.embed(x).permute(0, 2, 3, 1))
        return self.head(self.norm(x).mean((1, 2)))


class Multihead(nn.Module):
    """nn.MultiheadAttention, whose widths are fixed, beside an MLP whose width is not."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 12)
        self.attn = nn.MultiheadAttention(12, 3, batch_first=True)
        self.norm, self.mlp, self.head = nn.LayerNorm(12), Mlp(12, 24), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        y, _ = self.attn(x, x, x, need_weights=False)
        x = x + y
        return self.head(x + self.mlp(self.norm(x)))


def packed() -> nn.Module:
    """Two blocks, with three heads and with two."""
    return ViT(12, Block(12, PackedAttention(12, 3), 24), Block(12, PackedAttention(12, 2), 24))


def separate() -> nn.Module:
    """Two blocks whose attention is wider than the embedding, or as wide."""
    return ViT(12, Block(12, SeparateAttention(12, 2, 8), 24), Block(12, SeparateAttention(12, 2, 6), 20))


WHOLE_HEADS = {"carrier": "outer"}
CASES = {
    "vit, packed": Case(packed, IMAGE, 35, mixes=True, renormalises=("norm",)),
    "vit, packed, whole heads": Case(packed, IMAGE, 32, mixes=True, renormalises=("norm",), options=WHOLE_HEADS),
    "vit, separate": Case(separate, IMAGE, 42, mixes=True, renormalises=("norm",)),
    "vit, separate, whole heads": Case(separate, IMAGE, 30, mixes=True, renormalises=("norm",), options=WHOLE_HEADS),
    "gpt": Case(GPT, SENTENCE, 26, tokens=20, mixes=True, renormalises=("norm",), options=WHOLE_HEADS),
    "swin": Case(Swin, IMAGE, 40, mixes=True, renormalises=("norm",)),
    "multihead": Case(Multihead, ((2, 5, 6),), 12, mixes=True, options={"exclude": ["embed.*", "attn.*"]}),
}
