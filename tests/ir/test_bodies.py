# SPDX-License-Identifier: Apache-2.0
"""Bodies of If, Loop and Scan in the flat view of a model: names, order, facts, and the way back into the file."""

from __future__ import annotations

import onnx
import pytest
from onnx import ModelProto

from onnxprune.ir.bodies import flatten, put_back
from onnxprune.ir.facts import read_graph
from tests.cases.text import graphs, model, stored, within
from tests.cases.topologies.bodies import NETS

TWO = NETS["a network in each branch, with equal names"]
NESTED = NETS["an If in a branch"]


def test_weights_are_named_by_node_and_branch() -> None:
    found = flatten(within(TWO.model())).weights
    assert list(found) == [
        *("gate/then_branch/w1", "gate/then_branch/w1b", "gate/then_branch/w2", "gate/else_branch/w3", "gate/else_branch/w4")
    ]


@pytest.mark.parametrize("as_constants", [False, True])
def test_nodes_without_a_name_are_named_by_their_position(as_constants: bool) -> None:
    net = within(NESTED.model(), as_constants)
    names = {"#0/then_branch/w1", "#0/then_branch/#1/then_branch/w2", "#0/else_branch/w5"}
    if as_constants:
        names = {"#0/then_branch/w1", "#0/then_branch/#2/then_branch/w2", "#0/else_branch/w5"}
    assert names < set(flatten(net).weights)
    assert set(flatten(net).weights) == set(stored(net))


def test_a_body_comes_before_its_node_and_reads_outer_tensors_by_their_names() -> None:
    nodes = flatten(NESTED.model()).nodes
    assert [n.op for n in nodes] == ["Conv", "Relu", "Conv", "Conv", "Relu", "Conv", "If", "Conv", "Relu", "Conv", "If"]
    first, inner, outer = nodes[0], nodes[1], nodes[-1]
    assert inner.inputs == first.outputs == ("#0/then_branch/h",)
    assert outer.implicit == ("#0/then_branch/z", "#0/else_branch/m")


def test_a_name_that_is_taken_is_not_used_twice() -> None:
    """The main graph has a tensor that is named like one of a branch."""
    net = within(TWO.model())
    net.graph.node.insert(0, onnx.helper.make_node("Neg", ["x"], ["gate/then_branch/w1"]))
    weights = flatten(net).weights
    assert "gate/then_branch/w1" not in weights
    assert "gate/then_branch_/w1" in weights


def same(a: ModelProto, b: ModelProto) -> bool:
    return a.SerializeToString(deterministic=True) == b.SerializeToString(deterministic=True)


@pytest.mark.parametrize("name", NETS)
def test_nodes_that_were_not_changed_are_put_back_as_they_were(name: str) -> None:
    net = within(NETS[name].model())
    flat, new = flatten(net), ModelProto()
    new.CopyFrom(net)
    del new.graph.node[:]
    new.graph.node.extend(
        put_back(
            flat.bodies,
            [(n.proto, n.body) for n in flat.nodes],
            lambda graph, body: graph.initializer.extend(body.proto.initializer),
        )
    )
    assert same(new, net)


def test_a_node_without_a_name_keeps_its_weights_names_when_its_position_changes() -> None:
    net = within(NETS["branches that read a layer before them"].model())
    flat = flatten(net)
    extra = onnx.helper.make_node("Neg", ["x"], ["unused"])
    [_, _, _, moved] = put_back(flat.bodies, [(extra, 0), *((n.proto, n.body) for n in flat.nodes)], lambda graph, body: None)
    assert (moved.op_type, moved.name) == ("If", "#2")


def test_sizes_on_which_branches_agree_are_known() -> None:
    graph = read_graph(
        model("""g (float[2,3,8,8] x, bool k, float[5,3,1,1] w1, float[5,3,3,3] w2) => (float[] y) {
        y = If (k) <then_branch = t () => (a) { a = Conv(x, w1) }, else_branch = e () => (b) { b = Conv(x, w2) }> }""")
    )
    assert graph.shape("y") == (2, 5, None, None)


def test_a_state_that_grows_has_an_open_size() -> None:
    graph = read_graph(NETS["a loop whose state grows"].model())
    assert graph.shape("#0/body/s") == (None, 4, 6, 6)
    assert graph.shape("#0/body/f") == (2, 4, 6, 6)
    assert graph.shape("y") == (None, 4, 6, 6)


def test_a_state_that_grows_although_the_file_states_its_size_has_an_open_size() -> None:
    net = model(NETS["a loop whose state grows"].text.replace("float[B,4,6,6] s", "float[2,4,6,6] s"))
    assert read_graph(net).shape("#0/body/s") == (None, 4, 6, 6)


def test_a_state_keeps_its_shape_and_has_no_value() -> None:
    graph = read_graph(NETS["a loop that carries a state"].model())
    assert graph.shape("#0/body/s") == graph.shape("y") == (2, 4, 6, 6)
    assert graph.facts["#0/body/i"].value is None
    assert graph.facts["#0/body/t"].value is None


def test_a_scan_feeds_one_step_and_stacks_the_results() -> None:
    graph = read_graph(NETS["a cell that scans over time"].model())
    assert graph.shape("#0/body/v") == (2, 12)
    assert graph.shape("z") == (5, 2, 8)
    assert graph.shape("y") == (2, 8)


def test_scans_along_other_axes() -> None:
    graph = read_graph(
        model("""g (float[2,8] h, float[2,12,5] x) => (float[] y, float[] z) {
        y, z = Scan (h, x) <num_scan_inputs = 1, scan_input_axes = [-1], scan_output_axes = [1], body = b (s, v) => (r, o) {
        m = ReduceSum <keepdims = 1> (v)  r = Add(s, m)  o = Neg(r) }> }""")
    )
    assert graph.shape("#0/body/v") == (2, 12)
    assert graph.shape("z") == (2, 5, 8)


def test_what_a_loop_is_fed_is_a_source_of_its_body() -> None:
    graph = read_graph(NETS["a loop that carries a state"].model())
    assert {"x", "n"} <= graph.sources_of("#0/body/r")


def test_an_operator_with_bodies_that_are_not_opened_reads_what_they_capture() -> None:
    net = model("""g (float[2,3,8,8] x, float[8,3,3,3] w1, float[8,1,1] w2) => (float[] y) <int64 n = {0}> {
        a = Conv(x, w1)  s = SequenceConstruct(a, a)
        t = SequenceMap (s) <body = b (float[2,8,6,6] i) => (float[2,8,6,6] o) { o = Mul(i, w2) }>  y = SequenceAt(t, n) }""")
    assert [n.implicit for n in flatten(net).nodes if n.op == "SequenceMap"] == [("w2",)]
    assert len(list(graphs(net.graph))) == 2
    assert len(flatten(net).bodies) == 1
