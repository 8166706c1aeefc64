# SPDX-License-Identifier: Apache-2.0
"""Synthetic inputs reproduce the statistics stored in BatchNorm."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxprune.data.load import load_data, random_data
from onnxprune.data.synthetic.statistics import fit, misfit
from onnxprune.data.synthetic.synthesize import synthesize
from onnxprune.effort import Clock, Effort
from onnxprune.pipeline.samples import BORDER
from tests.cases.nets import TRAINED
from tests.cases.pictures import TWO_NORMS, pictures, trained_on
from tests.cases.running import runner
from tests.cases.text import model

RANGES = {"0 to 1": (0.0, 1.0), "-1 to 1": (-1.0, 1.0), "bytes": (0.0, 255.0)}


@pytest.mark.parametrize(("low", "high"), RANGES.values(), ids=RANGES)
def test_synthetic_inputs_fit_the_statistics_and_find_the_value_range(low: float, high: float) -> None:
    net = trained_on(pictures(90, 1, low, high), 1)
    data = synthesize(net, 48, seed=1)
    x = data.chunks[0]["x"]
    assert x.shape == (48, 1, 12, 12)
    assert (x.min(), x.max()) == (low, high)
    found, noise = fit(net, data), fit(net, random_data(net, 48))
    assert found is not None
    assert noise is not None
    assert found.mismatch < 0.1 < noise.mismatch
    assert data.made is not None
    assert data.made.mismatch == found.mismatch
    assert (data.made.layers, data.made.ranges) == (2, {"x": ((low,), (high,))})


def test_an_unusual_value_range_is_found() -> None:
    net = trained_on(pictures(90, 1, 10.0, 14.0), 1)
    found = fit(net, synthesize(net, 48))
    assert found is not None
    assert found.mismatch < 0.3


def test_on_a_trained_network_synthetic_inputs_come_close_to_real_ones() -> None:
    net = onnx.load(TRAINED)
    data = load_data("synthetic", net, samples=32)
    found, noise = fit(net, data), fit(net, random_data(net, 32))
    real = fit(net, load_data(TRAINED.with_suffix(".npz"), net))
    assert found is not None and noise is not None and real is not None
    assert real.mismatch < found.mismatch < 0.25
    assert noise.mismatch > 2
    classes = runner(net)(data.chunks[0])[0].argmax(1)
    assert len(np.unique(classes)) >= 8


def test_synthetic_inputs_are_seeded() -> None:
    net = trained_on(pictures(30, 1), 1)
    a, b, c = (synthesize(net, 8, seed).chunks[0]["x"] for seed in (0, 0, 1))
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


def test_without_statistics_nothing_is_known_of_the_fit() -> None:
    net = model("g (float[N,3,8,8] x, float[4,3,3,3] w1) => (float[N,4,6,6] y) { y = Conv(x, w1) }")
    data = synthesize(net, 10)
    assert len(data) == 10
    assert data.made is not None
    assert data.made.mismatch is None
    assert fit(net, data) is None
    assert misfit(net, data) is None


def test_a_poor_fit_is_measured() -> None:
    made = synthesize(model(TWO_NORMS.format(c=3)), 8).made
    assert made is not None
    assert (made.mismatch or 0) > BORDER


def test_fewer_samples_and_rounds_are_made_if_time_is_short_and_repeated_whatever_the_time() -> None:
    net, hurry = trained_on(pictures(90, 1), 1), Effort(Clock(0.0))
    few = synthesize(net, 64, effort=hurry)
    assert (len(few), hurry.done["made-up inputs"], hurry.done["rounds to make inputs"]) == (16, 16, 2)
    again = synthesize(net, 64, effort=Effort(repeated=hurry.done))
    assert np.array_equal(few.chunks[0]["x"], again.chunks[0]["x"])


def test_a_known_range_is_not_searched() -> None:
    net = trained_on(pictures(90, 1, 0, 255), 1)
    made = synthesize(net, 16, ends=((-3.0,), (5.0,))).made
    assert made is not None
    assert made.ranges == {"x": ((-3.0,), (5.0,))}
