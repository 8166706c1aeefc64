# SPDX-License-Identifier: Apache-2.0
"""Per-channel operators behind a layer, followed through changes of layout."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.calibration.chains import affine
from onnxprune.calibration.linear import at_positions
from onnxprune.calibration.stages import stages
from onnxprune.calibration.sums import find_sums
from onnxprune.ir.facts import read_graph
from tests.cases.releases import needs
from tests.cases.text import model

IMAGE = "float[N,3,5,7] x, float[4,3,1,1] w"
NORM = "float[4] wg, float[4] wb, float[4] wm, float[4] wvar"
NORMALISED = "a product, normalised along axis 1"
CHAINS = {
    "written out in another layout": (
        f"""g ({IMAGE}, float[1,1,1,4] w1, float[4] w2, float[1,4] w3) => (float[] y) {{ c = Conv(x, w)
        t = Transpose <perm = [0,2,3,1]> (c)  s = Sub(t, w1)  m = Mul(s, w2)  a = Add(w3, m)  y = Relu(a) }}""",
        ["Sub", "Mul", "Add"],
        "a",
    ),
    "there and back": (
        f"""g ({IMAGE}, float[4] w1, {NORM}) => (float[] y) {{ c = Conv(x, w)  t = Transpose <perm = [0,2,3,1]> (c)
        s = Add(t, w1)  u = Transpose <perm = [0,3,1,2]> (s)  b = BatchNormalization(u, wg, wb, wm, wvar)  y = Relu(b) }}""",
        ["Add", "BatchNormalization"],
        "b",
    ),
    "flattened maps": (
        f"""g ({IMAGE}, float[4,1] w1) => (float[] y) {{ c = Conv(x, w)  z = Constant <value_ints = [0, 4, -1]> ()
        r = Reshape(c, z)  m = Div(r, w1)  y = Relu(m) }}""",
        ["Div"],
        "m",
    ),
    "a signal as an image of one row": (
        """g (float[N,3,1,7] x, float[4,3,1,3] w, float[4] w1) => (float[] y) {
        c = Conv(x, w)  k = Constant <value_ints = [2]> ()  q = Squeeze(c, k)
        t = Transpose <perm = [0,2,1]> (q)  a = Add(t, w1)  y = Relu(a) }""",
        ["Add"],
        "a",
    ),
    NORMALISED: (
        f"""g (float[N,6,3] x, float[3,4] w, {NORM}) => (float[] y) {{ c = MatMul(x, w)  t = Transpose <perm = [0,2,1]> (c)
        b = BatchNormalization(t, wg, wb, wm, wvar)  y = Relu(b) }}""",
        ["BatchNormalization"],
        "b",
    ),
    "a flat product, normalised": (
        f"""g (float[N,3] x, float[3,4] w, {NORM}) => (float[] y)
        {{ c = Gemm(x, w)  b = BatchNormalization(c, wg, wb, wm, wvar)  y = Relu(b) }}""",
        ["BatchNormalization"],
        "b",
    ),
    "a product, scaled": (
        "g (float[N,3] x, float[3,4] w, float[4] w1) => (float[] y) { c = MatMul(x, w)  m = Mul(c, w1)  y = Relu(m) }",
        ["Mul"],
        "m",
    ),
    "maps turned around": (
        f"""g ({IMAGE}, float[4] w1) => (float[] y)
        {{ c = Conv(x, w)  t = Transpose <perm = [0,3,2,1]> (c)  a = Add(t, w1)  y = Relu(a) }}""",
        [],
        "c",
    ),
    "channels spread over two axes": (
        f"""g ({IMAGE}, float[2,1,1] w1) => (float[] y) {{ c = Conv(x, w)  z = Constant <value_ints = [0, 2, 2, 5, 7]> ()
        r = Reshape(c, z)  a = Add(r, w1)  y = Relu(a) }}""",
        [],
        "c",
    ),
    "a scale for each position": (
        f"g ({IMAGE}, float[5,7] w1) => (float[] y) {{ c = Conv(x, w)  m = Mul(c, w1)  y = Relu(m) }}",
        [],
        "c",
    ),
}


# onnxruntime 1.20 fuses a normalisation into a product of three axes, which it then cannot run
NEEDS = {NORMALISED: needs(onnxruntime="1.21")}


@pytest.mark.parametrize("name", [pytest.param(name, marks=NEEDS.get(name, ())) for name in CHAINS])
def test_what_follows_a_layer_is_its_scale_and_offset(name: str) -> None:
    text, steps, end = CHAINS[name]
    net = model(text)
    graph = read_graph(net)
    (site,) = find_sums(graph)
    (term,) = site.terms
    assert ([s.node.op for s in term.steps], site.total) == (steps, end)
    size = [d.dim_value or 2 for d in net.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(0).standard_normal(size).astype("f")
    with stages(net, [[end]], [{"x": x}]) as run:
        total = next(run.advance(0))[end]
    positions = np.arange(total.size // 4)
    scale, offset = affine(term.steps, graph.weights, 4)
    found = scale * (term.linear.rows(x, positions) @ term.linear.matrix(graph.weights["w"].array))[0] + offset
    np.testing.assert_allclose(found, at_positions(total, site.channel_axis, positions), rtol=1e-4, atol=1e-5)


def test_layers_meet_in_a_sum_behind_changes_of_layout() -> None:
    text = """g (float[N,3,5,7] x, float[4,3,1,1] w1, float[4,4,1,1] w2, float[4] w3) => (float[] y) {
        c = Conv(x, w1)  t = Transpose <perm = [0,2,3,1]> (c)  r = Relu(c)  d = Conv(r, w2)
        u = Transpose <perm = [0,2,3,1]> (d)  b = Add(u, w3)  s = Add(t, b)  y = Relu(s) }"""
    found = {s.total: [t.linear.weight for t in s.terms] for s in find_sums(read_graph(model(text)))}
    assert found == {"s": ["w2"], "c": ["w1"]}
