# SPDX-License-Identifier: Apache-2.0
"""Parts of networks that combine channels; in some, only a cut that renormalises can remove any."""

from __future__ import annotations

from dataclasses import dataclass

from onnx import ModelProto

from tests.cases.text import model


@dataclass(frozen=True)
class Mixes:
    """A body between two products, from `a` to `b`, and the number of atoms that are free by default (`exact`) and if
    renormalising is allowed (`allowed`)."""

    body: str
    exact: int
    allowed: int
    inputs: str = ""
    opset: int = 17
    space: bool = False

    def model(self) -> ModelProto:
        more = f", {self.inputs}" if self.inputs else ""
        if self.space:
            return model(
                f"g (float[2,3,4,4] x, float[8,3,1,1] w1, float[4,8,1,1] w2{more}) => (float[] y)"
                f" <int64[3] q = {{0,2,-1}}, int64[4] p = {{0,8,4,4}}> {{ a = Conv(x, w1)\n{self.body}\n y = Conv(b, w2) }}",
                self.opset,
            )
        return model(
            f"g (float[2,5,6] x, float[6,8] w1, float[8,4] w2{more}) => (float[] y) <int64[1] k = {{-1}}> {{"
            f" a = MatMul(x, w1)\n{self.body}\n y = MatMul(b, w2) }}",
            self.opset,
        )


APART = "m = ReduceMax <axes = [-1]> (x)  e = Sub(a, m)"  # dropped channels hold values that depend on the input
MIXES = {
    "layer norm": Mixes(f"{APART}  b = LayerNormalization(e, w3, w4)", 8, 8, "float[8] w3, float[8] w4"),
    "layer norm of zeros": Mixes("b = LayerNormalization(a, w3, w4)", 8, 8, "float[8] w3, float[8] w4"),
    "rms norm": Mixes("m = ReduceMax(x, k)  e = Sub(a, m)  b = RMSNormalization(e, w3)", 8, 8, "float[8] w3", 23),
    "softmax": Mixes(f"{APART}  b = Softmax(e)", 0, 8),
    "log of softmax": Mixes("s = Softmax(a)  b = Log(s)", 8, 8),
    "softmax written out": Mixes(f"{APART}  p = Exp(e)  s = ReduceSum <keepdims = 1> (p, k)  b = Div(p, s)", 8, 8),
    "mean": Mixes("s = Sigmoid(a)  m = ReduceMean <axes = [-1]> (s)  b = Mul(a, m)", 8, 8),
    "maximum": Mixes(f"{APART}  m2 = ReduceMax <axes = [1,2]> (e)  b = Mul(a, m2)", 8, 8),
    "maximum of other channels": Mixes(
        "c = MatMul(x, w3)  d = ReduceLogSumExp <axes = [2]> (c)  b = Mul(a, d)", 8, 16, "float[6,8] w3"
    ),
    "lp norm": Mixes("s = Sigmoid(a)  b = LpNormalization <axis = -1> (s)", 0, 8),
    "running sum": Mixes("s = Sigmoid(a)  b = CumSum(s, k)", 0, 8),
    "a product of two": Mixes("s = Exp(a)  t = Transpose <perm = [0,2,1]> (s)  c = MatMul(s, t)  b = MatMul(c, a)", 0, 8),
    "group norm": Mixes(
        "b = GroupNormalization <num_groups = 2> (a, w3, w4)", 2, 8, "float[8] w3, float[8] w4", 21, space=True
    ),
    "group norm written out": Mixes(
        "r = Reshape(a, q)  i = InstanceNormalization(r, w3, w4)  b = Reshape(i, p)",
        4,
        4,
        "float[2] w3, float[2] w4",
        space=True,
    ),
    "a product over channels is kept": Mixes("p = ReduceProd <axes = [-1]> (a)  b = Mul(a, p)", 0, 0),
    "the largest of channels is kept": Mixes("i = ArgMax <axis = -1> (a)  c = Cast <to = 1> (i)  b = Mul(a, c)", 0, 0),
}
