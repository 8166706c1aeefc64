# SPDX-License-Identifier: Apache-2.0
"""onnxruntime's fused attention. (ONNX's own Attention is expanded into simpler operators when a model is read.)"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from onnxprune.training.converter.call import Call, Op


def heads(x: Tensor, count: int) -> Tensor:
    """(batch, length, width) -> (batch, heads, length, head size)."""
    return x.reshape(*x.shape[:2], count, -1).transpose(1, 2)


def attend(call: Call, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, bias: Tensor | None) -> Any:
    """Softmax(q k' scale + bias) v over heads; `mask` (batch, keys) is 0 where a key is padding."""
    if mask is not None and mask.dim() != 2:
        return NotImplemented
    count, length, keys = call.attribute("num_heads"), q.shape[1], k.shape[1]
    total = torch.zeros(1, 1, length, keys, dtype=q.dtype, device=q.device) if bias is None else bias
    low = call.attribute("mask_filter_value", -10000.0)
    if mask is not None:
        total = total + torch.where(mask == 0, low, 0.0).to(q)[:, None, None]
    if call.attribute("unidirectional", 0):
        total = total + torch.full_like(total[0, 0], low).triu(1 + keys - length)
    found = F.scaled_dot_product_attention(
        heads(q, count), heads(k, count), heads(v, count), total, scale=call.attribute("scale") or None
    )
    return found.transpose(1, 2).flatten(2)


def packed(call: Call, x: Tensor, w: Tensor, *more: Tensor | None) -> Any:
    """com.microsoft.Attention: one matrix produces queries, keys and values."""
    b, mask, past, bias = (*more, *[None] * 4)[:4]
    if past is not None or call.attribute("do_rotary", 0) or call.used > 1:
        return NotImplemented
    made = x @ w if b is None else x @ w + b
    widths = call.numbers("qkv_hidden_sizes", [w.shape[1] // 3] * 3)
    q, k, v = torch.split(made, widths, -1)
    return attend(call, q, k, v, mask, bias)


def separate(call: Call, q: Tensor, *more: Tensor | None) -> Any:
    """com.microsoft.MultiHeadAttention with three-dimensional queries, keys and values."""
    k, v, b, mask, bias, *past = (*more, *[None] * 7)[:7]
    if k is None or v is None or k.dim() != 3 or v.dim() != 3 or call.used > 1 or any(p is not None for p in past):
        return NotImplemented
    if b is not None:
        b_q, b_k, b_v = torch.split(b, [q.shape[-1], k.shape[-1], v.shape[-1]])
        q, k, v = q + b_q, k + b_k, v + b_v
    return attend(call, q, k, v, mask, bias)


OPS: Mapping[str, Op] = {"com.microsoft.Attention": packed, "com.microsoft.MultiHeadAttention": separate}
