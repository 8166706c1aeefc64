# SPDX-License-Identifier: Apache-2.0
"""How a recovered model may differ from the cut one."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto

import onnxprune
from onnxprune.errors import VerificationError
from onnxprune.evaluation.structure import check_contract, only_weights
from onnxprune.ort import session
from onnxprune.recovery.reconstruct import reconstruct
from tests.cases.nets import SMALL, small
from tests.cases.recovery import data_for, drop
from tests.cases.text import model


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
