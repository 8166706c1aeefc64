# SPDX-License-Identifier: Apache-2.0
"""Elementwise operators."""

from __future__ import annotations

from tests.cases.operators.sample import Sample, both, conv, seq


def unary(op: str, before: str = "Identity", attributes: str = "", opset: int = 17) -> Sample:
    return Sample(conv(f"p = {before}(a)\n b = {op} {attributes} (p)"), opset=opset)


def after_cast(op: str, to: int = 6, attributes: str = "", opset: int = 18) -> Sample:
    """Two operands of an integer type."""
    lines = f"""m = Abs(a)  n = Abs(c)  k = Cast <to = {to}> (m)  l = Cast <to = {to}> (n)
        d = {op} {attributes} (k, l)  b = Cast <to = 1> (d)"""
    return Sample(both(lines), opset=opset)


def logic(op: str) -> Sample:
    return Sample(both(f"k = Greater(a, z)  l = Less(c, z)  d = {op}(k, l)  b = Cast <to = 1> (d)", consts="float z = {0.1}"))


def compared(op: str) -> list[Sample]:
    weight = conv(f"d = {op}(a, w3)  e = Cast <to = 1> (d)  b = Mul(e, a)", "float[8,1,1] w3")
    return [Sample(both(f"d = {op}(a, c)  b = Cast <to = 1> (d)")), Sample(weight)]


DIRECT = "Abs Asinh Atan Ceil Cos Erf Floor Identity Mish Neg Relu Round Selu Sigmoid Sign Sin Softplus Softsign Tanh Celu"
AFTER_TANH = "Acos Asin Atanh Cosh Exp Sinh Tan HardSigmoid Elu LeakyRelu Shrink ThresholdedRelu HardSwish"
UNARIES: dict[str, list[Sample]] = {
    **{op: [unary(op, opset=18)] for op in DIRECT.split()},
    **{op: [unary(op, "Tanh")] for op in AFTER_TANH.split()},
    "Acosh": [
        unary("Acosh", "Cosh"),
        Sample(both("d = Abs(c)  e = Acosh(d)  b = Where(k, e, a)", "", "bool[1] k = {0}"), 0, "is not defined"),
    ],
    "Log": [
        unary("Log", "Exp"),
        Sample(conv("d = Abs(a)  b = Log(d)"), 0, "is not defined where a channel is zero", most=0),
        Sample(conv("d = Add(a, one)  e = Abs(d)  b = Log(e)", consts="float one = {1.0}")),
    ],
    "Sqrt": [unary("Sqrt", "Abs"), unary("Sqrt", "Exp")],
    "Reciprocal": [unary("Reciprocal", "Sigmoid"), Sample(conv("b = Reciprocal(a)"), 0, "is not defined", most=0)],
    "Dropout": [
        unary("Dropout"),
        unary("Dropout", attributes="<ratio = 0.3>", opset=9),
        # an unused mask, whose shape inference does not know
        Sample(conv("b, m = Dropout(a)"), 8, opset=9),
        Sample(conv("d, m = Dropout(a, r)  e = Cast <to = 1> (m)  b = Mul(d, e)", consts="float r = {0.3}"), 8),
        # the mask is true where a channel is zero, too
        Sample(
            conv("d, m = Dropout(a)  e = Cast <to = 1> (m)  s = ReduceSum(e, k)  b = Mul(a, s)", "", "int64[1] k = {1}"),
            0,
            "would change the result",
        ),
    ],
    "Gelu": [unary("Gelu", opset=20), unary("Gelu", attributes='<approximate = "tanh">', opset=20)],
    "Swish": [unary("Swish", opset=24)],
    "Not": [Sample(conv("k = Greater(a, z)  d = Not(k)  b = Cast <to = 1> (d)", consts="float z = {0.1}"))],
    "IsNaN": [Sample(conv("d = IsNaN(a)  e = Cast <to = 1> (d)  b = Add(e, a)"))],
    "IsInf": [Sample(conv("d = IsInf(a)  e = Cast <to = 1> (d)  b = Sub(a, e)"))],
    "BitwiseNot": [Sample(conv("d = Cast <to = 6> (a)  e = BitwiseNot(d)  b = Cast <to = 1> (e)"), opset=18)],
    "Cast": [
        Sample(conv("d = Cast <to = 11> (a)  b = Cast <to = 1> (d)")),
        Sample(conv("d = Cast <to = 7> (a)  b = Cast <to = 1> (d)")),
        Sample(conv("d = Cast <to = 10> (w4)  e = Cast <to = 1> (d)  b = Mul(a, e)", "float[8,1,1] w4")),
    ],
    "CastLike": [
        Sample(conv("d = CastLike(a, like)  b = CastLike(d, a)", consts="double like = {0.0}")),
        Sample(conv("d = CastLike(a, a)  b = CastLike(d, w1)")),
    ],
    "Clip": [
        Sample(conv("b = Clip(a, lo, hi)", consts="float lo = {0.0}, float hi = {6.0}")),
        Sample(conv("b = Clip(a, lo)", consts="float lo = {0.3}")),
        # as PyTorch's newer exporter writes it without its optimiser
        Sample(
            conv(
                "lo = CastLike(zero, a)  hi = CastLike(six, a)  b = Clip(a, lo, hi)",
                consts="float zero = {0.0}, double six = {6.0}",
            )
        ),
        Sample(conv("b = Clip(a, , hi)", consts="float hi = {0.5}")),
        Sample(conv("b = Clip <min = 0.1, max = 6.0> (a)"), opset=9),
        # a bound above zero fills dropped channels: the sum includes it
        Sample(conv("d = Clip(a, lo)  s = ReduceSum(d, k)  b = Mul(s, a)", "", "float lo = {0.3}, int64[1] k = {1}"), 8),
        Sample(conv("d = Clip(a, lo)  s = ReduceSum(d, k)  b = Mul(s, a)", "", "float lo = {-0.3}, int64[1] k = {1}"), 8),
    ],
}

BROADCASTS: dict[str, list[Sample]] = {
    "Add": [
        Sample(both("b = Add(a, c)")),
        Sample(conv("b = Add(a, w3)", "float[1,8,1,1] w3")),
        Sample(conv("b = Add(w3, a)", "float[8,1,1] w3")),
        Sample(conv("b = Add(a, w3)", "float[8,8,8] w3")),
        Sample(conv("b = Add(a, w3)", "float[1] w3")),
        Sample(conv("d = GlobalAveragePool(a)  b = Add(d, a)")),
        Sample(conv("b = Add(a, a)")),
        Sample(conv("d = ReduceMean <axes = [1]> (x)  b = Add(a, d)")),
        Sample(
            conv(
                "d = Concat <axis = 1> (x, x, x)  e = Slice(d, s, t, k)  b = Add(a, e)",
                "",
                "int64[1] s = {0}, int64[1] t = {8}, int64[1] k = {1}",
            ),
            0,
            "combines them with channels that cannot be cut",
            most=0,
        ),
        Sample(seq("b = Add(a, w3)", "float[8] w3")),
        Sample(seq("b = Add(a, w3)", "float[1,5,8] w3")),
    ],
    "Sub": [Sample(both("b = Sub(a, c)")), Sample(conv("b = Sub(w3, a)", "float[8,1,1] w3"))],
    "Mul": [
        Sample(both("b = Mul(a, c)")),
        Sample(both("d = Exp(c)  b = Mul(a, d)")),
        Sample(conv("b = Mul(a, w3)", "float[8,1,1] w3")),
        Sample(conv("d = GlobalAveragePool(a)  e = Conv(d, w3)  f = Sigmoid(e)  b = Mul(a, f)", "float[8,8,1,1] w3")),
        Sample(conv("d = Mul(w3, w4)  b = Mul(a, d)", "float[8,1,1] w3, float[8,1,1] w4")),
        # the scale of a written-out normalisation whose input keeps its channels
        Sample(
            seq(
                "s = ReduceL2 <axes = [2]> (x)  d = Div(x, s)  n = Mul(d, w3)  e = MatMul(n, w4)  b = Add(a, e)",
                "float[6] w3, float[6,8] w4",
            ),
            14,
            most=14,
        ),
        Sample(
            seq(
                "s = ReduceL2 <axes = [2]> (x)  r = Reciprocal(s)  g = Mul(r, w3)  n = Mul(x, g)"
                "  e = MatMul(n, w4)  b = Add(a, e)",
                "float[6] w3, float[6,8] w4",
            ),
            14,
            most=14,
        ),
    ],
    "Div": [
        Sample(both("d = Sigmoid(c)  b = Div(a, d)")),
        Sample(conv("b = Div(a, wvar)", "float[8,1,1] wvar")),
        Sample(conv("b = Div(a, half)", consts="float half = {2.0}")),
        Sample(conv("b = Div(w3, a)", "float[8,1,1] w3"), 0, "is not defined where a channel is zero", most=0),
        Sample(both("b = Div(a, c)"), 0, "is not defined where a channel is zero", most=0),
    ],
    "Max": [Sample(both("b = Max(a, c)")), Sample(conv("b = Max(a, w3)", "float[8,1,1] w3")), Sample(conv("b = Max(a)"))],
    "Min": [Sample(both("b = Min(a, c, a)")), Sample(conv("b = Min(a, w3)", "float[8,1,1] w3"))],
    "Mean": [Sample(both("b = Mean(a, c)"))],
    "Sum": [
        Sample(both("b = Sum(a, c, w4)", "float[1,8,1,1] w4")),
        Sample(both("d = Sum(a, c)  s = ReduceSum(d, k)  b = Mul(s, a)", consts="int64[1] k = {1}")),
    ],
    "Pow": [
        Sample(conv("b = Pow(a, two)", consts="float two = {2.0}")),
        Sample(both("d = Sigmoid(a)  b = Pow(d, c)")),
        Sample(conv("d = Abs(a)  b = Pow(d, m)", consts="float m = {-1.0}"), 0, "is not defined", most=0),
        Sample(conv("d = Pow(a, two)  s = ReduceSum(d, k)  b = Mul(s, a)", consts="float two = {2.0}, int64[1] k = {1}")),
    ],
    "Mod": [
        Sample(both("d = Sigmoid(c)  b = Mod <fmod = 1> (a, d)")),
        Sample(conv("k = Cast <to = 6> (a)  d = Mod(k, three)  b = Cast <to = 1> (d)", consts="int32 three = {3}")),
    ],
    "PRelu": [
        Sample(conv("b = PRelu(a, w3)", "float[8,1,1] w3")),
        Sample(conv("b = PRelu(a, w3)", "float[1,1,1] w3")),
        Sample(seq("b = PRelu(a, w3)", "float[8] w3")),
        Sample(conv("d = PRelu(a, w3)  s = ReduceSum(d, k)  b = Mul(s, a)", "float[8,1,1] w3", "int64[1] k = {1}")),
    ],
    "Where": [
        Sample(both("k = Greater(a, c)  b = Where(k, a, c)")),
        Sample(both("k = Greater(a, z)  b = Where(k, z, c)", consts="float z = {0.2}")),
        Sample(
            both(
                "k = Greater(a, z)  d = Where(k, a, c)  s = ReduceSum(d, e)  b = Mul(s, a)",
                "",
                "float z = {0.2}, int64[1] e = {1}",
            )
        ),
        Sample(
            conv(
                "k = Greater(a, z)  d = Where(k, a, z)  s = ReduceSum(d, e)  b = Mul(s, a)",
                "",
                "float z = {0.2}, int64[1] e = {1}",
            ),
            8,
        ),
        Sample(conv("b = Where(m, a, w3)", "float[8,1,1] w3", "bool[1,1,1,8] m = {1,0,1,1,0,0,1,0}")),
        Sample(conv("b = Where(m, a, w3)", "float[8,1,1] w3", "bool[8,1,1] m = {1,0,1,1,0,0,1,0}"), 0, "cannot be cut", most=0),
    ],
    **{op: compared(op) for op in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")},
    **{op: [logic(op)] for op in ("And", "Or", "Xor")},
    **{op: [after_cast(op)] for op in ("BitwiseAnd", "BitwiseOr", "BitwiseXor")},
    "BitShift": [after_cast("BitShift", 12, '<direction = "LEFT">')],
}

SAMPLES: dict[str, list[Sample]] = {**UNARIES, **BROADCASTS}
