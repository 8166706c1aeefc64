# SPDX-License-Identifier: Apache-2.0
"""Pooling of windows of a map, and of whole maps, per channel."""

from __future__ import annotations

from tests.cases.operators.sample import Sample, conv


def pooled(op: str, attributes: str = "") -> list[Sample]:
    return [Sample(conv(f"b = {op} <kernel_shape = [2,2], strides = [2,2]{attributes}> (a)"))]


def globally(op: str) -> list[Sample]:
    return [
        Sample(conv(f"b = {op}(a)")),
        Sample(conv(f"d = {op}(a)  b = Flatten(d)", tail="y = Gemm <transB = 1> (b, w2)", w2="4,8")),
    ]


SAMPLES: dict[str, list[Sample]] = {
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
}
