# SPDX-License-Identifier: Apache-2.0
"""Fused operators that onnxruntime's optimizer and quantizer write."""

from __future__ import annotations

from tests.cases.operators.sample import Sample, conv, seq


def ms(text: str) -> str:
    """Names of onnxruntime's operators are long: `ms:Gelu` stands for `com.microsoft.Gelu`."""
    return text.replace("ms:", "com.microsoft.")


def fused_conv(attributes: str, operands: str, weights: str, out: int = 8, free: int = 8, needs: str = "0") -> Sample:
    """A fused convolution with its activation."""
    return Sample(conv(ms(f"b = ms:FusedConv <{attributes}> ({operands})"), weights, w2=f"4,{out},1,1"), free, needs=needs)


def fused_gemm(attributes: str, w3: str = "8,6") -> Sample:
    """A fused Gemm between two others."""
    return Sample(
        f"""g (float[5,6] x, float[6,8] w1, float[8] w1b, float[{w3}] w3, float[6] w3b, float[6,4] w2) => (float[] y) {{
        a = Gemm(x, w1, w1b)  b = com.microsoft.FusedGemm <{attributes}> (a, w3, w3b)  y = Gemm(b, w2) }}""",
        14,
    )


def skipped(op: str, weights: str = "w3, w4, w5", needs: str = "0") -> list[Sample]:
    """A residual spine through a fused normalisation: its result, its sum, or both are read."""
    given = "float[6,8] w7, float[8] w3, float[8] w4, float[8] w5"
    head, tail = f"e = MatMul(x, w7)  b, , , c = com.microsoft.{op}(a, e, {weights})", "y = MatMul(d, w2)"
    return [
        Sample(seq(f"e = MatMul(x, w7)  b = com.microsoft.{op}(a, e, {weights})", given), 8),
        Sample(seq(f"{head}  d = Add(b, c)", given, tail=tail), 8),
        # the bias is not masked, so the next one sees a constant
        Sample(
            seq(f"{head}  f, , , d = com.microsoft.{op}(c, a, {weights})  h = Add(d, f)", given, tail="y = MatMul(h, w2)"),
            8,
            needs=needs,
        ),
        Sample(seq(f"{head}  d = com.microsoft.{op}(b, a, {weights})", given, tail=tail), 0, "would change the result", most=0),
        Sample(seq(f"b = com.microsoft.{op}(a, s, {weights})", given + ", float[5,8] s"), 0, "cannot be cut", most=0),
        Sample(seq(f"b = com.microsoft.{op}(a, w8, {weights})", given + ", float[1,5,8] w8"), 8),
    ]


FLOATING: dict[str, list[Sample]] = {
    "ms:FusedConv": [
        fused_conv('activation = "Relu", pads = [1,1,1,1]', "a, w3, w3b", "float[6,8,3,3] w3, float[6] w3b", 6, 14),
        fused_conv('activation = "Clip", activation_params = [0.0,6.0]', "a, w3, , a", "float[8,8,1,1] w3"),
        fused_conv('activation = "Tanh"', "a, w3, w3b, a", "float[8,8,1,1] w3, float[8] w3b", needs="1.27"),
        fused_conv('activation = "LeakyRelu", activation_params = [0.2], group = 8', "a, w3", "float[8,1,1,1] w3"),
        fused_conv(
            'activation = "HardSigmoid", activation_params = [0.2,0.5], group = 4', "a, w3", "float[8,2,1,1] w3", free=4
        ),
        # dropped channels hold a half, and the sum includes it
        Sample(
            conv(
                ms('d = ms:FusedConv <activation = "Sigmoid"> (a, w3)  s = ReduceSum(d, k)  b = Mul(s, a)'),
                "float[6,8,1,1] w3",
                "int64[1] k = {1}",
            ),
            14,
        ),
    ],
    "ms:FusedGemm": [
        fused_gemm('activation = "Relu"'),
        fused_gemm('activation = "LeakyRelu", activation_alpha = 0.3, transB = 1', "6,8"),
        fused_gemm('activation = "HardSigmoid", activation_alpha = 0.3, activation_beta = 0.4, alpha = 2.0'),
    ],
    "ms:FusedMatMul": [
        Sample(seq(ms("b = ms:FusedMatMul <alpha = 0.5, transB = 1> (a, w3)"), "float[6,8] w3", w2="6,4"), 14),
        Sample(
            seq(ms("t = Transpose <perm = [0,2,1]> (a)  b = ms:FusedMatMul <transA = 1> (t, w3)"), "float[8,6] w3", w2="6,4"),
            14,
        ),
        Sample(seq(ms("s = ms:FusedMatMul <alpha = 0.3, transB = 1> (a, a)  p = Softmax(s)  b = MatMul(p, a)")), 8),
        # the batch axis comes after the rows
        Sample(
            seq(
                ms("t = Transpose <perm = [1,0,2]> (a)  b = ms:FusedMatMul <transBatchA = 1> (t, w3)"),
                "float[2,8,6] w3",
                w2="6,4",
            ),
            14,
        ),
        Sample(
            seq(
                ms("t = Transpose <perm = [2,0,1]> (a)  b = ms:FusedMatMul <transBatchA = 1, transA = 1> (t, w3)"),
                "float[2,8,6] w3",
                w2="6,4",
            ),
            14,
        ),
    ],
    "ms:TransposeMatMul": [Sample(seq(ms("b = ms:TransposeMatMul <transB = 1> (a, w3)"), "float[6,8] w3", w2="6,4"), 14)],
    "ms:Gelu": [Sample(seq(ms("b = ms:Gelu(a)")), 8)],
    "ms:FastGelu": [Sample(seq(ms("b = ms:FastGelu(a)")), 8), Sample(seq(ms("b = ms:FastGelu(a, w3)"), "float[8] w3"), 8)],
    "ms:BiasGelu": [Sample(seq(ms("b = ms:BiasGelu(a, w3)"), "float[8] w3"), 8)],
    "ms:QuickGelu": [Sample(seq(ms("b = ms:QuickGelu(a)")), 8), Sample(seq(ms("b = ms:QuickGelu <alpha = 1.5> (a)")), 8)],
    "ms:ScaledSiLU": [Sample(seq(ms("b = ms:ScaledSiLU <alpha = 1.5> (a)")), 8, needs="1.31")],
    "ms:GatedAdd": [
        Sample(
            seq(ms("g = ReduceMean <axes = [2]> (x)  e = MatMul(x, w3)  b = ms:GatedAdd(a, e, g)"), "float[6,8] w3"),
            8,
            needs="1.30",
        )
    ],
    "ms:SkipLayerNormalization": skipped("SkipLayerNormalization"),
    "ms:SkipSimplifiedLayerNormalization": skipped("SkipSimplifiedLayerNormalization", "w3, w5", "1.21"),
    "SimplifiedLayerNormalization": [
        Sample(seq("b = SimplifiedLayerNormalization(a, w3)", "float[8] w3"), 8),
        Sample(
            seq("n = SimplifiedLayerNormalization(x, w3)  m = MatMul(n, w4)  b = Add(a, m)", "float[6] w3, float[6,8] w4"),
            14,
            most=14,
        ),
    ],
}

SCALES = "float sc = {0.05}, float sd = {0.02}, float se = {0.1}, uint8 zp = {128}, uint8 zq = {100}, int8 z = {0}"
SIX = "int8[6] z6 = {0,0,0,0,0,0}"


def integers(body: str, weights: str = "", w2: str = "4,8,1,1", free: int = 8, pinned: str = "", more: str = "") -> Sample:
    """A convolution -> integers `q` -> body -> integers `r` -> numbers -> a convolution."""
    text = f"q = QuantizeLinear(a, sc, zp)  {ms(body)}  b = DequantizeLinear(r, sd, zq)"
    return Sample(conv(text, weights, SCALES + more, w2=w2), free, pinned)


def rows(body: str, weights: str, free: int = 14, more: str = "", pinned: str = "") -> Sample:
    """A matrix product -> integers `q` -> body -> integers `r` -> numbers -> a matrix product."""
    text = f"q = QuantizeLinear(a, sc, zp)  {ms(body)}  b = DequantizeLinear(r, sd, zq)"
    return Sample(seq(text, weights, SCALES + more, w2="6,4"), free, pinned)


def gemm(body: str, weights: str, more: str = "", free: int = 14) -> Sample:
    """The same on two axes."""
    return Sample(
        f"""g (float[5,6] x, float[6,8] w1, float[6,4] w2, {weights}) => (float[] y) <{SCALES}{more}> {{
        a = Gemm(x, w1)  q = QuantizeLinear(a, sc, zp)  {ms(body)}  y = Gemm(b, w2) }}""",
        free,
    )


ON_INTEGERS: dict[str, list[Sample]] = {
    "QLinearConv": [
        integers("r = QLinearConv <pads = [1,1,1,1]> (q, sc, zp, w3, se, z, sd, zq)", "int8[6,8,3,3] w3", "4,6,1,1", 14),
        integers("r = QLinearConv(q, sc, zp, w3, se, z, sd, zq, w4)", "int8[6,8,1,1] w3, int32[6] w4", "4,6,1,1", 14),
        integers(
            "r = QLinearConv(q, sc, zp, w3, w5, z6, sd, zq, w4)",
            "int8[6,8,1,1] w3, int32[6] w4, float[6] w5",
            "4,6,1,1",
            14,
            "",
            f", {SIX}",
        ),
        integers("r = QLinearConv <group = 2> (q, sc, zp, w3, se, z, sd, zq)", "int8[8,4,1,1] w3", free=4),
        integers("r = QLinearConv <group = 8> (q, sc, zp, w3, se, zp, sd, zq)", "uint8[8,1,3,3] w3"),
        integers(
            "t = QLinearConv(q, sc, zp, w3, se, z, sc, zp)  r = QLinearConv <group = 3> (t, sc, zp, w4, se, z, sd, zq)",
            "int8[6,8,1,1] w3, int8[6,2,1,1] w4",
            "4,6,1,1",
            11,
        ),
    ],
    "ms:QLinearConv": [
        integers(
            "t = Transpose <perm = [0,2,3,1]> (q)  u = ms:QLinearConv <channels_last = 1> (t, sc, zp, w3, se, z, sd, zq)"
            "  r = Transpose <perm = [0,3,1,2]> (u)",
            "int8[6,8,3,3] w3",
            "4,6,1,1",
            14,
        ),
        *(
            integers(
                "t = Transpose <perm = [0,2,3,1]> (q)"
                f"  u = ms:QLinearConv <channels_last = 1, group = {groups}> (t, sc, zp, w3, se, z, sd, zq)"
                "  r = Transpose <perm = [0,3,1,2]> (u)",
                f"int8[8,{8 // groups},3,3] w3",
                free=free,
            )
            for groups, free in ((8, 8), (2, 4))
        ),
    ],
    "QLinearMatMul": [
        rows("r = QLinearMatMul(q, sc, zp, w3, se, z, sd, zq)", "int8[8,6] w3"),
        rows("r = QLinearMatMul(q, sc, zp, w3, w5, z6, sd, zq)", "int8[8,6] w3, float[6] w5", more=f", {SIX}"),
        # queries and transposed keys
        Sample(
            seq(
                "c = MatMul(x, w3)  q = QuantizeLinear(a, sc, zp)"
                "  k = QuantizeLinear(c, sd, zq)  t = Transpose <perm = [0,2,1]> (k)"
                "  s = QLinearMatMul(q, sc, zp, t, sd, zq, se, zp)"
                "  p = DequantizeLinear(s, se, zp)  m = Softmax(p)  b = MatMul(m, a)",
                "float[6,8] w3",
                SCALES,
            ),
            8,
            most=8,
        ),
    ],
    "ms:QGemm": [
        gemm("r = ms:QGemm(q, sc, zp, w3, se, z, , sd, zq)  b = DequantizeLinear(r, sd, zq)", "int8[8,6] w3"),
        gemm(
            "r = ms:QGemm <transB = 1> (q, sc, zp, w3, se, z, w4, sd, zq)  b = DequantizeLinear(r, sd, zq)",
            "int8[6,8] w3, int32[6] w4",
        ),
        gemm("b = ms:QGemm <transB = 1, alpha = 0.5> (q, sc, zp, w3, w5, z6)", "int8[6,8] w3, float[6] w5", f", {SIX}"),
    ],
    "ms:MatMulIntegerToFloat": [
        gemm("b = ms:MatMulIntegerToFloat(q, w3, sc, se, zp, z)", "int8[8,6] w3"),
        gemm("b = ms:MatMulIntegerToFloat(q, w3, sc, w5, zp, z6, w4)", "int8[8,6] w3, float[6] w4, float[6] w5", f", {SIX}"),
    ],
    "ms:DynamicQuantizeMatMul": [
        Sample(seq(ms("b = ms:DynamicQuantizeMatMul(a, w3, se, z, w4)"), "int8[8,6] w3, float[6] w4", SCALES, w2="6,4"), 14),
        Sample(seq(ms("b = ms:DynamicQuantizeMatMul(a, w3, w5, z6)"), "int8[8,6] w3, float[6] w5", SIX, w2="6,4"), 14),
        Sample(
            seq(ms("e = Exp(a)  b = ms:DynamicQuantizeMatMul(e, w3, se, z)"), "int8[8,6] w3", SCALES, w2="6,4"),
            6,
            "derives its range",
            most=6,
        ),
    ],
    "ms:QLinearAdd": [integers("t = MaxPool <kernel_shape = [1,1]> (q)  r = ms:QLinearAdd(q, sc, zp, t, sc, zp, sd, zq)")],
    "ms:QLinearMul": [
        integers("t = ms:QLinearSigmoid(q, sc, zp, sd, zq)  r = ms:QLinearMul(q, sc, zp, t, sd, zq, sd, zq)"),
        integers("t = ms:QLinearGlobalAveragePool(q, sc, zp, sc, zp)  r = ms:QLinearMul(q, sc, zp, t, sc, zp, sd, zq)"),
    ],
    "ms:QLinearSigmoid": [integers("r = ms:QLinearSigmoid(q, sc, zp, sd, zq)")],
    "ms:QLinearLeakyRelu": [integers("r = ms:QLinearLeakyRelu <alpha = 0.1> (q, sc, zp, sd, zq)")],
    "ms:QLinearSoftmax": [
        integers("r = ms:QLinearSoftmax <axis = 3, opset = 13> (q, sc, zp, sd, zq)"),
        Sample(
            conv(
                ms(
                    "q = QuantizeLinear(a, sc, zp)  r = ms:QLinearSoftmax <axis = 1, opset = 13> (q, sc, zp, sd, zq)"
                    "  b = DequantizeLinear(r, sd, zq)"
                ),
                "",
                SCALES,
            ),
            0,
            refused="normalises integers over the removed channels",
        ),
        Sample(
            conv(
                ms(
                    "q = QuantizeLinear(a, sc, zp)  r = ms:QLinearSoftmax <axis = 2, opset = 12> (q, sc, zp, sd, zq)"
                    "  b = DequantizeLinear(r, sd, zq)"
                ),
                "",
                SCALES,
            ),
            0,
            "normalises over several axes at once",
            most=0,
        ),
    ],
    "ms:QLinearAveragePool": [integers("r = ms:QLinearAveragePool <kernel_shape = [2,2]> (q, sc, zp, sd, zq)")],
    "ms:QLinearGlobalAveragePool": [
        integers("r = ms:QLinearGlobalAveragePool(q, sc, zp, sd, zq)"),
        integers(
            "t = Transpose <perm = [0,2,3,1]> (q)  u = ms:QLinearGlobalAveragePool <channels_last = 1> (t, sc, zp, sd, zq)"
            "  r = Transpose <perm = [0,3,1,2]> (u)"
        ),
    ],
    "ms:QLinearConcat": [
        integers(
            "t = ms:QLinearSigmoid(q, sc, zp, sd, zq)  r = ms:QLinearConcat <axis = 1> (sd, zq, t, sd, zq, q, sc, zp)",
            "",
            "4,16,1,1",
        ),
    ],
    "ms:QLinearWhere": [
        integers(
            "g = Greater(a, sc)  t = ms:QLinearSigmoid(q, sc, zp, sd, zq)  r = ms:QLinearWhere(g, q, sc, zp, t, sd, zq, sd, zq)"
        ),
    ],
    "ms:QuantizeLinear": [Sample(conv(ms("q = ms:QuantizeLinear(a, sc, zp)  b = DequantizeLinear(q, sc, zp)"), "", SCALES), 8)],
    "ms:DequantizeLinear": [
        Sample(
            conv(
                ms("d = ms:DequantizeLinear <axis = 0> (w3, w4, z6)  b = Conv(a, d)"),
                "int8[6,8,1,1] w3, float[6] w4",
                SIX,
                w2="4,6,1,1",
            ),
            14,
        ),
    ],
}


def nbits(
    operands: str,
    weights: str,
    bits: int = 4,
    free: int = 10,
    pinned: str = "",
    body: str = "",
    k: int = 64,
    needs: str = "0",
) -> Sample:
    """A product makes `k` channels, and another reduces them to six, with low-bit weights in blocks of sixteen."""
    call = f"ms:MatMulNBits <K = {k}, N = 6, bits = {bits}, block_size = 16> (a, {operands})"
    text = f"""g (float[2,5,6] x, float[6,{k}] w1, {weights}, float[6,4] w9) => (float[] y) {{ c = MatMul(x, w1)
        {body or "a = Relu(c)"}  b = {ms(call)}  d = Tanh(b)  y = MatMul(d, w9) }}"""
    return Sample(text, free, pinned, most=free, needs=needs)


PACKED: dict[str, list[Sample]] = {
    "ms:MatMulNBits": [
        nbits("w3, w4", "uint8[6,4,8] w3, float[6,4] w4"),
        nbits("w3, w4, w5, , w6", "uint8[6,4,8] w3, float[6,4] w4, uint8[6,2] w5, float[6] w6"),
        # scales and zero points as flat lists
        nbits("w3, w4, w5", "uint8[6,4,8] w3, float[24] w4, uint8[12] w5"),
        nbits("w3, w4, w5", "uint8[6,4,16] w3, float[6,4] w4, uint8[6,4] w5", 8, needs="1.23"),
        nbits("w3, w4, w5", "uint8[6,5,4] w3, float[6,5] w4, uint8[6,2] w5", 2, 11, k=80, needs="1.24"),
        # the last block is not full
        nbits("w3, w4, w5", "uint8[6,4,8] w3, float[6,4] w4, uint8[6,2] w5", k=56),
        nbits("w3, w4", "uint8[6,1,8] w3, float[6] w4", free=6, pinned="in a single block", k=16),
        # the data are not zero, but the weight is
        nbits("w3, w4", "uint8[6,4,8] w3, float[6,4] w4", body="a = Exp(c)"),
        # two in sequence
        Sample(
            ms("""g (float[5,32] x, uint8[64,2,8] w1, float[64,2] w2, uint8[6,4,8] w3, float[6,4] w4, float[6,3] w9)
            => (float[] y) {
            a = ms:MatMulNBits <K = 32, N = 64, bits = 4, block_size = 16> (x, w1, w2)  b = Relu(a)
            c = ms:MatMulNBits <K = 64, N = 6, bits = 4, block_size = 16> (b, w3, w4)  y = MatMul(c, w9) }"""),
            10,
            most=10,
        ),
    ],
}

SAMPLES = {ms(op): samples for op, samples in {**FLOATING, **ON_INTEGERS, **PACKED}.items()}
