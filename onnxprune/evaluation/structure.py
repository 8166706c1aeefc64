# SPDX-License-Identifier: Apache-2.0
"""Proof that a recovered model is the cut model with other weights: nothing else was touched."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto

from onnxprune.errors import VerificationError
from onnxprune.evaluation.verification import check_valid
from onnxprune.ir.graph import constant_tensor, read_weights
from onnxprune.recovery.editor import REFIT


def check_refitted(cut: ModelProto, recovered: ModelProto) -> None:
    """Compare two models node by node and weight by weight.

    Raises:
        VerificationError: they differ in more than values of weights and added biases, or a weight is not finite.
    """
    if cut is recovered:
        return
    check_valid(recovered)
    before, after = read_weights(cut), read_weights(recovered)
    if len(cut.graph.node) != len(recovered.graph.node):
        raise VerificationError(f"the recovered model has {len(recovered.graph.node)} nodes, the cut one {len(cut.graph.node)}")
    for a, b in zip(cut.graph.node, recovered.graph.node, strict=True):
        same = constant_tensor(a) is not None or list(a.attribute) == list(b.attribute)
        names = zip([*a.input, *[""] * (len(b.input) - len(a.input))], b.input, strict=True)
        if (a.op_type, a.domain, list(a.output)) != (b.op_type, b.domain, list(b.output)) or not same:
            raise VerificationError(f"the recovered model changed node '{a.name or a.output[0]}'")
        if any(x != y and REFIT not in y for x, y in names):
            raise VerificationError(f"the recovered model changed the inputs of node '{a.name or a.output[0]}'")
    for name, weight in before.items():
        if name in after and weight.shape != after[name].shape:
            raise VerificationError(
                f"weight '{name}' is {after[name].shape} in the recovered model, {weight.shape} in the cut one"
            )
    for name, weight in after.items():
        # constants such as the -inf of an attention mask were there before
        untouched = name in before and weight.tensor == before[name].tensor
        if weight.is_float and not untouched and not np.isfinite(weight.array.astype(np.float32)).all():
            raise VerificationError(f"weight '{name}' of the recovered model is not finite")
