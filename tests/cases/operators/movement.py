# SPDX-License-Identifier: Apache-2.0
"""The cut law for every operator: it stands between weights that make channels and weights that consume them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from onnx import ModelProto

from onnxprune.analysis.couple import couple
from onnxprune.analysis.rules import RULES
from onnxprune.errors import CutError
from onnxprune.ir.decompositions import key
from onnxprune.ir.facts import read_graph
from tests.models import cut_some, free_atoms, model, pins, stored

SEEDS = 3


@dataclass(frozen=True)
class Sample:
    """A graph around one operator.

    Attributes:
        text: the graph.
        free: the least number of atoms that must be free.
        pinned: a part of a reason that must be given for channels that stay.
        most: the largest number of atoms that may be free, where more would be wrong; -1 for no limit.
        refused: a part of the reason for which a cut is refused, where only trying can tell.
    """

    text: str
    free: int = 8
    pinned: str = ""
    opset: int = 17
    most: int = -1
    refused: str = ""


def conv(body: str, inputs: str = "", consts: str = "", tail: str = "y = Conv(b, w2)", w2: str = "4,8,1,1") -> str:
    """Convolution -> `a` (2,8,8,8) -> body -> `b` -> convolution."""
    more = f", {inputs}" if inputs else ""
    return f"""g (float[2,3,8,8] x, float[8,3,3,3] w1, float[8] w1b, float[{w2}] w2{more}) => (float[] y) <{consts}> {{
        a = Conv <pads = [1,1,1,1]> (x, w1, w1b)
        {body}
        {tail}
    }}"""


def both(body: str, inputs: str = "", consts: str = "", tail: str = "y = Conv(b, w2)", w2: str = "4,8,1,1") -> str:
    """Two convolutions -> `a`, `c` (2,8,8,8) -> body -> `b` -> convolution."""
    more = f", {inputs}" if inputs else ""
    return conv(f"c = Conv <pads = [1,1,1,1]> (x, w3)\n{body}", f"float[8,3,3,3] w3{more}", consts, tail, w2)


def seq(body: str, inputs: str = "", consts: str = "", tail: str = "y = MatMul(b, w2)", w2: str = "8,4") -> str:
    """Matrix product -> `a` (2,5,8) -> body -> `b` -> matrix product."""
    more = f", {inputs}" if inputs else ""
    return f"""g (float[2,5,6] x, float[6,8] w1, float[{w2}] w2{more}) => (float[] y) <{consts}> {{
        a = MatMul(x, w1)
        {body}
        {tail}
    }}"""


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


def reduced(op: str, before: str = "Identity", through: int = 0) -> list[Sample]:
    """Over space it passes channels, with either style of axes; over channels it is exact only if it sums."""
    tail = "y = Gemm(b, w2)"
    # a bias is masked too, so the channels hold zeros
    over_channels = f"d = {op} <axes = [1], keepdims = 0> (p)  b = Flatten(d)"
    why = "" if through else "reduces over them, and removed ones would leave a trace"
    samples = [
        Sample(conv(f"p = {before}(a)  b = {op} <axes = [2,3], keepdims = 0> (p)", tail=tail, w2="8,4"), opset=11),
        Sample(conv(f"p = {before}(a)  b = {op} <axes = [-1,-2], keepdims = 1> (p)"), opset=11),
        Sample(conv(f"p = {before}(a)  {over_channels}", tail=tail, w2="64,4"), through, why, opset=11),
        Sample(conv(f"p = {before}(a)  b = {op} (p, s)", consts="int64[2] s = {2,3}"), opset=18),
        Sample(conv(f"p = {before}(a)  b = {op} <keepdims = 0> (p, s)", "", "int64[2] s = {-2,3}", tail, "8,4"), opset=18),
        Sample(conv(f"p = {before}(a)  b = {op} <noop_with_empty_axes = 1> (p)"), opset=18),
        Sample(conv(f"p = {before}(a)  q = {op} (p)  b = Mul(q, a)"), through, why, opset=18),
    ]
    if op == "ReduceSum":  # its axes became an input earlier than those of the others
        samples = [s for s in samples if s.opset != 18]
        samples.append(Sample(conv("b = ReduceSum(a, s)", consts="int64[2] s = {2,3}"), opset=13))
        samples.append(Sample(conv("q = ReduceSum(a, s)  b = Mul(q, a)", consts="int64[1] s = {1}"), 8, opset=13))
        # each removed channel holds something else, and it depends on the input
        each = "m = ReduceMax <axes = [1]> (x)  u = Exp(w3)  o = Sub(a, m)  p = Add(o, u)  q = ReduceSum(p, s)  b = Mul(q, a)"
        samples.append(Sample(conv(each, "float[8,1,1] w3", "int64[1] s = {1}"), 8, opset=13))
        samples.append(Sample(conv("p = Sigmoid(a)  q = ReduceSum(p)  b = Mul(q, a)"), 0, "leave a trace", opset=13))
        samples.append(
            Sample(conv("p = Sigmoid(a)  q = ReduceSum(p, s)  b = Mul(q, a)", consts="int64[1] s = {1}"), 8, opset=13)
        )
    return samples


def accounted(op: str) -> list[Sample]:
    """Removed channels hold a constant, a different one at each place, or what another tensor makes of them."""
    maximum = "m = ReduceMax <axes = [1]> (x)"
    return [
        Sample(conv(f"p = Sigmoid(a)  q = {op} <axes = [1]> (p)  b = Mul(q, a)"), 8, opset=11),
        Sample(
            conv(f"p = Add(a, w3)  e = Exp(p)  q = {op} <axes = [1,3]> (e)  b = Mul(q, a)", "float[1,1,8,8] w3"), 8, opset=11
        ),
        Sample(conv(f"{maximum}  p = Sub(a, m)  q = {op} <axes = [1]> (p)  b = Mul(q, a)"), 8, opset=11),
        Sample(seq(f"m = ReduceMean <axes = [-1]> (a)  d = Sub(a, m)  s = Mul(d, d)  b = {op} <axes = [2]> (s)", w2="1,4"), 8),
    ]


def normalised(op: str, before: str = "Identity") -> list[Sample]:
    """Removed channels are zero or constant, or nobody knows; along space, or along the sequence, channels pass."""
    why = "normalises over them, and removed ones would leave a trace"
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


def layered(op: str, gates: int) -> list[Sample]:
    """A linear layer, a recurrent one, and what reads its sequence or its last state."""
    n = gates * 7

    def net(body: str, more: str = "", directions: int = 1, attributes: str = "") -> str:
        return f"""g (float[5,2,6] x, float[6,8] w1, float[{directions},{n},8] w3, float[{directions},{n},7] w4{more},
            float[7,4] w2) => (float[] y) <int64[1] k = {{0}}, int64[1] j = {{1}}> {{
            a = MatMul(x, w1)  h, s = {op} <hidden_size = 7{attributes}> (a, w3, w4{body} }}"""

    squeezed = "  b = Squeeze(h, j)  y = MatMul(b, w2)"
    bias = f", float[1,{2 * n}] w5"
    two = f", float[2,{2 * n}] w5"
    return [
        Sample(net(f"){squeezed}"), 15),
        Sample(net(f", w5){squeezed}", bias), 15),
        Sample(net(", w5)  b = Squeeze(s, k)  y = MatMul(b, w2)", bias), 15),
        Sample(net(f", w5, , w6){squeezed}", f"{bias}, float[1,2,7] w6"), 15),
        Sample(net(", w5)  b = ReduceMax <axes = [1]> (h)  y = MatMul(b, w2)", two, 2, ', direction = "bidirectional"'), 15),
        Sample(
            net(f", w5, , q){squeezed}  ", bias)
            .replace("a = MatMul(x, w1)", "a = MatMul(x, w1)  q = ReduceMean <axes = [0], keepdims = 1> (z)")
            .replace("float[6,8] w1", "float[6,8] w1, float[3,2,7] z"),
            8,
            "a state that cannot be cut",
        ),
    ]


QUANTIZED = "float sc = {0.05}, uint8 zp = {128}, int64[1] k = {1}"
TO_INTEGERS = "q = QuantizeLinear(a, sc, zp)"
DYNAMIC = "q, s, z = DynamicQuantizeLinear(a)"
SCALED = "f = Cast <to = 1> (m)  b = Mul(f, s)"


def pooled(op: str, attributes: str = "") -> list[Sample]:
    return [Sample(conv(f"b = {op} <kernel_shape = [2,2], strides = [2,2]{attributes}> (a)"))]


def globally(op: str) -> list[Sample]:
    return [
        Sample(conv(f"b = {op}(a)")),
        Sample(conv(f"d = {op}(a)  b = Flatten(d)", tail="y = Gemm <transB = 1> (b, w2)", w2="4,8")),
    ]


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
        # a mask that nobody reads, of which shape inference says nothing
        Sample(conv("b, m = Dropout(a)"), 8, opset=9),
        Sample(conv("d, m = Dropout(a, r)  e = Cast <to = 1> (m)  b = Mul(d, e)", consts="float r = {0.3}"), 8),
        # the mask is true where a channel is zero, too
        Sample(
            conv("d, m = Dropout(a)  e = Cast <to = 1> (m)  s = ReduceSum(e, k)  b = Mul(a, s)", "", "int64[1] k = {1}"),
            0,
            "trace",
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
        Sample(conv("b = Clip(a, , hi)", consts="float hi = {0.5}")),
        Sample(conv("b = Clip <min = 0.1, max = 6.0> (a)"), opset=9),
        # a bound above zero fills removed channels: the sum takes that in
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
            "meets them with channels that cannot be cut",
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

CONV_HEAD = "g (float[2,3,8,8] x, float[8,3,3,3] w1, float[8] w1b"


def grouped(group: int, out: int, kernel: str = "", more: str = "", free: int = 0, bias: bool = True) -> Sample:
    """A grouped convolution from 8 to `out` channels."""
    w3b, names = (f", float[{out}] w3b", "a, w3, w3b") if bias else ("", "a, w3")
    size = kernel or f"{out},{8 // group},3,3"
    return Sample(
        conv(f"b = Conv <group = {group}, pads = [1,1,1,1]{more}> ({names})", f"float[{size}] w3{w3b}", w2=f"4,{out},1,1"), free
    )


PRODUCTS: dict[str, list[Sample]] = {
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
    "Gemm": [
        # a number that is added to every channel leaves none at zero
        Sample(
            """g (float[5,6] x, float[6,8] w1, float[8,4] w2) => (float[] y) <float one = {0.7}, int64[1] k = {1}> {
            a = Gemm(x, w1, one)  s = ReduceSum(a, k)  b = Mul(a, s)  y = Gemm(b, w2) }""",
            0,
            "leave a trace",
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
        # a batch of weights, one for each head, of which the sum is taken
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
        # batch statistics, as where weights are standardised
        Sample(
            conv(
                "d, m, v = BatchNormalization <training_mode = 1> (w6, w3, w4, w5, wvar)  b = Conv(a, d)",
                "float[6,8,1,1] w6, float[8] w3, float[8] w4, float[8] w5, float[8] wvar",
                w2="4,6,1,1",
            ),
            14,
        ),
        # one variance shared with another user
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
        # one group of all channels, as PyTorch writes GroupNorm: what removed channels hold counts for its statistics
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
            "normalises over them, and removed ones would leave a trace",
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
            "normalises over them, and removed ones would leave a trace",
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
    **{op: layered(op, gates) for op, gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1))},
    "QuantizeLinear": [
        Sample(conv(f"{TO_INTEGERS}  b = DequantizeLinear(q, sc, zp)", "", QUANTIZED, w2="4,8,1,1"), 8),
        Sample(
            conv(f"{TO_INTEGERS}  d = DequantizeLinear(q, sc)  s = ReduceSum(d, k)  b = Add(s, a)", "", QUANTIZED), 0, "trace"
        ),
        Sample(conv(f"{TO_INTEGERS}  c = Cast <to = 1> (q)  b = Add(c, a)", "", QUANTIZED), 8),
        Sample(
            conv(
                "q = QuantizeLinear <axis = 1> (a, wvar1, zs)  d = DequantizeLinear <axis = 1> (q, wvar1, zs)  b = Add(d, a)",
                "float[8] wvar1",
                "uint8[8] zs = {128,128,128,128,128,128,128,128}",
            ),
            8,
        ),
        Sample(conv("q = QuantizeLinear(a, sc)  d = DequantizeLinear(q, sc)  b = Add(d, a)", "", "float sc = {0.05}"), 8),
    ],
    "DequantizeLinear": [
        Sample(conv("d = DequantizeLinear(w3, sc)  b = Conv(a, d)", "int8[6,8,1,1] w3", QUANTIZED, w2="4,6,1,1"), 14),
        Sample(conv("d = DequantizeLinear(w3, sc, zp)  b = Conv(a, d)", "uint8[6,8,1,1] w3", QUANTIZED, w2="4,6,1,1"), 14),
        Sample(
            conv("d = DequantizeLinear <axis = 0> (w3, w4)  b = Conv(a, d)", "int8[6,8,1,1] w3, float[6] w4", w2="4,6,1,1"), 14
        ),
        Sample(
            conv(
                "d = DequantizeLinear <axis = 0> (w3, w4, w6)  e = DequantizeLinear <axis = 0> (w5, w4)  b = Conv(a, d, e)",
                "int8[6,8,1,1] w3, float[6] w4, int32[6] w5, int8[6] w6",
                w2="4,6,1,1",
            ),
            0,
        ),
        Sample(
            conv(
                "d = DequantizeLinear <axis = 0> (w3, w4, z)  e = DequantizeLinear <axis = 0> (w5, w4)  b = Conv(a, d, e)",
                "int8[6,8,1,1] w3, float[6] w4, int32[6] w5",
                "int8[6] z = {0,0,0,0,0,0}",
                w2="4,6,1,1",
            ),
            14,
        ),
        # whole blocks of input channels
        Sample(
            seq(
                "d = DequantizeLinear <axis = 0, block_size = 2> (w3, w4)  b = MatMul(a, d)",
                "int8[8,6] w3, float[4,6] w4",
                w2="6,4",
            ),
            10,
            most=10,
            opset=21,
        ),
        Sample(
            seq(
                "d = DequantizeLinear <axis = 0, block_size = 4> (w3, w4, w5)  b = MatMul(a, d)",
                "uint8[8,6] w3, float[2,6] w4, uint8[2,6] w5",
                w2="6,4",
            ),
            8,
            most=8,
            opset=21,
        ),
        Sample(
            seq(
                "d = DequantizeLinear <axis = 1, block_size = 2> (w3, w4)  e = Transpose(d)  b = MatMul(a, e)",
                "int4[6,8] w3, float[6,4] w4",
                w2="6,4",
            ),
            10,
            most=10,
            opset=21,
        ),
        Sample(
            seq(
                "d = DequantizeLinear <axis = 0, block_size = 8> (w3, w4)  b = MatMul(a, d)",
                "int8[8,6] w3, float[1,6] w4",
                w2="6,4",
            ),
            14,
            most=14,
            opset=21,
        ),
    ],
    "DynamicQuantizeLinear": [
        Sample(seq("q, s, z = DynamicQuantizeLinear(a)  d = DequantizeLinear(q, s, z)  b = Add(d, a)"), 8),
        Sample(
            seq("e = Exp(a)  q, s, z = DynamicQuantizeLinear(e)  b = DequantizeLinear(q, s, z)"), 0, "finds its range", most=0
        ),
    ],
    "MatMulInteger": [
        Sample(seq(f"{DYNAMIC}  m = MatMulInteger(q, w3, z)  {SCALED}", "int8[8,6] w3", w2="6,4"), 14),
        Sample(seq(f"{DYNAMIC}  m = MatMulInteger(q, w3, z, p)  {SCALED}", "uint8[8,6] w3", "uint8 p = {77}", w2="6,4"), 14),
    ],
    "ConvInteger": [
        Sample(conv(f"{DYNAMIC}  m = ConvInteger(q, w3, z)  {SCALED}", "uint8[6,8,1,1] w3", w2="4,6,1,1"), 14),
        Sample(
            conv(f"{DYNAMIC}  m = ConvInteger(q, w3, z, p)  {SCALED}", "uint8[6,8,1,1] w3", "uint8 p = {77}", w2="4,6,1,1"), 14
        ),
        Sample(conv(f"{DYNAMIC}  m = ConvInteger <group = 2> (q, w3, z)  {SCALED}", "uint8[6,4,1,1] w3", w2="4,6,1,1"), 8),
        Sample(
            conv(f"{DYNAMIC}  m = ConvInteger <group = 8> (q, w3, z, p)  {SCALED}", "uint8[8,1,3,3] w3", "uint8 p = {77}"), 8
        ),
    ],
    "RMSNormalization": [
        Sample(seq("b = RMSNormalization(a, w3)", "float[8] w3"), 8, opset=23),
        Sample(seq("e = Exp(a)  b = RMSNormalization(e, w3)", "float[8] w3"), 8, opset=23),
    ],
}

SPLIT13 = "int64[2] k = {3,5}"
MOVEMENTS: dict[str, list[Sample]] = {
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
        # an embedding: indices from data pin the rows of the table, its columns stay free
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
            "leave a trace",
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

OTHERS: dict[str, list[Sample]] = {
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
    "AveragePool": [
        *pooled("AveragePool", ", pads = [1,1,1,1], count_include_pad = 1"),
        *pooled("AveragePool", ", ceil_mode = 1"),
        Sample("""g (float[2,3,16] x, float[8,3,3] w1, float[4,8,1] w2) => (float[] y) {
            a = Conv(x, w1)  b = AveragePool <kernel_shape = [3]> (a)  y = Conv(b, w2) }"""),
    ],
    "MaxPool": [
        *pooled("MaxPool", ", pads = [1,1,1,1]"),
        Sample(conv("b, i = MaxPool <kernel_shape = [2,2]> (a)")),
        Sample(
            conv("d, i = MaxPool <kernel_shape = [2,2]> (a)  e = Cast <to = 1> (i)  b = Mul(d, e)"),
            0,
            "a second output 'i' in use",
            most=0,
        ),
    ],
    "LpPool": pooled("LpPool", ", p = 3"),
    "GlobalAveragePool": globally("GlobalAveragePool"),
    "GlobalMaxPool": globally("GlobalMaxPool"),
    "GlobalLpPool": globally("GlobalLpPool"),
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
    "Resize": [
        Sample(conv("b = Resize(a, , s)", "", "float[4] s = {1.0,1.0,2.0,2.0}"), 8),
        Sample(
            conv(
                'b = Resize <mode = "linear", coordinate_transformation_mode = "half_pixel"> (a, , , s)',
                "",
                "int64[4] s = {2,8,16,12}",
            ),
            8,
        ),
        Sample(
            conv(
                'b = Resize <mode = "linear", coordinate_transformation_mode = "align_corners"> (a, r, e, s)',
                "",
                "float[8] r = {0,0,0,0,1,1,1,1}, float[0] e = {}, int64[4] s = {2,8,5,12}",
            ),
            8,
            opset=11,
        ),
        Sample(conv("b = Resize(a, r, s)", "", "float[8] r = {0,0,0,0,1,1,1,1}, float[4] s = {1.0,1.0,0.5,0.5}"), 8, opset=11),
        Sample(conv("b = Resize <axes = [2,3]> (a, , , s)", "", "int64[2] s = {16,12}"), 8, opset=18),
        Sample(conv("b = Resize <axes = [3,1]> (a, , , s)", "", "int64[2] s = {16,8}"), 8, opset=18),
        Sample(conv("b = Resize(a, s)", "", "float[4] s = {1.0,1.0,2.0,2.0}"), 8, opset=10),
        Sample(
            conv(
                "d = Shape(a)  e = Slice(d, z, t)  f = Concat <axis = 0> (e, k)  b = Resize(a, , , f)",
                "",
                "int64[1] z = {0}, int64[1] t = {2}, int64[2] k = {16,16}",
            ).replace("float[2,3", "float[N,3"),
            8,
        ),
        Sample(
            conv('b = Resize <mode = "nearest"> (a, , s)', "", "float[4] s = {1.0,2.0,1.0,1.0}", w2="4,16,1,1"),
            0,
            "resizes this axis",
            most=0,
        ),
        # as many channels as before, but not the same ones
        Sample(
            conv('b = Resize <mode = "linear"> (a, , s)', "", "float[4] s = {1.0,1.1,1.0,1.0}"), 0, "resizes this axis", most=0
        ),
        Sample(
            conv(
                'b = Resize <coordinate_transformation_mode = "tf_crop_and_resize"> (a, r, , s)',
                "",
                "float[8] r = {0,0.1,0.1,0.1,1,0.9,0.9,0.9}, int64[4] s = {2,8,8,8}",
            ),
            0,
            "crops while it resizes",
            most=0,
        ),
    ],
    "Upsample": [
        Sample(conv("b = Upsample(a, s)", "", "float[4] s = {1.0,1.0,2.0,2.0}"), 8, opset=9),
        Sample(conv('b = Upsample <mode = "linear"> (a, s)', "", "float[4] s = {1.0,1.0,2.0,2.0}"), 8, opset=9),
    ],
    "Shape": [
        Sample(conv("d = Shape(a)  b = Reshape(a, d)"), 8),
        Sample(conv("d = Shape <start = 1, end = 2> (a)  e = Cast <to = 1> (d)  b = Div(a, e)"), 8, opset=17),
        Sample(
            conv(
                "s = Shape(a)  c = Gather(s, one)  h = Div(c, two)  u = Unsqueeze(h, z)"
                "  d = Slice(a, z, u, o)  b = Slice(a, u, f, o)",
                "",
                "int64 one = {1}, int64 two = {2}, int64[1] z = {0}, int64[1] o = {1}, int64[1] f = {100}",
                "e = Mul(b, d)  y = Conv(e, w2)",
                "4,4,1,1",
            ),
            4,
        ),
    ],
    "Size": [
        Sample(conv("d = Size(a)  e = Cast <to = 1> (d)  b = Div(a, e)"), 8),
        Sample(
            conv("d = Size(a)  e = Cast <to = 1> (d)  b = Div(a, e)").replace("float[2,3", "float[N,3"), 0, refused="dynamic"
        ),
    ],
}

SAMPLES: dict[str, list[Sample]] = {**UNARIES, **BROADCASTS, **PRODUCTS, **MOVEMENTS, **OTHERS}

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
        conv("b = Relu(a)").replace("=> (float[] y)", "=> (float[] y, float[] b)"), 0, "promises its size", most=0
    ),
    "half of the channels are an output": Sample(
        conv("b = Slice(a, s, e, k)", "", "int64[1] s = {0}, int64[1] e = {4}, int64[1] k = {1}", "y = Conv(a, w2)").replace(
            "=> (float[] y)", "=> (float[] y, float[] b)"
        ),
        4,
        "promises its size",
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


PATTERNS: dict[str, Sample] = {
    "a column of a table": Sample(seq("g = Gather <axis = 1> (w3, k)  b = Mul(a, g)", "float[8,3] w3", "int64 k = {1}"), 8),
    "a row of a table": Sample(seq("g = Gather(w3, k)  b = Mul(a, g)", "float[3,8] w3", "int64 k = {1}"), 8),
    "a weight joined from two": Sample(
        conv("d = Concat <axis = 0> (w3, w4)  b = Conv(a, d)", "float[3,8,1,1] w3, float[3,8,1,1] w4", w2="4,6,1,1"),
        14,
        most=14,
    ),
    "a weight split in two": Sample(
        seq("d, e = Split <axis = 1> (w3)  f = MatMul(a, d)  h = MatMul(a, e)  b = Mul(f, h)", "float[8,16] w3"), 16, opset=13
    ),
    "a weight rounded to a grid": Sample(
        conv(
            "s = ReduceMax <axes = [1,2,3]> (w3)  d = Div(w3, s)  r = Round(d)  e = Mul(r, s)  b = Conv(a, e)",
            "float[6,8,1,1] w3",
            w2="4,6,1,1",
        ),
        6,
    ),
    "one kernel repeated for every channel": Sample(
        conv("d = Expand(w3, p)  b = Conv <group = 8> (a, d)", "float[1,1,3,3] w3", "int64[4] p = {8,1,1,1}"), 8
    ),
    "an outer product, flattened": Sample(
        """g (float[2,6] x, float[6,4] w1, float[6,5] w2, float[20,3] w3) => (float[] y)
            <int64[3] p = {0,4,1}, int64[3] q = {0,1,5}, int64[2] k = {0,20}> {
            a = MatMul(x, w1)  b = MatMul(x, w2)  c = Reshape(a, p)  d = Reshape(b, q)  e = Mul(c, d)  f = Reshape(e, k)
            y = MatMul(f, w3) }""",
        4,
        "folds them into an axis with other channels",
    ),
    "a recurrent layer": Sample(
        """g (float[5,2,6] x, float[6,8] w1, float[1,12,8] w3, float[1,12,4] w4, float[4,7] w5, float[7,3] w6) => (float[] y)
            <int64[1] k = {1}> { a = MatMul(x, w1)  h, l = GRU <hidden_size = 4> (a, w3, w4)  s = Squeeze(h, k)
            b = MatMul(s, w5)  c = Relu(b)  y = MatMul(c, w6) }""",
        19,
        most=19,
    ),
    "a number computed from a small weight": Sample(
        conv("e = Mul(a, w3)  q = Mul(w3, w3)  s = ReduceSum(q)  b = Mul(e, s)", "float[8,1,1] w3"), 8
    ),
    "a product of small weights": Sample(
        conv(
            "e = Add(a, w5)  s = MatMul(w3, w4)  r = Reshape(w3, k)  f = Mul(e, r)  b = Mul(f, s)",
            "float[8] w3, float[8] w4, float[8,1,1] w5",
            "int64[3] k = {8,1,1}",
        ),
        1,
    ),
    "the number of channels as a bound": Sample(
        conv("s = Shape(a)  c = Gather(s, one)  f = Cast <to = 1> (c)  b = Clip(a, , f)", "", "int64 one = {1}"), 8, most=8
    ),
    "the number of channels under a root": Sample(
        conv("s = Shape(a)  c = Gather(s, one)  f = Cast <to = 1> (c)  r = Sqrt(f)  b = Div(a, r)", "", "int64 one = {1}"),
        8,
        most=8,
    ),
    "a range over the channels picks them": Sample(
        conv(
            "s = Shape(a)  c = Gather(s, one)  r = Range(z, c, one)  b = Gather <axis = 1> (a, r)",
            "",
            "int64 one = {1}, int64 z = {0}",
        ),
        8,
        most=8,
    ),
    "halves of a computed size": Sample(
        conv(
            "s = Shape(a)  c = Gather(s, one)  h = Div(c, two)  k = Concat <axis = 0> (h, h)"
            "  d, e = Split <axis = 1> (a, k)  f = Conv(d, w3)  b = Concat <axis = 1> (f, e)",
            "float[4,4,1,1] w3",
            "int64[1] one = {1}, int64[1] two = {2}",
        ),
        12,
        most=12,
    ),
    "flattened by a product of sizes": Sample(
        conv(
            "s = Shape(a)  n = Gather(s, z)  c = Gather(s, o)  h = Gather(s, t)  w = Gather(s, q)"
            "  m = Mul(c, h)  p = Mul(m, w)  k = Concat <axis = 0> (n, p)  b = Reshape(a, k)",
            "",
            "int64[1] z = {0}, int64[1] o = {1}, int64[1] t = {2}, int64[1] q = {3}",
            "y = MatMul(b, w2)",
            "512,4",
        ).replace("float[2,3", "float[N,3"),
        8,
        most=8,
    ),
    "tokens by a product of dynamic sizes": Sample(
        conv(
            "s = Shape(a)  n = Gather(s, z)  c = Gather(s, o)  h = Gather(s, t)  w = Gather(s, q)"
            "  m = Mul(h, w)  k = Concat <axis = 0> (n, c, m)  d = Reshape(a, k)"
            "  e = Transpose <perm = [0,2,1]> (d)  b = Relu(e)",
            "",
            "int64[1] z = {0}, int64[1] o = {1}, int64[1] t = {2}, int64[1] q = {3}",
            "y = MatMul(b, w2)",
            "8,4",
        ).replace("float[2,3,8,8]", "float[N,3,H,W]"),
        8,
        most=8,
    ),
    "the Expand that torch writes": Sample(
        conv(
            "sh = Constant <value = int64[4] {-1,8,1,1}> ()  c = ConstantOfShape <value = int64[1] {1}> (four)"
            "  m = Mul(c, neg)  q = Equal(sh, m)  e = Where(q, c, sh)  g = Expand(w3, e)  b = Add(a, g)",
            "float[1,8,1,1] w3",
            "int64[1] four = {4}, int64 neg = {-1}",
        ),
        8,
        most=8,
    ),
    "a class token repeated by Tile": Sample(
        """g (float[N,5,6] x, float[6,8] w1, float[1,1,8] w3, float[8,4] w2) => (float[] y) <int64[1] z = {0},
            int64[2] k = {1,1}> {
            a = MatMul(x, w1)  s = Shape(x)  n = Gather(s, z)  r = Concat <axis = 0> (n, k)  t = Tile(w3, r)
            b = Concat <axis = 1> (t, a)  y = MatMul(b, w2) }""",
        8,
        most=8,
    ),
    "backwards to the very beginning": Sample(
        conv(
            "b = Slice(a, s, e, k, t)",
            "",
            "int64[1] s = {-1}, int64[1] e = {-9223372036854775808}, int64[1] k = {1}, int64[1] t = {-1}",
        ),
        8,
        most=8,
    ),
    "a matrix of similarities": Sample(
        seq("t = Transpose <perm = [0,2,1]> (a)  s = MatMul(a, t)  b = MatMul(s, a)"), 8, most=8
    ),
    "a table of relative positions": Sample(
        """g (float[N,4,8] x, float[8,8] wq, float[8,8] wk, float[8,8] wv, float[9,2] wt,
            float[8,8] wo) => (float[] y) <int64[4] s = {0,4,2,4}, int64[3] t = {0,4,8},
            int64[16] i = {0,1,2,3,4,5,6,7,8,0,1,2,3,4,5,6}, int64[3] u = {4,4,2}> {
            q = MatMul(x, wq)  k = MatMul(x, wk)  v = MatMul(x, wv)
            qr = Reshape(q, s)  kr = Reshape(k, s)  vr = Reshape(v, s)
            qt = Transpose <perm = [0,2,1,3]> (qr)  kt = Transpose <perm = [0,2,3,1]> (kr)
            vt = Transpose <perm = [0,2,1,3]> (vr)
            z = MatMul(qt, kt)  b = Gather(wt, i)  bv = Reshape(b, u)  bt = Transpose <perm = [2,0,1]> (bv)  zb = Add(z, bt)
            p = Softmax(zb)  o = MatMul(p, vt)  ot = Transpose <perm = [0,2,1,3]> (o)
            r = Reshape(ot, t)  y = MatMul(r, wo) }""",
        6,
    ),
    "attention with a mask": Sample(
        """g (float[2,5,6] x, float[6,8] w1, float[6,8] w3, float[6,8] w4,
            float[8,4] w2) => (float[] y) <bool[5,5] m = {1,0,0,0,0,1,1,0,0,0,1,1,1,0,0,1,1,1,1,0,1,1,1,1,1},
            float inf = {-10000.0}> {
            q = MatMul(x, w1)  k = MatMul(x, w3)  v = MatMul(x, w4)  t = Transpose <perm = [0,2,1]> (k)  s = MatMul(q, t)
            z = Where(m, s, inf)  p = Softmax(z)  b = MatMul(p, v)  y = MatMul(b, w2) }""",
        16,
        most=16,
    ),
    "linear attention": Sample(
        """g (float[2,5,6] x, float[6,8] w1, float[6,8] w3, float[6,8] w4, float[8,4] w2) => (float[] y) {
            q = MatMul(x, w1)  k = MatMul(x, w3)  v = MatMul(x, w4)  ks = Softmax <axis = 1> (k)
            t = Transpose <perm = [0,2,1]> (ks)  c = MatMul(t, v)  b = MatMul(q, c)  y = MatMul(b, w2) }""",
        16,
        most=16,
    ),
    "a transposed convolution of stated size": Sample(
        conv("b = ConvTranspose <output_shape = [16,16], strides = [2,2]> (a, w3)", "float[8,6,3,3] w3", w2="4,6,1,1"),
        14,
        most=14,
    ),
    "root mean square by hand": Sample(
        seq("q = Mul(a, a)  v = ReduceMean <axes = [-1]> (q)  r = Sqrt(v)  n = Div(a, r)  b = Mul(n, w3)", "float[8] w3"),
        8,
    ),
    "layer normalisation by hand": Sample(
        seq(
            "m = ReduceMean <axes = [-1]> (a)  d = Sub(a, m)  q = Pow(d, two)  v = ReduceMean <axes = [-1]> (q)"
            "  e = Add(v, eps)  r = Sqrt(e)  n = Div(d, r)  g = Mul(n, w3)  b = Add(g, w4)",
            "float[8] w3, float[8] w4",
            "float two = {2}, float eps = {0.00001}",
        ),
        8,
    ),
    "layer normalisation of tokens behind a class token": Sample(
        """g (float[N,5,6] x, float[6,8] w1, float[1,1,8] w3, float[1,6,8] w4, float[8] w5, float[8] w6, float[8,8] w7,
            float[8,4] w2) => (float[] y) <int64[1] z = {0}, int64[2] k = {1,8}> {
            a = MatMul(x, w1)  s = Shape(x)  n = Gather(s, z)  r = Concat <axis = 0> (n, k)  t = Expand(w3, r)
            b = Concat <axis = 1> (t, a)  c = Add(b, w4)  l = LayerNormalization(c, w5, w6)  m = MatMul(l, w7)
            e = Add(c, m)  f = LayerNormalization(e, w5, w6)  y = MatMul(f, w2) }""",
        8,
    ),
    "token mixing": Sample(
        """g (float[2,5,6] x, float[6,8] w1, float[8] w3, float[8] w4, float[5,7] w5, float[7] w8, float[7,5] w6, float[5] w9,
            float[8,4] w2) => (float[] y) {
            a = MatMul(x, w1)  l = LayerNormalization(a, w3, w4)  t = Transpose <perm = [0,2,1]> (l)  h = MatMul(t, w5)
            i = Add(h, w8)  j = Gelu(i)  k = MatMul(j, w6)  m = Add(k, w9)  u = Transpose <perm = [0,2,1]> (m)
            r = Add(a, u)  n = LayerNormalization(r, w3, w4)  y = MatMul(n, w2) }""",
        15,
        opset=20,
    ),
    "standardised weights": Sample(
        conv(
            "r = Reshape(w3, k)  m = ReduceMean <axes = [1]> (r)  d = Sub(r, m)  q = Mul(d, d)  v = ReduceMean <axes = [1]> (q)"
            "  e = Add(v, eps)  s = Sqrt(e)  n = Div(d, s)  o = Reshape(n, l)  b = Conv <pads = [1,1,1,1]> (a, o)",
            "float[6,8,3,3] w3",
            "int64[2] k = {6,-1}, int64[4] l = {6,8,3,3}, float eps = {0.00001}",
            w2="4,6,1,1",
        ),
        14,
    ),
    "weights standardised over inputs and kernel": Sample(
        conv(
            "m = ReduceMean <axes = [1,2,3]> (w3)  d = Sub(w3, m)  q = Mul(d, d)  v = ReduceMean <axes = [1,2,3]> (q)"
            "  e = Add(v, eps)  s = Sqrt(e)  n = Div(d, s)  b = Conv <pads = [1,1,1,1]> (a, n)",
            "float[6,8,3,3] w3",
            "float eps = {0.00001}",
            w2="4,6,1,1",
        ),
        14,
    ),
    "euclidean norm by hand": Sample(
        seq(
            "v = ReduceL2 <axes = [-1]> (a)  m = Clip(v, eps)  s = Shape(a)  e = Expand(m, s)  n = Div(a, e)  b = Mul(n, w3)",
            "float[8] w3",
            "float eps = {0.00001}",
        ),
        8,
        most=8,
    ),
    "groups over two producers": Sample(
        both("d = Concat <axis = 1> (a, c)  b = Conv <group = 2> (d, w4)", "float[8,8,1,1] w4"), 8
    ),
    "groups over padding": Sample(
        conv(
            "d = Pad(a, p, v)  b = Conv <group = 2> (d, w4)",
            "float[12,6,1,1] w4",
            "int64[8] p = {0,2,0,0,0,2,0,0}, float v = {1.5}",
            w2="4,12,1,1",
        ),
        8,
    ),
    "a constant image": Sample(
        conv(
            "d = ConstantOfShape <value = float[1] {0.5}> (s)  e = Conv(d, w3)  b = Add(a, e)",
            "float[8,8,1,1] w3",
            "int64[4] s = {1,8,1,1}",
        ),
        8,
    ),
    "a repeated weight with channels of its own": Sample(
        conv(
            "d = Expand(w3, s)  e = Conv(d, w4)  b = Add(a, e)",
            "float[1,1,1,1] w3, float[8,6,1,1] w4",
            "int64[4] s = {1,6,1,1}",
        ),
        8,
    ),
    "channels folded into a dynamic batch": Sample(
        conv(
            "d = Reshape(a, s)  e = Conv(d, w3)  b = Reshape(e, t)",
            "float[1,1,1,1] w3",
            "int64[4] s = {-1,1,8,8}, int64[4] t = {-1,8,8,8}",
        ).replace("float[2,3", "float[N,3"),
        0,
        "axis of dynamic size",
        most=0,
    ),
    "a body that uses a size": Sample(
        conv(
            "s = Shape(a)  d = If (t) <then_branch = q () => (int64[4] p) { p = Identity(s) },"
            " else_branch = e () => (int64[4] r) { r = Identity(s) }>  b = Reshape(a, d)",
            "bool t",
        ),
        0,
        most=0,
    ),
    "a body that uses a scale": Sample(
        conv(
            "d = Mul(a, w3)  e = If (t) <then_branch = q () => (float[8,1,1] p) { p = Identity(w3) },"
            " else_branch = e () => (float[8,1,1] r) { r = Neg(w3) }>  b = Mul(d, e)",
            "bool t, float[8,1,1] w3",
        ),
        0,
        "uses them inside its body",
        most=0,
    ),
    "a body in a body that uses a scale": Sample(
        conv(
            "c0 = Mul(a, w3)  c = Conv(c0, w4)"
            "  e = If (t) <then_branch = q () => (float[8,1,1] p) { p = If (t) <then_branch = q2"
            " () => (float[8,1,1] p2) { p2 = Identity(w3) },"
            " else_branch = q3 () => (float[8,1,1] p3) { p3 = Neg(w3) }> },"
            " else_branch = e () => (float[8,1,1] r) { r = Neg(w3) }>  d = Conv(c, w5)  b = Mul(d, e)",
            "bool t, float[8,1,1] w3, float[6,8,1,1] w4, float[8,6,1,1] w5",
        ),
        6,
        "uses them inside its body",
        most=6,
    ),
    "a weight that only a body uses": Sample(
        conv(
            "e = If (t) <then_branch = q () => (float[8] p) { p = Identity(w3) },"
            " else_branch = e () => (float[8] r) { r = Neg(w3) }>  f = Reshape(e, k)  c = Conv(a, w4)"
            "  d = Conv(c, w5)  b = Mul(d, f)",
            "bool t, float[8] w3, float[6,8,1,1] w4, float[8,6,1,1] w5",
            "int64[3] k = {8,1,1}",
        ),
        14,
        most=14,
    ),
    "a weight that is an output": Sample(
        conv("b = Relu(a)").replace("=> (float[] y)", "=> (float[] y, float[8] w1b)"),
        0,
        "output 'w1b' promises its size",
        most=0,
    ),
    "a residual that swaps channels": Sample(
        conv("c = Gather <axis = 1> (a, k)  b = Add(a, c)", "", "int64[8] k = {1,0,3,2,5,4,7,6}"), 4, most=4
    ),
    "a residual that turns channels round": Sample(
        conv("c = Gather <axis = 1> (a, k)  b = Add(a, c)", "", "int64[8] k = {1,2,3,4,5,6,7,0}"), 1, most=1
    ),
    "a part that nobody reads": Sample(
        conv("d, e, f = Split <axis = 1> (a, k)  b = Concat <axis = 1> (f, d)", "", "int64[3] k = {2,3,3}", w2="4,5,1,1"),
        8,
        most=8,
    ),
    "a weight with its mean taken away": Sample(
        conv("m = ReduceMean <axes = [1,2,3]> (w3)  c = Sub(w3, m)  b = Conv(a, c)", "float[6,8,1,1] w3", w2="4,6,1,1"), 6
    ),
    "spectral norm by hand": Sample(
        conv(
            "n = MatMul(w4, w3)  s = MatMul(n, w5)  r = Reshape(w3, k)  q = Div(r, s)  b = Conv(a, q)",
            "float[6,8] w3, float[6] w4, float[8] w5",
            "int64[4] k = {6,8,1,1}",
            w2="4,6,1,1",
        ),
        14,
    ),
    "low-rank update of a weight": Sample(
        seq("u = MatMul(w3, w4)  v = Add(w5, u)  b = MatMul(a, v)", "float[8,2] w3, float[2,6] w4, float[8,6] w5", w2="6,4"), 8
    ),
    "an inner product of two maps": Sample(
        both("d = Mul(a, c)  s = ReduceSum <keepdims = 0> (d, k)  u = Unsqueeze(s, k)  b = Add(a, u)", "", "int64[1] k = {1}"),
        8,
        most=8,
    ),
    "a sum over everything": Sample(conv("s = ReduceSum <keepdims = 0> (a)  b = Mul(a, s)"), 8, most=8),
}


def test_every_rule_has_a_sample() -> None:
    # which need the builders above
    from tests.test_attention import SAMPLES as HEADS
    from tests.test_fused import SAMPLES as FUSED
    from tests.test_picking import SAMPLES as PICKING

    assert sorted(set(RULES) - set(SAMPLES) - set(HEADS) - set(FUSED) - set(PICKING)) == []


def test_samples_hold_their_operator() -> None:
    for op, samples in SAMPLES.items():
        for sample in samples:
            assert op in {key(n) for n in model(sample.text, sample.opset).graph.node}, f"{op}: {sample.text}"


CASES = (
    [(f"{op}-{k}", sample) for op, samples in SAMPLES.items() for k, sample in enumerate(samples)]
    + list(WEIGHTS.items())
    + list(PATTERNS.items())
)


@pytest.mark.parametrize("sample", [s for _, s in CASES], ids=[name for name, _ in CASES])
def test_cut_law(sample: Sample) -> None:
    obeys_the_law(sample)


def obeys_the_law(sample: Sample) -> None:
    """Cut a sample in several ways, and compare with what it says of itself."""
    made = model(sample.text, sample.opset)
    if sample.refused:
        with pytest.raises(CutError, match=sample.refused):
            cut_some(made, 0)
        return
    results = [cut_some(made, seed, (0.3, 0.5, 0.8)[seed % 3]) for seed in range(SEEDS)]
    found = results[0]
    reasons = pins(found.coupled)
    assert found.atoms >= sample.free, f"{found.atoms} atoms are free; pins:\n{reasons}"
    assert found.atoms <= sample.most or sample.most < 0, f"{found.atoms} atoms are free"
    assert sample.pinned in reasons, reasons
    if sample.free > 1:
        assert all(r.dropped > 0 for r in results)
        assert any(numbers(r.pruned, made) < numbers(made, made) for r in results)


def test_dropout_in_training_keeps_its_channels() -> None:
    """It has no sample: it never computes the same twice."""
    made = model(conv("b = Dropout(a, r, t)", "", "float r = {0.3}, bool t = {1}"))
    assert "draws numbers at random" in pins(couple(read_graph(made)))
    assert free_atoms(made) == 0


def numbers(pruned: ModelProto, original: ModelProto) -> int:
    """How many numbers are left in the weights of the original."""
    names = stored(original)
    return sum(math.prod(t.dims) for name, t in stored(pruned).items() if name in names)
