# SPDX-License-Identifier: Apache-2.0
"""What may differ between the model that was verified and the one that is written.

A cut is verified; later steps (recovery) change values on purpose, so the outputs of the two models cannot be compared.
Instead, each such step states a *contract*: what it may change. Nothing else may differ.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np
from onnx import ModelProto, NodeProto

from onnxprune.errors import VerificationError
from onnxprune.evaluation.verification import check_valid
from onnxprune.ir.graph import Weight, constant_tensor, read_weights

Contract = Callable[[ModelProto, ModelProto], None]
"""(verified model, written model) -> None; raises `VerificationError` if they differ in what the step may not change."""


def check_contract(verified: ModelProto, written: ModelProto, contract: Contract) -> None:
    """Check a model that was changed after verification against the contract of the step that changed it.

    Raises:
        VerificationError: the model is not valid, or differs in more than the contract allows.
    """
    if verified is not written:
        check_valid(written)
        contract(verified, written)


def only_weights(added: Collection[str] | None = None) -> Contract:
    """The contract of recovery: weights may have new values, and inputs of nodes may be tensors that were added for them.

    Args:
        added: names of the added tensors; None if unknown: any tensor that the verified model lacks.
    """

    def contract(verified: ModelProto, written: ModelProto) -> None:
        before, after = read_weights(verified), read_weights(written)
        new = {name for name in after if name not in before and name not in _names(verified)}
        allowed = new if added is None else new.intersection(added)
        if len(verified.graph.node) != len(written.graph.node):
            counts = f"{len(written.graph.node)} nodes, the cut model has {len(verified.graph.node)}"
            raise VerificationError(f"the recovered model has {counts}")
        for a, b in zip(verified.graph.node, written.graph.node, strict=True):
            _check_node(a, b, allowed)
        _check_weights(before, after)

    return contract


def _names(model: ModelProto) -> set[str]:
    """All tensors that a model reads or produces."""
    return {name for node in model.graph.node for name in (*node.input, *node.output)}


def _check_node(a: NodeProto, b: NodeProto, added: Collection[str]) -> None:
    """Check that a node is unchanged except for added inputs."""
    same = constant_tensor(a) is not None or list(a.attribute) == list(b.attribute)
    if (a.op_type, a.domain, list(a.output)) != (b.op_type, b.domain, list(b.output)) or not same:
        raise VerificationError(f"the recovered model changed node '{a.name or a.output[0]}'")
    more = max(len(b.input) - len(a.input), 0)
    if len(a.input) > len(b.input) or any(
        x != y and y not in added for x, y in zip([*a.input, *[""] * more], b.input, strict=True)
    ):
        raise VerificationError(f"the recovered model changed the inputs of node '{a.name or a.output[0]}'")


def _check_weights(before: Mapping[str, Weight], after: Mapping[str, Weight]) -> None:
    """Check that shapes are unchanged and new values are finite."""
    for name, weight in before.items():
        if name in after and weight.shape != after[name].shape:
            shapes = f"{after[name].shape} in the recovered model, {weight.shape} in the cut model"
            raise VerificationError(f"weight '{name}' is {shapes}")
    for name, weight in after.items():
        # constants such as the -inf of an attention mask are not new
        untouched = name in before and weight.tensor == before[name].tensor
        if weight.is_float and not untouched and not np.isfinite(weight.array.astype(np.float32)).all():
            raise VerificationError(f"weight '{name}' of the recovered model is not finite")
