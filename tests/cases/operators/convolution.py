# SPDX-License-Identifier: Apache-2.0
"""Convolutions, plain, grouped and transposed."""

from __future__ import annotations

from tests.cases.operators.sample import Sample, conv


def grouped(group: int, out: int, kernel: str = "", more: str = "", free: int = 0, bias: bool = True) -> Sample:
    """A grouped convolution from 8 to `out` channels."""
    w3b, names = (f", float[{out}] w3b", "a, w3, w3b") if bias else ("", "a, w3")
    size = kernel or f"{out},{8 // group},3,3"
    return Sample(
        conv(f"b = Conv <group = {group}, pads = [1,1,1,1]{more}> ({names})", f"float[{size}] w3{w3b}", w2=f"4,{out},1,1"), free
    )


SAMPLES: dict[str, list[Sample]] = {
    "Conv": [
        Sample(conv("b = Relu(a)")),
        Sample("""g (float[2,3,16] x, float[8,3,3] w1, float[4,8,1] w2) => (float[] y) {
            a = Conv(x, w1)  b = Relu(a)  y = Conv(b, w2) }"""),
        Sample("""g (float[2,3,6,6,6] x, float[8,3,3,3,3] w1, float[8] w1b, float[4,8,2,2,2] w2) => (float[] y) {
            a = Conv <strides = [1,2,1]> (x, w1, w1b)  b = Relu(a)  y = Conv(b, w2) }"""),
        grouped(2, 8, free=4),
        grouped(4, 8, free=4),
        grouped(2, 16, free=4),
        grouped(4, 16, free=4),
        grouped(2, 4, free=2),
        grouped(8, 8, free=8),
        grouped(8, 16, free=8),
        grouped(8, 24, free=8, bias=False),
        grouped(4, 4, free=4, bias=False),
        Sample(conv("d = Sigmoid(a)  b = Conv <group = 2> (d, w3)", "float[8,4,1,1] w3"), 4),
        Sample(
            """g (float[2,4,8,8] x, float[8,2,1,1] w1, float[4,8,1,1] w2) => (float[] y) {
            a = Conv <group = 2> (x, w1)  b = Relu(a)  y = Conv(b, w2) }""",
            4,
        ),
        Sample(
            """g (float[2,4,8,8] x, float[8,1,3,3] w1, float[8] wb, float[4,8,1,1] w2) => (float[] y) {
            a = Conv <group = 4> (x, w1, wb)  b = Relu(a)  y = Conv(b, w2) }""",
            8,
            most=8,
        ),
        Sample(
            """g (float[2,3,12] x, float[8,3,1] w1, float[8,2,3] w3, float[4,8,1] w2) => (float[] y) {
            a = Conv(x, w1)  b = Conv <group = 4> (a, w3)  y = Conv(b, w2) }""",
            4,
        ),
        # a kernel that is computed from data
        Sample(
            conv(
                "d = GlobalAveragePool(a)  e = Flatten(d)  f = MatMul(v, e)  h = Reshape(f, s)  b = Conv(a, h)  u = Neg(b)",
                "",
                "int64[4] s = {4,8,1,1}, float[4,2] v = {1,2,3,4,5,6,7,8}",
                "y = Conv(u, w2)",
                "4,4,1,1",
            )
        ),
    ],
    "ConvTranspose": [
        Sample(conv("b = Relu(a)", tail="y = ConvTranspose <strides = [2,2]> (b, w2)", w2="8,4,2,2")),
        Sample(conv("b = ConvTranspose <strides = [2,2]> (a, w3, w3b)", "float[8,6,2,2] w3, float[6] w3b", w2="4,6,1,1"), 14),
        Sample(conv("b = ConvTranspose <group = 2> (a, w3, w3b)", "float[8,3,2,2] w3, float[6] w3b", w2="4,6,1,1"), 2),
        Sample(conv("b = ConvTranspose <group = 4> (a, w3)", "float[8,3,2,2] w3", w2="4,12,1,1"), 4),
        Sample(conv("b = ConvTranspose <group = 2> (a, w3)", "float[8,4,2,2] w3"), 4),
        Sample(conv("b = ConvTranspose <group = 8, strides = [2,2]> (a, w3, w3b)", "float[8,1,2,2] w3, float[8] w3b"), 8),
        Sample(conv("b = ConvTranspose <group = 8> (a, w3)", "float[8,2,2,2] w3", w2="4,16,1,1"), 8),
        Sample("""g (float[2,3,8] x, float[3,8,3] w1, float[4,8,1] w2) => (float[] y) {
            a = ConvTranspose(x, w1)  b = Tanh(a)  y = Conv(b, w2) }"""),
        Sample(
            """g (float[2,4,6,6] x, float[4,3,3,3] w1, float[4,6,1,1] w2) => (float[] y) {
            a = ConvTranspose <group = 2> (x, w1)  b = Tanh(a)  y = Conv(b, w2) }""",
            3,
        ),
    ],
}
