# SPDX-License-Identifier: Apache-2.0
"""Every operator of ONNX and onnxruntime is covered: it has a rule, it is decomposed, or it is listed as declined."""

from __future__ import annotations

import onnx.defs
import pytest
from onnxruntime.capi import onnxruntime_pybind11_state as runtime

from onnxprune.analysis.couple import couple
from onnxprune.analysis.explain import explain
from onnxprune.analysis.rules import RULES
from onnxprune.analysis.rules.declined import DECLINED
from onnxprune.ir.decompositions import CHAINS
from onnxprune.ir.facts import read_graph
from tests.cases.law import pins
from tests.cases.operators.sample import conv
from tests.cases.releases import has
from tests.cases.text import model


def test_every_operator_of_onnx_is_covered() -> None:
    names = {s.name for s in onnx.defs.get_all_schemas() if s.domain == ""}
    assert sorted(names - set(RULES) - set(CHAINS) - set(DECLINED)) == []


def test_every_cpu_operator_of_onnxruntime_is_covered() -> None:
    kernels = [k for k in runtime.get_all_opkernel_def() if k.provider == "CPUExecutionProvider"]
    names = {f"{k.domain}.{k.op_name}" for k in kernels if k.domain.startswith("com.microsoft")}
    assert len(names) > (80 if has(onnxruntime="1.31") else 70)
    assert sorted(names - set(RULES) - set(CHAINS) - set(DECLINED)) == []


def test_no_operator_is_covered_twice() -> None:
    assert set(RULES) & set(CHAINS) == set()
    assert set(RULES) & set(DECLINED) == set()


TWO = "int64[1] k = {2}, int64 z = {0}"
DECLINING = {
    "If": conv(
        "b = If (t) <then_branch = p () => (float[2,8,8,8] q) { q = Identity(a) }, else_branch = e () => (float[2,8,8,8] r)"
        " { r = Neg(a) }>",
        "bool t",
    ),
    "SequenceAt": conv("s = SequenceConstruct(a, a)  b = SequenceAt(s, z)", "", TWO),
    "SplitToSequence": conv("s = SplitToSequence <axis = 1> (a)  b = SequenceAt(s, z)", "", TWO, w2="4,1,1,1"),
    "RandomNormalLike": conv("n = RandomNormalLike <seed = 1.0> (a)  b = Add(a, n)"),
    "NonZero": conv("n = NonZero(a)  c = Cast <to = 1> (n)  m = ReduceMean <keepdims = 0> (c)  b = Mul(a, m)"),
    "Det": conv("d = Det(a)  u = Unsqueeze <axes = [2,3]> (d)  b = Mul(a, u)"),
    "AffineGrid": """g (float[2,5] x, float[5,6] w1, float[4,2] w2) => (float[] y)
        <int64[3] s = {2,2,3}, int64[4] u = {2,1,3,3}> { a = MatMul(x, w1)  t = Reshape(a, s)
        b = AffineGrid(t, u)  y = ReduceMean(b) }""",
    "com.microsoft.Inverse": conv("b = com.microsoft.Inverse(a)"),
    "com.microsoft.CDist": "g (float[5,6] x, float[6,8] w1, float[8,4] w2) => (float[5,5] y)"
    ' { a = MatMul(x, w1)  y = com.microsoft.CDist <metric = "euclidean"> (a, a) }',
}
OPSETS = {"Det": 11, "AffineGrid": 20}


@pytest.mark.parametrize("op", DECLINING)
def test_a_declined_operator_states_its_reason(op: str) -> None:
    coupled = couple(read_graph(model(DECLINING[op], OPSETS.get(op, 17))))
    reasons = pins(coupled)
    assert DECLINED[op] in reasons or "its body" in reasons or DECLINED["SequenceConstruct"] in reasons, reasons
    weight = explain(coupled, "w1")
    assert any(story.reason for story in weight)
