# SPDX-License-Identifier: Apache-2.0
"""Patterns of several operators that exporters and authors of networks write."""

from __future__ import annotations

from tests.cases.operators.sample import Sample, both, conv, seq

PATTERNS: dict[str, Sample] = {
    "a column of a table": Sample(seq("g = Gather <axis = 1> (w3, k)  b = Mul(a, g)", "float[8,3] w3", "int64 k = {1}"), 8),
    "a row of a table": Sample(seq("g = Gather(w3, k)  b = Mul(a, g)", "float[3,8] w3", "int64 k = {1}"), 8),
    "a weight joined from two": Sample(
        conv("d = Concat <axis = 0> (w3, w4)  b = Conv(a, d)", "float[3,8,1,1] w3, float[3,8,1,1] w4", w2="4,6,1,1"),
        14,
        most=14,
    ),
    "a weight split in two": Sample(
        seq("d, e = Split <axis = 1> (w3)  f = MatMul(a, d)  h = MatMul(a, e)  b = Mul(f, h)", "float[8,16] w3"), 16, opset=13
    ),
    "a weight rounded to a grid": Sample(
        conv(
            "s = ReduceMax <axes = [1,2,3]> (w3)  d = Div(w3, s)  r = Round(d)  e = Mul(r, s)  b = Conv(a, e)",
            "float[6,8,1,1] w3",
            w2="4,6,1,1",
        ),
        6,
    ),
    "one kernel repeated for every channel": Sample(
        conv("d = Expand(w3, p)  b = Conv <group = 8> (a, d)", "float[1,1,3,3] w3", "int64[4] p = {8,1,1,1}"), 8
    ),
    "an outer product, flattened": Sample(
        """g (float[2,6] x, float[6,4] w1, float[6,5] w2, float[20,3] w3) => (float[] y)
            <int64[3] p = {0,4,1}, int64[3] q = {0,1,5}, int64[2] k = {0,20}> {
            a = MatMul(x, w1)  b = MatMul(x, w2)  c = Reshape(a, p)  d = Reshape(b, q)  e = Mul(c, d)  f = Reshape(e, k)
            y = MatMul(f, w3) }""",
        4,
        "folds them into an axis with other channels",
    ),
    "a recurrent layer": Sample(
        """g (float[5,2,6] x, float[6,8] w1, float[1,12,8] w3, float[1,12,4] w4, float[4,7] w5, float[7,3] w6) => (float[] y)
            <int64[1] k = {1}> { a = MatMul(x, w1)  h, l = GRU <hidden_size = 4> (a, w3, w4)  s = Squeeze(h, k)
            b = MatMul(s, w5)  c = Relu(b)  y = MatMul(c, w6) }""",
        19,
        most=19,
    ),
    "a number computed from a small weight": Sample(
        conv("e = Mul(a, w3)  q = Mul(w3, w3)  s = ReduceSum(q)  b = Mul(e, s)", "float[8,1,1] w3"), 8
    ),
    "a product of small weights": Sample(
        conv(
            "e = Add(a, w5)  s = MatMul(w3, w4)  r = Reshape(w3, k)  f = Mul(e, r)  b = Mul(f, s)",
            "float[8] w3, float[8] w4, float[8,1,1] w5",
            "int64[3] k = {8,1,1}",
        ),
        1,
    ),
    "the number of channels as a bound": Sample(
        conv("s = Shape(a)  c = Gather(s, one)  f = Cast <to = 1> (c)  b = Clip(a, , f)", "", "int64 one = {1}"), 8, most=8
    ),
    "the number of channels under a root": Sample(
        conv("s = Shape(a)  c = Gather(s, one)  f = Cast <to = 1> (c)  r = Sqrt(f)  b = Div(a, r)", "", "int64 one = {1}"),
        8,
        most=8,
    ),
    "a range over the channels picks them": Sample(
        conv(
            "s = Shape(a)  c = Gather(s, one)  r = Range(z, c, one)  b = Gather <axis = 1> (a, r)",
            "",
            "int64 one = {1}, int64 z = {0}",
        ),
        8,
        most=8,
    ),
    "halves of a computed size": Sample(
        conv(
            "s = Shape(a)  c = Gather(s, one)  h = Div(c, two)  k = Concat <axis = 0> (h, h)"
            "  d, e = Split <axis = 1> (a, k)  f = Conv(d, w3)  b = Concat <axis = 1> (f, e)",
            "float[4,4,1,1] w3",
            "int64[1] one = {1}, int64[1] two = {2}",
        ),
        12,
        most=12,
    ),
    "flattened by a product of sizes": Sample(
        conv(
            "s = Shape(a)  n = Gather(s, z)  c = Gather(s, o)  h = Gather(s, t)  w = Gather(s, q)"
            "  m = Mul(c, h)  p = Mul(m, w)  k = Concat <axis = 0> (n, p)  b = Reshape(a, k)",
            "",
            "int64[1] z = {0}, int64[1] o = {1}, int64[1] t = {2}, int64[1] q = {3}",
            "y = MatMul(b, w2)",
            "512,4",
        ).replace("float[2,3", "float[N,3"),
        8,
        most=8,
    ),
    "tokens by a product of dynamic sizes": Sample(
        conv(
            "s = Shape(a)  n = Gather(s, z)  c = Gather(s, o)  h = Gather(s, t)  w = Gather(s, q)"
            "  m = Mul(h, w)  k = Concat <axis = 0> (n, c, m)  d = Reshape(a, k)"
            "  e = Transpose <perm = [0,2,1]> (d)  b = Relu(e)",
            "",
            "int64[1] z = {0}, int64[1] o = {1}, int64[1] t = {2}, int64[1] q = {3}",
            "y = MatMul(b, w2)",
            "8,4",
        ).replace("float[2,3,8,8]", "float[N,3,H,W]"),
        8,
        most=8,
    ),
    "the Expand that torch writes": Sample(
        conv(
            "sh = Constant <value = int64[4] {-1,8,1,1}> ()  c = ConstantOfShape <value = int64[1] {1}> (four)"
            "  m = Mul(c, neg)  q = Equal(sh, m)  e = Where(q, c, sh)  g = Expand(w3, e)  b = Add(a, g)",
            "float[1,8,1,1] w3",
            "int64[1] four = {4}, int64 neg = {-1}",
        ),
        8,
        most=8,
    ),
    "a class token repeated by Tile": Sample(
        """g (float[N,5,6] x, float[6,8] w1, float[1,1,8] w3, float[8,4] w2) => (float[] y) <int64[1] z = {0},
            int64[2] k = {1,1}> {
            a = MatMul(x, w1)  s = Shape(x)  n = Gather(s, z)  r = Concat <axis = 0> (n, k)  t = Tile(w3, r)
            b = Concat <axis = 1> (t, a)  y = MatMul(b, w2) }""",
        8,
        most=8,
    ),
    "a reversed slice to the very beginning": Sample(
        conv(
            "b = Slice(a, s, e, k, t)",
            "",
            "int64[1] s = {-1}, int64[1] e = {-9223372036854775808}, int64[1] k = {1}, int64[1] t = {-1}",
        ),
        8,
        most=8,
    ),
    "a matrix of similarities": Sample(
        seq("t = Transpose <perm = [0,2,1]> (a)  s = MatMul(a, t)  b = MatMul(s, a)"), 8, most=8
    ),
    "a table of relative positions": Sample(
        """g (float[N,4,8] x, float[8,8] wq, float[8,8] wk, float[8,8] wv, float[9,2] wt,
            float[8,8] wo) => (float[] y) <int64[4] s = {0,4,2,4}, int64[3] t = {0,4,8},
            int64[16] i = {0,1,2,3,4,5,6,7,8,0,1,2,3,4,5,6}, int64[3] u = {4,4,2}> {
            q = MatMul(x, wq)  k = MatMul(x, wk)  v = MatMul(x, wv)
            qr = Reshape(q, s)  kr = Reshape(k, s)  vr = Reshape(v, s)
            qt = Transpose <perm = [0,2,1,3]> (qr)  kt = Transpose <perm = [0,2,3,1]> (kr)
            vt = Transpose <perm = [0,2,1,3]> (vr)
            z = MatMul(qt, kt)  b = Gather(wt, i)  bv = Reshape(b, u)  bt = Transpose <perm = [2,0,1]> (bv)  zb = Add(z, bt)
            p = Softmax(zb)  o = MatMul(p, vt)  ot = Transpose <perm = [0,2,1,3]> (o)
            r = Reshape(ot, t)  y = MatMul(r, wo) }""",
        6,
    ),
    "attention with a mask": Sample(
        """g (float[2,5,6] x, float[6,8] w1, float[6,8] w3, float[6,8] w4,
            float[8,4] w2) => (float[] y) <bool[5,5] m = {1,0,0,0,0,1,1,0,0,0,1,1,1,0,0,1,1,1,1,0,1,1,1,1,1},
            float inf = {-10000.0}> {
            q = MatMul(x, w1)  k = MatMul(x, w3)  v = MatMul(x, w4)  t = Transpose <perm = [0,2,1]> (k)  s = MatMul(q, t)
            z = Where(m, s, inf)  p = Softmax(z)  b = MatMul(p, v)  y = MatMul(b, w2) }""",
        16,
        most=16,
    ),
    "linear attention": Sample(
        """g (float[2,5,6] x, float[6,8] w1, float[6,8] w3, float[6,8] w4, float[8,4] w2) => (float[] y) {
            q = MatMul(x, w1)  k = MatMul(x, w3)  v = MatMul(x, w4)  ks = Softmax <axis = 1> (k)
            t = Transpose <perm = [0,2,1]> (ks)  c = MatMul(t, v)  b = MatMul(q, c)  y = MatMul(b, w2) }""",
        16,
        most=16,
    ),
    "a transposed convolution of stated size": Sample(
        conv("b = ConvTranspose <output_shape = [16,16], strides = [2,2]> (a, w3)", "float[8,6,3,3] w3", w2="4,6,1,1"),
        14,
        most=14,
    ),
    "root mean square by hand": Sample(
        seq("q = Mul(a, a)  v = ReduceMean <axes = [-1]> (q)  r = Sqrt(v)  n = Div(a, r)  b = Mul(n, w3)", "float[8] w3"),
        8,
    ),
    "layer normalisation by hand": Sample(
        seq(
            "m = ReduceMean <axes = [-1]> (a)  d = Sub(a, m)  q = Pow(d, two)  v = ReduceMean <axes = [-1]> (q)"
            "  e = Add(v, eps)  r = Sqrt(e)  n = Div(d, r)  g = Mul(n, w3)  b = Add(g, w4)",
            "float[8] w3, float[8] w4",
            "float two = {2}, float eps = {0.00001}",
        ),
        8,
    ),
    "layer normalisation of tokens after a class token": Sample(
        """g (float[N,5,6] x, float[6,8] w1, float[1,1,8] w3, float[1,6,8] w4, float[8] w5, float[8] w6, float[8,8] w7,
            float[8,4] w2) => (float[] y) <int64[1] z = {0}, int64[2] k = {1,8}> {
            a = MatMul(x, w1)  s = Shape(x)  n = Gather(s, z)  r = Concat <axis = 0> (n, k)  t = Expand(w3, r)
            b = Concat <axis = 1> (t, a)  c = Add(b, w4)  l = LayerNormalization(c, w5, w6)  m = MatMul(l, w7)
            e = Add(c, m)  f = LayerNormalization(e, w5, w6)  y = MatMul(f, w2) }""",
        8,
    ),
    "token mixing": Sample(
        """g (float[2,5,6] x, float[6,8] w1, float[8] w3, float[8] w4, float[5,7] w5, float[7] w8, float[7,5] w6, float[5] w9,
            float[8,4] w2) => (float[] y) {
            a = MatMul(x, w1)  l = LayerNormalization(a, w3, w4)  t = Transpose <perm = [0,2,1]> (l)  h = MatMul(t, w5)
            i = Add(h, w8)  j = Gelu(i)  k = MatMul(j, w6)  m = Add(k, w9)  u = Transpose <perm = [0,2,1]> (m)
            r = Add(a, u)  n = LayerNormalization(r, w3, w4)  y = MatMul(n, w2) }""",
        15,
        opset=20,
    ),
    "standardised weights": Sample(
        conv(
            "r = Reshape(w3, k)  m = ReduceMean <axes = [1]> (r)  d = Sub(r, m)  q = Mul(d, d)  v = ReduceMean <axes = [1]> (q)"
            "  e = Add(v, eps)  s = Sqrt(e)  n = Div(d, s)  o = Reshape(n, l)  b = Conv <pads = [1,1,1,1]> (a, o)",
            "float[6,8,3,3] w3",
            "int64[2] k = {6,-1}, int64[4] l = {6,8,3,3}, float eps = {0.00001}",
            w2="4,6,1,1",
        ),
        14,
    ),
    "weights standardised over inputs and kernel": Sample(
        conv(
            "m = ReduceMean <axes = [1,2,3]> (w3)  d = Sub(w3, m)  q = Mul(d, d)  v = ReduceMean <axes = [1,2,3]> (q)"
            "  e = Add(v, eps)  s = Sqrt(e)  n = Div(d, s)  b = Conv <pads = [1,1,1,1]> (a, n)",
            "float[6,8,3,3] w3",
            "float eps = {0.00001}",
            w2="4,6,1,1",
        ),
        14,
    ),
    "euclidean norm by hand": Sample(
        seq(
            "v = ReduceL2 <axes = [-1]> (a)  m = Clip(v, eps)  s = Shape(a)  e = Expand(m, s)  n = Div(a, e)  b = Mul(n, w3)",
            "float[8] w3",
            "float eps = {0.00001}",
        ),
        8,
        most=8,
    ),
    "groups over two producers": Sample(
        both("d = Concat <axis = 1> (a, c)  b = Conv <group = 2> (d, w4)", "float[8,8,1,1] w4"), 8
    ),
    "groups over padding": Sample(
        conv(
            "d = Pad(a, p, v)  b = Conv <group = 2> (d, w4)",
            "float[12,6,1,1] w4",
            "int64[8] p = {0,2,0,0,0,2,0,0}, float v = {1.5}",
            w2="4,12,1,1",
        ),
        8,
    ),
    "a constant image": Sample(
        conv(
            "d = ConstantOfShape <value = float[1] {0.5}> (s)  e = Conv(d, w3)  b = Add(a, e)",
            "float[8,8,1,1] w3",
            "int64[4] s = {1,8,1,1}",
        ),
        8,
    ),
    "a repeated weight with channels of its own": Sample(
        conv(
            "d = Expand(w3, s)  e = Conv(d, w4)  b = Add(a, e)",
            "float[1,1,1,1] w3, float[8,6,1,1] w4",
            "int64[4] s = {1,6,1,1}",
        ),
        8,
    ),
    "channels folded into a dynamic batch": Sample(
        conv(
            "d = Reshape(a, s)  e = Conv(d, w3)  b = Reshape(e, t)",
            "float[1,1,1,1] w3",
            "int64[4] s = {-1,1,8,8}, int64[4] t = {-1,8,8,8}",
        ).replace("float[2,3", "float[N,3"),
        0,
        "axis of dynamic size",
        most=0,
    ),
    "a bias of zeros by the size of the weight": Sample(
        conv(
            "s = Shape <start = 0, end = 1> (w3)  zeros = Expand(zero, s)  b = Conv(a, w3, zeros)",
            "float[8,8,1,1] w3",
            "float zero = {0.0}",
        ),
        16,
    ),
    "a body that uses a size": Sample(
        conv(
            "s = Shape(a)  d = If (t) <then_branch = q () => (int64[4] p) { p = Identity(s) },"
            " else_branch = e () => (int64[4] r) { r = Identity(s) }>  b = Reshape(a, d)",
            "bool t",
        ),
        0,
        most=0,
    ),
    "a body that uses a scale": Sample(
        conv(
            "d = Mul(a, w3)  e = If (t) <then_branch = q () => (float[8,1,1] p) { p = Identity(w3) },"
            " else_branch = e () => (float[8,1,1] r) { r = Neg(w3) }>  b = Mul(d, e)",
            "bool t, float[8,1,1] w3",
        ),
        0,
        "returns them from its body",
        most=0,
    ),
    "a body in a body that uses a scale": Sample(
        conv(
            "c0 = Mul(a, w3)  c = Conv(c0, w4)"
            "  e = If (t) <then_branch = q () => (float[8,1,1] p) { p = If (t) <then_branch = q2"
            " () => (float[8,1,1] p2) { p2 = Identity(w3) },"
            " else_branch = q3 () => (float[8,1,1] p3) { p3 = Neg(w3) }> },"
            " else_branch = e () => (float[8,1,1] r) { r = Neg(w3) }>  d = Conv(c, w5)  b = Mul(d, e)",
            "bool t, float[8,1,1] w3, float[6,8,1,1] w4, float[8,6,1,1] w5",
        ),
        6,
        "returns them from its body",
        most=6,
    ),
    "a weight that only a body uses": Sample(
        conv(
            "e = If (t) <then_branch = q () => (float[8] p) { p = Identity(w3) },"
            " else_branch = e () => (float[8] r) { r = Neg(w3) }>  f = Reshape(e, k)  c = Conv(a, w4)"
            "  d = Conv(c, w5)  b = Mul(d, f)",
            "bool t, float[8] w3, float[6,8,1,1] w4, float[8,6,1,1] w5",
            "int64[3] k = {8,1,1}",
        ),
        14,
        most=14,
    ),
    "a weight that is an output": Sample(
        conv("b = Relu(a)").replace("=> (float[] y)", "=> (float[] y, float[8] w1b)"),
        0,
        "output 'w1b' is a model output",
        most=0,
    ),
    "a residual that swaps channels": Sample(
        conv("c = Gather <axis = 1> (a, k)  b = Add(a, c)", "", "int64[8] k = {1,0,3,2,5,4,7,6}"), 4, most=4
    ),
    "a residual that rotates channels": Sample(
        conv("c = Gather <axis = 1> (a, k)  b = Add(a, c)", "", "int64[8] k = {1,2,3,4,5,6,7,0}"), 1, most=1
    ),
    "an unused part": Sample(
        conv("d, e, f = Split <axis = 1> (a, k)  b = Concat <axis = 1> (f, d)", "", "int64[3] k = {2,3,3}", w2="4,5,1,1"),
        8,
        most=8,
    ),
    "a weight minus its mean": Sample(
        conv("m = ReduceMean <axes = [1,2,3]> (w3)  c = Sub(w3, m)  b = Conv(a, c)", "float[6,8,1,1] w3", w2="4,6,1,1"), 6
    ),
    "spectral norm by hand": Sample(
        conv(
            "n = MatMul(w4, w3)  s = MatMul(n, w5)  r = Reshape(w3, k)  q = Div(r, s)  b = Conv(a, q)",
            "float[6,8] w3, float[6] w4, float[8] w5",
            "int64[4] k = {6,8,1,1}",
            w2="4,6,1,1",
        ),
        14,
    ),
    "low-rank update of a weight": Sample(
        seq("u = MatMul(w3, w4)  v = Add(w5, u)  b = MatMul(a, v)", "float[8,2] w3, float[2,6] w4, float[8,6] w5", w2="6,4"), 8
    ),
    "an inner product of two maps": Sample(
        both("d = Mul(a, c)  s = ReduceSum <keepdims = 0> (d, k)  u = Unsqueeze(s, k)  b = Add(a, u)", "", "int64[1] k = {1}"),
        8,
        most=8,
    ),
    "a sum over everything": Sample(conv("s = ReduceSum <keepdims = 0> (a)  b = Mul(a, s)"), 8, most=8),
}
