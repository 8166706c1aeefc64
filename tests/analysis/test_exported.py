# SPDX-License-Identifier: Apache-2.0
"""Files written by real exporters (`tests/cases/exported`): each is cut at three ratios, and every cut is verified."""

from __future__ import annotations

import onnx
import pytest

import onnxprune
from onnxprune.ir.prepare import prepared
from tests.cases import exported
from tests.cases.law import check_law

# the largest share of multiply-accumulates that may be kept at ratio 0.5
MOST: dict[str, float] = {
    "keras_gated": 0.45,
    "keras_tagger": 0.51,
    "paddle2onnx_mobile": 0.45,
    "skl2onnx_classifier": 0.35,
    "skl2onnx_regressor": 0.3,
    "tf2onnx_former": 0.45,
    "tf2onnx_gated": 0.45,
    "tf2onnx_tagger": 0.51,
    "tf2onnx_unet": 0.29,
    "torch_detector": 0.33,
    "torch_detector_dynamo": 0.33,
    "torch_former": 0.36,
    "torch_former_dynamo": 0.36,
    "torch_norms": 0.31,
    "torch_norms_dynamo": 0.31,
    "torch_shuffle": 0.42,
    "torch_shuffle_dynamo": 0.42,
    "torch_tagger": 0.51,
    "torch_tagger_dynamo": 0.51,
}


def test_a_file_without_a_bound_is_detected() -> None:
    assert set(exported.NAMES) == MOST.keys()


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("name", MOST)
def test_cuts_of_exported_files_are_exact(name: str, ratio: float) -> None:
    original = exported.read(name)
    result = onnxprune.prune(original, ratio, scope="local", align="none", recover="none", bench=False)
    assert result.report.verification is not None
    if ratio == 0.5:
        assert result.report.macs.kept <= MOST[name]
    onnx.checker.check_model(result.model)
    if all(
        v.type.HasField("tensor_type") and v.type.tensor_type.elem_type != onnx.TensorProto.STRING
        for v in original.graph.output
    ):
        whole = prepared(original).model if result.plan.folded else original
        check_law(whole, result.model, {n: {str(k): v for k, v in axes.items()} for n, axes in result.plan.kept.items()})
