# SPDX-License-Identifier: Apache-2.0
"""The judges of trained networks, and the forms in which BatchNorm is written."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from trained.forms import FORMS, written
from trained.judging import AGREEMENTS, boxes, decoded, varying_error, worst_error
from trained.reading import said
from trained.registry import trained_here

Array = NDArray[Any]
TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N, 3, 8, 8] x) => (float[N, 5, 8, 8] y)
{
  a = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(x, w)
  shared = Identity(shift)
  b = BatchNormalization(a, scale, shared, mean, variance)
  c = Relu(b)
  y = Conv<kernel_shape = [1, 1]>(c, v, u)
}
"""


def network() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    shapes = {"w": (4, 3, 3, 3), "v": (5, 4, 1, 1), "u": (5,), "scale": (4,), "shift": (4,), "mean": (4,), "variance": (4,)}
    model = onnx.parser.parse_model(TEXT)
    for name, shape in shapes.items():
        value = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(np.abs(value) if name == "variance" else value, name))
    return model


def output(model: onnx.ModelProto) -> Array:
    x = np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32)
    opened = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(opened.run(None, {"x": x})[0])


@pytest.mark.parametrize("form", [name for name, writer in FORMS.items() if writer])
def test_every_form_of_batch_norm_computes_the_same(form: str) -> None:
    changed = written(network(), form, 4)
    onnx.checker.check_model(changed, full_check=True)
    assert "BatchNormalization" not in {n.op_type for n in changed.graph.node}
    np.testing.assert_allclose(output(changed), output(network()), rtol=1e-4, atol=1e-4)


def test_the_error_is_that_of_what_varies() -> None:
    original = 100 + np.array([[-1.0], [1.0]])
    assert varying_error(np.full((2, 1), 100.0), original) == pytest.approx(1.0)  # a constant, although near


def test_the_worst_part_counts() -> None:
    boxes_and_scores = np.array([[[10.0], [0.1]], [[20.0], [0.9]]])
    ruined = boxes_and_scores.copy()
    ruined[:, 1] = 0.5
    assert worst_error([ruined], [boxes_and_scores], []) < 0.1
    assert worst_error([ruined], [boxes_and_scores], [(0, 1), (1, 2)]) == pytest.approx(1.0)


def found_boxes(*rows: tuple[float, ...]) -> Array:
    """An output (4 + 2 classes, places): rows are a box by centre and size, and two scores."""
    return np.array(rows).T


def test_boxes_count_once_and_only_with_the_right_class() -> None:
    truth = np.array([[[0, 10, 10, 8, 8], [1, 40, 40, 8, 8], [-1, -1, -1, -1, -1]]])
    twice = found_boxes((10, 10, 8, 8, 0.9, 0), (10, 11, 8, 8, 0.8, 0), (40, 40, 8, 8, 0.7, 0.1), (60, 60, 4, 4, 0, 0.1))
    assert len(decoded(twice)) == 2  # the second covers the first, the last is not certain
    assert boxes(twice[None], truth) == pytest.approx(2 * 1 / (2 + 2))  # the class of the third is wrong


@pytest.mark.parametrize("metric", sorted(AGREEMENTS))
def test_the_original_agrees_with_itself(metric: str) -> None:
    scores = np.random.default_rng(0).random((3, 6, 10))
    assert AGREEMENTS[metric](scores, scores) == 1.0


def test_names_of_networks_are_unique() -> None:
    names = [t.name for t in trained_here(Path())]
    assert len(names) == len({*names})


def test_a_report_without_figures_claims_nothing() -> None:
    report = {"macs": {"kept": 0.5}, "recovery": None, "unknown": "no --data"}
    assert str(said(report)) == "none: accuracy unknown"


def test_a_report_claims_the_figures_of_the_kept_method() -> None:
    attempts = [{"name": "none", "judgement": {"error": 1.0}}, {"name": "bias", "judgement": {"error": 0.25}}]
    report = {"macs": {"kept": 0.5}, "recovery": {"method": "bias", "attempts": attempts, "source": "x"}, "warnings": ["w"]}
    assert str(said(report)) == "bias: error 0.25 (!)"
