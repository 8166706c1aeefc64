# SPDX-License-Identifier: Apache-2.0
"""Quantized numbers (integers with a scale), and products of them."""

from __future__ import annotations

from tests.cases.operators.sample import Sample, conv, seq

QUANTIZED = "float sc = {0.05}, uint8 zp = {128}, int64[1] k = {1}"
TO_INTEGERS = "q = QuantizeLinear(a, sc, zp)"
DYNAMIC = "q, s, z = DynamicQuantizeLinear(a)"
SCALED = "f = Cast <to = 1> (m)  b = Mul(f, s)"

SAMPLES: dict[str, list[Sample]] = {
    "QuantizeLinear": [
        Sample(conv(f"{TO_INTEGERS}  b = DequantizeLinear(q, sc, zp)", "", QUANTIZED, w2="4,8,1,1"), 8),
        Sample(
            conv(f"{TO_INTEGERS}  d = DequantizeLinear(q, sc)  s = ReduceSum(d, k)  b = Add(s, a)", "", QUANTIZED),
            0,
            "would change the result",
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
            seq("e = Exp(a)  q, s, z = DynamicQuantizeLinear(e)  b = DequantizeLinear(q, s, z)"), 0, "derives its range", most=0
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
}
