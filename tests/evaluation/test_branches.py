# SPDX-License-Identifier: Apache-2.0
"""Every body that a cut changes is compared, whatever the conditions say for seeded inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from onnxprune.analysis.couple import couple
from onnxprune.analysis.coupling import Coupled
from onnxprune.analysis.groups import find_groups
from onnxprune.analysis.policy import Policy
from onnxprune.errors import VerificationError
from onnxprune.evaluation.branches import choices, running
from onnxprune.evaluation.verification import verify
from onnxprune.ir.facts import read_graph
from onnxprune.report.render.table import verification_text
from onnxprune.rewrite.cut import cut
from onnxprune.types import Array, Mask
from tests.cases.choosing import choose
from tests.cases.running import random_feeds, runner
from tests.cases.text import model, stored, within
from tests.cases.topologies.bodies import NETS

SWITCH = """g (float[2,3,8,8] x, int64 rate, float[8,3,3,3] w1, float[4,8,1,1] w2, float[8,3,3,3] w3, float[4,8,1,1] w4)
    => (float[] y) <int64 wide = {16000}> {
    k = Equal(rate, wide)
    [gate] y = If (k) <then_branch = t () => (float[2,4,6,6] c) { a = Conv(x, w1)  b = MIDDLE(a)  c = Conv(b, w2) },
    else_branch = e () => (float[2,4,6,6] f) { d = Conv(x, w3)  e = Relu(d)  f = Conv(e, w4) }> }"""


def made(net: ModelProto, policy: Policy | None = None) -> tuple[Coupled, Mask, ModelProto]:
    coupled = couple(read_graph(net), policy=policy)
    dropped = choose(coupled, find_groups(coupled), np.random.default_rng(0), 0.5)
    return coupled, dropped, cut(coupled, dropped)


def spoil(net: ModelProto, name: str, change: Callable[[Array], Any]) -> None:
    tensor = stored(net)[name]
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(change(onnx.numpy_helper.to_array(tensor))), tensor.name))


@pytest.mark.parametrize("weight", ["gate/then_branch/w2", "gate/else_branch/w4"])
def test_a_wrong_weight_in_either_branch_is_detected(weight: str) -> None:
    """No seeded input makes the rate 16,000."""
    coupled, dropped, pruned = made(within(model(SWITCH.replace("MIDDLE", "Relu"))))
    found = verify(coupled, dropped, pruned)
    assert found.reached == ("gate/else_branch", "gate/then_branch")
    assert "in each of 2 bodies of If and Loop" in verification_text(found)
    spoil(pruned, weight, lambda x: x[:, ::-1])
    with pytest.raises(VerificationError, match=r"differs? from the masked original"):
        verify(coupled, dropped, pruned)


def test_a_branch_that_cannot_run_is_named() -> None:
    """The branch reshapes to sizes that only some callers give."""
    net = model(
        """g (float[2,3,8,8] x, bool k, int64[4] sizes, float[8,3,3,3] w1, float[4,8,1,1] w2, float[8,3,3,3] w3,
        float[4,8,1,1] w4) => (float[] y) {
        [gate] y = If (k) <then_branch = e () => (float[2,4,6,6] f) { d = Conv(x, w3)  e = Relu(d)  f = Conv(e, w4) },
        else_branch = t () => (float[2,4,6,6] c) { a = Conv(x, w1)  b = Relu(a)  p = Conv(b, w2)  c = Reshape(p, sizes) }> }"""
    )
    coupled, dropped, pruned = made(within(net))
    found = verify(coupled, dropped, pruned)
    assert found.reached == ("gate/then_branch",)
    assert [what.partition(":")[0] for what in found.unreached] == ["gate/else_branch"]
    assert "not reached, so not verified: gate/else_branch" in verification_text(found)


@pytest.mark.parametrize("name", ["an If in a branch", "an If in a loop", "a loop of open length"])
def test_every_changed_body_is_in_a_choice(name: str) -> None:
    coupled, dropped, _ = made(within(NETS[name].model()))
    wanted = {body.prefix for body in coupled.graph.bodies[1:]}
    surely = {"#0/body/"} if name == "an If in a loop" else set()
    assert frozenset().union(*choices(coupled, dropped)) == wanted - surely


def test_bodies_that_the_cut_does_not_change_are_not_run_again() -> None:
    net = NETS["a branch that passes its input on"].model()
    coupled, dropped, _ = made(within(net))
    assert choices(coupled, dropped) == (frozenset({"#0/then_branch/"}),)
    assert choices(coupled, np.zeros_like(dropped)) == ()


@pytest.mark.parametrize("name", ["a network in each branch, with equal names", "an If in a branch"])
def test_a_chosen_branch_computes_what_the_model_computes_with_that_condition(name: str) -> None:
    net = within(NETS[name].model())
    prefixes = {body.prefix for body in read_graph(net).bodies}
    feeds = random_feeds(net, np.random.default_rng(0), 2)
    for value, other in ((True, "else_branch/"), (False, "then_branch/")):
        forced = running(net, {p for p in prefixes if p.endswith("branch/") and other not in p})
        onnx.checker.check_model(forced)
        given = {n: np.asarray(value) if x.dtype.kind == "b" else x for n, x in feeds.items()}
        for a, b in zip(runner(net)(given), runner(forced)(given), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_loop_that_need_not_run_runs_twice() -> None:
    net = NETS["a loop of open length"].model()
    forced = running(net, {"#0/body/"})
    feeds = random_feeds(net, np.random.default_rng(0), 2)
    [found] = runner(forced)({**feeds, "n": np.array(0)})
    [expected] = runner(net)({**feeds, "n": np.array(2)})
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_branch_that_amplifies_rounding_is_verified_node_by_node() -> None:
    middle = "b0 = Mul(a, big)  b = Sin(b0)"
    text = SWITCH.replace("b = MIDDLE(a)", middle).replace("<int64 wide", "<float big = {300000000.0}, int64 wide")
    coupled, dropped, pruned = made(within(model(text)))
    assert verify(coupled, dropped, pruned).error < 1e-3
    spoil(pruned, "gate/then_branch/w1", lambda x: x[::-1])
    with pytest.raises(VerificationError, match="makes 'gate/then_branch/a' differ"):
        verify(coupled, dropped, pruned)


def test_nodes_that_work_on_the_kept_channels_are_verified_in_bodies_too() -> None:
    """An If without a name stands after such a node in the main graph, and has one in a branch."""
    net = within(
        model("""g (float[2,3,8,8] x, bool k, float[8,3,3,3] w1, float[8,8,1,1] w2, float[4,8,1,1] w3, float[4,8,1,1] w4)
        => (float[] y) {
        a = Conv(x, w1)  b = Softmax <axis = 1> (a)
        y = If (k) <then_branch = t () => (float[2,4,6,6] e) { c = Conv(b, w2)  d = Softmax <axis = 1> (c)  e = Conv(d, w3) },
        else_branch = f () => (float[2,4,6,6] h) { h = Conv(b, w4) }> }""")
    )
    coupled, dropped, pruned = made(net, Policy(allow_renormalising=True))
    found = verify(coupled, dropped, pruned)
    assert (found.renormalising, len(found.reached), found.unreached) == (2, 2, ())
