# SPDX-License-Identifier: Apache-2.0
"""Convolutions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from onnxprune.training.converter.call import Call, Op

CONVS: Mapping[int, Any] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


TRANSPOSED: Mapping[int, Any] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def window(call: Call, sizes: Sequence[int], kernel: Sequence[int]) -> tuple[list[int], list[int], list[int], list[int]]:
    """Strides, dilations, and the padding before and after each spatial axis."""
    rank = len(sizes)
    strides, dilations = call.numbers("strides", [1] * rank), call.numbers("dilations", [1] * rank)
    auto, pads = call.text("auto_pad", "NOTSET"), call.numbers("pads", [0] * (2 * rank))
    if auto == "VALID":
        pads = [0] * (2 * rank)
    elif auto != "NOTSET":
        spans = [(-(-n // s) - 1) * s + (k - 1) * d + 1 for n, k, s, d in zip(sizes, kernel, strides, dilations, strict=True)]
        pads = halves([max(span - n, 0) for span, n in zip(spans, sizes, strict=True)], auto == "SAME_UPPER")
    return strides, dilations, pads[:rank], pads[rank:]


def halves(totals: Sequence[int], more_behind: bool) -> list[int]:
    """Total padding split in halves: the amounts before each axis, then those after."""
    small, large = [n // 2 for n in totals], [n - n // 2 for n in totals]
    return small + large if more_behind else large + small


def padded(x: Tensor, before: Sequence[int], behind: Sequence[int], value: float = 0.0) -> Tensor:
    """Constant padding of the last axes; negative amounts crop."""
    pairs = [n for pair in zip(reversed(before), reversed(behind), strict=True) for n in pair]
    return F.pad(x, pairs, value=value) if any(pairs) else x


def conv(call: Call, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """Conv in one, two or three dimensions."""
    strides, dilations, before, behind = window(call, x.shape[2:], w.shape[2:])
    if before != behind or min(before, default=0) < 0:
        x, before = padded(x, before, behind), [0] * len(before)
    found: Tensor = CONVS[w.dim() - 2](x, w, b, strides, before, dilations, call.attribute("group", 1))
    return found


def conv_transpose(call: Call, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """ConvTranspose: the full result, cropped by the padding."""
    rank = w.dim() - 2
    strides, dilations = call.numbers("strides", [1] * rank), call.numbers("dilations", [1] * rank)
    extra, wanted = call.numbers("output_padding", [0] * rank), call.attribute("output_shape")
    whole = [(n - 1) * s + (k - 1) * d + 1 for n, s, k, d in zip(x.shape[2:], strides, w.shape[2:], dilations, strict=True)]
    auto, pads = call.text("auto_pad", "NOTSET"), call.numbers("pads", [0] * (2 * rank))
    if wanted is None and auto.startswith("SAME"):
        wanted = [n * s for n, s in zip(x.shape[2:], strides, strict=True)]
    if wanted is not None:
        totals = [max(n + e - m, 0) for n, e, m in zip(whole, extra, wanted[-rank:], strict=True)]
        pads = halves(totals, auto == "SAME_UPPER")
    group = call.attribute("group", 1)
    found: Tensor = TRANSPOSED[rank](x, w, None, strides, 0, 0, group, dilations)
    found = padded(found, [-n for n in pads[:rank]], [e - n for e, n in zip(extra, pads[rank:], strict=True)])
    return found if b is None else found + b.reshape(-1, *[1] * rank)


OPS: Mapping[str, Op] = {
    "Conv": conv,
    "ConvTranspose": conv_transpose,
}
