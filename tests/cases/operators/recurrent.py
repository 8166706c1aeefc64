# SPDX-License-Identifier: Apache-2.0
"""Recurrent layers."""

from __future__ import annotations

from tests.cases.operators.sample import Sample


def layered(op: str, gates: int) -> list[Sample]:
    """A linear layer, a recurrent one, and a consumer of its sequence or its last state."""
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


SAMPLES: dict[str, list[Sample]] = {
    **{op: layered(op, gates) for op, gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1))},
}
