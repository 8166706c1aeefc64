# SPDX-License-Identifier: Apache-2.0
"""Channels that are always the same number: it is the one that they hold, and biases can make up for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from onnxprune.analysis.analyse import Analysis, analyse
from onnxprune.analysis.dead import dead_labels
from onnxprune.analysis.steady import Steady
from onnxprune.ir.facts import read_graph
from onnxprune.recovery.constants import foldable, folded
from onnxprune.types import Mask
from tests.cases.comparing import compare_all
from tests.cases.laws import LAWS, every_value, fed
from tests.cases.running import runner
from tests.cases.text import model

FILTERS, OFFSETS = ("w1", "ws1"), ("w1b", "wt1")
"""What weights of the samples multiply the inputs by, and what they add."""


def with_constant_channels(net: ModelProto) -> ModelProto:
    """Half of the filters and scales of the first layer are zero, and what is added to their results is not."""
    for tensor in net.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor).copy()
        if values.ndim and tensor.name in FILTERS:
            values[: len(values) // 2] = 0
        if values.ndim == 1 and tensor.name in OFFSETS:
            values[: len(values) // 2] = np.arange(1, len(values) // 2 + 1)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    return net


def found_in(net: ModelProto) -> tuple[Analysis, Mask]:
    analysis = analyse(read_graph(net))
    return analysis, foldable(analysis.coupled, analysis.groups)


@pytest.mark.parametrize(("name", "sample"), LAWS, ids=[name for name, _ in LAWS])
def test_channels_hold_the_number_that_is_said(name: str, sample: Any) -> None:
    net = with_constant_channels(sample.model())
    coupled = analyse(read_graph(net)).coupled
    steady = Steady(coupled)
    for seed in range(2):
        for tensor, value in every_value(net, fed(net, seed)).items():
            if isinstance(value, list) or np.asarray(value).dtype.kind != "f" or tensor not in coupled.flows:
                continue
            found = steady.of(tensor)
            rows = np.atleast_1d(value if found.axis is None else np.moveaxis(value, found.axis, -1))
            same = np.broadcast_to((found.low == found.high) & np.isfinite(found.low), rows.shape)
            said = np.broadcast_to(found.low, rows.shape)
            near = 3e-2 if rows.dtype != np.float32 else 1e-4
            np.testing.assert_allclose(rows[same], said[same], rtol=near, atol=near, err_msg=tensor)


@pytest.mark.parametrize(("name", "sample"), LAWS, ids=[name for name, _ in LAWS])
def test_where_biases_make_up_for_them_nothing_changes_and_they_are_zero(name: str, sample: Any) -> None:
    net = with_constant_channels(sample.model())
    analysis, labels = found_in(net)
    if not labels.any():
        return
    after = folded(analysis, labels)
    for seed in range(2):
        feeds = fed(net, seed)
        compare_all(net, runner(net)(feeds), runner(after.coupled.graph.model)(feeds))
    gone = dead_labels(after.coupled, after.groups)
    count = sum(int(labels[g.roots].sum()) for g in analysis.groups)
    assert sum(int(gone[g.roots].sum()) for g in after.groups) >= count


def test_many_samples_have_some() -> None:
    """So that the laws above are tested."""
    assert sum(found_in(with_constant_channels(sample.model()))[1].any() for _, sample in LAWS) >= 30


@pytest.mark.parametrize(
    "function",
    [
        *("Relu(b)", "Clip(b, low, high)", "HardSwish(b)", "Gelu(b)", "Mish(b)", "Tanh(b)", "LeakyRelu(b)", "Elu(b)", "Erf(b)"),
        *("Abs(b)", "Identity(b)", "Mul(b, wfactor)", "Softsign(b)", "Neg(b)", "Sqrt(b)"),
    ],
)
def test_functions_of_one_number_pass_it_on(function: str) -> None:
    """As ONNX's reference evaluator computes it, not as the middle of an interval."""
    net = with_constant_channels(
        model(
            f"""g (float[1,3,4,4] x, float[6,3,1,1] w1, float[6] w1b, float[6,1,1] wfactor, float[4,6,1,1] w2)
                => (float[] y) <float low = {{0.0}}, float high = {{2.5}}> {{
                a = Conv(x, w1, w1b)  b = Identity(a)  c = {function}  y = Conv(c, w2) }}""",
            opset=22,
        )
    )
    analysis, labels = found_in(net)
    assert sum(int(labels[g.roots].sum()) for g in analysis.groups) == 3
    values = every_value(net, fed(net, 0))["c"][0, :3, 0, 0]
    np.testing.assert_allclose(Steady(analysis.coupled).values("c", 1)[:3], values, rtol=1e-6)
