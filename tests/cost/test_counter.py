# SPDX-License-Identifier: Apache-2.0
"""Multiply-accumulates of real architectures, by an independent counter (onnx-tool)."""

from __future__ import annotations

from collections import Counter
from math import prod
from typing import Any

import numpy as np
import onnx_tool
import pytest
from onnx import ModelProto

from onnxprune.analysis.analyse import analyse
from onnxprune.ir.facts import CASES_OF_BENCHMARK, read_graph, read_once
from onnxprune.report.inspection import inspect
from tests.cases import zoo

NAMES = (
    *("resnet18.dy_fold", "mobilenet_v2.dy_bn", "efficientnet_b0.ts_bn", "densenet121.dy_fold", "squeezenet1_1.dy_bn"),
    *("shufflenet_v2_x1_0.ts_fold", "regnet_y_400mf.dy_fold", "swin_t.ts_bn", "timm_test_vit.ts_bn"),
    "timm_mixer_s32_224.dy_bn",
)
COUNTED = ("Conv", "Gemm", "MatMul")


def by_the_other(model: ModelProto) -> Counter[str]:
    """Multiply-accumulates by operator; a bias counts as one for each output there."""
    [value] = model.graph.input
    shape = [d.dim_value or 1 for d in value.type.tensor_type.shape.dim]
    counter: Any = onnx_tool.Model(model).graph
    counter.shape_infer({value.name: np.zeros(shape, np.float32)})
    counter.profile()
    found: Counter[str] = Counter()
    for node in counter.nodemap.values():
        found[node.op_type] += int(node.macs[0])
    return found


def biased(model: ModelProto) -> Counter[str]:
    """Numbers of outputs to which an operator adds a bias."""
    reading, _ = read_once(model, CASES_OF_BENCHMARK, {})
    found: Counter[str] = Counter()
    for node in reading.elementary():
        if node.op in ("Conv", "Gemm") and len(node.inputs) > 2:
            found[node.op] += prod(reading.facts[node.outputs[0]].shape or ())
    return found


@pytest.mark.parametrize("name", NAMES)
def test_multiply_accumulates_by_operator_are_those_of_an_independent_counter(name: str) -> None:
    model = zoo.read(name)
    ours = {row.op: row.macs for row in inspect(analyse(read_graph(model)), name).operators}
    theirs, biases = by_the_other(model), biased(model)
    for op in COUNTED:
        assert ours.get(op, 0) == theirs[op] - biases[op], op
    assert sum(ours.values()) > 0
