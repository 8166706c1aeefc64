# SPDX-License-Identifier: Apache-2.0
"""Stacks of layers: what is timed is what its name says."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxprune.cost.benchmark import in_this_process, many_in_this_process
from onnxprune.cost.size import cost
from onnxprune.cost.stacks import FLOAT, INT8, KINDS, PRECISIONS, feeds, stack
from onnxprune.ort import session
from onnxprune.types import Array

WIDTH, SIZE = 20, 8
PLACES = SIZE * SIZE
ENTRY = 16 * WIDTH * PLACES
BY_HAND = {
    "convolution": ENTRY + 3 * 9 * WIDTH**2 * PLACES,
    "pointwise": ENTRY + 3 * WIDTH**2 * PLACES,
    "depthwise": ENTRY + 2 * (9 * WIDTH + WIDTH**2) * PLACES,
    "grouped": 2 * ENTRY + 3 * 9 * 2 * WIDTH**2 * PLACES,
    "transposed": ENTRY // 4 + WIDTH**2 * (PLACES + 4 * PLACES),
    "product": ENTRY + 3 * WIDTH**2 * PLACES,
}


def outputs(kind: str, precision: str) -> Array:
    ort_session = session(stack(kind, precision, WIDTH, SIZE).SerializeToString())
    return np.asarray(ort_session.run(None, feeds(kind, SIZE))[0])


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_stack_is_valid_and_multiplies_as_its_layers_do(kind: str, precision: str) -> None:
    model = stack(kind, precision, WIDTH, SIZE)
    onnx.checker.check_model(model, full_check=True)
    assert cost(model).macs == BY_HAND[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_int8_computes_nearly_what_float_does(kind: str) -> None:
    exact, rounded = outputs(kind, FLOAT), outputs(kind, INT8)
    assert exact.std() > 0
    assert np.corrcoef(exact.ravel(), rounded.ravel())[0, 1] > 0.99


@pytest.mark.parametrize("threads", [1, 2])
def test_many_models_take_as_long_as_one_by_one(threads: int) -> None:
    """Wherever they run, a stack eight times as wide takes longer."""
    models = [stack("convolution", FLOAT, width, SIZE) for width in (16, 128)]
    for run in (in_this_process, many_in_this_process):
        times = run(models, feeds("convolution", SIZE), threads, 0.02, lambda _: None)
        assert len(times) >= 7
        narrow, wide = np.median(times, axis=0)
        assert 0 < narrow < wide
