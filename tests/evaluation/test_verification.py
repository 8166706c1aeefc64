# SPDX-License-Identifier: Apache-2.0
"""The verification catches wrong cuts, however small the error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto

from onnxprune.analysis.couple import couple
from onnxprune.analysis.coupling import Coupled
from onnxprune.analysis.groups import find_groups
from onnxprune.errors import VerificationError
from onnxprune.evaluation.reference import reference
from onnxprune.evaluation.verification import as_output, difference, verify
from onnxprune.ir.facts import read_graph
from onnxprune.ort import session
from onnxprune.report.render.table import verification_text
from onnxprune.rewrite.cut import cut
from tests.cases import exported
from tests.cases.choosing import choose
from tests.cases.nets import small
from tests.cases.text import model, stored

Array = NDArray[np.float32]


def made(net: ModelProto) -> tuple[Coupled, NDArray[np.bool_], ModelProto]:
    coupled = couple(read_graph(net))
    dropped = choose(coupled, find_groups(coupled), np.random.default_rng(0), 0.5)
    return coupled, dropped, cut(coupled, dropped)


def spoil(net: ModelProto, name: str, change: Callable[[Array], Array]) -> None:
    t = next(t for t in net.graph.initializer if t.name == name)
    t.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(change(onnx.numpy_helper.to_array(t).copy())), name))


def one_percent_off(x: Array) -> Array:
    x.ravel()[x.size // 2] += 0.01 * np.abs(x).max() * x.size**0.5
    return x


def swapped(x: Array) -> Array:
    x[[0, 1]] = x[[1, 0]]
    return x


WRONG: dict[str, tuple[str, Callable[[Array], Array]]] = {
    "two filters swapped": ("w2", swapped),
    "inputs in another order": ("w3", lambda x: x[:, ::-1]),
    "one weight off": ("w4", one_percent_off),
    "a shift forgotten": ("wt1", np.zeros_like),
    "everything one percent off": ("w1", lambda x: x * np.float32(1.05)),
}


def test_a_correct_cut_is_verified() -> None:
    found = verify(*made(small()))
    assert found.error < 1e-5
    assert found.engine == "onnxruntime"
    assert len(found.inputs) == 2
    assert found.inputs[0] != found.inputs[1]


def test_an_input_on_which_the_original_fails_is_named() -> None:
    """Position 20 exists in the second input only, and inference does not look at it."""
    net = model("""g (float[N,T,4] x, float[4,8] w1, float[8,4] w2) => (float[] y) <int64 p = {20}> {
        a = Gather <axis = 1> (x, p)  b = MatMul(a, w1)  y = MatMul(b, w2) }""")
    found = verify(*made(net))
    assert len(found.inputs) == 1
    assert found.failures[0].startswith("x 1x16x4: ")
    assert f"on 1 of 2 seeded inputs in onnxruntime; the original fails on {found.failures[0]}" in verification_text(found)


@pytest.mark.parametrize(("name", "change"), WRONG.values(), ids=WRONG)
def test_a_wrong_cut_is_detected(name: str, change: Callable[[Array], Array]) -> None:
    coupled, dropped, pruned = made(small())
    spoil(pruned, name, change)
    with pytest.raises(VerificationError, match="differ from the masked original"):
        verify(coupled, dropped, pruned)


def test_one_channel_too_few_is_detected() -> None:
    """The cut is consistent, but it is not the one that was decided."""
    coupled, dropped, _ = made(small())
    more = dropped.copy()
    group = find_groups(coupled)[0]
    more[np.isin(coupled.roots, group.roots[~dropped[group.roots]][:1])] = True
    with pytest.raises(VerificationError, match="does not match the plan"):
        verify(coupled, dropped, cut(coupled, more))


def rename(m: ModelProto) -> None:
    m.graph.output[0].name = m.graph.node[-1].output[0] = "z"


def retype(m: ModelProto) -> None:
    m.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "M"


@pytest.mark.parametrize("change", [rename, retype])
def test_a_changed_interface_is_detected(change: Callable[[ModelProto], None]) -> None:
    coupled, dropped, pruned = made(small())
    change(pruned)
    with pytest.raises(VerificationError, match="differ in name, type or shape"):
        verify(coupled, dropped, pruned)


def test_an_invalid_model_is_refused() -> None:
    coupled, dropped, pruned = made(small())
    pruned.graph.node[0].op_type = "Convolution"
    with pytest.raises(VerificationError, match=r"onnx\.checker rejects"):
        verify(coupled, dropped, pruned)


CHAOTIC = """g (float[N,3,6,6] x, float[64,3,3,3] w1, float[64,64,3,3] w2, float[4,64,1,1] w3) => (float[] y)
    <float big = {30000000.0}> {
    a = Conv(x, w1)  b = Mul(a, big)  c = Sin(b)  d = Conv(c, w2)  e = Mul(d, big)  f = Sin(e)  y = Conv(f, w3) }"""


def test_a_network_that_amplifies_rounding_is_verified_node_by_node() -> None:
    coupled, dropped, pruned = made(model(CHAOTIC))
    found = verify(coupled, dropped, pruned)
    assert "node by node" in found.engine
    assert found.error < 1e-3
    spoil(pruned, "w2", lambda x: x[:, ::-1])
    with pytest.raises(VerificationError, match="makes 'd' differ"):
        verify(coupled, dropped, pruned)


FAINT = """g (float[N,3,6,6] x, float[8,3,3,3] w1, float[4,8,1,1] w3) => (float[] y) <float low = {-16.0}, float big = {0.01}> {
    a = Conv(x, w1)  b = Relu(a)  c = Conv(b, w3)  s = Mul(c, big)  d = Add(s, low)  y = Sigmoid(d) }"""


def test_outputs_dominated_by_rounding_do_not_suffice_to_verify_a_cut() -> None:
    coupled, dropped, pruned = made(model(FAINT))
    assert "node by node" in verify(coupled, dropped, pruned).engine
    spoil(pruned, "w3", lambda x: x[:, ::-1])
    with pytest.raises(VerificationError, match="makes 'c' differ"):
        verify(coupled, dropped, pruned)


def test_a_network_with_an_unused_part_is_verified_node_by_node() -> None:
    split = FAINT.replace("a = Conv(x, w1)", "both = Conv(x, w)  unused, a = Split <axis = 1> (both, sizes)")
    split = split.replace("float[8,3,3,3] w1", "float[16,3,3,3] w").replace("float big", "int64[2] sizes = {8, 8}, float big")
    coupled, dropped, pruned = made(model(split))
    assert "node by node" in verify(coupled, dropped, pruned).engine


CLASSES = """g (float[N,3,24,24] x, float[64,3,3,3] w1, float[5,64,3,3] w2) => (int64[N,1,20,20] y) {
    a = Conv(x, w1)  b = Relu(a)  c = Conv(b, w2)  y = ArgMax <axis = 1> (c) }"""


def with_equal_classes(net: ModelProto) -> ModelProto:
    """Channels 32 to 63 repeat channels 0 to 31, and two classes add them in different orders: rounding decides."""
    weights = {t.name: onnx.numpy_helper.to_array(t).copy() for t in net.graph.initializer}
    weights["w1"][32:] = weights["w1"][:32]
    weights["w2"][1] = np.concatenate([weights["w2"][0][32:], weights["w2"][0][:32]])
    weights["w2"][2:] = 0
    for name, x in weights.items():
        spoil(net, name, lambda _, x=x: x)  # type: ignore[misc]
    return net


def positions_that_differ(coupled: Coupled, dropped: NDArray[np.bool_], pruned: ModelProto) -> float:
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 3, 24, 24)).astype("f")}
    a, b = (session(m.SerializeToString()).run(None, feeds)[0] for m in (reference(coupled, dropped, None), pruned))
    return float((a != b).mean())


def test_equal_class_scores_decided_by_rounding_are_verified() -> None:
    net = with_equal_classes(model(CLASSES))
    coupled = couple(read_graph(net))
    [owner] = [o for o in coupled.owners if (o.weight, o.axis) == ("w1", 0)]
    dropped = np.isin(coupled.roots, coupled.roots[[owner.start + p for p in (0, 1, 2, 32, 33, 34)]])
    pruned = cut(coupled, dropped)
    found = verify(coupled, dropped, pruned)
    assert ("node by node" in found.engine) == (positions_that_differ(coupled, dropped, pruned) > 0)
    assert found.error < 1e-5


def test_integers_that_differ_in_a_few_places_are_noticed() -> None:
    coupled, dropped, pruned = made(model(CLASSES))
    spoil(pruned, "w2", lambda w: w * np.array([1, 1, 1.1, 1, 1], "f").reshape(5, 1, 1, 1))
    assert 0 < positions_that_differ(coupled, dropped, pruned) < 0.05
    with pytest.raises(VerificationError, match="differ from the masked original"):
        verify(coupled, dropped, pruned)


def test_outputs_without_a_finite_value_do_not_verify_a_cut() -> None:
    net = model(
        """g (float[N,3,8,8] x, float[8,3,1,1] w1, float[4,8,1,1] w2) => (float[N,4,8,8] y) {
        a = Conv(x, w1)  m = Abs(a)  n = Neg(m)  b = Log(n)  y = Conv(b, w2) }"""
    )
    coupled = couple(read_graph(net))
    dropped = np.zeros(len(coupled.roots), bool)
    with pytest.raises(VerificationError, match="no output of the masked original has a finite value"):
        verify(coupled, dropped, cut(coupled, dropped))


def test_a_mask_input_is_filled_with_zeros_and_ones() -> None:
    """Exporters write (1 - mask) * lowest: larger integers give infinities, and then NaN."""
    found = verify(
        *made(
            model("""g (float[2,5,6] x, int64[2,1,5] mask, float[6,8] w1, float[6,8] w2, float[6,8] w3,
            float[8,4] w4) => (float[] y)
            <float one = {1.0}, float low = {-3.4e38}> { m = Cast <to = 1> (mask)  i = Sub(one, m)  l = Mul(i, low)
            q = MatMul(x, w1)  k = MatMul(x, w2)  v = MatMul(x, w3)  t = Transpose <perm = [0,2,1]> (k)  s = MatMul(q, t)
            z = Add(s, l)  p = Softmax(z)  o = MatMul(p, v)  y = MatMul(o, w4) }""")
        )
    )
    assert found.error < 1e-5


def classifier() -> tuple[Coupled, NDArray[np.bool_], ModelProto]:
    """A cut of a classifier by scikit-learn, whose outputs are the name of a class and a map: class -> probability."""
    return made(exported.read("skl2onnx_classifier"))


def test_class_names_that_differ_are_detected() -> None:
    """Neither a comparison of the outputs nor one node by node overlooks them."""
    coupled, dropped, pruned = classifier()
    assert verify(coupled, dropped, pruned).error < 1e-5
    stored(pruned)["classes"].string_data[:] = [b"yes", b"no"]
    with pytest.raises(VerificationError, match=r"ArrayFeatureExtractor .* values differ, allowed none"):
        verify(coupled, dropped, pruned)


KEYS: dict[str, tuple[list[bytes], str]] = {
    "another key": ([b"no", b"yeah"], "output 'output_probability' has the key 'yeah' where the masked original has 'yes'"),
    "another first key": ([b"no", b"maybe"], "output 'output_probability' has the key 'maybe' where .* has 'no'"),
    "two keys swapped": ([b"yes", b"no"], "ZipMap 'ZipMap' makes 'output_probability' differ"),
}


@pytest.mark.parametrize(("names", "message"), KEYS.values(), ids=KEYS)
def test_keys_of_maps_that_differ_are_detected(names: list[bytes], message: str) -> None:
    coupled, dropped, pruned = classifier()
    next(n for n in pruned.graph.node if n.op_type == "ZipMap").attribute[0].strings[:] = names
    with pytest.raises(VerificationError, match=message):
        verify(coupled, dropped, pruned)


@pytest.mark.parametrize("kind", [object, np.str_, np.int64, np.bool_, np.complex64])
def test_a_value_that_differs_is_an_error_for_every_type_that_is_not_rounded(kind: type) -> None:
    a: Any = np.array([0, 1, 1, 0]).astype(kind)
    b: Any = np.array([0, 1, 0, 0]).astype(kind)
    assert difference("y", a, a) == (0, 0)
    assert difference("y", a, b) == (0.25, 0)


def test_infinities_of_the_original_are_not_compared_and_cause_no_warning() -> None:
    a = np.array([-np.inf, np.inf, np.nan, 1.0], np.float32)
    assert difference("y", a, a)[0] == 0
    assert difference("y", a, np.array([-np.inf, np.inf, np.nan, np.inf], np.float32))[0] == np.inf


def test_keys_and_values_of_a_sequence_of_maps_are_in_order() -> None:
    values, keys = as_output([{"a": 0.25, "b": 0.75}, {"a": 0.5, "b": 0.5}])
    assert values.tolist() == [0.25, 0.75, 0.5, 0.5]
    assert keys == ("a", "b", "a", "b")
