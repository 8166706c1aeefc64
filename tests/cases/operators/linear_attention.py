# SPDX-License-Identifier: Apache-2.0
"""Linear attention, ONNX's own and onnxruntime's."""

from __future__ import annotations

from tests.cases.operators.sample import Sample, seq


def linear(
    rule: str,
    gates: str = "",
    weights: str = "",
    heads: tuple[int, int] = (3, 3),
    free: int = 8,
    domain: str = "",
    needs: str = "0",
) -> Sample:
    """Linear attention between products; gates come from products, too."""
    q, k = heads
    made = "  ".join(f"{name} = MatMul(x, {w})" for name, w in (("g", "wg"), ("h", "wh")) if w in weights)
    return Sample(
        f"""g (float[2,5,6] x, float[6,{4 * q}] wq, float[6,{4 * k}] wk, float[6,{4 * k}] wv, float[{4 * q},4] w9{weights})
        => (float[2,5,4] y) {{ q = MatMul(x, wq)  k = MatMul(x, wk)  v = MatMul(x, wv)  {made}
        o, s = {domain}LinearAttention <q_num_heads = {q}, kv_num_heads = {k}, update_rule = "{rule}"> (q, k, v{gates})
        y = MatMul(o, w9) }}""",
        free,
        opset=27,
        most=free,
        needs=needs,
    )


SAMPLES: dict[str, list[Sample]] = {
    "LinearAttention": [
        linear("linear", free=8),
        linear("gated", ", , g", ", float[6,12] wg"),
        linear("gated", ", , g", ", float[6,3] wg"),
        linear("delta", ", , , h", ", float[6,3] wh"),
        linear("gated_delta", ", , g, h", ", float[6,3] wg, float[6,1] wh", (6, 3)),
    ],
    "com.microsoft.LinearAttention": [
        linear("gated_delta", ", , g, h", ", float[6,3] wg, float[6,3] wh", domain="com.microsoft.", needs="1.32")
    ],
    "com.microsoft.LinearAttentionGate": [
        Sample(
            seq(
                "c = MatMul(x, w3)  d, e = com.microsoft.LinearAttentionGate(a, w4, w5, c)  b = Mul(d, e)",
                "float[6,8] w3, float[8] w4, float[8] w5",
            ),
            8,
            needs="1.30",
        )
    ],
}
