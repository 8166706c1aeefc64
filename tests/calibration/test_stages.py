# SPDX-License-Identifier: Apache-2.0
"""Models run piece by piece."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from onnxprune.calibration import stages as stages_module
from onnxprune.calibration.stages import Stages, Store, schedule, stages
from onnxprune.errors import DataError
from onnxprune.ir.graph import read_nodes
from onnxprune.ort import session
from tests.cases.nets import small
from tests.cases.text import model


def deep(layers: int = 4) -> ModelProto:
    weights = ", ".join(f"float[8,8] w{k}" for k in range(layers))
    body = "".join(f"g{k} = MatMul(r{k}, w{k})  t{k} = Tanh(g{k})  r{k + 1} = Add(t{k}, r{k})\n" for k in range(layers))
    return model(f"g (float[N,8] x, {weights}) => (float[N,8] y) {{ r0 = Identity(x)\n{body} y = Relu(r{layers}) }}")


def test_pieces_compute_what_the_whole_model_computes_and_every_node_runs_once() -> None:
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


def test_a_weight_changed_between_pieces_takes_effect_in_later_pieces() -> None:
    net = deep(2)
    x = np.ones((1, 8), "f")
    with stages(net, [["g0"], ["g1"]], [{"x": x}]) as run:
        (first,) = run.advance(0)
        for t in net.graph.initializer:
            t.CopyFrom(onnx.numpy_helper.from_array(np.eye(8, dtype="f"), t.name))
        (values,) = run.advance(1)
    np.testing.assert_allclose(values["g1"], x + np.tanh(first["g0"]), rtol=1e-6)


def test_a_sample_on_which_onnxruntime_fails_gives_a_one_line_error() -> None:
    batches = [{"x": np.ones((2, channels, 8, 8), "f")} for channels in (3, 4)]
    with stages(small(), [["c1"]], batches) as run:
        results = run.advance(0)
        assert next(results)["c1"].shape == (2, 16, 8, 8)
        with pytest.raises(DataError, match=r"^`data`: the model does not run on x:2x4x8x8: .") as e:
            next(results)
    assert "\n" not in str(e.value)


def test_arrays_that_do_not_fit_into_memory_are_stored_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
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
