# SPDX-License-Identifier: Apache-2.0
"""Sums of layers as sites."""

from __future__ import annotations

import numpy as np

from onnxprune.calibration.chains import affine
from onnxprune.calibration.linear import at_positions
from onnxprune.calibration.stages import stages
from onnxprune.calibration.sums import find_sums
from onnxprune.ir.facts import read_graph
from tests.cases.text import model

SUMS = """g (float[N,8,6,6] x, float[8,8,3,3] w1, float[8] ws, float[8] wt, float[8] wm, float[8] wvar, float[8,8,1,1] w2,
    float[8] wb2, float[8,1,1] wadd, float[5,8,1,1] w3) => (float[N,5,6,6] y) {
    c = Conv <pads = [1,1,1,1]> (x, w1)  b = BatchNormalization(c, ws, wt, wm, wvar)  s = Conv(x, w2, wb2)  u = Add(s, wadd)
    t = Add(b, u)  a = Add(t, x)  r = Relu(a)  y = Conv(r, w3) }"""


def test_a_sum_is_seen_through_batch_norms_and_adds() -> None:
    sites = find_sums(read_graph(model(SUMS)))
    assert [(s.total, [t.linear.weight for t in s.terms], s.addends) for s in sites] == [
        ("a", ["w1", "w2"], ("x",)),
        ("y", ["w3"], ()),
    ]


def test_terms_and_addends_add_up_to_the_sum() -> None:
    net = model(SUMS)
    graph = read_graph(net)
    site = find_sums(graph)[0]
    x = np.random.default_rng(0).standard_normal((2, 8, 6, 6)).astype("f")
    with stages(net, [["a"]], [{"x": x}]) as run:
        a = next(run.advance(0))["a"]
    positions = np.arange(a.size // 8)
    total = at_positions(x, 1, positions)
    for term in site.terms:
        w = graph.weights[term.linear.weight].array.astype(float)
        scale, offset = affine(term.steps, graph.weights, 8)
        bias = graph.weights["wb2"].array if term.linear.weight == "w2" else 0.0
        total = total + scale * ((term.linear.rows(x, positions) @ term.linear.matrix(w))[0] + bias) + offset
    np.testing.assert_allclose(total, at_positions(a, 1, positions), rtol=1e-4, atol=1e-5)


def test_a_sum_ends_at_a_branch_with_another_consumer() -> None:
    text = """g (float[N,8] x, float[8,8] w1, float[8,8] w2) => (float[N,8] y, float[N,8] z)
        { a = Gemm(x, w1)  z = Relu(a)  b = Gemm(x, w2)  y = Add(a, b) }"""
    assert [(s.total, len(s.terms), s.addends) for s in find_sums(read_graph(model(text)))] == [("y", 1, ("a",)), ("a", 1, ())]
