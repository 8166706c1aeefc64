# SPDX-License-Identifier: Apache-2.0
"""Multiply-accumulates of one node, from the shapes of its tensors."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnxprune.graph import Fact, Node

# Operators whose products are counted, with the place of the weight.
WINDOWED = {"Conv": 1, "FusedConv": 1, "ConvInteger": 1, "QLinearConv": 3}
PRODUCTS = frozenset({"Gemm", "MatMul", "FusedMatMul", "MatMulInteger", "QLinearMatMul"})


def macs_of(node: Node, facts: Mapping[str, Fact]) -> int:
    """Multiply-accumulates of one node; 0 where it multiplies nothing or its sizes are unknown."""
    op = node.op.rpartition(".")[2]
    if op not in WINDOWED and op not in PRODUCTS and op != "ConvTranspose":
        return 0
    shapes = [facts[n].shape if n in facts else None for n in (*node.inputs, node.outputs[0])]
    data, out = shapes[0], shapes[-1]
    weight = shapes[WINDOWED.get(op, 1)]
    if data is None or out is None or weight is None or min((*data, *out, *weight), default=1) < 0:
        return 0
    if op == "ConvTranspose":
        return int(np.prod(data) * np.prod(weight[1:]))
    if op in WINDOWED:
        return int(np.prod(out) * np.prod(weight[1:]))
    return int(np.prod(out)) * data[-2 if node.attribute("transA", 0) and len(data) > 1 else -1]
