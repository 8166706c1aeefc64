# SPDX-License-Identifier: Apache-2.0
"""Products of matrices."""

from __future__ import annotations

from tests.cases.operators.sample import Sample, seq

SAMPLES: dict[str, list[Sample]] = {
    "Gemm": [
        # with a number added to every channel, none of them is zero
        Sample(
            """g (float[5,6] x, float[6,8] w1, float[8,4] w2) => (float[] y) <float one = {0.7}, int64[1] k = {1}> {
            a = Gemm(x, w1, one)  s = ReduceSum(a, k)  b = Mul(a, s)  y = Gemm(b, w2) }""",
            0,
            "would change the result",
        ),
        Sample("""g (float[5,6] x, float[6,8] w1, float[8] w1b, float[8,4] w2) => (float[] y) {
            a = Gemm(x, w1, w1b)  b = Relu(a)  y = Gemm(b, w2) }"""),
        Sample("""g (float[5,6] x, float[8,6] w1, float[1,8] w1b, float[4,8] w2, float[4] w2b) => (float[] y) {
            a = Gemm <transB = 1, alpha = 0.5, beta = 2.0> (x, w1, w1b)  b = Tanh(a)  y = Gemm <transB = 1> (b, w2, w2b) }"""),
        Sample("""g (float[6,5] x, float[6,8] w1, float[5,8] w1b, float[8,4] w2) => (float[] y) {
            a = Gemm <transA = 1> (x, w1, w1b)  y = Gemm(a, w2) }"""),
        Sample("""g (float[5,6] x, float[6,8] w1, float[5,1] w1b, float[8,4] w2) => (float[] y) {
            a = Gemm(x, w1, w1b)  y = Gemm(a, w2) }"""),
        Sample("""g (float[5,6] x, float[6,8] w1, float[1] w1b, float[8,4] w2) => (float[] y) {
            a = Gemm(x, w1, w1b)  y = Gemm(a, w2) }"""),
        Sample("""g (float[5,6] x, float[6,8] w1, float w1b, float[8,4] w2) => (float[] y) {
            a = Gemm(x, w1, w1b)  y = Gemm(a, w2) }"""),
        # weights on the left: rows of the first operand are channels
        Sample("""g (float[6,5] x, float[8,6] w1, float[8,1] w1b, float[4,8] w2) => (float[] y) {
            a = Gemm(w1, x, w1b)  b = Relu(a)  y = Gemm(w2, b) }"""),
        Sample("""g (float[6,5] x, float[6,8] w1, float[4,8] w2) => (float[] y) {
            a = Gemm <transA = 1, transB = 0> (w1, x)  b = Relu(a)  c = Transpose(b)  y = Gemm <transB = 1> (c, w2) }"""),
        Sample("""g (float[5,6] x, float[6,8] w1, float[6,8] w3, float[8,4] w2) => (float[] y) {
            a = Gemm(x, w1)  c = MatMul(x, w3)  d = Transpose(c)  e = Gemm(a, d)  f = Gemm(e, a)
            h = Transpose(f)  y = Gemm <transA = 1> (h, w2) }"""),
    ],
    "MatMul": [
        Sample(seq("b = Relu(a)")),
        Sample(seq("b = Relu(a)", tail="c = Transpose <perm = [0,2,1]> (b)  y = MatMul(w2, c)", w2="4,8")),
        Sample(seq("b = Relu(a)", tail="y = MatMul(b, w2)", w2="8")),
        Sample(seq("b = Relu(a)", tail="y = MatMul(b, w2)", w2="2,8,4")),
        Sample(seq("b = Relu(a)", tail="y = MatMul(b, w2)", w2="3,1,8,4")),
        Sample("""g (float[6] x, float[6,8] w1, float[8,4] w2) => (float[] y) { a = MatMul(x, w1)  y = MatMul(a, w2) }"""),
        Sample("""g (float[6,5] x, float[8,6] w1, float[4,8] w2) => (float[] y) { a = MatMul(w1, x)  y = MatMul(w2, a) }"""),
        Sample(
            """g (float[2,5,6] x, float[2,6,8] w1, float[8,4] w2) => (float[] y) { a = MatMul(x, w1)  y = MatMul(a, w2) }"""
        ),
        Sample(
            """g (float[2,5,6] x, float[3,1,6,8] w1, float[3,1,8,4] w2) => (float[] y) {
            a = MatMul(x, w1)  b = Relu(a)  c = MatMul(b, w2)  y = ReduceMean(c) }""",
            8,
        ),
        # a batch of weights, one per head, whose products are summed
        Sample(
            """g (float[1,5,6] x, float[4,6,8] w1, float[4,8,3] w2, float[1] z) => (float[] y) {
            a = MatMul(x, w1)  b = Relu(a)  c = MatMul(b, w2)  y = ReduceSum <keepdims = 0> (c, s) }""".replace(
                "=> (float[] y)", "=> (float[] y) <int64[1] s = {0}>"
            ),
            12,
        ),
        # queries and keys: contraction of data with data
        Sample(
            """g (float[2,5,6] x, float[6,8] w1, float[6,8] w3, float[6,4] w4) => (float[] y) {
            q = MatMul(x, w1)  k = MatMul(x, w3)  t = Transpose <perm = [0,2,1]> (k)  s = MatMul(q, t)
            p = Softmax(s)  v = MatMul(x, w4)  y = MatMul(p, v) }""",
            8,
        ),
        Sample(
            """g (float[2,5,6] x, float[6,8] w1, float[6,8] w3) => (float[] y) {
            q = MatMul(x, w1)  k = MatMul(x, w3)  e = Exp(q)  f = Sigmoid(k)
            t = Transpose <perm = [0,2,1]> (f)  y = MatMul(e, t) }""",
            0,
            "sums over channels that do not become zero",
            most=0,
        ),
        Sample(
            """g (float[2,5,6] x, float[6,8] w1, float[6,8] w3) => (float[] y) {
            q = MatMul(x, w1)  k = MatMul(x, w3)  f = Sigmoid(k)
            t = Transpose <perm = [0,2,1]> (f)  y = MatMul(q, t) }""",
            8,
        ),
    ],
    "Einsum": [
        Sample(seq("b = Relu(a)", tail='y = Einsum <equation = "bsc,cd->bsd"> (b, w2)')),
        Sample(
            """g (float[2,5,6] x, float[4,6,8] w1, float[4,8,3] w2) => (float[] y) {
            a = Einsum <equation = "bsc, hcd -> bhsd"> (x, w1)  b = Relu(a)
            y = Einsum <equation = "bhsd,hde->bse"> (b, w2) }""",
            12,
        ),
        Sample(
            """g (float[2,5,6] x, float[4,6,8] w1, float[4,6,8] w3) => (float[] y) {
            q = Einsum <equation = "bsc,hcd->bhsd"> (x, w1)  k = Einsum <equation = "bsc,hcd->bhsd"> (x, w3)
            s = Einsum <equation = "bhid,bhjd->bhij"> (q, k)  y = ReduceSum(s) }""",
            8,
        ),
        Sample(seq("b = Relu(a)", tail='y = Einsum <equation = "...c,cd->...d"> (b, w2)'), 0, "ellipsis"),
        Sample(seq("b = Relu(a)", tail='y = Einsum <equation = "bsc,cd"> (b, w2)'), 0, "no arrow"),
        Sample(seq('b = Einsum <equation = "bsc->bsc"> (a)')),
        Sample(seq('b = Einsum <equation = "bsc->scb"> (a)', tail='y = Einsum <equation = "scb,cd->bsd"> (b, w2)')),
    ],
}
