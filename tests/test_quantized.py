# SPDX-License-Identifier: Apache-2.0
"""Models that onnxruntime's own tools have quantized."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

from tests.nets import pruned, write


class Noise(CalibrationDataReader):  # type: ignore[misc]
    """Calibration inputs."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.left = [{"x": rng.standard_normal((2, 3, 8, 8)).astype(np.float32)} for _ in range(4)]

    def get_next(self) -> Any:
        return self.left.pop() if self.left else None


@pytest.fixture(autouse=True)
def _silence() -> None:
    logging.getLogger().setLevel(logging.ERROR)  # it recommends preprocessing at every call


KINDS = [QuantType.QInt8, QuantType.QUInt8]


# per channel, unsigned integers have zero points of their own, and then the scales are what is set to zero
@pytest.mark.parametrize("form", [QuantFormat.QDQ, QuantFormat.QOperator], ids=str)
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_static_quantization_is_cut_to_the_bit(kind: QuantType, per_channel: bool, form: QuantFormat, tmp_path: Path) -> None:
    source, target = write(tmp_path), tmp_path / "q.onnx"
    quantize_static(source, target, Noise(), form, per_channel=per_channel, weight_type=kind, activation_type=QuantType.QUInt8)
    assert ("QLinearConv" in {n.op_type for n in onnx.load(target).graph.node}) == (form is QuantFormat.QOperator)
    report = pruned(target, 0.5, scope="local", align="none").report
    assert (report.prunable, report.removed) == (28, 14)
    assert report.verification is not None
    assert report.verification.error == 0


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_dynamic_quantization_is_cut(kind: QuantType, per_channel: bool, tmp_path: Path) -> None:
    source, target = write(tmp_path), tmp_path / "q.onnx"
    quantize_dynamic(source, target, ["Conv", "MatMul", "Gemm"], per_channel=per_channel, weight_type=kind)
    assert "ConvInteger" in {n.op_type for n in onnx.load(target).graph.node}
    report = pruned(target, 0.5, scope="local", align="none").report
    assert report.removed == 14
    assert report.macs.kept < 0.35


def test_the_strongest_channels_stay_whatever_their_scale(tmp_path: Path) -> None:
    """Integers of a weak channel are as large as those of a strong one; its scale tells them apart."""
    source, target = write(tmp_path), tmp_path / "q.onnx"
    quantize_static(source, target, Noise(), QuantFormat.QDQ, per_channel=True, weight_type=QuantType.QInt8)
    options: dict[str, Any] = {"criterion": "l2", "scope": "local", "align": "none", "bench": False, "verify": False}
    float_plan, integer_plan = (pruned(path, 0.5, **options).plan for path in (source, target))
    [name] = [n for n in integer_plan.kept if n.startswith("w2_quantized")]
    assert integer_plan.kept[name][0] == float_plan.kept["w2"][0]
