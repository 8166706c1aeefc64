# SPDX-License-Identifier: Apache-2.0
"""Models as onnxruntime's own optimizer saves them, with its fused operators."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime
import pytest

from onnxprune.ir.decompositions import MICROSOFT
from tests.cases.nets import pruned, write
from tests.cases.text import model

BLOCK = """g (float[N,5,16] x, float[16] wg, float[16] wb, float[16,16] wq, float[16,16] wk, float[16,16] wv, float[16,16] wo,
    float[16,24] w1, float[24] w1b, float[24,16] w2, float[16] w2b, float[16,4] w9) => (float[N,5,4] y)
    <int64[4] s = {0,0,2,8}, int64[3] t = {0,0,16}, float half = {0.5}, float one = {1.0}, float root = {1.4142135}> {
    a = LayerNormalization(x, wg, wb)  q = MatMul(a, wq)  k = MatMul(a, wk)  v = MatMul(a, wv)
    qr = Reshape(q, s)  kr = Reshape(k, s)  vr = Reshape(v, s)
    qt = Transpose <perm = [0,2,1,3]> (qr)  kt = Transpose <perm = [0,2,3,1]> (kr)  vt = Transpose <perm = [0,2,1,3]> (vr)
    z = MatMul(qt, kt)  zs = Mul(z, half)  p = Softmax(zs)  o = MatMul(p, vt)  ot = Transpose <perm = [0,2,1,3]> (o)
    or = Reshape(ot, t)  m = MatMul(or, wo)  r = Add(m, x)  n = LayerNormalization(r, wg, wb)
    h = MatMul(n, w1)  hb = Add(h, w1b)  d = Div(hb, root)  e = Erf(d)  f = Add(e, one)  g1 = Mul(hb, f)  g2 = Mul(g1, half)
    u = MatMul(g2, w2)  ub = Add(u, w2b)  w = Add(ub, r)  y = MatMul(w, w9) }"""
FUSED = {"small": {"FusedConv"}, "block": {"FusedMatMul", "BiasGelu"}}


@pytest.mark.parametrize("name", FUSED)
def test_an_optimized_model_is_cut_as_deep_as_the_original(name: str, tmp_path: Path) -> None:
    source = write(tmp_path, model(BLOCK) if name == "block" else None)
    target = tmp_path / "fused.onnx"
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(target)
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    made = {n.op_type for n in onnx.load(target).graph.node if n.domain == MICROSOFT}
    assert made >= FUSED[name], made
    plain, fused = (pruned(path, 0.5, scope="local", align="none", criterion="l2").report for path in (source, target))
    assert fused.removed == plain.removed > 10
    assert fused.macs.after == plain.macs.after
