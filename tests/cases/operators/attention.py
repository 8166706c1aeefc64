# SPDX-License-Identifier: Apache-2.0
"""Attention and rotary embedding, ONNX's own and onnxruntime's: whole heads, their size, members of a group."""

from __future__ import annotations

from tests.cases.operators.sample import Sample


def flat(
    call: str, q: int = 12, k: int = 12, v: int = 12, o: int = 12, more: str = "", consts: str = "", body: str = ""
) -> str:
    """Products compute queries, keys and values (2,5,n), `call` computes `o` from them, and a product reads `o`."""
    return f"""g (float[2,5,6] x, float[6,{q}] wq, float[6,{k}] wk, float[6,{v}] wv, float[{o},4] w9{more}) => (float[2,5,4] y)
        <int64 zero = {{0}}{consts}> {{ q = MatMul(x, wq)  k = MatMul(x, wk)  v = MatMul(x, wv)  {body}
        {call.replace("ms:", "com.microsoft.")}  y = MatMul(o, w9) }}"""


def split(call: str, heads: tuple[int, int] = (3, 3), size: int = 4, more: str = "", consts: str = "", tail: str = "") -> str:
    """The same with heads on an axis of their own: (2,heads,5,size)."""
    q, k = heads
    return flat(
        f"qr = Reshape(q, sq)  kr = Reshape(k, sk)  vr = Reshape(v, sk)  qt = Transpose <perm = [0,2,1,3]> (qr)"
        f"  kt = Transpose <perm = [0,2,1,3]> (kr)  vt = Transpose <perm = [0,2,1,3]> (vr)  {call}"
        f"  ot = Transpose <perm = [0,2,1,3]> (oh)  o = Reshape(ot, so){tail}",
        size * q,
        size * k,
        size * k,
        size * q,
        more,
        f", int64[4] sq = {{0,0,{q},{size}}}, int64[4] sk = {{0,0,{k},{size}}}, int64[3] so = {{0,0,-1}}{consts}",
    )


def weighted(call: str, heads: int, shape: str, more: str = "") -> str:
    """Heads and their size are separate axes of the weights: both may shrink at once."""
    return f"""g (float[2,1,5,6] x, float[{heads},6,4] wq, float[{heads},6,4] wk, float[{heads},6,3] wv,
        float[{shape}] w9{more}) => (float[] y) <int64[1] k = {{1}}> {{
        q = MatMul(x, wq)  k4 = MatMul(x, wk)  v = MatMul(x, wv)  {call}
        p = MatMul(o, w9)  y = ReduceSum <keepdims = 0> (p, k) }}"""


EACH = "q_num_heads = 3, kv_num_heads = 3"
GROUPS = "q_num_heads = 6, kv_num_heads = 2"
MASKS = "bool[5,5] m = {1,0,0,0,0,1,1,0,0,0,1,1,1,0,0,1,1,1,1,0,1,1,1,1,1}"
AT = "int64[2,5] at = {0,1,2,3,4,0,1,2,3,4}"
SHARED = "shares every key and value head"
OLD = "int32[2] len = {4,4}, int32 total = {5}"

ROTARY = ", do_rotary = 1"


def grouped(operands: str, attributes: str = "", more: str = "", consts: str = "", body: str = "", heads: int = 6) -> str:
    """Heads of 32 channels; two or more share each of the three keys and values."""
    call = f"o, p, r = ms:GroupQueryAttention <num_heads = {heads}, kv_num_heads = 3{attributes}> ({operands})"
    return flat(call, 32 * heads, 96, 96, 32 * heads, f", {more}" if more else "", f", {OLD}{consts}", body)


SAMPLES: dict[str, list[Sample]] = {
    "Attention": [
        Sample(flat(f"o = Attention <{EACH}> (q, k, v)"), 8, opset=23, most=8),
        Sample(flat(f"o = Attention <{EACH}> (q, k, v)"), 8, opset=24, most=8),
        Sample(flat(f"o = Attention <{EACH}, scale = 0.3, is_causal = 1, softcap = 2.0> (q, k, v)", v=15, o=15), 9, opset=23),
        Sample(flat(f"o = Attention <{EACH}> (q, k, v, m)", consts=f", {MASKS}"), 8, opset=23),
        # a bias for every head
        Sample(flat(f"o = Attention <{EACH}> (q, k, v, wm)", more=", float[1,3,5,5] wm"), 8, opset=23),
        Sample(flat(f"o = Attention <{GROUPS}> (q, k, v)", 24, 8, 8, 24), 8, opset=23, most=8),
        # one key for all, and sums that are not zero: heads of the only group
        Sample(
            flat(
                "e = Exp(q)  f = Exp(k)  o = Attention <q_num_heads = 6, kv_num_heads = 1> (e, f, v)",
                24,
                4,
                4,
                24,
            ),
            6,
            opset=23,
            most=6,
        ),
        Sample(flat(f"e = Exp(q)  f = Exp(k)  o = Attention <{EACH}> (e, f, v)"), 3, opset=23, most=3),
        Sample(flat(f"e = Exp(q)  o = Attention <{EACH}> (e, k, v)"), 8, opset=23, most=8),
        Sample(split("oh = Attention(qt, kt, vt)"), 8, opset=23, most=8),
        Sample(
            split("oh, , , s = Attention(qt, kt, vt)  t = ReduceSum(s)", tail="  e = Add(o, t)").replace("(o, w9)", "(e, w9)"),
            8,
            opset=23,
        ),
        Sample(split("oh = Attention <is_causal = 1> (qt, kt, vt)", (6, 2), 7), 14, opset=23),
        Sample(weighted("o = Attention(q, k4, v)", 3, "3,3,5"), 10, opset=23, most=10),
        Sample(weighted("o = Attention(q, k4, v, wm)", 3, "3,3,5", ", float[3,5,5] wm"), 10, opset=23, most=10),
        # past keys and values are inputs: they have all heads, at full size
        Sample(
            flat(
                f"o, p, r = Attention <{EACH}> (q, k, v, , past, pastv)",
                more=", float[2,3,2,4] past, float[2,3,2,4] pastv",
            ).replace("=> (float[2,5,4] y)", "=> (float[2,5,4] y, float[2,3,7,4] p, float[2,3,7,4] r)"),
            0,
            "combines them with heads that cannot be cut",
            opset=23,
            most=0,
        ),
        Sample(
            flat(
                "o, p, r = Attention <q_num_heads = 6, kv_num_heads = 2> (q, k, v, , past, pastv)",
                24,
                8,
                8,
                24,
                more=", float[2,2,2,4] past, float[2,2,2,4] pastv",
            ).replace("=> (float[2,5,4] y)", "=> (float[2,5,4] y, float[2,2,7,4] p, float[2,2,7,4] r)"),
            3,
            SHARED,
            opset=23,
            most=3,
            needs="1.24",
        ),
        Sample(
            flat("o = Attention <q_num_heads = 3, kv_num_heads = 3> (q, k, v, , , , n)", consts=", int64[2] n = {3,5}"),
            8,
            opset=24,
            needs="1.24",
        ),
        # values that no weight makes
        Sample(
            """g (float[2,5,6] x, float[6,12] wq, float[6,12] wk, float[6,4] w9) => (float[] y) {
            q = MatMul(x, wq)  k = MatMul(x, wk)  o = Attention <q_num_heads = 3, kv_num_heads = 3> (q, k, x)
            y = MatMul(o, w9) }""",
            4,
            opset=23,
            most=4,
        ),
    ],
    "RotaryEmbedding": [
        Sample(
            flat(
                f"qt = RotaryEmbedding <num_heads = 3> (q, wc, ws, at)  kt = RotaryEmbedding <num_heads = 3> (k, wc, ws, at)"
                f"  o = Attention <{EACH}> (qt, kt, v)",
                more=", float[5,2] wc, float[5,2] ws",
                consts=f", {AT}",
            ),
            6,
            opset=23,
            most=6,
        ),
        # angles for every position, and only the first half of a head is rotated
        Sample(
            flat(
                f"qt = RotaryEmbedding <num_heads = 3, rotary_embedding_dim = 4, interleaved = 1> (q, wc, ws)"
                f"  kt = RotaryEmbedding <num_heads = 3, rotary_embedding_dim = 4, interleaved = 1> (k, wc, ws)"
                f"  o = Attention <{EACH}> (qt, kt, v)",
                24,
                24,
                more=", float[2,5,2] wc, float[2,5,2] ws",
            ),
            10,
            opset=23,
            most=10,
        ),
        Sample(
            split(
                "qe = RotaryEmbedding(qt, wc, ws, at)  ke = RotaryEmbedding(kt, wc, ws, at)  oh = Attention(qe, ke, vt)",
                more=", float[5,2] wc, float[5,2] ws",
                consts=f", {AT}",
            ),
            6,
            opset=23,
        ),
        # angles that are computed: whole heads
        Sample(
            flat(
                "c = Cos(wc)  s = Sin(wc)  qt = RotaryEmbedding <num_heads = 6> (q, c, s, at)"
                "  kt = RotaryEmbedding <num_heads = 6> (k, c, s, at)"
                "  o = Attention <q_num_heads = 6, kv_num_heads = 6> (qt, kt, v)",
                24,
                24,
                24,
                24,
                more=", float[5,2] wc",
                consts=f", {AT}",
            ),
            6,
            opset=23,
            most=6,
        ),
    ],
    "com.microsoft.RotaryEmbedding": [
        Sample(
            flat(
                "qt = ms:RotaryEmbedding(q, at, wc, ws)  kt = ms:RotaryEmbedding(k, at, wc, ws)"
                "  o = ms:MultiHeadAttention <num_heads = 3> (qt, kt, v)",
                more=", float[5,2] wc, float[5,2] ws",
                consts=f", {AT}",
            ),
            6,
            most=6,
        ),
        Sample(
            flat(
                "qt = ms:RotaryEmbedding <num_heads = 3, rotary_embedding_dim = 4, interleaved = 1> (q, at, wc, ws)"
                "  kt = ms:RotaryEmbedding <num_heads = 3, rotary_embedding_dim = 4, interleaved = 1> (k, at, wc, ws)"
                "  o = ms:MultiHeadAttention <num_heads = 3> (qt, kt, v)",
                24,
                24,
                more=", float[5,2] wc, float[5,2] ws",
                consts=", int64[1] at = {0}",
            ),
            10,
            most=10,
        ),
    ],
    "com.microsoft.Attention": [
        Sample(
            """g (float[2,5,6] x, float[6,8] w1, float[8,36] wp, float[36] wb, float[12,4] w9) => (float[] y) {
            a = MatMul(x, w1)  o = com.microsoft.Attention <num_heads = 3> (a, wp, wb)  y = MatMul(o, w9) }""",
            11,
            most=11,
        ),
        Sample(
            """g (float[2,5,6] x, float[6,8] w1, float[8,39] wp, float[39] wb, float[15,4] w9, float[1,3,5,5] wm)
            => (float[] y) { a = MatMul(x, w1)
            o = com.microsoft.Attention <num_heads = 3, qkv_hidden_sizes = [12,12,15], unidirectional = 1>
            (a, wp, wb, , , wm)  y = MatMul(o, w9) }""",
            11,
            most=11,
        ),
        Sample(
            """g (float[2,5,6] x, float[6,8] w1, float[8,36] wp, float[36] wb, float[12,4] w9, float[2,2,3,2,4] past)
            => (float[] y, float[2,2,3,7,4] now) { a = MatMul(x, w1)
            o, now = com.microsoft.Attention <num_heads = 3> (a, wp, wb, , past)  y = MatMul(o, w9) }""",
            0,
            "stores past keys and values",
            most=0,
        ),
    ],
    "com.microsoft.QAttention": [
        # whole heads: the integers of queries and keys are not set to zero
        Sample(
            """g (float[2,5,6] x, float[6,8] w1, int8[8,60] wp, float[60] wb, float[20,4] w9) => (float[] y)
            <float sc = {0.05}, float sd = {0.01}, uint8 zp = {128}, int8 z = {0}> {
            a = MatMul(x, w1)  q = QuantizeLinear(a, sc, zp)
            o = com.microsoft.QAttention <num_heads = 5> (q, wp, wb, sc, sd, , zp, z)  y = MatMul(o, w9) }""",
            13,
            most=13,
        ),
    ],
    "com.microsoft.MultiHeadAttention": [
        Sample(flat("o = ms:MultiHeadAttention <num_heads = 3> (q, k, v)"), 8, most=8),
        Sample(flat("o = ms:MultiHeadAttention <num_heads = 3, scale = 0.7> (q, k, v, wb)", more=", float[36] wb"), 8),
        Sample(
            flat(
                "o = ms:MultiHeadAttention <num_heads = 3> (q, k, v, wb, n, wm)",
                v=15,
                o=15,
                more=", float[39] wb, float[1,3,5,5] wm",
                consts=", int32[2] n = {3,5}",
            ),
            9,
        ),
        Sample(
            flat("o, p, r = ms:MultiHeadAttention <num_heads = 3> (q, k, v)").replace(
                "=> (float[2,5,4] y)", "=> (float[2,5,4] y, float[2,3,5,4] p, float[2,3,5,4] r)"
            ),
            0,
            "is a model output",
            most=0,
        ),
        # keys and values of an encoder, already split
        Sample(
            split(
                "o = com.microsoft.MultiHeadAttention <num_heads = 3> (q, kt, vt)  oh = Identity(qt)", tail="  u = Add(o, o1)"
            )
            .replace("o = Reshape(ot, so)", "o1 = Reshape(ot, so)")
            .replace("MatMul(o, w9)", "MatMul(u, w9)"),
            4,
        ),
    ],
    "com.microsoft.GroupQueryAttention": [
        # the kernel accepts only sizes that are multiples of eight
        Sample(grouped("q, k, v, , , len, total"), 4, most=4),
        Sample(grouped("a, , , , , len, total", body="a = Concat <axis = 2> (q, k, v)"), 4, most=4),
        Sample(
            grouped(
                "q, k, v, , , len, total, wc, ws, , wm, wh",
                ROTARY,
                "float[9,16] wc, float[9,16] ws, float[1,6,5,5] wm, float[6] wh",
            ),
            3,
            most=3,
            needs="1.23",
        ),
        Sample(
            grouped(
                "q, k, v, , , len, total, wc, ws, at",
                f"{ROTARY}, rotary_interleaved = 1",
                "float[9,16] wc, float[9,16] ws",
                f", {AT}",
            ),
            3,
            most=3,
            needs="1.22",
        ),
        # past keys and values are inputs and outputs: members of every group are cut
        Sample(
            grouped(
                "q, k, v, past, pastv, len, total, wc, ws",
                ROTARY,
                "float[1,3,3,32] past, float[1,3,3,32] pastv, float[9,16] wc, float[9,16] ws",
                heads=12,
            )
            .replace("=> (float[2,5,4] y)", "=> (float[1,5,4] y, float[1,3,8,32] p, float[1,3,8,32] r)")
            .replace("float[2,5,6] x", "float[1,5,6] x")
            .replace("{4,4}, int32 total = {5}", "{7}, int32 total = {8}")
            .replace("int32[2] len", "int32[1] len"),
            4,
            SHARED,
            most=4,
        ),
    ],
    "com.microsoft.EmbedLayerNormalization": [
        Sample(
            """g (int32[2,5] ids, float[9,8] wt, float[7,8] wp, float[8] wg, float[8] wb, float[8,4] w9, float[8,6] w1,
            float[6,8] w2) => (float[2,5,4] y) {
            e, m, s = com.microsoft.EmbedLayerNormalization(ids, , wt, wp, , wg, wb)  h = MatMul(e, w1)
            i = Relu(h)  j = MatMul(i, w2)  k = Add(j, e)  y = MatMul(k, w9) }""",
            6,
            "normalises over them",
            most=6,
        ),
    ],
}

THREE_HEADS = {
    "onnx": Sample(flat(f"o = Attention <{EACH}> (q, k, v)"), opset=23),
    "fused": Sample(flat("o = ms:MultiHeadAttention <num_heads = 3> (q, k, v)")),
}
"""The same attention in ONNX's form and in onnxruntime's."""
