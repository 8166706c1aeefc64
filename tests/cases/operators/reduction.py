# SPDX-License-Identifier: Apache-2.0
"""Operators that sum, search or sort along an axis."""

from __future__ import annotations

from tests.cases.operators.sample import Sample, conv, seq


def reduced(op: str, before: str = "Identity", through: int = 0) -> list[Sample]:
    """Over space it passes channels, with either style of axes; over channels it is exact only if it sums."""
    tail = "y = Gemm(b, w2)"
    # a bias is masked too, so the channels hold zeros
    over_channels = f"d = {op} <axes = [1], keepdims = 0> (p)  b = Flatten(d)"
    why = "" if through else "reduces over them, so removing any would change the result"
    samples = [
        Sample(conv(f"p = {before}(a)  b = {op} <axes = [2,3], keepdims = 0> (p)", tail=tail, w2="8,4"), opset=11),
        Sample(conv(f"p = {before}(a)  b = {op} <axes = [-1,-2], keepdims = 1> (p)"), opset=11),
        Sample(conv(f"p = {before}(a)  {over_channels}", tail=tail, w2="64,4"), through, why, opset=11),
        Sample(conv(f"p = {before}(a)  b = {op} (p, s)", consts="int64[2] s = {2,3}"), opset=18),
        Sample(conv(f"p = {before}(a)  b = {op} <keepdims = 0> (p, s)", "", "int64[2] s = {-2,3}", tail, "8,4"), opset=18),
        Sample(conv(f"p = {before}(a)  b = {op} <noop_with_empty_axes = 1> (p)"), opset=18, needs="1.24"),
        Sample(conv(f"p = {before}(a)  q = {op} (p)  b = Mul(q, a)"), through, why, opset=18),
    ]
    if op == "ReduceSum":  # its axes became an input earlier than those of the others
        samples = [s for s in samples if s.opset != 18]
        samples.append(Sample(conv("b = ReduceSum(a, s)", consts="int64[2] s = {2,3}"), opset=13))
        samples.append(Sample(conv("q = ReduceSum(a, s)  b = Mul(q, a)", consts="int64[1] s = {1}"), 8, opset=13))
        # each dropped channel holds a different value, which depends on the input
        each = "m = ReduceMax <axes = [1]> (x)  u = Exp(w3)  o = Sub(a, m)  p = Add(o, u)  q = ReduceSum(p, s)  b = Mul(q, a)"
        samples.append(Sample(conv(each, "float[8,1,1] w3", "int64[1] s = {1}"), 8, opset=13))
        samples.append(Sample(conv("p = Sigmoid(a)  q = ReduceSum(p)  b = Mul(q, a)"), 0, "would change the result", opset=13))
        samples.append(
            Sample(conv("p = Sigmoid(a)  q = ReduceSum(p, s)  b = Mul(q, a)", consts="int64[1] s = {1}"), 8, opset=13)
        )
    return samples


def accounted(op: str) -> list[Sample]:
    """Removed channels hold a constant, a different one at each position, or values that depend on another tensor."""
    maximum = "m = ReduceMax <axes = [1]> (x)"
    return [
        Sample(conv(f"p = Sigmoid(a)  q = {op} <axes = [1]> (p)  b = Mul(q, a)"), 8, opset=11),
        Sample(
            conv(f"p = Add(a, w3)  e = Exp(p)  q = {op} <axes = [1,3]> (e)  b = Mul(q, a)", "float[1,1,8,8] w3"), 8, opset=11
        ),
        Sample(conv(f"{maximum}  p = Sub(a, m)  q = {op} <axes = [1]> (p)  b = Mul(q, a)"), 8, opset=11),
        Sample(seq(f"m = ReduceMean <axes = [-1]> (a)  d = Sub(a, m)  s = Mul(d, d)  b = {op} <axes = [2]> (s)", w2="1,4"), 8),
    ]


SAMPLES: dict[str, list[Sample]] = {
    "ReduceSum": reduced("ReduceSum", through=8),
    **{
        op: [
            *reduced(op, through=8),
            Sample(conv(f"p = Sigmoid(a)  q = {op} <axes = [1]> (p)  b = Mul(q, a)"), 8),
            Sample(conv(f"m = ReduceMax <axes = [1]> (x)  p = Sub(a, m)  q = {op} <axes = [1]> (p)  b = Mul(q, a)"), 8),
        ]
        for op in ("ReduceL1", "ReduceSumSquare")
    },
    "ReduceL2": [
        *reduced("ReduceL2", through=8),
        Sample(conv("p = Sigmoid(a)  q = ReduceL2 <axes = [1]> (p)  b = Mul(q, a)"), 8),
        Sample(conv("m = ReduceMax <axes = [1]> (x)  p = Sub(a, m)  q = ReduceL2 <axes = [1]> (p)  b = Mul(q, a)"), 8),
        Sample(seq("s = ReduceL2 <axes = [0]> (w3)  n = Div(w3, s)  b = MatMul(a, n)", "float[8,6] w3", w2="6,4"), 14),
    ],
    **{op: [*reduced(op, through=8), *accounted(op)] for op in ("ReduceMean", "ReduceMax", "ReduceMin")},
    **{op: reduced(op) for op in ("ReduceProd", "ReduceLogSumExp")},
    "ReduceLogSum": [
        *reduced("ReduceLogSum", "Sigmoid"),
        Sample(conv("p = Abs(a)  b = ReduceLogSum <axes = [2,3]> (p)"), 0, "is not defined where a channel is zero", most=0),
    ],
    "CumSum": [
        Sample(conv("b = CumSum(a, k)", "", "int32 k = {2}"), 8),
        Sample(conv("b = CumSum <reverse = 1> (a, k)", "", "int64 k = {-1}"), 8),
        Sample(conv("b = CumSum(a, k)", "", "int32 k = {1}"), 8),
        Sample(conv("e = Exp(a)  b = CumSum(e, k)", "", "int32 k = {1}"), 0, "sums along this axis", most=0),
    ],
    **{
        op: [
            Sample(conv(f"m = {op} <axis = 3> (a)  b = Cast <to = 1> (m)"), 8),
            Sample(
                conv(
                    f"m = {op} <axis = 2, keepdims = 0> (a)  d = Cast <to = 1> (m)  b = Unsqueeze(d, u)", "", "int64[1] u = {2}"
                ),
                8,
            ),
            Sample(conv(f"m = {op} <axis = 1> (a)  d = Cast <to = 1> (m)  b = Mul(a, d)"), 0, "compares all positions", most=0),
            Sample(
                conv(f"m = {op} <axis = 0, keepdims = 0> (a)  b = Cast <to = 1> (m)", tail="y = MatMul(v, b)").replace(
                    "<>", "<float[8,8] v = {" + ",".join(["1.0"] * 64) + "}>"
                ),
                0,
            ),
        ]
        for op in ("ArgMax", "ArgMin")
    },
    "TopK": [
        Sample(conv("b, i = TopK <axis = 3> (a, k)", "", "int64[1] k = {3}"), 8),
        Sample(conv("v, i = TopK <axis = -2> (a, k)  d = Cast <to = 1> (i)  b = Add(v, d)", "", "int64[1] k = {3}"), 8),
        Sample(conv("b, i = TopK <axis = 1> (a, k)", "", "int64[1] k = {3}", w2="4,3,1,1"), 0, "sorts this axis", most=0),
    ],
}
