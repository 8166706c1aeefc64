# SPDX-License-Identifier: Apache-2.0
"""onnxruntime's fused attention, in terms of ONNX's Attention and RotaryEmbedding."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from onnxprune.ir.decompositions.chain import MICROSOFT, Chain, Results


def _attend(c: Chain, *operands: str, heads: tuple[int, int], **limits: int) -> tuple[str, ...]:
    """ONNX's Attention. Masking and scaling are ignored: the analysis only needs to know which channels meet.

    Args:
        limits: metadata for the analysis. `one_size`: values have the same head size as queries and keys; `multiple_of`: the
            kernel supports only multiples of this size.
    """
    outputs = c("Attention", *operands, outputs=4, q_num_heads=heads[0], kv_num_heads=heads[1])
    for key, value in limits.items():
        c.parts[-1].metadata_props.add(key=key, value=str(value))
    return tuple(outputs)


def packed_attention(c: Chain) -> Results:
    """One matrix product computes queries, keys and values."""
    if c[4] or (len(c.node.output) > 1 and c.node.output[1]) or c.attribute("do_rotary", 0):
        return None
    width, heads = c.sizes(1)[-1], c.attribute("num_heads")
    sizes = c.attribute("qkv_hidden_sizes") or [width // 3] * 3
    product = c.sum_of(c("MatMul", c[0], c[1]), c[2])
    q, k, v = c("Split", product, c.constant(sizes), outputs=3, axis=-1)
    return _attend(c, q, k, v, c[5], heads=(heads, heads))[:1]


def multi_head_attention(c: Chain) -> Results:
    """Queries, keys and values come from separate products; their biases may be packed into one tensor."""
    ranks = [c.rank(k) for k in range(3)]
    if ranks not in ([3, 3, 3], [3, 4, 4]) or (c[3] and ranks[1] == 4) or c[9]:
        return None
    heads = c.attribute("num_heads")
    names = [c[k] for k in range(3)]
    if c[3]:
        biases = c("Split", c[3], c.constant([c.sizes(k)[-1] for k in range(3)]), outputs=3, axis=0)
        names = [c("Add", name, bias) for name, bias in zip(names, biases, strict=True)]
    return _attend(c, *names, c[5], c[6], c[7], heads=(heads, heads))


def group_query_attention(c: Chain) -> Results:
    """Groups of query heads share keys and values; it may apply rotary embedding, and keeps past keys and values."""
    if any(c[k] for k in (12, 13, 14, 15)):  # a quantized cache or normalised queries
        return None
    heads, groups = c.attribute("num_heads"), c.attribute("kv_num_heads")
    q, k, v = c[0], c[1], c[2]
    if not k:
        size = c.sizes(0)[-1] // (heads + 2 * groups)
        q, k, v = c("Split", q, c.constant([heads * size, groups * size, groups * size]), outputs=3, axis=-1)
    rotary = c.attribute("do_rotary", 0)
    if rotary:
        layout = {"interleaved": c.attribute("rotary_interleaved", 0)}
        q, k = (c("RotaryEmbedding", x, c[7], c[8], c[9], num_heads=n, **layout) for x, n in ((q, heads), (k, groups)))
    sink = c("Unsqueeze", c[11], c.constant([1, 2])) if c[11] else ""
    mask = c.sum_of(c[10], sink) if c[10] or sink else ""
    return _attend(c, q, k, v, mask, c[3], c[4], heads=(heads, groups), one_size=1, multiple_of=16 if rotary else 8)


def rotary_embedding(c: Chain) -> Results:
    """RotaryEmbedding with the tables after the positions; the number of heads follows from the table sizes."""
    size = c.attribute("rotary_embedding_dim", 0) or 2 * c.sizes(2)[-1]
    heads = c.attribute("num_heads", 0) or c.sizes(0)[-1] // size
    given = {"rotary_embedding_dim": c.attribute("rotary_embedding_dim"), "interleaved": c.attribute("interleaved")}
    return (c("RotaryEmbedding", c[0], c[2], c[3], c[1], num_heads=heads, **given),)


def embed_layer_norm(c: Chain) -> Results:
    """Rows of three tables are added and normalised."""
    rows = [c("Gather", c[2], c[0]), c("Gather", c[3], c[8] or c[0]), c("Gather", c[4], c[1]) if c[4] else ""]
    total = c.sum_of(*rows)
    return (c("LayerNormalization", total, c[5], c[6], epsilon=c.attribute("epsilon", 1e-12)), "", total)


def quantized_attention(c: Chain) -> Results:
    """com.microsoft.Attention on integers; queries, keys and values have the same size."""
    if c[8] or (len(c.node.output) > 1 and c.node.output[1]) or c.attribute("do_rotary", 0):
        return None
    x = c("DequantizeLinear", c[0], c[3], c[6])
    w = c("DequantizeLinear", c[1], c[4], c[7], axis=-1)
    width, heads = c.sizes(1)[-1], c.attribute("num_heads")
    q, k, v = c("Split", c("Add", c("MatMul", x, w), c[2]), c.constant([width // 3] * 3), outputs=3, axis=-1)
    return _attend(c, q, k, v, heads=(heads, heads), one_size=1)[:1]


CHAINS: Mapping[str, Callable[[Chain], Results]] = {
    f"{MICROSOFT}.Attention": packed_attention,
    f"{MICROSOFT}.MultiHeadAttention": multi_head_attention,
    f"{MICROSOFT}.GroupQueryAttention": group_query_attention,
    f"{MICROSOFT}.RotaryEmbedding": rotary_embedding,
    f"{MICROSOFT}.QAttention": quantized_attention,
    f"{MICROSOFT}.EmbedLayerNormalization": embed_layer_norm,
}
MASKABLE = frozenset({f"{MICROSOFT}.MultiHeadAttention"})
