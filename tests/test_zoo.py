# SPDX-License-Identifier: Apache-2.0
"""Graphs of real architectures that every clone contains, cut in half and verified from the plan alone."""

from __future__ import annotations

import gzip
import json
from typing import Any

import onnx
import pytest
from onnx import ModelProto

import onnxprune
from onnxprune.analysis.rules import RULES
from onnxprune.ir.prepare import prepared
from tests.cases import zoo
from tests.cases.law import check_law


def halved(net: ModelProto) -> onnxprune.Result:
    options: dict[str, Any] = {"scope": "local", "criterion": "l2", "align": "none", "recover": "none"}
    return onnxprune.prune(net, 0.5, verify=False, bench=False, **options)


@pytest.mark.parametrize("name", zoo.NAMES)
def test_a_wrong_cut_of_a_zoo_graph_is_detected(name: str) -> None:
    net = zoo.read(name)
    result = halved(net)
    onnx.checker.check_model(result.model)
    check_law(prepared(net).model, result.model, json.loads(result.plan.to_json())["kept"], slack=10)
    assert result.report.ratio > 0.45
    assert result.report.macs.kept < 0.6


def test_the_part_of_the_zoo_in_the_repository_is_small_and_broad() -> None:
    assert sum(p.stat().st_size for p in zoo.FOLDER.iterdir() if p.is_file()) <= 3e6
    forms = {name.split(".")[-1] for name in zoo.NAMES}
    assert forms == {"ts_bn", "ts_fold", "dy_bn", "dy_fold"}
    nets = [ModelProto.FromString(gzip.decompress(p.read_bytes())) for p in zoo.FOLDER.glob("*.gz")]
    operators = {n.op_type for net in nets for n in net.graph.node}
    assert len(operators) >= 50
    assert sorted(operators - RULES.keys()) == ["Constant", "Range"], "every operator has a rule, or produces no channels"
