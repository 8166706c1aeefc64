# SPDX-License-Identifier: Apache-2.0
"""Operators that gather, scatter, sample and shift, and those that are equivalent to another operator."""

from __future__ import annotations

from tests.cases.operators.sample import Sample, both, conv, seq

TOP = "m = ReduceMax <axes = [2], keepdims = 0> (x)  v, i = TopK <axis = 1> (m, k)  u = Unsqueeze(i, z)"


def picks(positions: int = 3, channels: int = 8, step: int = 7) -> str:
    """Indices (2, positions, channels) of five positions."""
    return (
        f"int64[2,{positions},{channels}] i = {{" + ",".join(str(k * step % 5) for k in range(2 * positions * channels)) + "}"
    )


PICK, ROWS = picks(), picks(step=1)
TURN = "t = Transpose <perm = [2,0,1]> (a)"
BACK = "b = Transpose <perm = [1,2,0]> (r)"
STEPS = "t = Transpose <perm = [0,2,1]> (a)"

SAMPLES: dict[str, list[Sample]] = {
    "GatherElements": [
        # the top positions of a sequence, the same for all channels
        Sample(
            seq(
                f"{TOP}  e = Tile(u, r)  b = GatherElements <axis = 1> (a, e)",
                "",
                "int64[1] k = {3}, int64[1] z = {-1}, int64[3] r = {1,1,8}",
            ),
            8,
            most=8,
        ),
        Sample(seq("b = GatherElements <axis = 1> (a, i)", "", PICK), 8),
        Sample(seq("v, i = TopK <axis = 1> (a, k)  b = GatherElements <axis = -2> (a, i)", "", "int64[1] k = {3}"), 8),
        Sample(seq("b = GatherElements <axis = 2> (a, i)", "", picks(5, 4), w2="4,4"), 0, "works across this axis"),
        Sample(
            seq("d = GatherElements <axis = 1> (a, i)  b = Mul(a, d)", "", picks(5, 1)), 0, "works across this axis", most=0
        ),
    ],
    "GatherND": [
        Sample(seq("b = GatherND(a, i)", "", "int64[3,2] i = {0,1,1,4,0,3}", w2="8,4"), 8),
        Sample(seq("b = GatherND <batch_dims = 1> (a, i)", "", "int64[2,1] i = {1,3}", w2="8,4"), 8),
        Sample(
            conv("d = GatherND(a, i)  b = Unsqueeze(d, z)", "", "int64[3,2] i = {0,1,1,4,0,3}, int64[1] z = {1}", w2="4,1,1,1"),
            0,
            "works across this axis",
            most=0,
        ),
    ],
    "ScatterElements": [
        Sample(
            seq(
                "c = MatMul(x, w3)  s = Slice(c, z, n, o)  b = ScatterElements <axis = 1> (a, i, s)",
                "float[6,8] w3",
                ROWS + ", int64[1] z = {0}, int64[1] n = {3}, int64[1] o = {1}",
            ),
            8,
            most=8,
        ),
        Sample(
            seq(
                's = Slice(a, z, n, o)  e = ScatterElements <axis = 1, reduction = "add"> (a, i, s)'
                "  m = ReduceSum(e, p)  b = Mul(a, m)",
                "",
                PICK + ", int64[1] z = {0}, int64[1] n = {3}, int64[1] o = {1}, int64[1] p = {2}",
            ),
            8,
            opset=18,
        ),
        Sample(
            seq(
                's = Slice(a, z, n, o)  e = ScatterElements <axis = 1, reduction = "max"> (a, i, s)'
                "  m = ReduceSum(e, p)  b = Mul(a, m)",
                "",
                PICK + ", int64[1] z = {0}, int64[1] n = {3}, int64[1] o = {1}, int64[1] p = {2}",
            ),
            0,
            "would change the result",
            opset=18,
        ),
        Sample(seq("b = ScatterElements <axis = 2> (a, i, a)", "", picks(5)), 0, "works across this axis", most=0),
        # only some channels are written
        Sample(
            seq(
                "s = Slice(a, z, n, o)  b = ScatterElements <axis = 1> (a, i, s)",
                "",
                picks(3, 1) + ", int64[2] z = {0,0}, int64[2] n = {3,1}, int64[2] o = {1,2}",
            ),
            0,
            "works across this axis",
            most=0,
        ),
    ],
    "Scatter": [
        Sample(
            seq("s = Slice <axes = [1], starts = [0], ends = [3]> (a)  b = Scatter <axis = 1> (a, i, s)", "", PICK), 8, opset=9
        )
    ],
    "ScatterND": [
        # whole rows, with all their channels
        Sample(seq("b = ScatterND(a, i, w3)", "float[3,8] w3", "int64[3,2] i = {0,1,1,4,0,3}"), 8),
        Sample(
            seq(
                'd = ScatterND <reduction = "mul"> (a, i, w3)  s = ReduceSum(d, k)  b = Mul(a, s)',
                "float[3,8] w3",
                "int64[3,2] i = {0,1,1,4,0,3}, int64[1] k = {2}",
            ),
            0,
            "would change the result",
            opset=18,
        ),
        # channels at known positions
        Sample(
            seq(
                f"c = MatMul(x, w3)  {TURN}  u = Transpose <perm = [2,0,1]> (c)  r = ScatterND(t, i, u)  {BACK}",
                "float[6,3] w3",
                "int64[3,1] i = {1,4,6}",
            ),
            8,
            most=8,
        ),
        Sample(seq(f"{TURN}  r = ScatterND(t, i, w3)  {BACK}", "float[3,2,5] w3", "int64[3,1] i = {-2,0,3}"), 8),
        Sample(
            seq(
                f"{TURN}  u = Transpose <perm = [2,0,1]> (x)  n = Slice(u, z, e)  r = ScatterND(t, i, n)  {BACK}",
                "",
                "int64[3,1] i = {1,4,6}, int64[1] z = {0}, int64[1] e = {3}",
            ),
            5,
            "overwrites them",
            most=5,
        ),
        # the same position twice
        Sample(
            seq(f"{TURN}  r = ScatterND(t, i, w3)  {BACK}", "float[3,2,5] w3", "int64[3,1] i = {1,4,1}"),
            0,
            "works across this axis",
            most=0,
        ),
    ],
    "TensorScatter": [
        Sample(seq("b = TensorScatter(w3, a, i)", "float[2,9,8] w3", "int64[2] i = {1,3}"), 8, opset=24),
        Sample(seq("c = MatMul(z, w1)  b = TensorScatter <axis = 1> (c, a)  ", "float[2,9,6] z"), 8, opset=24),
    ],
    "Compress": [
        Sample(conv("b = Compress <axis = 2> (a, k)", "", "bool[8] k = {1,0,1,1,0,1,0,0}"), 8),
        Sample(
            conv("d = Compress <axis = 1> (a, k)  b = Mul(d, d)", "", "bool[8] k = {1,0,1,1,0,1,0,0}", w2="4,4,1,1"),
            0,
            "works across this axis",
            most=0,
        ),
    ],
    "ReverseSequence": [
        Sample(seq("b = ReverseSequence <batch_axis = 0, time_axis = 1> (a, k)", "", "int64[2] k = {3,5}"), 8),
        Sample(
            seq(
                "b = ReverseSequence <batch_axis = 0, time_axis = 2> (a, k)".replace("time_axis = 2", "time_axis = 1"),
                "",
                "int64[2] k = {1,2}",
            ),
            8,
        ),
    ],
    "OneHot": [
        Sample(
            conv("m = ArgMax <axis = 3, keepdims = 0> (a)  b = OneHot(m, d, v)", "", "int64 d = {8}, float[2] v = {0.5,2.0}"), 8
        ),
        Sample(
            conv(
                "m = ArgMax <axis = 3, keepdims = 0> (a)  b = OneHot <axis = 2> (m, d, v)",
                "",
                "int64 d = {8}, float[2] v = {0.5,2.0}",
            ),
            8,
        ),
    ],
    "Col2Im": [
        Sample(
            conv(
                "r = Reshape(a, s)  b = Col2Im(r, i, k)",
                "",
                "int64[3] s = {0,0,64}, int64[2] i = {9,9}, int64[2] k = {2,2}",
                w2="4,2,1,1",
            ),
            2,
            most=2,
            opset=18,
        ),
        Sample(
            conv(
                "r = Reshape(a, s)  b = Col2Im <strides = [1,1]> (r, i, k)",
                "",
                "int64[3] s = {0,0,64}, int64[2] i = {8,8}, int64[2] k = {1,1}",
            ),
            8,
            opset=18,
        ),
    ],
    "CenterCropPad": [
        Sample(conv("b = CenterCropPad <axes = [2,3]> (a, s)", "", "int64[2] s = {6,11}"), 8, opset=18),
        Sample(conv("b = CenterCropPad(a, s)", "", "int64[4] s = {2,8,6,11}"), 8, opset=18),
        Sample(
            conv("b = CenterCropPad <axes = [1]> (a, s)", "", "int64[1] s = {6}", w2="4,6,1,1"),
            0,
            "crops or pads",
            most=0,
            opset=18,
        ),
    ],
    "MaxUnpool": [
        Sample(
            conv(
                "d, i = MaxPool <kernel_shape = [2,2], strides = [2,2]> (a)"
                "  b = MaxUnpool <kernel_shape = [2,2], strides = [2,2]> (d, i)"
            ),
            8,
            most=8,
        ),
        Sample(
            conv(
                "d, i = MaxPool <kernel_shape = [2,2], strides = [2,2]> (a)  e = Conv(d, w3)"
                "  b = MaxUnpool <kernel_shape = [2,2], strides = [2,2]> (e, i, s)",
                "float[8,8,1,1] w3",
                "int64[4] s = {2,8,8,8}",
            ),
            8,
            most=8,
        ),
    ],
    "DFT": [
        Sample(
            conv(
                "u = Unsqueeze(a, z)  f = DFT <axis = 2> (u)  g = ReduceSum(f, z)  b = Squeeze(g, z)", "", "int64[1] z = {-1}"
            ),
            8,
        ),
        Sample(
            conv(
                "u = Unsqueeze(a, z)  f = DFT(u, , k)  g = ReduceSum(f, z)  b = Squeeze(g, z)",
                "",
                "int64[1] z = {-1}, int64 k = {-2}",
            ),
            8,
            opset=20,
        ),
        Sample(
            conv(
                "u = Unsqueeze(a, z)  f = DFT <axis = 1> (u)  g = ReduceSum(f, z)  b = Squeeze(g, z)", "", "int64[1] z = {-1}"
            ),
            0,
            "works across this axis",
            most=0,
        ),
    ],
    "GridSample": [
        Sample(conv("b = GridSample(a, q)", "float[2,4,4,2] q"), 8, opset=16),
        Sample(conv('b = GridSample <mode = "nearest", padding_mode = "border"> (a, q)', "float[2,4,4,2] q"), 8, opset=20),
        # coordinates computed from channels
        Sample(
            conv(
                "d = Slice(a, z, e, k)  q = Transpose <perm = [0,2,3,1]> (d)  b = GridSample(x, q)",
                "",
                "int64[1] z = {0}, int64[1] e = {2}, int64[1] k = {1}",
                w2="4,3,1,1",
            ),
            0,
            "works across this axis",
        ),
    ],
    "MaxRoiPool": [
        Sample(conv("b = MaxRoiPool <pooled_shape = [2,2]> (a, r)", "", "float[3,5] r = {0,0,0,4,4,1,1,1,6,6,0,2,2,7,7}"), 8)
    ],
    "RoiAlign": [
        Sample(
            conv(
                "b = RoiAlign <output_height = 2, output_width = 3> (a, r, i)",
                "",
                "float[3,4] r = {0,0,4,4,1,1,6,6,2,2,7,7}, int64[3] i = {0,1,0}",
            ),
            8,
        ),
        Sample(
            conv('b = RoiAlign <mode = "max"> (a, r, i)', "", "float[3,4] r = {0,0,4,4,1,1,6,6,2,2,7,7}, int64[3] i = {0,1,0}"),
            8,
        ),
    ],
    "Trilu": [
        Sample(conv("b = Trilu(a)")),
        Sample(conv("b = Trilu <upper = 0> (a, k)", "", "int64 k = {1}")),
        Sample(seq("b = Trilu(a)"), 0, "works across this axis", most=0),
    ],
    "LRN": [
        Sample(conv("b = LRN <size = 3, alpha = 0.5> (a)"), 8),
        Sample(
            conv("d = LRN <size = 5, alpha = 0.9, bias = 2.0> (a)  b = Conv <group = 8> (d, w3)", "float[8,1,1,1] w3"),
            8,
            opset=9,
        ),
        Sample(conv("e = Exp(a)  b = LRN <size = 3> (e)"), 0, "normalises over neighbouring channels", most=0),
    ],
    "MeanVarianceNormalization": [
        Sample(conv("b = MeanVarianceNormalization(a)"), 0, "is not defined where a channel is zero", most=0),
        Sample(conv("m = ReduceMax <axes = [1]> (x)  e = Add(a, m)  b = MeanVarianceNormalization(e)"), 8),
        Sample(conv("b = MeanVarianceNormalization <axes = [1,2,3]> (a)"), 8),
    ],
    "SwiGLU": [Sample(both("b = SwiGLU(a, c)"), 8, opset=28), Sample(both("b = SwiGLU <alpha = 1.7> (a, c)"), 8, opset=28)],
    "BitCast": [Sample(conv("d = BitCast <to = 6> (a)  b = BitCast <to = 1> (d)"), 8, opset=26)],
    "CumProd": [
        Sample(conv("b = CumProd(a, k)", "", "int32 k = {2}"), 8, opset=26),
        Sample(
            conv(
                "d = CumProd <exclusive = 1> (a, k)  s = ReduceSum(d, z)  b = Mul(s, a)", "", "int32 k = {2}, int64[1] z = {1}"
            ),
            0,
            "would change the result",
            opset=26,
        ),
        Sample(conv("b = CumProd(a, k)", "", "int32 k = {1}"), 0, "multiplies along this axis", most=0, opset=26),
    ],
    "CausalConvWithState": [
        Sample(
            seq(
                f"{STEPS}  r, s = CausalConvWithState(t, w3, w4)  b = Transpose <perm = [0,2,1]> (r)",
                "float[8,1,3] w3, float[8] w4",
            ),
            8,
            opset=27,
        ),
        Sample(
            seq(
                f'{STEPS}  z, zz = CausalConvWithState <activation = "silu"> (t, w3)  r, s = CausalConvWithState(t, w3, , o)'
                "  n = Add(r, z)  b = Transpose <perm = [0,2,1]> (n)",
                "float[8,1,3] w3, float[2,2,6] p",
            ).replace("a = MatMul(x, w1)", "a = MatMul(x, w1)  q = MatMul(p, w1)  o = Transpose <perm = [0,2,1]> (q)"),
            8,
            opset=27,
        ),
    ],
    "com.microsoft.CausalConvWithState": [
        Sample(
            seq(
                f"{STEPS}  r, s = com.microsoft.CausalConvWithState <ndim = 1> (t, w3, w4)  b = Transpose <perm = [0,2,1]> (r)",
                "float[8,1,3] w3, float[8] w4",
            ),
            8,
            needs="1.26",
        )
    ],
    "com.microsoft.GridSample": [Sample(conv("b = com.microsoft.GridSample(a, q)", "float[2,4,4,2] q"), 8)],
    "com.microsoft.GatherND": [
        Sample(seq("b = com.microsoft.GatherND(a, i)", "", "int64[3,2] i = {0,1,1,4,0,3}", w2="8,4"), 8)
    ],
    "com.microsoft.Trilu": [Sample(conv("b = com.microsoft.Trilu <upper = 0> (a)"), 8)],
    "com.microsoft.NhwcMaxPool": [
        Sample(
            conv(
                "q = QuantizeLinear(a, sc, zp)  t = Transpose <perm = [0,2,3,1]> (q)"
                "  u = com.microsoft.NhwcMaxPool <kernel_shape = [2,2]> (t)"
                "  r = Transpose <perm = [0,3,1,2]> (u)  b = DequantizeLinear(r, sc, zp)",
                "",
                "float sc = {0.05}, uint8 zp = {128}",
            ),
            8,
        )
    ],
    "DeformConv": [
        Sample(
            conv(
                "o = Conv(a, w4)  b = DeformConv <kernel_shape = [3,3]> (a, w3, o, w5)",
                "float[6,8,3,3] w3, float[18,8,3,3] w4, float[6] w5",
                w2="4,6,1,1",
            ),
            14,
            most=14,
            opset=19,
        ),
        Sample(
            conv(
                "o = Conv(a, w4)  m = Conv(a, w6)  b = DeformConv <group = 2, kernel_shape = [3,3]> (a, w3, o, , m)",
                "float[6,4,3,3] w3, float[18,8,3,3] w4, float[9,8,3,3] w6",
                w2="4,6,1,1",
            ),
            3,
            opset=19,
        ),
        Sample(
            conv(
                "o = Conv(a, w4)  b = DeformConv <group = 8, kernel_shape = [3,3]> (a, w3, o)",
                "float[8,1,3,3] w3, float[18,8,3,3] w4",
            ),
            8,
            opset=19,
        ),
        Sample(
            conv(
                "o = Conv(a, w4)  b = DeformConv <offset_group = 2, kernel_shape = [3,3]> (a, w3, o)",
                "float[6,8,3,3] w3, float[36,8,3,3] w4",
                w2="4,6,1,1",
            ),
            14,
            "takes its offsets or its mask from them",
            opset=19,
        ),
        Sample(
            conv(
                "o = Conv(a, w4)  m = Conv(a, w6)  b = DeformConv <group = 2, offset_group = 4, kernel_shape = [3,3]>"
                " (a, w3, o, w5, m)",
                "float[6,4,3,3] w3, float[72,8,3,3] w4, float[6] w5, float[36,8,3,3] w6",
                w2="4,6,1,1",
            ),
            6,
            opset=22,
        ),
        Sample(
            conv(
                "o = Conv(a, w4)  b = DeformConv <group = 8, offset_group = 2, kernel_shape = [3,3]> (a, w3, o)",
                "float[8,1,3,3] w3, float[36,8,3,3] w4",
            ),
            8,
            opset=22,
        ),
    ],
}
