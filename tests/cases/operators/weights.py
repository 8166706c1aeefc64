# SPDX-License-Identifier: Apache-2.0
"""Weights that reach their operator indirectly, or that have another consumer."""

from __future__ import annotations

from tests.cases.operators.sample import Sample, conv

WEIGHTS: dict[str, Sample] = {
    "identity in front of a weight": Sample(
        conv("d = Identity(w3)  e = Identity(d)  b = Conv(a, e)", "float[5,8,1,1] w3", w2="4,5,1,1"), 13
    ),
    "identity shares a weight": Sample(conv("d = Identity(w1)  c = Conv <pads = [1,1,1,1]> (x, d)  b = Add(a, c)"), 8),
    "a weight in a Constant node": Sample(
        conv(
            "d = Constant <value = float[5,8,1,1] {" + ",".join(str((k * 7 % 11) / 5 - 1) for k in range(40)) + "}> ()"
            "  b = Conv(a, d)",
            w2="4,5,1,1",
        ),
        13,
    ),
    "a scale in a Constant node": Sample(
        conv("d = Constant <value = float[8,1,1] {1.,2.,3.,4.,5.,6.,7.,8.}> ()  b = Mul(a, d)"), 8
    ),
    "a scale in a Constant node of floats": Sample(
        conv(
            "d = Constant <value_floats = [1.,2.,3.,4.,5.,6.,7.,8.]> ()  e = Reshape(d, s)  b = Mul(a, e)",
            "",
            "int64[3] s = {8,1,1}",
        ),
        0,
    ),
    "a small weight through Identity": Sample(conv("d = Identity(w3)  b = Add(a, d)", "float[8,1,1] w3"), 8),
    "weights computed from weights": Sample(
        conv("d = Exp(w3)  e = Mul(d, w4)  b = Conv(a, e)", "float[5,8,1,1] w3, float[5,1,1,1] w4", w2="4,5,1,1"), 13
    ),
    "a fused scale": Sample(conv("d = Mul(w3, w4)  b = Conv(a, d)", "float[5,8,1,1] w3, float[5,1,1,1] w4", w2="4,5,1,1"), 13),
    "a weight that is divided by": Sample(
        conv("d = Div(w3, wvar)  b = Conv(a, d)", "float[5,8,1,1] w3, float[5,1,1,1] wvar", w2="4,5,1,1"), 13
    ),
    "a normalised weight": Sample(
        conv(
            "q = Mul(w3, w3)  s = ReduceSum(q, k)  r = Sqrt(s)  d = Div(w3, r)  b = Conv(a, d)",
            "float[5,8,1,1] w3",
            "int64[3] k = {1,2,3}",
            w2="4,5,1,1",
        ),
        0,
    ),
    "a channel that is an output too": Sample(
        conv("b = Relu(a)").replace("=> (float[] y)", "=> (float[] y, float[] b)"), 0, "is a model output", most=0
    ),
    "half of the channels are an output": Sample(
        conv("b = Slice(a, s, e, k)", "", "int64[1] s = {0}, int64[1] e = {4}, int64[1] k = {1}", "y = Conv(a, w2)").replace(
            "=> (float[] y)", "=> (float[] y, float[] b)"
        ),
        4,
        "is a model output",
        most=4,
    ),
    "a size that is an output": Sample(
        conv("b = Relu(a)  s = Shape(b)").replace("=> (float[] y)", "=> (float[] y, int64[4] s)"),
        0,
        refused="reports a size that would change",
    ),
    "an idle branch": Sample(conv("b = Relu(a)  idle = Sigmoid(a)  d, e = Split <axis = 1> (a)"), 8),
    "a scale that is also the divisor": Sample(conv("d = Mul(a, wvar)  b = Div(d, wvar)", "float[8,1,1] wvar"), 8),
}
