# SPDX-License-Identifier: Apache-2.0
"""What a recovered model may differ in."""

from __future__ import annotations

import pytest

from onnxprune.errors import VerificationError
from onnxprune.evaluation.structure import check_contract, only_weights
from onnxprune.recovery.reconstruct import reconstruct
from tests.cases.nets import small
from tests.cases.recovery import drop


def test_a_recovered_model_with_another_node_is_noticed() -> None:
    p = drop(small(), "w2", [1, 3])
    found = reconstruct(p.coupled, p.dropped, p.pruned, p.batches).model
    check_contract(p.pruned, found, only_weights())
    relu = next(n for n in found.graph.node if n.op_type == "Relu")
    relu.op_type = "Tanh"
    with pytest.raises(VerificationError, match="changed node"):
        check_contract(p.pruned, found, only_weights())
