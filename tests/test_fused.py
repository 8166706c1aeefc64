# SPDX-License-Identifier: Apache-2.0
"""The cut law for fused operators: what onnxruntime's optimizer and quantizer write."""

from __future__ import annotations

import pytest

from onnxprune.fused import CHAINS, key
from tests.models import model
from tests.test_ops import Sample, conv, obeys_the_law, seq


def ms(text: str) -> str:
    """Names of onnxruntime's operators are long: `ms:Gelu` stands for `com.microsoft.Gelu`."""
    return text.replace("ms:", "com.microsoft.")


def fused_conv(attributes: str, operands: str, weights: str, out: int = 8, free: int = 8) -> Sample:
    """A fused convolution with its activation."""
    return Sample(conv(ms(f"b = ms:FusedConv <{attributes}> ({operands})"), weights, w2=f"4,{out},1,1"), free)


def fused_gemm(attributes: str, w3: str = "8,6") -> Sample:
    """A fused Gemm between two others."""
    return Sample(
        f"""g (float[5,6] x, float[6,8] w1, float[8] w1b, float[{w3}] w3, float[6] w3b, float[6,4] w2) => (float[] y) {{
        a = Gemm(x, w1, w1b)  b = com.microsoft.FusedGemm <{attributes}> (a, w3, w3b)  y = Gemm(b, w2) }}""",
        14,
    )


def skipped(op: str, weights: str = "w3, w4, w5", more: str = "") -> list[Sample]:
    """A residual spine through a fused normalisation: its result, its sum, or both are read."""
    given = "float[6,8] w7, float[8] w3, float[8] w4, float[8] w5"
    head, tail = f"e = MatMul(x, w7)  b, , , c = com.microsoft.{op}(a, e, {weights})", "y = MatMul(d, w2)"
    return [
        Sample(seq(f"e = MatMul(x, w7)  b = com.microsoft.{op}(a, e, {weights})", given), 8),
        Sample(seq(f"{head}  d = Add(b, c)", given, tail=tail), 8),
        # the bias is not masked, so the next one sees a constant
        Sample(
            seq(f"{head}  f, , , d = com.microsoft.{op}(c, a, {weights})  h = Add(d, f)", given, tail="y = MatMul(h, w2)"), 8
        ),
        Sample(seq(f"{head}  d = com.microsoft.{op}(b, a, {weights})", given, tail=tail), 0, "would leave a trace", most=0),
        Sample(seq(f"b = com.microsoft.{op}(a, s, {weights})", given + ", float[5,8] s"), 0, "cannot be cut", most=0),
        Sample(seq(f"b = com.microsoft.{op}(a, w8, {weights})", given + ", float[1,5,8] w8"), 8),
    ]


FLOATING: dict[str, list[Sample]] = {
    "ms:FusedConv": [
        fused_conv('activation = "Relu", pads = [1,1,1,1]', "a, w3, w3b", "float[6,8,3,3] w3, float[6] w3b", 6, 14),
        fused_conv('activation = "Clip", activation_params = [0.0,6.0]', "a, w3, , a", "float[8,8,1,1] w3"),
        fused_conv('activation = "Tanh"', "a, w3, w3b, a", "float[8,8,1,1] w3, float[8] w3b"),
        fused_conv('activation = "LeakyRelu", activation_params = [0.2], group = 8', "a, w3", "float[8,1,1,1] w3"),
        fused_conv(
            'activation = "HardSigmoid", activation_params = [0.2,0.5], group = 4', "a, w3", "float[8,2,1,1] w3", free=4
        ),
        # removed channels hold a half, and the sum takes that in
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
        # the batch stands behind the rows
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
    "ms:ScaledSiLU": [Sample(seq(ms("b = ms:ScaledSiLU <alpha = 1.5> (a)")), 8)],
    "ms:GatedAdd": [
        Sample(seq(ms("g = ReduceMean <axes = [2]> (x)  e = MatMul(x, w3)  b = ms:GatedAdd(a, e, g)"), "float[6,8] w3"), 8)
    ],
    "ms:SkipLayerNormalization": skipped("SkipLayerNormalization"),
    "ms:SkipSimplifiedLayerNormalization": skipped("SkipSimplifiedLayerNormalization", "w3, w5"),
    "SimplifiedLayerNormalization": [Sample(seq("b = SimplifiedLayerNormalization(a, w3)", "float[8] w3"), 8)],
}

SAMPLES = {ms(op): samples for op, samples in FLOATING.items()}
CASES = [(f"{op}-{k}", sample) for op, samples in SAMPLES.items() for k, sample in enumerate(samples)]


def test_every_fused_operator_has_a_sample() -> None:
    assert sorted(set(CHAINS) - set(SAMPLES)) == []


def test_samples_hold_their_operator() -> None:
    for op, samples in SAMPLES.items():
        for sample in samples:
            assert op in {key(n) for n in model(sample.text, sample.opset).graph.node}, f"{op}: {sample.text}"


@pytest.mark.parametrize("sample", [s for _, s in CASES], ids=[name for name, _ in CASES])
def test_cut_law(sample: Sample) -> None:
    obeys_the_law(sample)
