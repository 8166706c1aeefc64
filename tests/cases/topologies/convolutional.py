# SPDX-License-Identifier: Apache-2.0
"""Networks of convolutions."""

from __future__ import annotations

from tests.cases.topologies.net import Net, bn

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
    "permuting gather": Net(
        """g (float[N,3,8,8] x, float[8,3,1,1] w1, float[8,8,1,1] w2,
        float[5,8,1,1] w3) => (float[] y)
        <int64[8] k = {3,1,0,2,7,6,5,4}> {
        a = Conv(x, w1)  b = Gather <axis = 1> (a, k)  c = Conv(b, w2)  d = Relu(c)  e = Gather <axis = 1> (d, k)
        f = Add(e, b)  y = Conv(f, w3) }""",
        8,
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
}
