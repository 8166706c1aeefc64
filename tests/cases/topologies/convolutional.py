# SPDX-License-Identifier: Apache-2.0
"""The cut law on the shapes that networks really have, and on the ways in which files write them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import pytest

from tests.models import cut_some, free_atoms, model, pins

SEEDS = range(4)


@dataclass(frozen=True)
class Net:
    """A graph, the least and the largest number of atoms that may be free,
    and a reason that must be given for a pin."""

    text: str
    free: int
    most: int = -1
    pinned: str = ""
    opset: int = 17
    functions: str = ""


BN = "float[{n}] ws{k}, float[{n}] wt{k}, float[{n}] wm{k}, float[{n}] wvar{k}"


def bn(k: int, n: int) -> str:
    return BN.format(n=n, k=k)


NETS: dict[str, Net] = {
    "residual and batch norm": Net(
        f"""g (float[N,3,8,8] x, float[8,3,3,3] w1, {bn(1, 8)}, float[6,8,3,3] w2, {bn(2, 6)}, float[8,6,3,3] w3,
        {bn(3, 8)}, float[16,8,3,3] w4, {bn(4, 16)}, float[16,16,3,3] w5, {bn(5, 16)}, float[16,8,1,1] w6, {bn(6, 16)},
        float[10,16] w7, float[10] w7b) => (float[] y) {{
        c1 = Conv <pads = [1,1,1,1]> (x, w1)  n1 = BatchNormalization(c1, ws1, wt1, wm1, wvar1)  r1 = Relu(n1)
        c2 = Conv <pads = [1,1,1,1]> (r1, w2)  n2 = BatchNormalization(c2, ws2, wt2, wm2, wvar2)  r2 = Relu(n2)
        c3 = Conv <pads = [1,1,1,1]> (r2, w3)  n3 = BatchNormalization(c3, ws3, wt3, wm3, wvar3)
        a3 = Add(n3, r1)  r3 = Relu(a3)
        c4 = Conv <pads = [1,1,1,1], strides = [2,2]> (r3, w4)  n4 = BatchNormalization(c4, ws4, wt4, wm4,
        wvar4)  r4 = Relu(n4)
        c5 = Conv <pads = [1,1,1,1]> (r4, w5)  n5 = BatchNormalization(c5, ws5, wt5, wm5, wvar5)
        c6 = Conv <strides = [2,2]> (r3, w6)  n6 = BatchNormalization(c6, ws6, wt6, wm6, wvar6)
        a6 = Add(n5, n6)  r6 = Relu(a6)  p = GlobalAveragePool(r6)  f = Flatten(p)  y = Gemm <transB = 1> (f,
        w7, w7b) }}""",
        46,
        46,
    ),
    "initial states that the file stores as zeros and repeats": Net(
        """g (int64[2,5] x, float[9,6] w0, float[1,16,6] w1, float[1,16,4] w2, float[1,32] w3, float[3,4] w4) => (float[] y)
        <float[1,1,4] zero = {0,0,0,0}, int64[3] s = {1,2,4}, int64[1] nought = {0}, int64[1] one = {1}> {
        e = Gather(w0, x)  t = Transpose <perm = [1,0,2]> (e)  h = Expand(zero, s)
        a, last, cell = LSTM <hidden_size = 4> (t, w1, w2, w3, "", h, h)
        b = Squeeze(a, one)  f = ReduceSum <keepdims = 0> (b, nought)  y = Gemm <transB = 1> (f, w4) }""",
        10,
        10,
    ),
    "channels beside an axis whose size the data decide": Net(
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
    "a branch that no one knows, but both make the same shape": Net(
        """g (float[2,3,8,8] x, bool c, float[8,3,3,3] w1, float[4,8,1,1] w3) => (float[] y) {
        b = If (c) <then_branch = t () => (b1) { b1 = Neg(x) }, else_branch = e () => (b2) { b2 = Relu(x) }>
        a = Conv <pads = [1,1,1,1]> (b, w1)  r = Relu(a)  y = Conv(r, w3) }""",
        8,
        8,
    ),
    "attention by a convolution over channels": Net(
        """g (float[N,3,8,8] x, float[8,3,3,3] w1, float[1,1,3] w2, float[1] w2b, float[4,8,1,1] w3) => (float[] y)
        <int64[3] s = {0,1,-1}, int64[4] t = {0,-1,1,1}> {
        a = Conv <pads = [1,1,1,1]> (x, w1)  r = Relu(a)  p = GlobalAveragePool(r)  q = Reshape(p, s)
        c = Conv <pads = [1,1]> (q, w2, w2b)  h = Reshape(c, t)  g = Sigmoid(h)  m = Mul(r, g)  y = Conv(m, w3) }""",
        8,
        8,
    ),
    "a convolution over channels that do not become zero": Net(
        """g (float[N,3,8,8] x, float[8,3,3,3] w1, float[1,1,3] w2, float[4,8,1,1] w3) => (float[] y)
        <int64[3] s = {0,1,-1}, int64[4] t = {0,-1,1,1}> {
        a = Conv <pads = [1,1,1,1]> (x, w1)  r = Sigmoid(a)  p = GlobalAveragePool(r)  q = Reshape(p, s)
        c = Conv <pads = [1,1]> (q, w2)  h = Reshape(c, t)  m = Mul(r, h)  y = Conv(m, w3) }""",
        0,
        0,
        "neighbours",
    ),
    "a convolution over channels that skips some": Net(
        """g (float[N,3,8,8] x, float[8,3,3,3] w1, float[1,1,3] w2, float[4,5] w3) => (float[] y)
        <int64[3] s = {0,1,-1}, int64[2] t = {0,-1}> {
        a = Conv <pads = [1,1,1,1]> (x, w1)  r = Relu(a)  p = GlobalAveragePool(r)  q = Reshape(p, s)
        c = Conv <pads = [2,2], strides = [2]> (q, w2)  h = Reshape(c, t)  y = Gemm <transB = 1> (h, w3) }""",
        0,
        0,
        "works across this axis",
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
    "a trunk that must stay is normalised, and scales make some of it zero": Net(
        """g (float[2,5,8] x, float[8] w1, float[8,12] w2, float[12,8] w3) => (float[] y) {
        n = LayerNormalization(x, w1)  a = MatMul(n, w2)  r = Relu(a)  b = MatMul(r, w3)  y = Add(x, b) }""",
        20,
        20,
    ),
    "split and concat": Net(
        """g (float[N,3,8,8] x, float[16,3,1,1] w1, float[8,8,3,3] w2, float[8,8,3,3] w3,
        float[5,24,1,1] w4) => (float[] y)
        <int64[2] k = {8,8}> {
        a = Conv(x, w1)  b, c = Split <axis = 1> (a, k)  d = Conv <pads = [1,1,1,1]> (c, w2)  e = Relu(d)
        f = Conv <pads = [1,1,1,1]> (e, w3)  h = Add(f, c)  i = Concat <axis = 1> (b, c, h)  y = Conv(i,
        w4) }""",
        24,
        24,
    ),
    "depthwise, squeeze and excite": Net(
        """g (float[N,3,8,8] x, float[16,3,1,1] w1, float[16,1,3,3] w2,
        float[16] w2b, float[4,16,1,1] w3, float[4] w3b,
        float[16,4,1,1] w4, float[16] w4b, float[6,16,1,1] w5) => (float[] y) {
        a = Conv(x, w1)  b = HardSwish(a)  c = Conv <group = 16, pads = [1,1,1,1]> (b, w2, w2b)
        d = GlobalAveragePool(c)  e = Conv(d, w3, w3b)  f = Relu(e)  h = Conv(f, w4, w4b)  i = HardSigmoid(h)
        j = Mul(c, i)  y = Conv(j, w5) }""",
        20,
        20,
    ),
    "grouped convolution and channel shuffle": Net(
        """g (float[N,3,8,8] x, float[16,3,1,1] w1,
        float[16,1,3,3] w2, float[16,8,1,1] w3, float[5,16,1,1] w4) => (float[] y)
        <int64[5] s = {0,2,8,8,8}, int64[4] t = {0,-1,8,8}> {
        a = Conv(x, w1)  b = Relu(a)  c = Reshape(b, s)  d = Transpose <perm = [0,2,1,3,4]> (c)  e = Reshape(d, t)
        f = Conv <group = 16, pads = [1,1,1,1]> (e, w2)  h = Conv <group = 2> (f, w3)  y = Conv(h, w4) }""",
        16,
    ),
    "channel shuffle between split and concat": Net(
        """g (float[N,3,8,8] x, float[8,3,1,1] w1,
        float[8,3,1,1] w2, float[5,16,1,1] w4) => (float[] y)
        <int64[5] s = {-1,2,8,8,8}, int64[4] t = {-1,16,8,8}, int64[2] k = {8,8}> {
        a = Conv(x, w1)  b = Conv(x, w2)  c = Concat <axis = 1> (a, b)  d = Reshape(c, s)
        e = Transpose <perm = [0,2,1,3,4]> (d)
        f = Reshape(e, t)  h, i = Split <axis = 1> (f, k)  j = Relu(h)  k1 = Concat <axis = 1> (j, i)
        y = Conv(k1, w4) }""",
        16,
        16,
    ),
    "depth to space": Net(
        """g (float[N,3,8,8] x, float[16,3,3,3] w1, float[16] w1b, float[5,4,3,3] w2) => (float[] y) {
        a = Conv(x, w1, w1b)  b = DepthToSpace <blocksize = 2> (a)  c = Relu(b)  y = Conv(c, w2) }""",
        4,
        4,
    ),
    "pixel shuffle written out": Net(
        """g (float[N,3,8,8] x, float[16,3,1,1] w1, float[5,4,3,3] w2) => (float[] y)
        <int64[6] s = {-1,4,2,2,8,8}, int64[4] t = {-1,4,16,16}> {
        a = Conv(x, w1)  b = Reshape(a, s)  c = Transpose <perm = [0,1,4,2,5,3]> (b)  d = Reshape(c, t)
        y = Conv(d, w2) }""",
        4,
        4,
    ),
    "space to depth written out": Net(
        """g (float[N,3,8,8] x, float[6,3,1,1] w1, float[5,24,3,3] w2) => (float[] y)
        <int64[6] s = {-1,6,4,2,4,2}, int64[4] t = {-1,24,4,4}> {
        a = Conv(x, w1)  b = Reshape(a, s)  c = Transpose <perm = [0,3,5,1,2,4]> (b)  d = Reshape(c, t)
        y = Conv(d, w2) }""",
        6,
        6,
    ),
    "pixel shuffle and back": Net(
        """g (float[N,3,4,4] x, float[8,3,1,1] w1, float[5,8,1,1] w2) => (float[] y)
        <int64[6] s = {-1,2,2,2,4,4}, int64[4] t = {-1,2,8,8}> {
        a = Conv(x, w1)  b = Reshape(a, s)  c = Transpose <perm = [0,1,4,2,5,3]> (b)  d = Reshape(c, t)
        e = SpaceToDepth <blocksize = 2> (d)  y = Conv(e, w2) }""",
        2,
        2,
    ),
    "flatten and gemm": Net(
        """g (float[N,3,8,8] x, float[8,3,3,3] w1, float[288,12] w2, float[12] w2b,
        float[12,5] w3) => (float[] y) {
        a = Conv(x, w1)  b = Relu(a)  c = Flatten(b)  d = Gemm(c, w2, w2b)  e = Relu(d)  y = Gemm(e, w3) }""",
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
    "permuting gather": Net(
        """g (float[N,3,8,8] x, float[8,3,1,1] w1, float[8,8,1,1] w2,
        float[5,8,1,1] w3) => (float[] y)
        <int64[8] k = {3,1,0,2,7,6,5,4}> {
        a = Conv(x, w1)  b = Gather <axis = 1> (a, k)  c = Conv(b, w2)  d = Relu(c)  e = Gather <axis = 1> (d, k)
        f = Add(e, b)  y = Conv(f, w3) }""",
        8,
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
    "a tensor twice in a concat": Net(
        """g (float[N,3,8,8] x, float[8,3,1,1] w1, float[16,16,1,1] w2,
        float[5,8,1,1] w3) => (float[] y) <int64[2] k = {8,8}> {
        a = Conv(x, w1)  b = Concat <axis = 1> (a, a)  c = Conv(b, w2)  d = Add(c, b)  e, f = Split <axis = 1> (d, k)
        h = Mul(e, f)  y = Conv(h, w3) }""",
        8,
        8,
    ),
    "wide concat": Net(
        "g (float[N,3,4,4] x, "
        + ", ".join(f"float[4,3,1,1] w{k}" for k in range(12))
        + ", float[5,51,1,1] wz) => (float[] y) {\n"
        + "\n".join(f"a{k} = Conv(x, w{k})" for k in range(12))
        + "\nc = Concat <axis = 1> ("
        + ", ".join(f"a{k}" for k in range(6))
        + ", x, "
        + ", ".join(f"a{k}" for k in range(6, 12))
        + ")\n y = Conv(c, wz) }",
        48,
        48,
    ),
    "dense blocks": Net(
        """g (float[N,3,4,4] x, float[8,3,1,1] w1, float[4,8,1,1] w2, float[4,12,1,1] w3,
        float[5,16,1,1] w4) => (float[] y) {
        a = Conv(x, w1)  b = Relu(a)  c = Conv(b, w2)  d = Concat <axis = 1> (b, c)  e = Sigmoid(d)  f = Conv(e, w3)
        h = Concat <axis = 1> (d, f)  y = Conv(h, w4) }""",
        16,
        16,
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
    "option A shortcut": Net(
        """g (float[N,3,8,8] x, float[8,3,3,3] w1, float[16,8,3,3] w2,
        float[16,16,3,3] w3, float[5,16,1,1] w4) => (float[] y)
        <int64[8] p = {0,4,0,0,0,4,0,0}, int64[2] st = {0,0}, int64[2] en = {100,100}, int64[2] ax = {2,3},
        int64[2] sp = {2,2}> {
        a = Conv <pads = [1,1,1,1]> (x, w1)  b = Relu(a)  c = Conv <pads = [1,1,1,1], strides = [2,2]> (b, w2)
        d = Relu(c)
        e = Conv <pads = [1,1,1,1]> (d, w3)  f = Slice(b, st, en, ax, sp)  h = Pad(f, p)  i = Add(e, h)  j = Relu(i)
        y = Conv(j, w4) }""",
        32,
        40,
    ),
    "average of several scales": Net(
        """g (float[N,3,8,8] x, float[8,3,3,3] w1, float[8,8,1,1] w2,
        float[8,16,1,1] w3, float[5,8,1,1] w4) => (float[] y)
        <float[4] u = {1.0,1.0,2.0,2.0}> {
        a = Conv <pads = [1,1,1,1]> (x, w1)  b = MaxPool <kernel_shape = [2,2], strides = [2,2]> (a)  c = Conv(b, w2)
        d = Resize(c, , u)  e = Concat <axis = 1> (d, a)  f = Conv(e, w3)  h = Add(f, a)  y = Conv(h, w4) }""",
        16,
        24,
    ),
    "group norm written out": Net(
        """g (float[N,3,8,8] x, float[8,3,3,3] w1, float[4] ws, float[4] wt,
        float[8,1,1] w3, float[8,1,1] w4, float[5,8,1,1] w5)
        => (float[] y) <int64[3] s = {0,4,-1}> {
        a = Conv <pads = [1,1,1,1]> (x, w1)  b = Reshape(a, s)  c = InstanceNormalization(b, ws, wt)
        sh = Shape(a)  d = Reshape(c, sh)
        e = Mul(d, w3)  f = Add(e, w4)  y = Conv(f, w5) }""",
        4,
        4,
    ),
    "channels last": Net(
        """g (float[N,8,8,3] x, float[8,3,3,3] w1, float[8] wb, float[8] wg, float[8,6] w2,
        float[4,6,1,1] w3) => (float[] y) {
        t = Transpose <perm = [0,3,1,2]> (x)  a = Conv(t, w1)  b = Transpose <perm = [0,2,3,1]> (a)  c = Mul(b,
        wg)  d = Add(c, wb)
        e = MatMul(d, w2)  f = Relu(e)  h = Transpose <perm = [0,3,1,2]> (f)  i = Conv(h, w3)
        y = Transpose <perm = [0,2,3,1]> (i)
        }""",
        14,
        14,
    ),
    "mean and variance by hand": Net(
        """g (float[N,3,8,8] x, float[8,3,3,3] w1, float[8,1,1] w2,
        float[5,8,1,1] w3) => (float[] y) <float e = {0.001}> {
        a = Conv(x, w1)  m = ReduceMean <axes = [2,3]> (a)  c = Sub(a, m)  s = Mul(c, c)
        v = ReduceMean <axes = [2,3]> (s)
        ve = Add(v, e)  r = Sqrt(ve)  n = Div(c, r)  h = Mul(n, w2)  y = Conv(h, w3) }""",
        8,
        8,
    ),
    "one weight in two convolutions": Net(
        """g (float[N,3,8,8] x, float[3,3,1,1] w0, float[8,3,3,3] w1,
        float[5,8,1,1] w2, float[5,8,1,1] w3) => (float[] y) {
        z = Conv(x, w0)  a = Conv(x, w1)  b = Conv(z, w1)  c = Relu(a)  d = Conv(c, w2)  e = Conv(b, w3)
        y = Add(d, e) }""",
        8,
        8,
    ),
    "one weight as maker and reader": Net(
        """g (float[N,8,4,4] x, float[8,8,1,1] w1, float[8,8,1,1] w2,
        float[5,8,1,1] w3) => (float[] y) {
        a = Conv(x, w2)  b = Conv(a, w1)  c = Relu(b)  d = Conv(c, w1)  y = Conv(d, w3) }""",
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
        "uses them inside its body",
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
        "uses them inside its body",
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
        "works on them inside a body",
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
    "a fused decoder with turned heads": Net(
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


@pytest.mark.parametrize("net", NETS.values(), ids=list(NETS))
def test_cut_law(net: Net) -> None:
    made = model(net.text, net.opset, functions=net.functions)
    for seed in SEEDS:
        found = cut_some(made, seed, (0.3, 0.5, 0.7, 0.9)[seed])
        reasons = pins(found.coupled)
        assert found.atoms >= net.free, f"{found.atoms} atoms are free; pins:\n{reasons}"
        assert found.atoms <= net.most or net.most < 0, f"{found.atoms} atoms are free"
        assert net.pinned in reasons, reasons
        assert found.dropped > 0 or not net.free


def test_unknown_operator_keeps_its_channels() -> None:
    made = model("""g (float[2,3,8,8] x, float[8,3,3,3] w1, float[8,8,1,1] w2, float[6,8,1,1] w3,
        float[5,6,1,1] w4) => (float[2,5,6,6] y) {
        a = Conv(x, w1)  b = custom.Mystery(a)  c = Conv(b, w2)  d = Relu(c)  e = Conv(d, w3)  y = Conv(e, w4) }""")
    from onnxprune.analysis.couple import couple
    from onnxprune.ir.facts import read_graph

    coupled = couple(read_graph(made))
    assert "custom.Mystery 'b' is an operator without a rule" in pins(coupled)
    first = next(o for o in coupled.owners if (o.weight, o.axis) == ("w1", 0))
    assert not coupled.free[first.start : first.start + first.size].any()


def test_shapes_said_by_the_file_free_what_follows_an_unknown_operator() -> None:
    text = """g (float[2,3,8,8] x, float[8,3,3,3] w1, float[8,8,1,1] w2, float[6,8,1,1] w3,
        float[5,6,1,1] w4) => (float[2,5,6,6] y) {
        a = Conv(x, w1)  b = custom.Mystery(a)  c = Conv(b, w2)  d = Relu(c)  e = Conv(d, w3)  y = Conv(e, w4) }"""
    made = model(text)
    made.graph.value_info.append(onnx.helper.make_tensor_value_info("b", onnx.TensorProto.FLOAT, [2, 8, 6, 6]))
    assert free_atoms(made) == 14


def test_initializers_that_are_also_inputs() -> None:
    made = model("""g (float[2,3,8,8] x, float[8,3,3,3] w1, float[8] w1b, float[4,8,1,1] w2) => (float[] y) {
        a = Conv(x, w1, w1b)  b = Relu(a)  y = Conv(b, w2) }""")
    for t in made.graph.initializer:
        made.graph.input.append(onnx.helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)))
    found = cut_some(made, 1)
    assert (found.atoms, found.dropped > 0) == (8, True)
    sizes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in found.pruned.graph.input}
    width = 8 - found.dropped
    assert sizes == {"x": [2, 3, 8, 8], "w1": [width, 3, 3, 3], "w1b": [width], "w2": [4, width, 1, 1]}


def test_value_infos_follow() -> None:
    made = onnx.shape_inference.infer_shapes(
        model("""g (float[N,3,8,8] x, float[8,3,3,3] w1,
        float[4,8,1,1] w2) => (float[] y) {
        a = Conv(x, w1)  b = Relu(a)  y = Conv(b, w2) }""")
    )
    assert {v.name for v in made.graph.value_info} == {"a", "b"}
    found = cut_some(made, 0)
    for v in found.pruned.graph.value_info:
        assert v.type.tensor_type.shape.dim[1].dim_value == 8 - found.dropped
        assert v.type.tensor_type.shape.dim[0].dim_param == "N"


def test_only_named_weights_are_cut() -> None:
    made = model("""g (float[2,3,8,8] x, float[8,3,3,3] w1, float[6,8,1,1] w2, float[5,6,1,1] w3) => (float[] y) {
        a = Conv(x, w1)  b = Conv(a, w2)  y = Conv(b, w3) }""")
    found = cut_some(made, 0, names=["w3"])
    shapes = {t.name: tuple(t.dims) for t in found.pruned.graph.initializer}
    assert found.atoms == 6
    assert shapes["w1"] == (8, 3, 3, 3)
    assert shapes["w2"] == (6 - found.dropped, 8, 1, 1)


def test_storage_of_weights_does_not_matter() -> None:
    """Values in typed fields are cut like raw bytes."""
    for kind in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16):
        name = {1: "float", 11: "double", 10: "float16"}[kind]
        made = model(f"""g ({name}[2,3,8,8] x, {name}[8,3,3,3] w1, {name}[4,8,1,1] w2) => ({name}[] y) {{
            a = Conv(x, w1)  b = Relu(a)  y = Conv(b, w2) }}""")
        for t in made.graph.initializer:
            array = onnx.numpy_helper.to_array(t)
            t.CopyFrom(onnx.helper.make_tensor(t.name, kind, list(t.dims), array.astype(np.float64).ravel().tolist()))
        assert cut_some(made, 2).dropped > 0


def test_names_that_a_refit_would_take_are_left_alone() -> None:
    made = model("""g (float[2,3,8,8] x, float[8,3,3,3] w1, float[4,8,1,1] w2) => (float[] y)
        <int64[3] s = {2,8,36}, int64[3] s_pruned = {2,8,36}, int64[4] t = {2,8,6,6}> {
        a = Conv(x, w1)  b = Reshape(a, s)  c = Reshape(a, s_pruned)  d = Add(b, c)  e = Reshape(d, t)
        y = Conv(e, w2) }""")
    assert cut_some(made, 0).dropped > 0


@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_extremes(fraction: float) -> None:
    made = model(NETS["residual and batch norm"].text)
    assert cut_some(made, 0, fraction).atoms == 46
