# SPDX-License-Identifier: Apache-2.0
"""Least squares: kept channels compensate for dropped ones where they can."""

from __future__ import annotations

import pytest

from onnxprune.evaluation.structure import check_contract, only_weights
from onnxprune.recovery.reconstruct import reconstruct
from tests.cases.nets import small
from tests.cases.recovery import COPIES, batches_for, drop, error, with_copies
from tests.cases.text import model


@pytest.mark.parametrize("name", COPIES)
def test_kept_channels_take_over_from_their_dropped_copies(name: str) -> None:
    axis = 1 if "MatMul (x, w1)" in COPIES[name] else 0
    net = with_copies(model(COPIES[name]), axis)
    p = drop(net, "w1", [4, 5, 6, 7], axis)
    fresh = batches_for(net, seed=1)
    assert error(net, p.pruned, fresh) > 0.05
    found = reconstruct(p.coupled, p.dropped, p.pruned, p.batches).model
    assert error(net, found, fresh) < 2e-3
    check_contract(p.pruned, found, only_weights())


def test_a_cut_of_nothing_does_not_change_the_outputs() -> None:
    net = small()
    p = drop(net, "w2", [])
    found = reconstruct(p.coupled, p.dropped, p.pruned, p.batches).model
    assert error(net, found, batches_for(net, seed=1)) < 1e-5


SHORTCUT = """g (float[N,4] x, float[4,6] w1, float[6,4] w2, float[4,4] w3, float[4] wb, float[4,3] w4) => (float[N,3] y) {
    a = MatMul(x, w1)  s = MatMul(a, w2)  b = MatMul(x, w3)  c = Add(b, wb)  t = Relu(s)  u = Add(c, t)  y = MatMul(u, w4) }"""


def test_the_last_layer_before_a_sum_corrects_what_the_shortcut_lost() -> None:
    """The shortcut is damaged, but the branch reads the same input, so their sum can still be right."""
    net = model(SHORTCUT)
    p = drop(net, "w1", [0, 1, 2], axis=1)
    before, after = p.pruned, reconstruct(p.coupled, p.dropped, p.pruned, p.batches).model
    assert error(net, after, batches_for(net, seed=1)) < 0.6 * error(net, before, batches_for(net, seed=1))


def test_few_samples_do_no_harm() -> None:
    net = small()
    p = drop(net, "w2", [1, 3, 5, 7])
    few = batches_for(net, 2, 1)
    fresh = batches_for(net, seed=1)
    assert error(net, reconstruct(p.coupled, p.dropped, p.pruned, few).model, fresh) < error(net, p.pruned, fresh)


def test_a_model_with_a_fixed_batch_and_two_inputs_is_recovered() -> None:
    text = """g (float[1,6,8] x, float[1,6,8] z, float[8,12] w1, float[12,5] w2) => (float[1,6,5] y) {
        s = Add(x, z)  a = MatMul(s, w1)  r = Relu(a)  y = MatMul(r, w2) }"""
    net = model(text)
    p = drop(net, "w1", [0, 1, 2], axis=1)
    batches = [b for k in range(20) for b in batches_for(net, 1, seed=k)]
    found = reconstruct(p.coupled, p.dropped, p.pruned, batches).model
    assert error(net, found, batches_for(net, seed=99)) < error(net, p.pruned, batches_for(net, seed=99))
