# SPDX-License-Identifier: Apache-2.0
"""Layers as matrix products, sums of them as sites, and models run piece by piece."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from onnxprune.calibration import stages as stages_module
from onnxprune.calibration.jobs import ordered
from onnxprune.calibration.linear import KINDS, at_positions, linear_of
from onnxprune.calibration.moments import Moments, fitted, solve, squared_error
from onnxprune.calibration.stages import Stages, Store, schedule, stages
from onnxprune.calibration.sums import affine, find_sums
from onnxprune.ir.facts import read_graph
from onnxprune.ir.graph import read_nodes
from onnxprune.ort import session
from tests.models import model

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
    "gemm, turned": "g (float[N,6] x, float[4,6] w) => (float[N,O] y) { y = Gemm <transB = 1> (x, w) }",
    "tokens": "g (float[N,5,6] x, float[6,4] w) => (float[N,T,O] y) { y = MatMul(x, w) }",
}


def test_every_kind_of_layer_has_samples() -> None:
    assert {read_nodes(model(text))[0].op for text in LINEAR.values()} == set(KINDS)


@pytest.mark.parametrize("name", LINEAR)
def test_rows_times_matrix_is_the_layer(name: str) -> None:
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
    rows, w = linear.rows(x, y.shape, positions), graph.weights["w"].array
    found = (rows @ linear.matrix(w)).transpose(1, 0, 2).reshape(len(positions), -1)
    np.testing.assert_allclose(found, at_positions(y, axis, positions), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(linear.stored(linear.matrix(w), w.shape), w)


def test_what_is_not_linear_in_a_stored_weight_is_no_layer() -> None:
    graph = read_graph(
        model("g (float[2,3,4] x, float[3] w) => (float[2,3,3] y) { t = Transpose <perm=[0,2,1]> (x) y = MatMul(x, t) }")
    )
    assert [linear_of(n, graph.weights) for n in graph.nodes] == [None, None]


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


def test_terms_and_addends_make_the_sum() -> None:
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
        scale, offset = affine(term, graph.weights, 8)
        bias = graph.weights["wb2"].array if term.linear.weight == "w2" else 0.0
        total = total + scale * ((term.linear.rows(x, a.shape, positions) @ term.linear.matrix(w))[0] + bias) + offset
    np.testing.assert_allclose(total, at_positions(a, 1, positions), rtol=1e-4, atol=1e-5)


def test_a_branch_that_somebody_else_reads_ends_there() -> None:
    text = """g (float[N,8] x, float[8,8] w1, float[8,8] w2) => (float[N,8] y, float[N,8] z)
        { a = Gemm(x, w1)  z = Relu(a)  b = Gemm(x, w2)  y = Add(a, b) }"""
    assert [(s.total, len(s.terms), s.addends) for s in find_sums(read_graph(model(text)))] == [("y", 1, ("a",)), ("a", 1, ())]


def test_shared_weights_are_one_job_and_readers_come_later() -> None:
    text = """g (float[N,4,8] x, float[N,4,8] z, float[8,8] w1, float[8,6] w2) => (float[N,4,6] y) {
        a = MatMul(x, w1)  b = Relu(a)  c = MatMul(z, w1)  d = Sigmoid(c)  e = Mul(b, d)  y = MatMul(e, w2) }"""
    graph = read_graph(model(text))
    jobs = ordered(graph, find_sums(graph)[::-1])
    assert [[s.total for s in job] for job in jobs] == [["c", "a"], ["y"]]


def test_a_weight_used_again_on_its_own_result_is_fitted_once() -> None:
    text = "g (float[N,8] x, float[8,8] w) => (float[N,8] y) { a = MatMul(x, w)  b = Relu(a)  y = MatMul(b, w) }"
    graph = read_graph(model(text))
    assert [[s.total for s in job] for job in ordered(graph, find_sums(graph))] == [["a"]]


def deep(layers: int = 4) -> ModelProto:
    weights = ", ".join(f"float[8,8] w{k}" for k in range(layers))
    body = "".join(f"g{k} = MatMul(r{k}, w{k})  t{k} = Tanh(g{k})  r{k + 1} = Add(t{k}, r{k})\n" for k in range(layers))
    return model(f"g (float[N,8] x, {weights}) => (float[N,8] y) {{ r0 = Identity(x)\n{body} y = Relu(r{layers}) }}")


def test_pieces_compute_what_the_whole_computes_and_every_node_runs_once() -> None:
    net = deep()
    wants = [["g0"], ["g1", "r1"], ["g2"], ["g2", "x"], ["y"]]
    batches = [{"x": np.random.default_rng(k).standard_normal((3, 8)).astype("f")} for k in range(3)]
    every = [name for n in net.graph.node for name in n.output]
    whole = model("g (float[1] x) => (float[1] y) { y = Relu(x) }")
    whole.CopyFrom(net)
    del whole.graph.output[:]
    whole.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in every)
    run = session(whole.SerializeToString())
    expected = [dict(zip(every, run.run(None, feeds), strict=True)) | feeds for feeds in batches]
    with stages(net, wants, batches) as parts:
        for k, names in enumerate(wants):
            for values, right in zip(parts.advance(k), expected, strict=True):
                assert set(values) == set(names)
                for name in names:
                    np.testing.assert_allclose(values[name], right[name], rtol=1e-5, atol=1e-6)
    nodes = read_nodes(net)
    ran = [i for piece in schedule(nodes, {"x", "w0", "w1", "w2", "w3"}, wants).pieces for i in piece.nodes]
    assert sorted(ran) == sorted(set(ran)) == list(range(len(nodes)))


def test_a_weight_changed_between_pieces_counts_from_then_on() -> None:
    net = deep(2)
    x = np.ones((1, 8), "f")
    with stages(net, [["g0"], ["g1"]], [{"x": x}]) as run:
        (first,) = run.advance(0)
        for t in net.graph.initializer:
            t.CopyFrom(onnx.numpy_helper.from_array(np.eye(8, dtype="f"), t.name))
        (values,) = run.advance(1)
    np.testing.assert_allclose(values["g1"], x + np.tanh(first["g0"]), rtol=1e-6)


def test_what_does_not_fit_into_memory_lies_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(limit=100)
    arrays = [np.arange(20.0), np.arange(20.0) + 1]
    for k, x in enumerate(arrays):
        store.put("x", k, x)
    assert [type(v).__name__ for v in store._arrays.values()] == ["PosixPath", "PosixPath"]
    for k, x in enumerate(arrays):
        np.testing.assert_array_equal(store.get("x", k), x)
    store.drop("x")
    store.close()
    monkeypatch.setattr(stages_module, "MEMORY", 0)
    run = Stages(deep(2), [["g0"], ["g1"]], [{"x": np.ones((1, 8), "f")}])
    run._store = Store(0)
    list(run.advance(0))
    assert len(next(run.advance(1))["g1"]) == 1
    run.close()


def test_moments_hold_all_that_least_squares_needs() -> None:
    rng = np.random.default_rng(0)
    x, true = rng.standard_normal((2, 200, 5)), rng.standard_normal((2, 5, 3))
    y = x @ true + 0.5 + 0.01 * rng.standard_normal((2, 200, 3))
    m = Moments.of(x[:, :80], y[:, :80]) + Moments.of(x[:, 80:], y[:, 80:])
    found = solve(m, np.zeros_like(true), 1e-9)
    np.testing.assert_allclose(found.matrix, true, atol=5e-3)
    np.testing.assert_allclose(found.offset, 0.5, atol=5e-3)
    residual = y - x @ found.matrix - found.offset[:, None]
    np.testing.assert_allclose(squared_error(m, found), (residual**2).sum(1), rtol=1e-6)


def test_the_ridge_is_the_one_that_predicts_best() -> None:
    """Few rows of noise: staying at the start is right. Many rows of signal: leaving it is."""
    rng = np.random.default_rng(0)
    start, true = np.zeros((1, 30, 1)), rng.standard_normal((1, 30, 1))

    def folds(rows: int, noise: float) -> list[Moments]:
        xs = [rng.standard_normal((1, rows, 30)) for _ in range(2)]
        return [Moments.of(x, x @ true * (1 - noise) + noise * 20 * rng.standard_normal((1, rows, 1))) for x in xs]

    ridges = (1e-4, 1e4)
    assert np.abs(fitted(folds(20, 1.0), start, None, ridges).matrix).max() < 0.01
    np.testing.assert_allclose(fitted(folds(500, 0.0), start, None, ridges).matrix, true, atol=0.01)
