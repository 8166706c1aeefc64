# SPDX-License-Identifier: Apache-2.0
"""Operators that normalise, over channels or other axes."""

from __future__ import annotations

from tests.cases.operators.sample import Sample, conv, seq


def normalised(op: str, before: str = "Identity") -> list[Sample]:
    """Removed channels are zero, constant or unknown; along space, or along the sequence, channels pass."""
    why = "normalises over them, so removing any would change the result"
    return [
        Sample(conv(f"b = {op} <axis = 1> (a)"), 8, opset=11),
        Sample(conv(f"b = {op} <axis = 1> (a)"), 8, opset=13),
        Sample(conv(f"e = Exp(a)  b = {op} <axis = 1> (e)"), 8, opset=13),
        Sample(conv(f"e = Exp(a)  b = {op} <axis = 1> (e)"), 8, opset=9),
        Sample(conv(f"m = ReduceMax <axes = [1]> (x)  e = Sub(a, m)  b = {op} <axis = 1> (e)"), 0, why, 13, 0),
        Sample(conv(f"b = {op} (a)"), 8, opset=13),
        Sample(conv(f"b = {op} <axis = 2> (a)"), 8, opset=11),
        Sample(conv(f"b = {op} <axis = -2> (a)"), 8, opset=13),
        Sample(seq(f"b = {op} <axis = -1> (a)"), 8, opset=13),
        Sample(seq(f"b = {op} <axis = 1> (a)"), 8, opset=11),
    ]


SAMPLES: dict[str, list[Sample]] = {
    "BatchNormalization": [
        Sample(conv("b = BatchNormalization(a, w3, w4, w5, wvar)", "float[8] w3, float[8] w4, float[8] w5, float[8] wvar")),
        Sample(
            conv(
                "d = BatchNormalization(a, w3, w4, w5, wvar)  e = Exp(d)  b = Conv <group = 8> (e, w6)",
                "float[8] w3, float[8] w4, float[8] w5, float[8] wvar, float[8,1,1,1] w6",
            )
        ),
        Sample("""g (float[2,5] x, float[5,8] w1, float[8] w3, float[8] w4, float[8] w5, float[8] wvar, float[8,3] w2)
            => (float[] y) { a = MatMul(x, w1)  b = BatchNormalization(a, w3, w4, w5, wvar)  y = MatMul(b, w2) }"""),
        # scale and shift make the channel zero even where the mean is not
        Sample(
            conv(
                "e = Sigmoid(a)  d = BatchNormalization(e, w3, w4, w5, wvar)  s = ReduceSum(d, k)  b = Mul(s, a)",
                "float[8] w3, float[8] w4, float[8] w5, float[8] wvar",
                "int64[1] k = {1}",
            )
        ),
        # batch statistics, as for standardised weights
        Sample(
            conv(
                "d, m, v = BatchNormalization <training_mode = 1> (w6, w3, w4, w5, wvar)  b = Conv(a, d)",
                "float[6,8,1,1] w6, float[8] w3, float[8] w4, float[8] w5, float[8] wvar",
                w2="4,6,1,1",
            ),
            14,
        ),
        # one tensor as both mean and variance
        Sample(conv("d = BatchNormalization(a, w3, w4, wvar, wvar)  b = Add(d, a)", "float[8] w3, float[8] w4, float[8] wvar")),
    ],
    "InstanceNormalization": [
        Sample(conv("b = InstanceNormalization(a, w3, w4)", "float[8] w3, float[8] w4")),
        Sample(
            conv(
                "e = Sigmoid(a)  d = InstanceNormalization(e, w3, w4)  s = ReduceSum(d, k)  b = Mul(s, a)",
                "float[8] w3, float[8] w4",
                "int64[1] k = {1}",
            )
        ),
        # one group of all channels, as PyTorch writes GroupNorm: the residue of dropped channels counts in its statistics
        *(
            Sample(
                conv(
                    f"{before}  r = Reshape(e, s)  n = InstanceNormalization(r, one, nought)  t = Reshape(n, u)  m = Mul(t, w3)"
                    "  b = Add(m, w4)",
                    "float[8,1,1] w3, float[8,1,1] w4",
                    "int64[3] s = {2,1,-1}, int64[4] u = {2,-1,8,8}, float[1] one = {1}, float[1] nought = {0}",
                    w2="4,8,1,1",
                ),
                8,
                most=8,
            )
            for before in ("e = Relu(a)", "e = Exp(a)")
        ),
        Sample(
            conv(
                "q = ReduceMax <axes = [1]> (x)  e = Sub(a, q)  r = Reshape(e, s)  n = InstanceNormalization(r, one, nought)"
                "  b = Reshape(n, u)",
                "",
                "int64[3] s = {2,1,-1}, int64[4] u = {2,-1,8,8}, float[1] one = {1}, float[1] nought = {0}",
                w2="4,8,1,1",
            ),
            0,
            "normalises over them, so removing any would change the result",
            most=0,
        ),
    ],
    "LayerNormalization": [
        Sample(seq("b = LayerNormalization(a, w3, w4)", "float[8] w3, float[8] w4"), 8),
        Sample(seq("b = LayerNormalization(a, w3)", "float[8] w3"), 8),
        Sample(seq("n = LayerNormalization <axis = 1> (a, w3, w4)  b = Add(n, a)", "float[5,8] w3, float[5,8] w4"), 8),
        Sample(seq("e = Exp(a)  b = LayerNormalization(e, w3, w4)", "float[8] w3, float[8] w4"), 8),
        Sample(seq("e = Add(a, w5)  b = LayerNormalization(e, w3, w4)", "float[8] w3, float[8] w4, float[5,1] w5"), 8),
        Sample(
            seq("m = ReduceMax <axes = [2]> (x)  e = Sub(a, m)  b = LayerNormalization(e, w3)", "float[8] w3"),
            8,
            most=8,
        ),
        Sample(
            seq(
                "t = Transpose <perm = [0,2,1]> (a)  n = LayerNormalization(t, w3)  b = Transpose <perm = [0,2,1]> (n)",
                "float[5] w3",
            )
        ),
        Sample(conv("b = LayerNormalization <axis = 2> (a, w3)", "float[8,8] w3")),
        Sample(seq("n = LayerNormalization(x, w3)  m = MatMul(n, w4)  b = Relu(m)", "float[6] w3, float[6,8] w4")),
    ],
    "GroupNormalization": [
        Sample(conv("b = GroupNormalization <num_groups = 4> (a, w3, w4)", "float[8] w3, float[8] w4"), 4, most=4, opset=21),
        Sample(
            conv("e = Exp(a)  b = GroupNormalization <num_groups = 8> (e, w3, w4)", "float[8] w3, float[8] w4"), 8, opset=21
        ),
        *(
            Sample(
                conv(f"e = {op}(a)  b = GroupNormalization <num_groups = 1> (e, w3, w4)", "float[8] w3, float[8] w4"),
                8,
                most=8,
                opset=21,
            )
            for op in ("Relu", "Exp")
        ),
    ],
    "RMSNormalization": [
        Sample(seq("b = RMSNormalization(a, w3)", "float[8] w3"), 8, opset=23),
        Sample(seq("e = Exp(a)  b = RMSNormalization(e, w3)", "float[8] w3"), 8, opset=23),
    ],
    **{op: normalised(op) for op in ("Softmax", "LogSoftmax")},
    "Hardmax": [
        Sample(conv("b = Hardmax <axis = 1> (a)"), 8, opset=13),
        Sample(conv("b = Hardmax (a)"), 8, opset=13),
        Sample(conv("b = Hardmax <axis = 2> (a)"), 8, opset=11),
    ],
    "LpNormalization": [
        Sample(conv("b = LpNormalization <axis = 1> (a)"), 8),
        Sample(conv("e = Sigmoid(a)  b = LpNormalization <axis = 1> (e)"), 0, "normalises over them", most=0),
        Sample(conv("e = Sigmoid(a)  b = LpNormalization <axis = 2, p = 1> (e)"), 8),
        Sample(conv("b = LpNormalization <axis = 2> (a)"), 8),
    ],
}
