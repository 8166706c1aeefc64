# SPDX-License-Identifier: Apache-2.0
"""How a recovered model may differ from the cut one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto

import onnxprune
from onnxprune.errors import VerificationError
from onnxprune.evaluation.structure import check_contract, only_weights
from onnxprune.ir.tensors import FileRange, leave
from onnxprune.ort import session
from onnxprune.recovery.batch_norm import reestimate
from onnxprune.recovery.bias import absorb
from onnxprune.recovery.editor import Fitted
from onnxprune.recovery.reconstruct import reconstruct
from tests.cases.nets import SMALL, small
from tests.cases.recovery import Prepared, data_for, drop
from tests.cases.text import model, stored


def test_a_recovered_model_with_another_node_is_detected() -> None:
    p = drop(small(), "w2", [1, 3])
    found = reconstruct(p.coupled, p.dropped, p.pruned, p.batches).model
    check_contract(p.pruned, found, only_weights())
    relu = next(n for n in found.graph.node if n.op_type == "Relu")
    relu.op_type = "Tanh"
    with pytest.raises(VerificationError, match="changed node"):
        check_contract(p.pruned, found, only_weights())


def renamed(**names: str) -> ModelProto:
    """The small network with some tensors renamed; their values are the same."""
    text, values = SMALL, {t.name: t for t in small().graph.initializer}
    for old, new in names.items():
        text = text.replace(f"{old},", f"{new},").replace(f"{old})", f"{new})")
    net = model(text)
    for t in net.graph.initializer:
        old = next((k for k, v in names.items() if v == t.name), t.name)
        t.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(values[old]), t.name))
    return net


@pytest.mark.parametrize("rounds", [1, 2])
def test_a_tensor_named_like_one_of_ours_changes_nothing(rounds: int) -> None:
    """A user's tensor may be named `x_refit`: a recovery lists the tensors that it added; names do not decide."""
    options: dict[str, Any] = {
        "data": data_for(small()),
        "recover": "reconstruct",
        "align": "none",
        "bench": False,
        "rounds": rounds,
    }
    plain, odd = (onnxprune.prune(net, 0.5, **options) for net in (small(), renamed(w2="w2_refit", wt1="wt1_refit")))
    assert [{"w2_refit": "w2", "wt1_refit": "wt1"}.get(name, name) for name in odd.plan.kept] == list(plain.plan.kept)
    x = {"x": np.random.default_rng(3).standard_normal((4, 3, 8, 8)).astype("f")}
    a, b = (session(r.model.SerializeToString()).run(None, x)[0] for r in (plain, odd))
    np.testing.assert_array_equal(a, b)


def test_inputs_replaced_by_other_tensors_of_the_file_are_noticed() -> None:
    """Only tensors that a recovery added may replace others, whatever their names."""
    net = renamed(ws1="ws1_refit")
    p = drop(net, "w2", [1, 3])
    found = ModelProto()
    found.CopyFrom(p.pruned)
    norm = next(n for n in found.graph.node if n.op_type == "BatchNormalization")
    norm.input[2], norm.input[1] = norm.input[1], norm.input[2]
    with pytest.raises(VerificationError, match="changed the inputs"):
        check_contract(p.pruned, found, only_weights())
    added = found.graph.initializer.add()
    added.CopyFrom(onnx.numpy_helper.from_array(np.ones(16, np.float32), "wt1_refit"))
    norm.input[1], norm.input[2] = "ws1_refit", "wt1_refit"
    check_contract(p.pruned, found, only_weights({"wt1_refit"}))
    with pytest.raises(VerificationError, match="changed the inputs"):
        check_contract(p.pruned, found, only_weights(set()))


NET = """g (float[N,3,6,6] x, float[8,3,3,3] w1, float[5,8,3,3] w2, float[5,1,1] w3) => (float[N,20] y, int64[3] o, int64[1] c)
    <int64[2] sizes = {0, 20}, int64[3] ids = {4, 5, 6}, string[2] names = {"cat", "dog"}, float low = {0.5},
    float one = {1.0}, float spare = {1.0}> {
    a = Conv(x, w1)  low2 = Cast <to = 1> (low)  b = Clip(a, low2)  d = Conv(b, w2)  e = Add(d, w3)
    s = Sub(e, one)  y = Reshape(s, sizes)  f = Constant <value = float[1] {2.0}> ()  c = Constant <value = int64[1] {7}> ()
    o = Identity(ids)  same = Identity(ids) }"""
"""Weights of several types, a convolution without a bias, and a node whose last input is absent."""

Change = Callable[[ModelProto], object]


def changed(change: Change) -> tuple[ModelProto, ModelProto]:
    """The network, and a copy with a change."""
    a, b = model(NET), model(NET)
    change(b)
    return a, b


def put(m: ModelProto, name: str, value: object, dtype: type = np.float32) -> None:
    """Store a tensor, in place of the one of this name if there is one."""
    tensor = stored(m).get(name) or m.graph.initializer.add()
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.asarray(value, dtype), name))


def node(m: ModelProto, output: str) -> NodeProto:
    """The node that computes a tensor."""
    return next(n for n in m.graph.node if n.output[0] == output)


def give(m: ModelProto, output: str, place: int, value: object, dtype: type = np.float32) -> None:
    """Make an added tensor, `new`, an input of a node."""
    put(m, "new", value, dtype)
    inputs = node(m, output).input
    inputs.extend([""] * (place + 1 - len(inputs)))
    inputs[place] = "new"


HARMLESS: dict[str, Change] = {
    "new values of a weight": lambda m: put(m, "w1", np.ones((8, 3, 3, 3))),
    "a new value of a constant": lambda m: put(m, "f", [3.0]),
    "a bias where there was none": lambda m: give(m, "a", 2, np.ones(8)),
    "a weight replaced by another": lambda m: give(m, "e", 1, np.ones((5, 1, 1))),
    "one value replaced by several": lambda m: give(m, "s", 1, np.ones((5, 1, 1))),
    "weights in another order": lambda m: m.graph.initializer.sort(key=lambda t: t.name),
    "another producer": lambda m: setattr(m, "producer_name", "another"),
    "a comment": lambda m: setattr(m.graph, "doc_string", "a comment"),
}


@pytest.mark.parametrize("added", [None, {"new"}])
@pytest.mark.parametrize("change", HARMLESS.values(), ids=HARMLESS)
def test_new_weights_and_biases_are_allowed(change: Change, added: set[str] | None) -> None:
    check_contract(*changed(change), only_weights(added))


FORBIDDEN: dict[str, tuple[str, Change]] = {
    "shape": ("'w3' is float.1, 5, 1, 1. .* float.5, 1, 1. in the cut", lambda m: put(m, "w3", np.ones((1, 5, 1, 1)))),
    "type": ("'low' is double.* float", lambda m: put(m, "low", 0.5, np.float64)),
    "nan": ("'w1' .* not finite", lambda m: put(m, "w1", np.full((8, 3, 3, 3), np.nan))),
    "infinity in a constant": ("'f' .* not finite", lambda m: put(m, "f", [np.inf])),
    "infinity in an added bias": ("'new' .* not finite", lambda m: give(m, "a", 2, np.full(8, np.inf))),
    "integer initializer": ("'ids' .* other values", lambda m: put(m, "ids", [4, 6, 5], np.int64)),
    "string initializer": ("'names' .* other values", lambda m: put(m, "names", ["dog", "cat"], object)),
    "integer constant": ("'c' .* other values", lambda m: put(m, "c", [8], np.int64)),
    "unread tensor": ("'new' is in the recovered model, but not in the cut", lambda m: put(m, "new", 1.0)),
    "lost tensor": (
        "'spare' is in the cut model, but not in the recovered",
        lambda m: m.graph.initializer.remove(stored(m)["spare"]),
    ),
    "renamed output": ("changed node", lambda m: rename(m, "y", "z")),
    "output that is another tensor": ("'output'", lambda m: setattr(m.graph.output[1], "name", "same")),
    "outputs in another order": ("'output'", lambda m: m.graph.output.sort(key=lambda v: v.name)),
    "input size": ("'input'", lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[0], "dim_param", "M")),
    "opset": ("'opset_import'", lambda m: setattr(m.opset_import[0], "version", 18)),
    "metadata": ("'metadata_props'", lambda m: m.metadata_props.add(key="a", value="b")),
    "function": ("'functions'", lambda m: m.functions.add(name="f", domain="custom", opset_import=m.opset_import)),
    "stated shape": ("'value_info'", lambda m: m.graph.value_info.append(m.graph.output[0])),
    "attribute": ("changed node Cast 'low2'", lambda m: setattr(node(m, "low2").attribute[0], "i", 10)),
    "fewer inputs": ("the inputs of Clip 'b'", lambda m: node(m, "b").input.pop()),
    "limit where there was none": ("the inputs of Clip 'b'", lambda m: give(m, "b", 2, 1.0)),
    "data replaced": ("the inputs of Identity 'o'", lambda m: give(m, "o", 0, [4, 5, 6], np.int64)),
    "result replaced": ("the inputs of Add 'e'", lambda m: give(m, "e", 0, np.ones((5, 1, 1)))),
    "bias of another rank": ("the inputs of Conv 'a'", lambda m: give(m, "a", 2, np.ones((1, 8)))),
    "several limits": ("the inputs of Cast 'low2'", lambda m: give(m, "low2", 0, [0.5, 0.5])),
    "weight of another shape": ("the inputs of Add 'e'", lambda m: give(m, "e", 1, np.ones((1, 1)))),
}


@pytest.mark.parametrize("added", [None, {"new"}])
@pytest.mark.parametrize(("message", "change"), FORBIDDEN.values(), ids=FORBIDDEN)
def test_any_other_change_is_detected(message: str, change: Change, added: set[str] | None) -> None:
    with pytest.raises(VerificationError, match=message):
        check_contract(*changed(change), only_weights(added))


def rename(m: ModelProto, old: str, new: str) -> None:
    """Rename an output of the network."""
    node(m, old).output[0] = new
    next(v for v in m.graph.output if v.name == old).name = new


def test_an_added_tensor_that_is_not_listed_is_detected() -> None:
    with pytest.raises(VerificationError, match="changed the inputs of Conv 'a'"):
        check_contract(*changed(lambda m: give(m, "a", 2, np.ones(8))), only_weights({"another"}))


def test_a_weight_named_like_an_input_is_detected() -> None:
    """It would become the default of that input."""
    a, b = (model(NET.replace("x,", "x, float[8] new,", 1)) for _ in range(2))
    give(b, "a", 2, np.ones(8))
    with pytest.raises(VerificationError, match="changed the inputs of Conv 'a'"):
        check_contract(a, b, only_weights())


def test_values_that_never_were_finite_may_stay() -> None:
    a, b = (model(NET) for _ in range(2))
    for m, w in ((a, 1.0), (b, 2.0)):
        put(m, "w3", np.reshape([-np.inf, np.nan, w, w, w], (5, 1, 1)))
    check_contract(a, b, only_weights())
    put(b, "w3", np.reshape([np.inf, np.nan, 2, 2, 2], (5, 1, 1)))
    with pytest.raises(VerificationError, match="not finite"):
        check_contract(a, b, only_weights())


def test_large_values_in_double_precision_are_finite() -> None:
    a, b = (model(NET.replace("float low = {0.5}", "double low = {0.5}")) for _ in range(2))
    put(b, "low", 1e300, np.float64)
    check_contract(a, b, only_weights())


@pytest.mark.parametrize("name", ["w1", "ids"])
def test_weights_in_another_file_are_compared(name: str, tmp_path: Path) -> None:
    """Large weights stay in their file while they are compared."""
    a, b = (model(NET) for _ in range(2))
    b.graph.initializer.sort(key=lambda t: t.name)
    for t in b.graph.initializer:
        if t.name in ("w1", "ids"):
            t.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(t), t.name))
            (tmp_path / t.name).write_bytes(t.raw_data)
            leave(t, FileRange(str(tmp_path / t.name), 0, len(t.raw_data)))
    check_contract(a, b, only_weights())
    (tmp_path / name).write_bytes(b"\xff" * (tmp_path / name).stat().st_size)
    with pytest.raises(VerificationError, match=f"'{name}'"):
        check_contract(a, b, only_weights())


SHARED = """g (float[N,3,6,6] x, float[8,3,1,1] w1, float[8,3,1,1] w2, float[8] ws, float[8] wt, float[8] wm, float[8] wvar,
    float[5,8,1,1] w3) => (float[N,5,6,6] y) <float one = {0.1}> {
    a = Conv(x, w1)  b = Conv(x, w2)  c = BatchNormalization(a, ws, wt, wm, wvar)  d = BatchNormalization(b, ws, wt, wm, wvar)
    e = Relu(c)  f = Relu(d)  g = Mul(e, f)  h = Conv(g, w3)  y = Add(h, one) }"""
RECOVERIES: dict[str, Callable[[Prepared], Fitted]] = {
    "bias": lambda p: absorb(p.coupled, p.dropped, p.pruned, p.batches),
    "re-estimate": lambda p: reestimate(p.coupled, p.dropped, p.pruned, p.batches),
    "reconstruct": lambda p: reconstruct(p.coupled, p.dropped, p.pruned, p.batches),
}


@pytest.mark.parametrize("recover", RECOVERIES.values(), ids=RECOVERIES)
def test_recoveries_that_add_tensors_keep_the_contract(recover: Callable[[Prepared], Fitted]) -> None:
    """Shared statistics become one tensor per node, a single value becomes one per channel, a convolution gains a bias."""
    p = drop(model(SHARED), "w1", [1, 3])
    found = recover(p)
    assert found.added
    check_contract(p.pruned, found.model, only_weights(found.added))
    check_contract(p.pruned, found.model, only_weights())
