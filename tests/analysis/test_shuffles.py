# SPDX-License-Identifier: Apache-2.0
"""Channel shuffles tie nothing: if channels are removed, one Gather replaces Reshape, Transpose, Reshape."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from onnx import ModelProto

from onnxprune.analysis.couple import couple
from onnxprune.analysis.explain import explain
from onnxprune.analysis.shuffles import find_shuffles
from onnxprune.errors import CutError, VerificationError
from onnxprune.evaluation.verification import verify
from onnxprune.ir.facts import read_graph
from onnxprune.rewrite.cut import cut
from tests.cases.law import cut_some
from tests.cases.text import model

HEAD = "g (float[N,3,4,4] x, float[12,3,1,1] w1, float[5,12,1,1] w2{more}) => (float[] y{out})"
SIZES = "<int64[5] s = {0,3,4,4,4}, int64[4] t = {0,12,4,4}, int64[5] u = {0,4,4,3,4}, int64[4] v = {0,4,4,12}>"
PLAIN = "b = Reshape(a, s)  c = Transpose <perm = [0,2,1,3,4]> (b)  d = Reshape(c, t)"


def net(body: str, more: str = "", out: str = "") -> ModelProto:
    head = HEAD.replace("{more}", more).replace("{out}", out)
    return model(f"{head} {SIZES} {{ a = Conv(x, w1)  {body}  y = Conv(d, w2) }}")


SHUFFLES = {
    "channels first": PLAIN,
    "channels last": """n = Transpose <perm = [0,2,3,1]> (a)  b = Reshape(n, u)  c = Transpose <perm = [0,1,2,4,3]> (b)
        e = Reshape(c, v)  d = Transpose <perm = [0,3,1,2]> (e)""",
    "with an Identity": """b = Reshape(a, s)  i = Identity(b)  c = Transpose <perm = [0,2,1,3,4]> (i)  d = Reshape(c, t)""",
    "sizes that are computed": """b = Reshape(a, s)  c = Transpose <perm = [0,2,1,3,4]> (b)  h = Shape(a)  d = Reshape(c, h)""",
}


@pytest.mark.parametrize("name", SHUFFLES)
def test_channels_of_a_shuffle_are_not_tied_and_one_gather_moves_them(name: str) -> None:
    made = net(SHUFFLES[name])
    [shuffle] = set(find_shuffles(read_graph(made)).values())
    assert shuffle.order.tolist() == np.arange(12).reshape(3, 4).T.ravel().tolist()
    for seed in range(3):
        found = cut_some(made, seed, 0.5)
        assert found.atoms == 12
        kinds = [n.op_type for n in found.pruned.graph.node]
        assert kinds.count("Gather") == 1
        assert "Reshape" not in kinds


NONE = {
    "an inner tensor has another consumer": (PLAIN.replace("d =", "e =") + "  f = ReduceMax <axes = [1], keepdims = 0> (b)"
                        "  h = ReduceMax <axes = [1]> (f)  d = Add(e, h)", 4),
    "another operator inside": (PLAIN.replace("(b)", "(r)").replace("c =", "r = Mul(b, w3)  c ="), 4),
    "nothing moves": ("b = Reshape(a, s)  d = Reshape(b, t)", 4),
}  # fmt: skip


@pytest.mark.parametrize("name", NONE)
def test_a_pattern_that_only_resembles_a_shuffle_is_analysed_node_by_node(name: str) -> None:
    body, atoms = NONE[name]
    made = net(body, ", float[3,4,1,1] w3" if "w3" in body else "")
    graph = read_graph(made)
    assert couple(graph).shuffles == ()
    assert cut_some(made, 0, 0.5).atoms >= atoms


def test_a_shuffle_whose_inner_tensor_is_an_output_is_analysed_node_by_node() -> None:
    made = net(PLAIN, out=", float[N,4,3,4,4] c")
    assert not find_shuffles(read_graph(made))
    assert couple(read_graph(made)).shuffles == ()


def test_a_shuffle_that_is_not_cut_is_kept() -> None:
    more = ", float[12,12,1,1] w3, float[7,12,1,1] w4, float[12,7,1,1] w5"
    made = net(f"{PLAIN}".replace("d =", "e =") + "  f = Conv(e, w3)  h = Conv(f, w4)  d = Conv(h, w5)", more)
    found = cut_some(made, 0, 0.5, names=["w4"])
    assert [n.op_type for n in found.pruned.graph.node] == [n.op_type for n in made.graph.node]


def test_explain_mentions_the_shuffle() -> None:
    stories = explain(couple(read_graph(net(PLAIN))), "c")
    assert any("inside a shuffle, which a Gather replaces" in s.reason for s in stories)


def test_a_shuffle_with_a_refused_node_is_analysed_node_by_node() -> None:
    graph = read_graph(net(PLAIN))
    [node] = [n for n in graph.nodes if n.op == "Transpose"]
    assert couple(graph, {node.index: "cannot follow a cut"}).shuffles == ()


def test_a_wrong_order_is_detected() -> None:
    coupled = couple(read_graph(net(PLAIN)))
    dropped = np.zeros(len(coupled.roots), bool)
    o = next(o for o in coupled.owners if (o.weight, o.axis) == ("w1", 0))
    dropped = np.isin(coupled.roots, coupled.roots[o.start + np.array([0, 5, 6])])
    wrong = tuple(replace(s, order=np.roll(s.order, 1)) for s in coupled.shuffles)
    verify(coupled, dropped, cut(coupled, dropped))
    with pytest.raises((VerificationError, CutError)):
        verify(coupled, dropped, cut(replace(coupled, shuffles=wrong), dropped))
