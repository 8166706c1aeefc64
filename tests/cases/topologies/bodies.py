# SPDX-License-Identifier: Apache-2.0
"""Networks in bodies of If, Loop and Scan. Written with all weights in the main graph; `within` moves them into the bodies."""

from __future__ import annotations

from tests.cases.topologies.net import Net

NETS: dict[str, Net] = {
    "a network in each branch, with equal names": Net(
        """g (float[2,3,8,8] x, bool k, float[8,3,3,3] w1, float[8] w1b, float[4,8,1,1] w2,
        float[8,3,3,3] w3, float[4,8,1,1] w4) => (float[] y) {
        [gate] y = If (k) <then_branch = t () => (float[2,4,6,6] c) { a = Conv(x, w1, w1b)  b = Relu(a)  c = Conv(b, w2) },
        else_branch = e () => (float[2,4,6,6] c) { a = Conv(x, w3)  b = Neg(a)  c = Conv(b, w4) }> }""",
        16,
        16,
        "returns them from its body, whose outputs are kept",
    ),
    "a branch that passes its input on": Net(
        """g (float[2,4,6,6] x, bool k, float[8,4,1,1] w1, float[4,8,1,1] w2) => (float[] y) {
        y = If (k) <then_branch = t () => (float[2,4,6,6] c) { a = Conv(x, w1)  b = Relu(a)  c = Conv(b, w2) },
        else_branch = e () => (float[2,4,6,6] d) { d = Identity(x) }> }""",
        8,
        8,
    ),
    "branches that read a layer before them": Net(
        """g (float[2,3,8,8] x, bool k, float[8,3,3,3] w1, float[4,8,1,1] w2, float[6,8,1,1] w3, float[4,6,1,1] w4)
        => (float[] y) {
        h = Conv(x, w1)  r = Relu(h)
        y = If (k) <then_branch = t () => (float[2,4,6,6] c) { c = Conv(r, w2) },
        else_branch = e () => (float[2,4,6,6] f) { d = Conv(r, w3)  e = Relu(d)  f = Conv(e, w4) }> }""",
        14,
        14,
    ),
    "an If in a branch": Net(
        """g (float[2,3,8,8] x, bool k, bool q, float[8,3,3,3] w1, float[4,8,1,1] w2, float[6,8,1,1] w3, float[4,6,1,1] w4,
        float[8,3,3,3] w5, float[4,8,1,1] w6) => (float[] y) {
        y = If (k) <then_branch = t () => (float[2,4,6,6] z) { h = Conv(x, w1)
        z = If (q) <then_branch = t2 () => (float[2,4,6,6] c) { a = Relu(h)  c = Conv(a, w2) },
        else_branch = e2 () => (float[2,4,6,6] f) { d = Conv(h, w3)  e = Relu(d)  f = Conv(e, w4) }> },
        else_branch = e () => (float[2,4,6,6] m) { i = Conv(x, w5)  l = Relu(i)  m = Conv(l, w6) }> }""",
        22,
        22,
    ),
    "a loop that carries a state": Net(
        """g (float[2,4,6,6] x, float[8,4,1,1] w1, float[4,8,1,1] w2) => (float[] y) <int64 n = {3}, bool c = {1}> {
        y = Loop (n, c, x) <body = b (int64 i, bool t, float[2,4,6,6] s) => (bool u, float[2,4,6,6] r) {
        u = Identity(t)  p = Conv(s, w1)  q = Relu(p)  r = Conv(q, w2) }> }""",
        8,
        8,
    ),
    "a loop whose state grows": Net(
        """g (float[2,4,6,6] z, float[2,3,8,8] x, float[8,3,3,3] w1, float[4,8,1,1] w2) => (float[] y)
        <int64 n = {2}, bool c = {1}> {
        y = Loop (n, c, z) <body = b (int64 i, bool t, float[B,4,6,6] s) => (bool u, float[C,4,6,6] r) {
        u = Identity(t)  p = Conv(x, w1)  q = Relu(p)  f = Conv(q, w2)  r = Concat <axis = 0> (s, f) }> }""",
        8,
        8,
    ),
    "a loop that stacks results": Net(
        """g (float[2,4,6,6] x, float[8,4,1,1] w1, float[4,8,1,1] w2) => (float[] y, float[] m) <int64 n = {3}> {
        y, m = Loop (n, , x) <body = b (int64 i, bool t, float[2,4,6,6] s) => (bool u, float[2,4,6,6] r, float[2,4] o) {
        u = Identity(t)  p = Conv(s, w1)  q = Relu(p)  r = Conv(q, w2)  o = ReduceMean <axes = [2,3], keepdims = 0> (r) }> }""",
        8,
        8,
    ),
    "a loop of open length": Net(
        """g (float[2,4,6,6] x, int64 n, float[8,4,1,1] w1, float[4,8,1,1] w2) => (float[] y) {
        y = Loop (n, , x) <body = b (int64 i, bool t, float[2,4,6,6] s) => (bool u, float[2,4,6,6] r) {
        u = Identity(t)  p = Conv(s, w1)  q = Relu(p)  r = Conv(q, w2) }> }""",
        8,
        8,
    ),
    "an If in a loop": Net(
        """g (float[2,4,6,6] x, float[8,4,1,1] w1, float[4,8,1,1] w2, float[6,4,1,1] w3, float[4,6,1,1] w4) => (float[] y)
        <int64 n = {3}, int64 two = {2}> {
        y = Loop (n, , x) <body = b (int64 i, bool t, float[2,4,6,6] s) => (bool u, float[2,4,6,6] r) {
        u = Identity(t)  j = Mod(i, two)  k = Cast <to = 9> (j)
        r = If (k) <then_branch = t () => (float[2,4,6,6] c) { a = Conv(s, w1)  b = Relu(a)  c = Conv(b, w2) },
        else_branch = e () => (float[2,4,6,6] f) { d = Conv(s, w3)  e = Relu(d)  f = Conv(e, w4) }> }> }""",
        14,
        14,
    ),
    "a loop that fills a sequence": Net(
        """g (float[2,3,8,8] x, float[8,3,3,3] w1, float[4,8,1,1] w2) => (float[] y) <int64 n = {2}> {
        s0 = SequenceEmpty <dtype = 1> ()
        s1 = Loop (n, , s0) <body = b (int64 i, bool t, seq(float[B,4,6,6]) s) => (bool u, seq(float[C,4,6,6]) r) {
        u = Identity(t)  p = Conv(x, w1)  q = Relu(p)  f = Conv(q, w2)  r = SequenceInsert(s, f) }>
        y = ConcatFromSequence <axis = 0> (s1) }""",
        8,
        8,
    ),
    "a cell that scans over time": Net(
        """g (float[2,8] h, float[5,2,12] x, float[12,16] w1, float[16] w1b, float[16,8] w2) => (float[] y, float[] z) {
        y, z = Scan (h, x) <num_scan_inputs = 1, body = b (float[2,8] s, float[2,12] v) => (float[2,8] r, float[2,8] o) {
        p = Gemm(v, w1, w1b)  q = Tanh(p)  d = MatMul(q, w2)  r = Add(s, d)  o = Neg(r) }> }""",
        16,
        16,
    ),
    "a normalisation in a branch": Net(
        """g (float[2,3,8,8] x, bool k, float[8,3,3,3] w1, float[8] w1b, float[4,8,1,1] w2) => (float[] y)
        <float eps = {0.001}, int64[4] at = {0,0,0,0}, int64[4] to = {2,2,6,6}> {
        y = If (k) <then_branch = t () => (float[2,4,6,6] c) { a = Conv(x, w1, w1b)
        m = ReduceMean <axes = [1]> (a)  d = Sub(a, m)  s = Mul(d, d)  v = ReduceMean <axes = [1]> (s)  e = Add(v, eps)
        r = Sqrt(e)  n = Div(d, r)  c = Conv(n, w2) },
        else_branch = e () => (float[2,4,6,6] f) { g = Slice(x, at, to)  f = Concat <axis = 1> (g, g) }> }""",
        8,
        8,
    ),
    "a shuffle over the border of a branch": Net(
        """g (float[2,3,8,8] x, bool k, float[8,3,3,3] w1, float[4,8,1,1] w2, float[4,8,1,1] w3) => (float[] y)
        <int64[5] s1 = {2,2,4,6,6}, int64[4] s2 = {2,8,6,6}> {
        a = Conv(x, w1)  b = Reshape(a, s1)
        y = If (k) <then_branch = t () => (float[2,4,6,6] e) { c = Transpose <perm = [0,2,1,3,4]> (b)  d = Reshape(c, s2)
        e = Conv(d, w2) },
        else_branch = f () => (float[2,4,6,6] h) { g = Reshape(b, s2)  h = Conv(g, w3) }> }""",
        1,
    ),
}
