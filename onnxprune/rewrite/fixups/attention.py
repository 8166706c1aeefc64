# SPDX-License-Identifier: Apache-2.0
"""What attention operators store: the number of heads, the scale derived from the head size, and the rotary tables."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnxprune.analysis.rules.attention import pairs_of
from onnxprune.analysis.rules.site import Unsupported
from onnxprune.rewrite.patch import Fixup, Patch
from onnxprune.types import Mask

SMALL = "com.microsoft."


def kept(mask: Mask | None, count: int) -> tuple[int, int] | None:
    """The number of heads kept, and of positions per head, on an axis that packs both; None if all are kept."""
    if mask is None or mask.all():
        return None
    grid = mask.reshape(count, -1)
    heads, size = int(grid.any(1).sum()), int(grid.any(0).sum())
    if heads * size != mask.sum():
        raise Unsupported("has heads that would differ in size")
    return heads, size


def _scale(patch: Patch, size: int) -> None:
    """Store the old scale, which would otherwise follow from the smaller head size."""
    if not patch.node.attribute("scale", 0.0):
        patch.set_attribute("scale", float(1.0 / np.sqrt(size)))


def _shapes(patch: Patch, operand: int) -> tuple[int, ...]:
    return patch.cutting.graph.facts[patch.node.inputs[operand]].cases[0].shape or ()


def attention(patch: Patch) -> None:
    """ONNX Attention: update the stored numbers of heads, and keep the scale."""
    flat = len(_shapes(patch, 0)) == 3
    for operand, name in ((0, "q_num_heads"), (1, "kv_num_heads")):
        shape = _shapes(patch, operand)
        count = patch.node.attribute(name, 0) if flat else shape[1]
        mask = patch.mask(operand, len(shape) - 1)
        found = kept(mask, count) if flat else (_count(patch.mask(operand, 1), count), _count(mask, shape[3]))
        if found is None:
            continue
        if patch.node.attribute(name, 0):
            patch.set_attribute(name, found[0])
        if operand == 0 and found[1] != (shape[2] // count if flat else shape[3]):
            _scale(patch, shape[2] // count if flat else shape[3])


def _count(mask: Mask | None, whole: int) -> int:
    return whole if mask is None else int(mask.sum())


def _counted(patch: Patch, name: str, mask: Mask | None) -> None:
    """Update an attribute that counts heads; `mask` marks the kept positions."""
    count = patch.node.attribute(name)
    found = kept(mask, count)
    if found is None or mask is None:
        return
    patch.set_attribute(name, found[0])
    if found[1] != len(mask) // count and name == "num_heads":
        _scale(patch, len(mask) // count)


def multi_head_attention(patch: Patch) -> None:
    """com.microsoft.MultiHeadAttention."""
    _counted(patch, "num_heads", patch.mask(0, 2))


def group_query_attention(patch: Patch) -> None:
    """com.microsoft.GroupQueryAttention: two numbers of heads, and the rotary tables."""
    heads, groups = patch.node.attribute("num_heads"), patch.node.attribute("kv_num_heads")
    q = patch.mask(0, 2)
    k = patch.mask(1, 2) if patch.has(1) else None
    if not patch.has(1) and q is not None:
        size = len(q) // (heads + 2 * groups)
        q, k = q[: heads * size], q[heads * size : (heads + groups) * size]
    _counted(patch, "num_heads", q)
    _counted(patch, "kv_num_heads", k)
    if patch.node.attribute("do_rotary", 0) and q is not None:
        _tables(patch, (7, 8), q.reshape(heads, -1), patch.node.attribute("rotary_interleaved", 0))


def packed_attention(patch: Patch) -> None:
    """com.microsoft.Attention: one weight computes queries, keys and values."""
    mask = patch.mask(1, 1)
    if mask is None or mask.all():
        return
    sizes = patch.node.attribute("qkv_hidden_sizes") or [len(mask) // 3] * 3
    q, k, v = np.split(mask, np.cumsum(sizes)[:-1])
    _counted(patch, "num_heads", q)
    new = [int(x.sum()) for x in (q, k, v)]
    if patch.node.attribute("qkv_hidden_sizes") or len(set(new)) > 1:
        patch.set_attribute("qkv_hidden_sizes", new)


def rotary(patch: Patch) -> None:
    """RotaryEmbedding: keep the table columns of kept pairs, and update the number of heads."""
    shape, small = _shapes(patch, 0), patch.node.op.startswith(SMALL)
    mask = patch.mask(0, len(shape) - 1)
    if mask is None or mask.all():
        return
    tables = (2, 3) if small else (1, 2)
    rotated = patch.node.attribute("rotary_embedding_dim", 0) or 2 * _shapes(patch, tables[0])[-1]
    count = 1
    if len(shape) == 3:
        count = patch.node.attribute("num_heads", 0) or shape[2] // rotated
        found = kept(mask, count)
        if patch.node.attribute("num_heads", 0) and found:
            patch.set_attribute("num_heads", found[0])
    grid = mask.reshape(count, -1)
    if patch.node.attribute("rotary_embedding_dim", 0):
        patch.set_attribute("rotary_embedding_dim", int(grid[:, :rotated].any(0).sum()))
    _tables(patch, tables, grid[:, :rotated], patch.node.attribute("interleaved", 0))


def _tables(patch: Patch, operands: tuple[int, int], grid: Mask, interleaved: int) -> None:
    """Keep the angles of kept pairs."""
    pairs = pairs_of(np.asarray(grid.any(0)), bool(interleaved))[0]
    if pairs.all():
        return
    for k in operands:
        weight = patch.cutting.graph.weights.get(patch.node.inputs[k])
        if weight is None:
            raise Unsupported("rotates positions by angles that are not weights")
        patch.put(k, patch.constant(weight.name, np.compress(pairs, weight.array, -1)))
        patch.settled.add(k)


FIXUPS: Mapping[str, Fixup] = {
    "Attention": attention,
    "LinearAttention": attention,
    f"{SMALL}LinearAttention": attention,
    "RotaryEmbedding": rotary,
    f"{SMALL}Attention": packed_attention,
    f"{SMALL}QAttention": packed_attention,
    f"{SMALL}MultiHeadAttention": multi_head_attention,
    f"{SMALL}GroupQueryAttention": group_query_attention,
    f"{SMALL}RotaryEmbedding": rotary,
}
