# SPDX-License-Identifier: Apache-2.0
"""Networks of attention, recurrent layers and products."""

from __future__ import annotations

from tests.cases.topologies.net import Net

WRITTEN = "float[9,8] w0, float[8] w1, float[8] w1b, float[8,12] w2, float[12,4] w3"
WRITTEN_TAIL = "a = MatMul(n, w2)  t = Relu(a)  y = MatMul(t, w3)"
"""A normalisation of an embedding without its operator, and what reads it."""

NETS: dict[str, Net] = {
    "initial states that are stored as zeros and repeated": Net(
        """g (int64[2,5] x, float[9,6] w0, float[1,16,6] w1, float[1,16,4] w2, float[1,32] w3, float[3,4] w4) => (float[] y)
        <float[1,1,4] zero = {0,0,0,0}, int64[3] s = {1,2,4}, int64[1] nought = {0}, int64[1] one = {1}> {
        e = Gather(w0, x)  t = Transpose <perm = [1,0,2]> (e)  h = Expand(zero, s)
        a, last, cell = LSTM <hidden_size = 4> (t, w1, w2, w3, "", h, h)
        b = Squeeze(a, one)  f = ReduceSum <keepdims = 0> (b, nought)  y = Gemm <transB = 1> (f, w4) }""",
        10,
        10,
    ),
    "embedding, normalised": Net(
        """g (int64[2,5] x, float[9,8] w0, float[8] w1, float[8] w1b, float[8,12] w2, float[12,8] w3, float[8] w4, float[8] w4b,
        float[8,3] w5) => (float[] y) {
        e = Gather(w0, x)  n = LayerNormalization(e, w1, w1b)  a = MatMul(n, w2)  r = Relu(a)  b = MatMul(r, w3)
        s = Add(n, b)  m = LayerNormalization(s, w4, w4b)  y = MatMul(m, w5) }""",
        20,
        20,
        "LayerNormalization 'n' normalises over them",
    ),
    "embedding, RMS written out": Net(
        f"""g (int64[2,5] x, {WRITTEN}) => (float[] y) <float two = {{2.0}}, float eps = {{0.00001}}> {{
        e = Gather(w0, x)  p = Pow(e, two)  m = ReduceMean <axes = [-1]> (p)  v = Add(m, eps)  s = Sqrt(v)
        d = Div(e, s)  n = Mul(w1, d)  {WRITTEN_TAIL} }}""",
        20,
        20,
        "reduces over them",
    ),
    "embedding, RMS written out with a reciprocal and a scale of one more": Net(
        f"""g (int64[2,5] x, {WRITTEN}) => (float[] y) <float one = {{1.0}}, float eps = {{0.00001}}> {{
        e = Gather(w0, x)  p = Mul(e, e)  m = ReduceMean <axes = [-1]> (p)  v = Add(m, eps)  s = Sqrt(v)  r = Reciprocal(s)
        d = Mul(e, r)  g = Add(w1, one)  n = Mul(d, g)  {WRITTEN_TAIL} }}""",
        20,
        20,
    ),
    "embedding, LayerNormalization written out": Net(
        f"""g (int64[2,5] x, {WRITTEN}) => (float[] y) <float two = {{2.0}}, float eps = {{0.00001}}> {{
        e = Gather(w0, x)  m = ReduceMean <axes = [-1]> (e)  c = Sub(e, m)  p = Pow(c, two)
        q = ReduceMean <axes = [-1]> (p)  v = Add(q, eps)  s = Sqrt(v)  d = Div(c, s)  k = Mul(d, w1)  n = Add(k, w1b)
        {WRITTEN_TAIL} }}""",
        20,
        20,
    ),
    "embedding, LayerNormalization written out as scale and shift": Net(
        f"""g (int64[2,5] x, {WRITTEN}) => (float[] y) <float eps = {{0.00001}}> {{
        e = Gather(w0, x)  m = ReduceMean <axes = [-1]> (e)  c = Sub(e, m)  p = Mul(c, c)
        q = ReduceMean <axes = [-1]> (p)  v = Add(q, eps)  s = Sqrt(v)  r = Reciprocal(s)  k = Mul(r, w1)
        d = Mul(e, k)  o = Mul(m, k)  b = Sub(w1b, o)  n = Add(d, b)  {WRITTEN_TAIL} }}""",
        20,
        20,
    ),
    "a residual stream from an embedding, RMS written out": Net(
        """g (int64[2,5] x, float[9,8] w0, float[8] w1, float[8,12] w2, float[12,8] w3, float[8] w4, float[8,4] w5)
        => (float[] y) <float two = {2.0}, float eps = {0.00001}> {
        e = Gather(w0, x)  p = Pow(e, two)  m = ReduceMean <axes = [-1]> (p)  v = Add(m, eps)  s = Sqrt(v)
        d = Div(e, s)  n = Mul(w1, d)  a = MatMul(n, w2)  t = Relu(a)  b = MatMul(t, w3)  f = Add(e, b)
        p1 = Pow(f, two)  m1 = ReduceMean <axes = [-1]> (p1)  v1 = Add(m1, eps)  s1 = Sqrt(v1)
        d1 = Div(f, s1)  n1 = Mul(w4, d1)  y = MatMul(n1, w5) }""",
        20,
        20,
    ),
    "a residual stream from two embeddings, one of equal rows": Net(
        f"""g (int64[2,5] x, int64[2,5] k, float[9,8] w0, float[5,8] wp, float[8] w1, float[8] w1b, float[8,12] w2,
        float[12,8] w3, float[8] w3b, float[8] w4, float[8] w4b, float[8,4] w5) => (float[] y)
        <float[4,8] types = {{{", ".join(4 * ["1, 2, 3, 4, 5, 6, 7, 8"])}}}> {{
        g = Gather(w0, x)  h = Gather(types, k)  i = Add(g, wp)  e = Add(i, h)  n = LayerNormalization(e, w1, w1b)
        a = MatMul(n, w2)  t = Relu(a)  b = MatMul(t, w3)  c = Add(b, w3b)  f = Add(e, c)
        q = LayerNormalization(f, w4, w4b)  y = MatMul(q, w5) }}""",
        20,
        20,
    ),
    "a residual stream to which the same number is added everywhere": Net(
        """g (int64[2,5] x, float[2,5,1] z, float[6,8] w6, float[2,5,6] u, float[8] w1, float[8,12] w2, float[12,8] w3,
        float[8] w4, float[8,4] w5) => (float[] y) {
        g = MatMul(u, w6)  e = Add(g, z)  n = LayerNormalization(e, w1)  a = MatMul(n, w2)  t = Relu(a)  b = MatMul(t, w3)
        f = Add(e, b)  q = LayerNormalization(f, w4)  y = MatMul(q, w5) }""",
        20,
        20,
    ),
    "a pinned trunk is normalised, and scales make some of it zero": Net(
        """g (float[2,5,8] x, float[8] w1, float[8,12] w2, float[12,8] w3) => (float[] y) {
        n = LayerNormalization(x, w1)  a = MatMul(n, w2)  r = Relu(a)  b = MatMul(r, w3)  y = Add(x, b) }""",
        20,
        20,
    ),
    "heads of attention": Net(
        """g (float[N,5,12] x, float[12,12] wq, float[12] wqb, float[12,12] wk,
        float[12,12] wv, float[12,12] wo) => (float[] y)
        <int64[4] s = {0,0,3,4}, int64[3] t = {0,0,-1}, float c = {0.5}> {
        q = MatMul(x, wq)  qb = Add(q, wqb)  k = MatMul(x, wk)  v = MatMul(x, wv)
        qr = Reshape(qb, s)  kr = Reshape(k, s)  vr = Reshape(v, s)
        qt = Transpose <perm = [0,2,1,3]> (qr)  kt = Transpose <perm = [0,2,3,1]> (kr)
        vt = Transpose <perm = [0,2,1,3]> (vr)
        z = MatMul(qt, kt)  zs = Mul(z, c)  p = Softmax(zs)  o = MatMul(p, vt)  ot = Transpose <perm = [0,2,1,3]> (o)
        r = Reshape(ot, t)  y = MatMul(r, wo) }""",
        8,
    ),
    "heads of attention, explicit sizes": Net(
        """g (float[2,5,12] x, float[12,12] wq, float[12,12] wk,
        float[12,12] wv, float[12,12] wo) => (float[] y)
        <int64[4] s = {2,5,6,2}, int64[3] t = {2,5,12}> {
        q = MatMul(x, wq)  k = MatMul(x, wk)  v = MatMul(x, wv)  qr = Reshape(q, s)  kr = Reshape(k, s)
        vr = Reshape(v, s)
        qt = Transpose <perm = [0,2,1,3]> (qr)  kt = Transpose <perm = [0,2,3,1]> (kr)
        vt = Transpose <perm = [0,2,1,3]> (vr)
        z = MatMul(qt, kt)  p = Softmax(z)  o = MatMul(p, vt)  ot = Transpose <perm = [0,2,1,3]> (o)
        r = Reshape(ot, t)  y = MatMul(r, wo) }""",
        4,
    ),
    "packed qkv": Net(
        """g (float[N,5,12] x, float[12,36] wq, float[36] wqb, float[12,12] wo) => (float[] y)
        <int64[5] s = {0,5,3,3,4}, int64 i = {0}, int64 j = {1}, int64 l = {2}, int64[3] t = {0,5,12}> {
        q = MatMul(x, wq)  qb = Add(q, wqb)  r = Reshape(qb, s)  u = Transpose <perm = [2,0,3,1,4]> (r)
        a = Gather(u, i)  b = Gather(u, j)  c = Gather(u, l)  bt = Transpose <perm = [0,1,3,2]> (b)
        z = MatMul(a, bt)  p = Softmax(z)  o = MatMul(p, c)  ot = Transpose <perm = [0,2,1,3]> (o)  f = Reshape(ot, t)
        y = MatMul(f, wo) }""",
        3,
    ),
    "packed qkv, split first": Net(
        """g (float[N,5,12] x, float[12,36] wq, float[36] wqb,
        float[12,12] wo) => (float[] y)
        <int64[4] s = {0,5,3,4}, int64[3] t = {0,5,12}> {
        q = MatMul(x, wq)  qb = Add(q, wqb)  a1, b1, c1 = Split <axis = -1> (qb)
        a2 = Reshape(a1, s)  b2 = Reshape(b1, s)  c2 = Reshape(c1, s)
        a = Transpose <perm = [0,2,1,3]> (a2)  b = Transpose <perm = [0,2,3,1]> (b2)
        c = Transpose <perm = [0,2,1,3]> (c2)
        z = MatMul(a, b)  p = Softmax(z)  o = MatMul(p, c)  ot = Transpose <perm = [0,2,1,3]> (o)  f = Reshape(ot, t)
        y = MatMul(f, wo) }""",
        8,
        opset=13,
    ),
    "class token and position": Net(
        """g (float[N,3,8,8] x, float[8,3,4,4] w1, float[8] w1b, float[1,1,8] w2,
        float[1,5,8] w3, float[8,6] w4, float[6,8] w5,
        float[8,3] w6) => (float[] y) <int64[3] s = {0,8,-1}, int64 z = {0}, int64[1] zero = {0},
        int64[2] more = {1,8}> {
        a = Conv <strides = [4,4]> (x, w1, w1b)  b = Reshape(a, s)  c = Transpose <perm = [0,2,1]> (b)
        sh = Shape(c)  n = Gather(sh, zero)  es = Concat <axis = 0> (n, more)  tok = Expand(w2, es)
        d = Concat <axis = 1> (tok, c)  e = Add(d, w3)  f = MatMul(e, w4)  h = Relu(f)  i = MatMul(h, w5)  j = Add(i, e)
        k = Gather <axis = 1> (j, z)  y = MatMul(k, w6) }""",
        14,
        14,
    ),
    "linear, view, convolution": Net(
        """g (float[N,6] x, float[6,128] w1, float[128] w1b, float[8,5,3,3] w2,
        float[5,4,2,2] w3) => (float[] y)
        <int64[4] s = {-1,8,4,4}> {
        a = Gemm(x, w1, w1b)  b = Reshape(a, s)  c = Relu(b)  d = ConvTranspose <strides = [2,2]> (c, w2)
        y = ConvTranspose(d, w3) }""",
        13,
        13,
    ),
    "gated feed-forward, chunk": Net(
        """g (float[N,5,6] x, float[6,16] w1, float[16] w1b,
        float[8,6] w2) => (float[] y) {
        a = MatMul(x, w1)  b = Add(a, w1b)  c, d = Split <axis = -1, num_outputs = 2> (b)  e = Sigmoid(d)  f = Mul(c, e)
        y = MatMul(f, w2) }""",
        8,
        8,
        opset=18,
    ),
    "gated feed-forward, slices": Net(
        """g (float[N,5,6] x, float[6,16] w1, float[8,6] w2) => (float[] y)
        <int64[1] z = {0}, int64[1] h = {8}, int64[1] e = {9223372036854775807}, int64[1] l = {-1}> {
        a = MatMul(x, w1)  c = Slice(a, z, h, l)  d = Slice(a, h, e, l)  s = Sigmoid(d)  f = Mul(c, s)
        y = MatMul(f, w2) }""",
        8,
        8,
    ),
    "gated feed-forward, computed half": Net(
        """g (float[N,5,6] x, float[6,16] w1, float[8,6] w2) => (float[] y)
        <int64 two = {2}, int64 l = {-1}, int64[1] z = {0}, int64[1] ax = {-1}> {
        a = MatMul(x, w1)  s = Shape(a)  n = Gather(s, l)  m = Div(n, two)  h = Unsqueeze(m, z)  e = Unsqueeze(n, z)
        c = Slice(a, z, h, ax)  d = Slice(a, h, e, ax)  g = Sigmoid(d)  f = Mul(c, g)  y = MatMul(f, w2) }""",
        8,
        8,
    ),
    "tied embedding": Net(
        """g (int64[N,5] x, float[11,8] w1, float[8,8] w2) => (float[] y) {
        a = Gather(w1, x)  b = MatMul(a, w2)  c = Add(a, b)  t = Transpose <perm = [1,0]> (w1)  y = MatMul(c,
        t) }""",
        0,
        0,
        "sums over channels that do not become zero",
    ),
    "a fused transformer": Net(
        """g (float[N,5,6] x, float[6,8] w1, float[8,12] wq, float[8,12] wk, float[8,12] wv, float[36] wb,
        float[12,8] wo, float[8] wg, float[8] ws, float[8,9] w2, float[9] w2b, float[9,8] w3, float[8,4] w4) => (float[] y) {
        a = MatMul(x, w1)  q = MatMul(a, wq)  k = MatMul(a, wk)  v = MatMul(a, wv)
        m = com.microsoft.MultiHeadAttention <num_heads = 3, scale = 0.5> (q, k, v, wb)  o = MatMul(m, wo)
        n, i, j, s = com.microsoft.SkipLayerNormalization(o, a, wg, ws)  h = MatMul(n, w2)
        g1 = com.microsoft.BiasGelu(h, w2b)  u = MatMul(g1, w3)  r = Add(u, s)  y = MatMul(r, w4) }""",
        25,
        25,
    ),
    "a fused decoder with rotary heads": Net(
        """g (float[2,5,6] x, float[6,8] w1, float[8,192] wq, float[8,96] wk, float[8,96] wv, float[192,4] wo, float[9,16] wc,
        float[9,16] ws) => (float[] y) <int32[2] len = {4,4}, int32 total = {5}> {
        a = MatMul(x, w1)  q = MatMul(a, wq)  k = MatMul(a, wk)  v = MatMul(a, wv)
        o, p, r = com.microsoft.GroupQueryAttention <num_heads = 6, kv_num_heads = 3, do_rotary = 1>
        (q, k, v, , , len, total, wc, ws)  y = MatMul(o, wo) }""",
        11,
        11,
    ),
    "gelu of contrib": Net(
        """g (float[2,5,6] x, float[6,8] w1, float[8,6] w2, float[6,4] w3) => (float[] y) {
        a = MatMul(x, w1)  b = com.microsoft.Gelu(a)  c = MatMul(b, w2)  d = Relu(c)  y = MatMul(d, w3) }""",
        14,
        14,
    ),
    "heads over a dynamic length": Net(
        """g (float[N,L,12] x, float[12,12] wq, float[12,12] wk,
        float[12,12] wv, float[12,12] wo) => (float[] y)
        <int64 z = {0}, int64 o = {1}, int64[1] ax = {0}, int64[2] hd = {3,4}, int64[1] c = {12}> {
        q = MatMul(x, wq)  k = MatMul(x, wk)  v = MatMul(x, wv)
        sh = Shape(q)  n = Gather(sh, z)  l = Gather(sh, o)  nu = Unsqueeze(n, ax)  lu = Unsqueeze(l, ax)
        s = Concat <axis = 0> (nu, lu, hd)  t = Concat <axis = 0> (nu, lu, c)
        qr = Reshape(q, s)  kr = Reshape(k, s)  vr = Reshape(v, s)
        qt = Transpose <perm = [0,2,1,3]> (qr)  kt = Transpose <perm = [0,2,3,1]> (kr)
        vt = Transpose <perm = [0,2,1,3]> (vr)
        dot = MatMul(qt, kt)  p = Softmax(dot)  w = MatMul(p, vt)  ot = Transpose <perm = [0,2,1,3]> (w)
        r = Reshape(ot, t)  y = MatMul(r, wo) }""",
        8,
    ),
}
