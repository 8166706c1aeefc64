# SPDX-License-Identifier: Apache-2.0
"""Layers as matrix products."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.calibration.linear import KINDS, at_positions, linear_of
from onnxprune.ir.facts import read_graph
from onnxprune.ir.graph import read_nodes
from onnxprune.ort import session
from tests.cases.text import model

IMAGE = "float[N,6,9,11] x"
LINEAR = {
    "plain": f"g ({IMAGE}, float[4,6,3,3] w) => (float[N,O,H,W] y) {{ y = Conv(x, w) }}",
    "pads": f"g ({IMAGE}, float[4,6,3,2] w) => (float[N,O,H,W] y) {{ y = Conv <pads = [2,0,1,1]> (x, w) }}",
    "strides": f"g ({IMAGE}, float[4,6,3,3] w) => (float[N,O,H,W] y) {{ y = Conv <strides = [2,3], pads = [1,1,1,1]> (x, w) }}",
    "one by one": f"g ({IMAGE}, float[4,6,1,1] w) => (float[N,O,H,W] y) {{ y = Conv <strides = [2,2]> (x, w) }}",
    "dilations": f"g ({IMAGE}, float[4,6,3,3] w) => (float[N,O,H,W] y) {{ y = Conv <dilations = [2,3]> (x, w) }}",
    "same upper": f'g ({IMAGE}, float[4,6,4,4] w) => (float[N,O,H,W] y) {{ y = Conv <auto_pad = "SAME_UPPER"> (x, w) }}',
    "same lower": f"""g ({IMAGE}, float[4,6,4,4] w) => (float[N,O,H,W] y)
        {{ y = Conv <auto_pad = "SAME_LOWER", strides = [2,2]> (x, w) }}""",
    "valid": f'g ({IMAGE}, float[4,6,3,3] w) => (float[N,O,H,W] y) {{ y = Conv <auto_pad = "VALID"> (x, w) }}',
    "grouped": f"g ({IMAGE}, float[8,3,3,3] w) => (float[N,O,H,W] y) {{ y = Conv <group = 2> (x, w) }}",
    "depthwise": f"g ({IMAGE}, float[6,1,3,3] w) => (float[N,O,H,W] y) {{ y = Conv <group = 6, pads = [1,1,1,1]> (x, w) }}",
    "signal": "g (float[N,6,20] x, float[4,6,5] w) => (float[N,O,W] y) { y = Conv <strides = [3], pads = [2,1]> (x, w) }",
    "video": "g (float[N,6,4,5,6] x, float[4,6,2,3,3] w) => (float[N,O,T,H,W] y) { y = Conv <pads = [0,1,1,1,1,0]> (x, w) }",
    "transposed": f"""g ({IMAGE}, float[6,4,3,3] w) => (float[N,O,H,W] y)
        {{ y = ConvTranspose <strides = [2,3], pads = [1,0,0,2]> (x, w) }}""",
    "transposed, output padding": f"""g ({IMAGE}, float[6,4,2,3] w) => (float[N,O,H,W] y)
        {{ y = ConvTranspose <strides = [2,2], output_padding = [1,1], dilations = [2,1]> (x, w) }}""",
    "transposed, grouped": f"""g ({IMAGE}, float[6,4,2,2] w) => (float[N,O,H,W] y)
        {{ y = ConvTranspose <strides = [2,2], group = 3> (x, w) }}""",
    "gemm": "g (float[N,6] x, float[6,4] w) => (float[N,O] y) { y = Gemm(x, w) }",
    "gemm, transposed": "g (float[N,6] x, float[4,6] w) => (float[N,O] y) { y = Gemm <transB = 1> (x, w) }",
    "tokens": "g (float[N,5,6] x, float[6,4] w) => (float[N,T,O] y) { y = MatMul(x, w) }",
}


def test_every_kind_of_layer_has_samples() -> None:
    assert {read_nodes(model(text))[0].op for text in LINEAR.values()} == set(KINDS)


@pytest.mark.parametrize("name", LINEAR)
def test_rows_times_matrix_equals_the_layer(name: str) -> None:
    net = model(LINEAR[name])
    graph = read_graph(net)
    linear = linear_of(graph.nodes[0], graph.weights)
    assert linear is not None
    rng = np.random.default_rng(0)
    x = rng.standard_normal([3, *[d.dim_value for d in net.graph.input[0].type.tensor_type.shape.dim[1:]]]).astype("f")
    (y,) = session(net.SerializeToString()).run(None, {"x": x})
    axis = linear.channel_axis % y.ndim
    places = y.size // y.shape[axis]
    positions = np.sort(rng.choice(places, min(places, 40), replace=False))
    rows, w = linear.rows(x, positions), graph.weights["w"].array
    found = (rows @ linear.matrix(w)).transpose(1, 0, 2).reshape(len(positions), -1)
    np.testing.assert_allclose(found, at_positions(y, axis, positions), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(linear.stored(linear.matrix(w), w.shape), w)


def test_a_node_without_a_stored_weight_is_not_a_linear_layer() -> None:
    graph = read_graph(
        model("g (float[2,3,4] x, float[3] w) => (float[2,3,3] y) { t = Transpose <perm=[0,2,1]> (x) y = MatMul(x, t) }")
    )
    assert [linear_of(n, graph.weights) for n in graph.nodes] == [None, None]
