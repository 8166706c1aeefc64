# SPDX-License-Identifier: Apache-2.0
"""Operators that move elements and compute nothing."""

from __future__ import annotations

from tests.cases.operators.sample import Sample, both, conv, seq

SPLIT13 = "int64[2] k = {3,5}"

SAMPLES: dict[str, list[Sample]] = {
    "Concat": [
        Sample(both("b = Concat <axis = 1> (a, c)", w2="4,16,1,1"), 16),
        Sample(both("b = Concat <axis = -3> (c, a, c)", w2="4,24,1,1"), 16),
        Sample(conv("b = Concat <axis = 1> (a, a)", w2="4,16,1,1"), 8),
        Sample(both("b = Concat <axis = 2> (a, c)"), 8, most=8),
        Sample(both("b = Concat <axis = 0> (a, c)"), 8, most=8),
        Sample(conv("b = Concat <axis = 1> (a, x)", w2="4,11,1,1"), 8),
        Sample(conv("b = Concat <axis = 1> (x, a, x)", w2="4,14,1,1"), 8),
        Sample(conv("b = Concat <axis = 2> (a, w3)", "float[2,8,1,8] w3")),
        Sample(
            conv("d = Exp(a)  e = Concat <axis = 1> (d, a)  f = ReduceSum(e, k)  b = Mul(a, f)", "", "int64[1] k = {1}"),
            8,
        ),
        Sample(both("d = Concat <axis = 1> (a, c)  s = ReduceSum(d, k)  b = Mul(a, s)", "", "int64[1] k = {1}"), 16),
    ],
    "Split": [
        Sample(conv("d, e = Split <axis = 1> (a)  b = Mul(d, e)", w2="4,4,1,1"), 4, opset=11),
        Sample(
            conv(
                "d, e = Split <axis = 1, split = [3,5]> (a)  f = Conv(e, w3)  b = Add(d, f)", "float[3,5,1,1] w3", w2="4,3,1,1"
            ),
            8,
            opset=11,
        ),
        Sample(
            conv("d, e = Split <axis = 1> (a, k)  f = Conv(e, w3)  b = Add(d, f)", "float[3,5,1,1] w3", SPLIT13, w2="4,3,1,1"),
            8,
        ),
        Sample(conv("d, e = Split <axis = 1> (a)  b = Concat <axis = 1> (e, d)"), 8, opset=13),
        Sample(conv("d, e = Split <axis = -3> (a)  b = Concat <axis = 1> (e, d, e)", w2="4,12,1,1"), 8, opset=13),
        Sample(conv("d, e, f = Split <axis = 1, num_outputs = 3> (a)  b = Concat <axis = 1> (e, f, d)"), 8, opset=18),
        Sample(conv("d, e = Split <axis = 1, num_outputs = 2> (a)  b = Add(e, d)", w2="4,4,1,1"), 4, opset=18),
        Sample(conv("d, e = Split <axis = 2> (a)  b = Add(e, d)"), 8),
        Sample(conv("d, e = Split <axis = 1> (a, k)  b = Neg(e)", "", SPLIT13, w2="4,5,1,1"), 5),
        Sample(conv("d, e = Split(a)  b = Add(d, e)"), 8, opset=13),
        Sample(conv("d, e = Split <axis = 1> (a)  b = Relu(d)", w2="4,4,1,1"), 8, opset=13),
        Sample(conv("d, e, f, g = Split <axis = 1> (a)  b = Concat <axis = 1> (g, d)", w2="4,4,1,1"), 8, opset=13),
    ],
    "Slice": [
        Sample(conv("b = Slice <axes = [1], starts = [2], ends = [7]> (a)", w2="4,5,1,1"), 5, opset=9),
        Sample(
            conv(
                "d = Slice <axes = [1], starts = [0], ends = [4]> (a)  e = Slice <axes = [1], starts = [-4], ends = [100]> (a)"
                "  b = Mul(d, e)",
                w2="4,4,1,1",
            ),
            4,
            opset=9,
        ),
        Sample(conv("b = Slice <starts = [0,1], ends = [2,9]> (a)", w2="4,7,1,1"), 7, opset=9),
        Sample(conv("b = Slice(a, s, e, k)", "", "int64[1] s = {2}, int64[1] e = {7}, int64[1] k = {1}", w2="4,5,1,1"), 5),
        Sample(conv("b = Slice(a, s, e)", "", "int32[2] s = {0,3}, int32[2] e = {2,2147483647}", w2="4,5,1,1"), 5),
        Sample(
            conv(
                "b = Slice(a, s, e, k, t)",
                "",
                "int64[1] s = {1}, int64[1] e = {8}, int64[1] k = {1}, int64[1] t = {2}",
                w2="4,4,1,1",
            ),
            4,
        ),
        Sample(
            conv("b = Slice(a, s, e, k, t)", "", "int64[1] s = {-1}, int64[1] e = {-100}, int64[1] k = {1}, int64[1] t = {-1}"),
            8,
        ),
        Sample(
            conv(
                "b = Slice(a, s, e, k, t)",
                "",
                "int64[1] s = {6}, int64[1] e = {0}, int64[1] k = {1}, int64[1] t = {-2}",
                w2="4,3,1,1",
            ),
            3,
        ),
        Sample(
            conv(
                "d = Slice(a, s, e, k, t)  f = Slice(a, u, e, k, t)  b = Concat <axis = 1> (f, d)",
                "",
                "int64[1] s = {0}, int64[1] u = {1}, int64[1] e = {8}, int64[1] k = {1}, int64[1] t = {2}",
            ),
            8,
        ),
        Sample(
            conv("b = Slice(a, s, e, k)", "", "int64[2] s = {0,1}, int64[2] e = {5,7}, int64[2] k = {2,1}", w2="4,6,1,1"), 6
        ),
        Sample(conv("b = Slice(a, s, e, k)", "", "int64[1] s = {1}, int64[1] e = {7}, int64[1] k = {2}"), 8),
        Sample(
            conv("d = Slice(a, s, e, k)  b = Mul(d, a)", "", "int64[1] s = {1}, int64[1] e = {2}, int64[1] k = {1}"), 7, most=7
        ),
    ],
    "Gather": [
        Sample(conv("b = Gather <axis = 1> (a, k)", "", "int64[8] k = {7,2,0,1,3,6,4,5}"), 8),
        Sample(conv("b = Gather <axis = 1> (a, k)", "", "int64[5] k = {7,-8,-2,1,3}", w2="4,5,1,1"), 5),
        Sample(conv("b = Gather <axis = 1> (a, k)", "", "int32[6] k = {0,0,3,3,4,7}", w2="4,6,1,1"), 4),
        Sample(
            conv("d = Gather <axis = 1> (a, k)  e = Unsqueeze(d, u)  b = Mul(a, e)", "", "int64 k = {3}, int64[1] u = {1}"),
            7,
            most=7,
        ),
        Sample(
            conv(
                "d = Gather <axis = 1> (a, k)  b = ReduceMean <axes = [1]> (d)",
                "",
                "int64[2,4] k = {0,1,2,3,4,5,6,7}",
                "c = Squeeze(b, u)  y = Conv(c, w2)",
                "4,4,1,1",
            ).replace("int64[2,4]", "int64[1] u = {1}, int64[2,4]"),
            4,
        ),
        Sample(
            conv(
                "d = Gather <axis = 1> (a, k)  b = Reshape(d, s)",
                "",
                "int64[2,4] k = {0,1,2,3,4,5,6,7}, int64[4] s = {0,8,8,8}",
            ),
            4,
        ),
        Sample(conv("b = Gather <axis = 2> (a, k)", "", "int64[3] k = {7,2,0}"), 8),
        Sample(conv("d = Gather <axis = -1> (a, k)  b = Unsqueeze(d, u)", "", "int64 k = {3}, int64[1] u = {3}"), 8),
        # an embedding: indices from data pin the rows of the table, its columns are free
        Sample("""g (int64[2,5] x, float[7,8] w1, float[8,4] w2) => (float[] y) { a = Gather(w1, x)  y = MatMul(a, w2) }""", 8),
        Sample(
            conv(
                "m = ArgMax <axis = 2, keepdims = 0> (x)  n = ReduceMax <keepdims = 0> (m)  d = Gather <axis = 1> (a, n)"
                "  e = Unsqueeze(d, u)  b = Mul(e, a)",
                "",
                "int64[1] u = {1}",
            ),
            0,
            "computed from data",
            most=0,
        ),
        Sample(
            conv(
                "m = ArgMax <axis = 2, keepdims = 0> (x)  n = ReduceMax <keepdims = 0> (m)  d = Gather <axis = 2> (a, n)"
                "  e = Unsqueeze(d, u)  b = Mul(e, a)",
                "",
                "int64[1] u = {2}",
            ),
            8,
        ),
    ],
    "Reshape": [
        Sample(conv("d = Reshape(a, s)  e = Relu(d)  b = Reshape(e, t)", "", "int64[3] s = {0,8,64}, int64[4] t = {0,0,8,8}")),
        Sample(conv("d = Reshape(a, s)  e = Relu(d)  b = Reshape(e, t)", "", "int64[3] s = {0,0,-1}, int64[4] t = {2,-1,8,8}")),
        Sample(conv("d = Reshape(a, s)  e = Relu(d)  b = Reshape(e, t)", "", "int64[3] s = {2,-1,64}, int64[4] t = {2,8,8,8}")),
        # channels to groups and back, both carriers
        Sample(
            conv("d = Reshape(a, s)  e = Relu(d)  b = Reshape(e, t)", "", "int64[5] s = {2,2,4,8,8}, int64[4] t = {2,8,8,8}"), 4
        ),
        Sample(
            conv("d = Reshape(a, s)  e = Relu(d)  b = Reshape(e, t)", "", "int64[5] s = {0,4,2,8,8}, int64[4] t = {0,-1,8,8}"),
            4,
        ),
        Sample(conv("b = Reshape(a, s)", "", "int64[2] s = {0,-1}", "y = Gemm(b, w2)", "512,4"), 8),
        Sample(conv("b = Reshape(a, s)", "", "int64[2] s = {2,512}", "y = Gemm(b, w2)", "512,4"), 8),
        Sample(conv("b = Reshape <allowzero = 1> (a, s)", "", "int64[2] s = {2,512}", "y = Gemm(b, w2)", "512,4"), 8),
        # sizes that the graph computes
        Sample(
            conv(
                "d = Shape(a)  e = Gather(d, z)  f = Concat <axis = 0> (e, m)  b = Reshape(a, f)",
                "",
                "int64[1] z = {0}, int64[1] m = {-1}",
                "y = Gemm(b, w2)",
                "512,4",
            ).replace("float[2,3,8,8] x", "float[N,3,8,8] x"),
            8,
        ),
        Sample(
            conv(
                "d = Shape(a)  e = Gather(d, z)  u = Unsqueeze(e, ax)  f = Concat <axis = 0> (u, k)  b = Reshape(a, f)",
                "",
                "int64 z = {0}, int64[1] ax = {0}, int64[1] k = {512}",
                "y = Gemm(b, w2)",
                "512,4",
            ).replace("float[2,3,8,8] x", "float[N,3,8,8] x"),
            8,
        ),
        Sample(
            conv("d = Reshape(a, s)  e = Relu(d)  b = Reshape(e, t)", "", "int64[3] s = {-1,4,64}, int64[4] t = {2,8,8,8}"), 4
        ),
        Sample(conv("d = Reshape(a, s)  e = Relu(d)  b = Reshape(e, t)", "", "int64[1] s = {-1}, int64[4] t = {2,8,8,8}"), 0),
        # a weight that is reshaped before it is used
        Sample(conv("d = Reshape(w3, s)  b = Mul(a, d)", "float[8] w3", "int64[4] s = {1,8,1,1}")),
        Sample(conv("d = Reshape(w3, s)  b = Conv(a, d)", "float[8,8] w3", "int64[4] s = {8,8,1,1}"), 16),
        Sample(seq("b = Reshape(a, s)", "", "int64[2] s = {-1,8}")),
        Sample(
            seq(
                "d = Reshape(a, s)  e = Transpose <perm = [0,2,1,3]> (d)"
                "  f = Transpose <perm = [0,2,1,3]> (e)  b = Reshape(f, t)",
                "",
                "int64[4] s = {0,0,2,4}, int64[3] t = {0,0,-1}",
            ),
            4,
        ),
    ],
    "Flatten": [
        Sample(conv("b = Flatten(a)", tail="y = Gemm(b, w2)", w2="512,4")),
        Sample(conv("b = Flatten <axis = -3> (a)", tail="y = Gemm <transB = 1> (b, w2)", w2="4,512")),
        Sample(conv("b = Flatten <axis = 2> (a)", tail="y = Gemm(b, w2)", w2="64,4"), 0),
        Sample(seq("b = Flatten <axis = 2> (a)", tail="y = Gemm(b, w2)", w2="8,4")),
    ],
    "Transpose": [
        Sample(
            conv(
                "d = Transpose <perm = [0,2,3,1]> (a)  b = MatMul(d, w3)", "float[8,5] w3", tail="y = MatMul(b, w2)", w2="5,4"
            ),
            13,
        ),
        Sample(conv("d = Transpose(a)  b = Transpose(d)")),
        Sample(
            conv(
                "d = Transpose <perm = [1,0]> (w3)  e = Unsqueeze(d, u)  b = Conv(a, e)",
                "float[8,6] w3",
                "int64[2] u = {2,3}",
                w2="4,6,1,1",
            ),
            14,
        ),
    ],
    "Squeeze": [
        Sample(conv("d = GlobalAveragePool(a)  b = Squeeze <axes = [2,3]> (d)", tail="y = Gemm(b, w2)", w2="8,4"), opset=11),
        Sample(conv("d = GlobalAveragePool(a)  b = Squeeze(d, u)", "", "int64[2] u = {-1,-2}", "y = Gemm(b, w2)", "8,4")),
        Sample(conv("d = GlobalAveragePool(a)  b = Squeeze(d)", tail="y = Gemm(b, w2)", w2="8,4")),
    ],
    "Unsqueeze": [
        Sample(conv("d = Unsqueeze <axes = [1]> (a)  b = Squeeze <axes = [1]> (d)"), opset=11),
        Sample(conv("d = Unsqueeze(w3, u)  b = Mul(a, d)", "float[8] w3", "int64[2] u = {1,2}")),
        Sample(conv("d = Unsqueeze(w3, u)  b = Conv <group = 8> (a, d)", "float[8,1] w3", "int64[2] u = {-2,-1}")),
    ],
    "Expand": [
        Sample(conv("d = Expand(w3, s)  b = Add(a, d)", "float[8,1,1] w3", "int64[4] s = {2,8,8,8}")),
        Sample(conv("d = GlobalAveragePool(a)  b = Expand(d, s)", "", "int64[4] s = {1,1,8,8}")),
        Sample(
            conv(
                "d = GlobalAveragePool(a)  e = Expand(d, s)  b = Concat <axis = 1> (e, a)",
                "",
                "int64[4] s = {2,8,8,8}",
                w2="4,16,1,1",
            )
        ),
        Sample(conv("d = Expand(z, s)  b = Add(a, d)", "", "float[1] z = {0.5}, int64[4] s = {1,8,1,1}")),
        Sample(conv("d = Shape(a)  e = Expand(w3, d)  b = Add(a, e)", "float[1,8,1,1] w3")),
        Sample(conv("d = ReduceMean <axes = [1]> (x)  e = Expand(d, s)  b = Add(a, e)", "", "int64[4] s = {1,8,1,1}")),
        Sample(seq("d = Expand(w3, s)  b = Concat <axis = 1> (d, a)", "float[1,1,8] w3", "int64[3] s = {2,1,8}")),
    ],
    "ConstantOfShape": [
        Sample(conv("d = ConstantOfShape <value = float[1] {0.5}> (s)  b = Add(a, d)", "", "int64[4] s = {1,8,1,1}")),
        Sample(conv("d = ConstantOfShape(s)  b = Concat <axis = 1> (a, d)", "", "int64[4] s = {2,2,8,8}", w2="4,10,1,1"), 8),
        Sample(conv("d = Shape(a)  e = ConstantOfShape <value = float[1] {1.5}> (d)  b = Mul(a, e)")),
    ],
    "Tile": [
        Sample(conv("b = Tile(a, k)", "", "int64[4] k = {1,2,1,1}", w2="4,16,1,1")),
        Sample(conv("b = Tile(a, k)", "", "int64[4] k = {1,1,2,3}")),
        Sample(conv("d = Tile(w3, k)  b = Mul(a, d)", "float[1,4,1,1] w3", "int64[4] k = {1,2,1,1}"), 4),
    ],
    "Pad": [
        Sample(conv("b = Pad(a, p)", "", "int64[8] p = {0,2,0,0,0,4,0,0}", w2="4,14,1,1"), 8),
        Sample(
            conv(
                "d = Pad(a, p)  e = Conv <pads = [1,1,1,1]> (a, w3)  b = Add(d, e)",
                "float[16,8,3,3] w3",
                "int64[8] p = {0,4,0,0,0,4,0,0}",
                w2="4,16,1,1",
            ),
            16,
        ),
        Sample(
            conv(
                "d = Pad(a, p, v)  e = Conv <pads = [1,1,1,1]> (a, w3)  b = Add(d, e)",
                "float[16,8,3,3] w3",
                "int64[8] p = {0,4,0,0,0,4,0,0}, float v = {0.7}",
                w2="4,16,1,1",
            ),
            8,
        ),
        Sample(
            conv(
                "d = Pad(a, p, v)  s = ReduceSum(d, k)  b = Mul(s, a)",
                "",
                "int64[8] p = {0,4,0,0,0,4,0,0}, float v = {0.7}, int64[1] k = {1}",
            ),
            0,
            "would change the result",
        ),
        Sample(conv('b = Pad <mode = "reflect"> (a, p)', "", "int64[8] p = {0,0,2,1,0,0,1,2}"), 8),
        Sample(
            conv('b = Pad <mode = "edge"> (a, p)', "", "int64[8] p = {0,1,2,1,0,0,1,2}", w2="4,9,1,1"),
            0,
            "pads this axis by 'edge'",
            most=0,
        ),
        Sample(conv("b = Pad(a, p, , k)", "", "int64[4] p = {1,2,1,4}, int64[2] k = {2,1}", w2="4,14,1,1"), 8, opset=18),
        Sample(conv("b = Pad <pads = [0,2,0,0,0,4,0,0]> (a)", w2="4,14,1,1"), 8, opset=9),
        Sample(conv("b = Pad(a, p)", "", "int64[8] p = {0,-2,0,0,0,-1,0,0}", w2="4,5,1,1"), 0),
        Sample(conv("b = Pad(a, p)", "", "int64[8] p = {0,0,-2,0,0,0,-1,1}"), 8),
    ],
    "DepthToSpace": [
        Sample(conv("b = DepthToSpace <blocksize = 2> (a)", w2="4,2,1,1"), 2),
        Sample(conv('b = DepthToSpace <blocksize = 2, mode = "CRD"> (a)', w2="4,2,1,1"), 2),
        Sample(conv('d = DepthToSpace <blocksize = 2, mode = "CRD"> (a)  b = SpaceToDepth <blocksize = 2> (d)'), 2),
    ],
    "SpaceToDepth": [Sample(conv("b = SpaceToDepth <blocksize = 2> (a)", w2="4,32,1,1"), 8)],
}
