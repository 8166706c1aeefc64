# SPDX-License-Identifier: Apache-2.0
"""Forms in which exporters write networks: bodies, functions, dynamic sizes, other number types."""

from __future__ import annotations

from tests.cases.topologies.net import Net

NETS: dict[str, Net] = {
    "channels next to an axis of data-dependent size": Net(
        """g (float[5,6] x, int64[5] m, float[6,8] w1, float[8,4] w2) => (float[] y) <int64[1] nought = {0}> {
        h = MatMul(x, w1)  n = NonZero(m)  s = Squeeze(n, nought)  k = Gather(h, s)  t = Transpose(k)  r = Relu(t)
        u = Transpose(r)  z = MatMul(u, w2)  y = ReduceSum(z, nought) }""",
        8,
        8,
    ),
    "a branch that is always taken": Net(
        """g (float[2,3,8,8] x, float[8,3,3,3] w1, float[4,8,1,1] w3) => (float[] y)
        <int64 k = {3}, int64 one = {1}, int64[2] five = {5,5}> {
        s = Shape(x)  n = Gather(s, one)  c = Equal(n, k)
        b = If (c) <then_branch = t () => (b1) { b1 = Identity(x) }, else_branch = e () => (b2) { b2 = Reshape(x, five) }>
        a = Conv <pads = [1,1,1,1]> (b, w1)  r = Relu(a)  y = Conv(r, w3) }""",
        8,
        8,
    ),
    "a branch on an input, with the same shape from both sides": Net(
        """g (float[2,3,8,8] x, bool c, float[8,3,3,3] w1, float[4,8,1,1] w3) => (float[] y) {
        b = If (c) <then_branch = t () => (b1) { b1 = Neg(x) }, else_branch = e () => (b2) { b2 = Relu(x) }>
        a = Conv <pads = [1,1,1,1]> (b, w1)  r = Relu(a)  y = Conv(r, w3) }""",
        8,
        8,
    ),
    "one shape constant for three reshapes": Net(
        """g (float[N,5,6] x, float[6,12] w1, float[6,12] w2,
        float[6,12] w3, float[12,4] w4, float[12,4] w5,
        float[12,4] w6) => (float[] y) <int64[4] s = {0,5,3,4}, int64[3] t = {0,5,12}> {
        a = MatMul(x, w1)  b = MatMul(x, w2)  c = MatMul(x, w3)  a1 = Reshape(a, s)  b1 = Reshape(b, s)
        c1 = Reshape(c, s)
        a2 = Sigmoid(a1)  b2 = Relu(b1)  c2 = Exp(c1)  a3 = Reshape(a2, t)  b3 = Reshape(b2, t)  c3 = Reshape(c2, t)
        a4 = MatMul(a3, w4)  b4 = MatMul(b3, w5)  c4 = MatMul(c3, w6)  y = Sum(a4, b4, c4) }""",
        9,
    ),
    "If keeps what its branches use": Net(
        """g (float[2,3,8,8] x, bool b, float[8,3,3,3] w1, float[8,8,1,1] w2,
        float[8,3,3,3] w3, float[5,8,1,1] w4) => (float[] y) {
        a = Conv(x, w1)  c = Conv(x, w3)
        d = If (b) <then_branch = t () => (float[2,8,6,6] p) { p = Conv(a, w2) },
        else_branch = e () => (float[2,8,6,6] q) { q = Relu(a) }>
        f = Add(d, c)  z = Conv(x, w3)  h = Exp(z)  y = Conv(f, w4) }""",
        0,
        0,
        "returns them from its body",
    ),
    "If beside free channels": Net(
        """g (float[2,3,8,8] x, bool b, float[8,3,3,3] w1, float[6,8,1,1] w2,
        float[3,6,1,1] w3, float[5,3,1,1] w4) => (float[] y) {
        a = Conv(x, w1)  c = Conv(a, w2)  e = Relu(c)  f = Conv(e, w3)
        d = If (b) <then_branch = t () => (float[2,3,6,6] p) { p = Relu(f) },
        else_branch = e () => (float[2,3,6,6] q) { q = Neg(f) }>
        y = Conv(d, w4) }""",
        14,
        14,
        "returns them from its body",
    ),
    "Loop keeps what it carries": Net(
        """g (float[2,3,8,8] x, float[8,3,3,3] w1, float[8,8,1,1] w2,
        float[6,8,1,1] w3, float[5,6,1,1] w4) => (float[] y)
        <int64 n = {2}, bool c = {1}, int64[4] s = {2,8,6,6}> {
        a = Conv(x, w1)
        d = Loop (n, c, a) <body = b (int64 i, bool t, float[2,8,6,6] s) => (bool u,
        float[2,8,6,6] r) { u = Identity(t)  r = Conv(s, w2) }>
        h = Reshape(d, s)
        e = Conv(h, w3)  f = Relu(e)  y = Conv(f, w4) }""",
        6,
        6,
        "uses them inside its body, whose inputs and outputs are kept",
    ),
    "a local function": Net(
        """g (float[2,3,8,8] x, float[8,3,3,3] w1, float[8,8,1,1] w2, float[6,8,1,1] w3,
        float[5,6,1,1] w4) => (float[] y) {
        a = Conv(x, w1)  b = local.block(a, w2)  c = Conv(b, w3)  d = Relu(c)  y = Conv(d, w4) }""",
        6,
        6,
        "without a rule",
        functions="""<domain: "local", opset_import: ["" : 17]> block (i, w) => (o) { c = Conv(i, w)
        r = Relu(c)  o = Add(r, i) }""",
    ),
    "unnamed dynamic batch": Net(
        """g (float[?,3,8,8] x, float[8,3,3,3] w1,
        float[288,5] w2) => (float[] y) <int64[2] s = {-1,288}> {
        a = Conv(x, w1)  b = Relu(a)  c = Reshape(b, s)  y = MatMul(c, w2) }""",
        8,
        8,
    ),
    "dynamic batch and space": Net(
        """g (float[N,3,H,W] x, float[8,3,3,3] w1, float[6,8,1,1] w2,
        float[6,5] w3) => (float[] y)
        <int64[1] z = {0}, int64[1] m = {-1}> {
        a = Conv(x, w1)  b = Relu(a)  c = Conv(b, w2)  d = GlobalAveragePool(c)  s = Shape(d)  n = Gather(s, z)
        t = Concat <axis = 0> (n, m)  e = Reshape(d, t)  y = MatMul(e, w3) }""",
        14,
        14,
    ),
    "tokens of a dynamic image": Net(
        """g (float[N,3,H,W] x, float[8,3,2,2] w1, float[8,12] w2, float[12,8] w3,
        float[8,4] w4) => (float[] y)
        <int64 z = {0}, int64 o = {1}, int64[1] ax = {0}, int64[1] m = {-1}> {
        a = Conv <strides = [2,2]> (x, w1)  s = Shape(a)  n = Gather(s, z)  c = Gather(s, o)  nu = Unsqueeze(n, ax)
        cu = Unsqueeze(c, ax)  t = Concat <axis = 0> (nu, cu, m)  b = Reshape(a, t)  d = Transpose <perm = [0,2,1]> (b)
        e = MatMul(d, w2)  f = Relu(e)  h = MatMul(f, w3)  i = Add(h, d)  y = MatMul(i, w4) }""",
        20,
        20,
    ),
    "double": Net(
        """g (double[N,3,8,8] x, double[8,3,3,3] w1, double[8] w1b, double[4,8,1,1] w2) => (double[] y) {
        a = Conv(x, w1, w1b)  b = Relu(a)  y = Conv(b, w2) }""",
        8,
        8,
    ),
    "float16": Net(
        """g (float16[N,3,8,8] x, float16[8,3,3,3] w1, float16[8] w1b,
        float16[4,8,1,1] w2) => (float16[] y) {
        a = Conv(x, w1, w1b)  b = Relu(a)  y = Conv(b, w2) }""",
        8,
        8,
    ),
    "float16 weights behind casts": Net(
        """g (float[N,3,8,8] x, float16[8,3,3,3] w1,
        float16[4,8,1,1] w2) => (float[] y) {
        c = Cast <to = 1> (w1)  d = Cast <to = 1> (w2)  a = Conv(x, c)  b = Relu(a)  y = Conv(b, d) }""",
        8,
        8,
    ),
    "bfloat16": Net(
        """g (bfloat16[N,6] x, bfloat16[6,8] w1, bfloat16[8] w1b, bfloat16[8,4] w2) => (bfloat16[] y) {
        a = MatMul(x, w1)  b = Add(a, w1b)  c = Relu(b)  y = MatMul(c, w2) }""",
        8,
        8,
    ),
    "bfloat16 weights behind casts": Net(
        """g (float[N,3,8,8] x, bfloat16[8,3,3,3] w1,
        bfloat16[4,8,1,1] w2) => (float[] y) {
        c = Cast <to = 1> (w1)  d = Cast <to = 1> (w2)  a = Conv(x, c)  b = Relu(a)  y = Conv(b, d) }""",
        8,
        8,
    ),
}
