# SPDX-License-Identifier: Apache-2.0
"""One door for models that do not run: one line that quotes the runtime; what runs is never put down to the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import onnxprune
from onnxprune.cli.app import run
from onnxprune.errors import ModelError
from onnxprune.evaluation.trial import try_out
from tests.cases.commands import FAST, Capture, files, refused
from tests.cases.nets import external, pruned, small, write
from tests.cases.text import model

BOTH = "neither onnxruntime nor onnx.reference can run this model: "
PLAIN = "g (float[N,3,8,8] x, float[8,3,3,3] w1, float[4,8,1,1] w2) => (float[N,4,6,6] y) { a = Conv(x, w1) y = Conv(a, w2) }"
FOREVER = """
g (float[1,4] x, float[4,8] w1, float[8,3] w2) => (float[1,3] y) {
  a = MatMul(x, w1)
  n = Constant <value: tensor = int64 {4611686018427387904}> ()
  c = Constant <value: tensor = bool {1}> ()
  b = Loop (n, c, a) <body = body (int64 k, bool go, float[1,8] s) => (bool on, float[1,8] t) { on = Identity(go) t = Relu(s) }>
  y = MatMul(b, w2)
}
"""


def with_graph_for_number(net: ModelProto) -> None:
    """An attribute of the wrong type."""
    graph = helper.make_graph([], "g", [], [])
    node = net.graph.node[0]
    del node.attribute[:]
    node.attribute.append(helper.make_attribute("group", graph))


def with_short_weight(net: ModelProto) -> None:
    w = net.graph.initializer[0]
    w.CopyFrom(TensorProto(name=w.name, data_type=w.data_type, dims=w.dims, float_data=[1.0]))


def with_unknown_type(net: ModelProto) -> None:
    net.graph.initializer[0].data_type = 2**31 - 1


def with_a_name_twice(net: ModelProto) -> None:
    net.graph.node[0].output.append(net.graph.node[-1].output[0])


def with_nothing_but_nan(net: ModelProto) -> None:
    for w in net.graph.initializer:
        w.CopyFrom(numpy_helper.from_array(np.full(tuple(w.dims), np.nan, np.float32), w.name))


def without_opset(net: ModelProto) -> None:
    net.opset_import[0].domain = "com.microsoft"


SPOILT: dict[str, tuple[Callable[[ModelProto], None], str]] = {
    "attribute": (with_graph_for_number, BOTH),
    "weight": (with_short_weight, "weight 'w1' cannot be read: "),
    "type": (with_unknown_type, BOTH),
    "name": (with_a_name_twice, "y"),
    "nan": (with_nothing_but_nan, "only NaN and infinity come out of this model"),
    "opset": (without_opset, "states no version of ONNX's own operators"),
}


@pytest.mark.parametrize(("spoil", "why"), SPOILT.values(), ids=SPOILT)
@pytest.mark.parametrize("more", [[], ["--recover", "none"]], ids=["recovered", "plain"])
def test_a_model_that_does_not_run_is_refused_in_one_line(
    spoil: Callable[[ModelProto], None], why: str, more: list[str], tmp_path: Path, capsys: Capture
) -> None:
    net = model(PLAIN)
    spoil(net)
    path = write(tmp_path, net)
    before = files(tmp_path)
    said = refused([str(path), "--ratio", "0.5", "--no-bench", *more], capsys)
    assert f"{path}: " in said
    assert why in said
    assert files(tmp_path) == before
    assert len(said) - len(str(path)) <= 300
    with pytest.raises(ModelError):
        onnxprune.prune(net, 0.5, bench=False, recover="none")


def test_a_loop_that_does_not_end_is_refused_before_it_runs(tmp_path: Path, capsys: Capture) -> None:
    path = write(tmp_path, model(FOREVER))
    assert BOTH[:-2] in refused(["inspect", str(path)], capsys)


def test_an_operator_that_no_runtime_has_needs_no_verify(tmp_path: Path, capsys: Capture) -> None:
    net = model(PLAIN)
    net.opset_import.append(helper.make_opsetid("my.plugin", 1))
    net.graph.node.append(helper.make_node("Foo", ["y"], ["z"], domain="my.plugin"))
    net.graph.output[0].name = "z"
    path = write(tmp_path, net)
    command = [str(path), "--ratio", "0.5", "-o", str(tmp_path / "o.onnx")]
    said = refused(command, capsys)
    assert "my.plugin:Foo(-1) is not a registered" in said
    assert said.endswith("; to cut it all the same, unverified: --no-verify --no-bench --recover none\n")
    assert run([*command, "--no-verify", *FAST]) == 0
    assert len(onnx.load(tmp_path / "o.onnx").graph.initializer[0].dims) == 4


def test_a_mistake_of_ours_is_not_put_down_to_a_model_that_runs(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise IndexError("list index out of range")

    monkeypatch.setattr("onnxprune.pipeline.prune.analyse", fails)
    assert "internal error" in refused([str(write(tmp_path)), "--ratio", "0.5", *FAST], capsys)


@pytest.mark.parametrize(("key", "value"), [("offset", "x"), ("offset", "-1"), ("length", "-5"), ("location", "a\0b")])
def test_a_weight_that_is_stored_nowhere_is_named(key: str, value: str, tmp_path: Path, capsys: Capture) -> None:
    path = external(tmp_path, small())
    net = onnx.load(path, load_external_data=False)
    entry = next((e for e in net.graph.initializer[0].external_data if e.key == key), None)
    if entry is None:
        entry = net.graph.initializer[0].external_data.add(key=key)
    entry.value = value
    onnx.save(net, path)
    assert "weight 'w1' is not stored properly: " in refused([str(path), "--ratio", "0.5", *FAST], capsys)


def test_oddities_that_runtimes_forgive_do_not_stop_a_cut() -> None:
    twice = model(PLAIN)
    twice.opset_import.append(helper.make_opsetid("ai.onnx", 9))
    data = small().SerializeToString().replace(b"\x01g", b"\x01\xff")
    texts = ModelProto.FromString(data)
    for net in (twice, texts):
        assert pruned(net, 0.5).report.removed


def test_a_rank_that_sizes_decide_pins_what_it_moves() -> None:
    text = """
    g (float[B,6,16] x, float[16,8] w1, float[8,4] w2, float[4,3] w3) => (float[B,6,3] y) <int64[3] shape = {-1, 6, 8}> {
      a = MatMul(x, w1) s = Squeeze(a) r = Reshape(s, shape) b = MatMul(r, w2) y = MatMul(b, w3)
    }
    """
    result = pruned(model(text), 0.5, align="none", input_shape={"x": (1, 6, 16)})
    assert result.report.verification is not None
    assert {t.name: list(t.dims) for t in result.model.graph.initializer}["w2"][0] == 8


def test_a_trial_knows_what_runs_and_what_does_not() -> None:
    assert try_out(small().SerializeToString(), {}).why == ""
    assert try_out(b"no model", {}).why.startswith(BOTH)
    net = model("g (float[3,N] x, float[M,4] z) => (float[3,4] y) { y = MatMul(x, z) }")
    assert try_out(net.SerializeToString(), {"x": (3, 5), "z": (5, 4)}).why == ""
    assert "MatMul" in try_out(net.SerializeToString(), {"x": (3, 5), "z": (6, 4)}).why
