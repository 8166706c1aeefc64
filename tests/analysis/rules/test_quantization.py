# SPDX-License-Identifier: Apache-2.0
"""Models quantized by onnxruntime's own tools."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

from onnxprune.analysis.couple import couple
from onnxprune.analysis.labels import Residue
from onnxprune.ir.facts import read_graph
from tests.cases.nets import pruned, write
from tests.cases.text import model


class Noise(CalibrationDataReader):  # type: ignore[misc]
    """Calibration inputs."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.remaining = [{"x": rng.standard_normal((2, 3, 8, 8)).astype(np.float32)} for _ in range(4)]

    def get_next(self) -> Any:
        return self.remaining.pop() if self.remaining else None


@pytest.fixture(autouse=True)
def _silence() -> None:
    logging.getLogger().setLevel(logging.ERROR)  # it recommends preprocessing at every call


KINDS = [QuantType.QInt8, QuantType.QUInt8]


# unsigned integers have one zero point per channel if quantized per channel; the scales are then set to zero instead
@pytest.mark.parametrize("form", [QuantFormat.QDQ, QuantFormat.QOperator], ids=str)
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_cuts_of_statically_quantized_models_are_exact_to_the_bit(
    kind: QuantType, per_channel: bool, form: QuantFormat, tmp_path: Path
) -> None:
    source, target = write(tmp_path), tmp_path / "q.onnx"
    quantize_static(source, target, Noise(), form, per_channel=per_channel, weight_type=kind, activation_type=QuantType.QUInt8)
    assert ("QLinearConv" in {n.op_type for n in onnx.load(target).graph.node}) == (form is QuantFormat.QOperator)
    report = pruned(target, 0.5, scope="local", align="none").report
    assert (report.prunable, report.removed) == (28, 14)
    assert report.verification is not None
    assert report.verification.error == 0


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_dynamically_quantized_models_are_cut(kind: QuantType, per_channel: bool, tmp_path: Path) -> None:
    source, target = write(tmp_path), tmp_path / "q.onnx"
    quantize_dynamic(source, target, ["Conv", "MatMul", "Gemm"], per_channel=per_channel, weight_type=kind)
    assert "ConvInteger" in {n.op_type for n in onnx.load(target).graph.node}
    report = pruned(target, 0.5, scope="local", align="none").report
    assert report.removed == 14
    assert report.macs.kept < 0.35


def test_the_strongest_channels_are_kept_whatever_their_scale(tmp_path: Path) -> None:
    """Integers of a weak channel are as large as those of a strong one; its scale tells them apart."""
    source, target = write(tmp_path), tmp_path / "q.onnx"
    quantize_static(source, target, Noise(), QuantFormat.QDQ, per_channel=True, weight_type=QuantType.QInt8)
    options: dict[str, Any] = {"criterion": "l2", "scope": "local", "align": "none", "bench": False, "verify": False}
    float_plan, integer_plan = (pruned(path, 0.5, **options).plan for path in (source, target))
    [name] = [n for n in integer_plan.kept if n.startswith("w2_quantized")]
    assert integer_plan.kept[name][0] == float_plan.kept["w2"][0]


def layer(k: int, x: str, y: str) -> str:
    """A convolution as older releases of onnxruntime's tools quantized it: its bias is divided, rounded down, and added."""
    return f"""q{k}, qs{k}, qz{k} = DynamicQuantizeLinear({x})  c{k} = ConvInteger <pads = [1,1,1,1]> (q{k}, v{k}, qz{k}, z)
        bs{k} = Mul(qs{k}, s)  bd{k} = Div(wb{k}, bs{k})  bf{k} = Floor(bd{k})  bi{k} = Cast <to = 6> (bf{k})
        br{k} = Reshape(bi{k}, wide)  a{k} = Add(c{k}, br{k})  f{k} = Cast <to = 1> (a{k})  os{k} = Mul(qs{k}, s)
        {y} = Mul(f{k}, os{k})"""


def written_out() -> ModelProto:
    """Three such convolutions."""
    layers = "  ".join([layer(0, "x", "y0"), "r0 = Relu(y0)", layer(1, "r0", "y1"), "r1 = Relu(y1)", layer(2, "r1", "y")])
    weights = {"v0": (32, 3, 3, 3), "v1": (32, 32, 3, 3), "v2": (5, 32, 3, 3)}
    inputs = ", ".join(f"uint8[{','.join(map(str, shape))}] {name}" for name, shape in weights.items())
    net = model(f"""g (float[N,3,8,8] x, float[32] wb0, float[32] wb1, float[5] wb2, {inputs}) => (float[] y)
        <float s = {{0.02}}, uint8 z = {{128}}, int64[4] wide = {{1, -1, 1, 1}}> {{ {layers} }}""")
    rng = np.random.default_rng(0)
    for name, shape in weights.items():
        net.graph.initializer.append(onnx.numpy_helper.from_array(rng.integers(60, 190, shape).astype(np.uint8), name))
        net.graph.input.remove(next(v for v in net.graph.input if v.name == name))
    return net


def test_a_bias_quantized_in_the_graph_pins_no_channels() -> None:
    """Zero stays zero through a numerator, Floor and Cast, and is always in the range that the next layer derives."""
    report = pruned(written_out(), 0.5, scope="local", criterion="l2", align="none").report
    assert (report.prunable, report.removed) == (64, 32)
    assert report.macs.kept < 0.36
    assert sum(pin.macs for pin in report.pins) < 0.15
    assert report.verification is not None
    assert report.verification.error == 0


@pytest.mark.parametrize(("divisor", "residue"), [("r", Residue.CONSTANT), ("two", Residue.ZERO)])
def test_a_weight_is_masked_as_numerator_but_not_where_it_is_its_own_divisor(divisor: str, residue: Residue) -> None:
    """Otherwise a dropped channel would be zero divided by zero, and kept channels would have other norms."""
    text = f"""g (float[N,6] x, float[6,8] w1, float[8,5] w2) => (float[N,5] y) <float two = {{2.0}}> {{ a = MatMul(x, w1)
        b = Relu(a)  q = Mul(w2, w2)  s = ReduceSum(q)  r = Sqrt(s)  d = Div(w2, {divisor})  y = MatMul(b, d) }}"""
    assert couple(read_graph(model(text))).flows["w2"].residue[0] is residue
