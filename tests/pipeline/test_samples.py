# SPDX-License-Identifier: Apache-2.0
"""Samples for recovery and samples for evaluation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from onnx import ModelProto

import onnxprune
from onnxprune.data.samples import MadeUp
from onnxprune.effort import Clock, Effort
from onnxprune.errors import OptionError
from onnxprune.options import Options
from onnxprune.pipeline.samples import BORDER, Samples, describes, given, sizes_of
from tests.cases.nets import TRAINED, small
from tests.cases.recovery import data_for
from tests.cases.text import model

NORMED = """g (float[N,3,8,8] x, float[8,3,3,3] w1, float[8] ws, float[8] wt, float[8] wm, float[8] wvar, float[4,8,1,1] w2)
    => (float[N,4,6,6] y) { a = Conv(x, w1)  b = BatchNormalization(a, ws, wt, wm, wvar)  r = Relu(b)  y = Conv(r, w2) }"""


def supplied(samples: int, effort: Effort, net: ModelProto | None = None, **options: Any) -> Samples:
    net = net or small()
    return given(data_for(net, samples), net, Options.of(ratio=0.5, data=data_for(net, samples), **options), effort)


def test_a_single_sample_is_enough_and_the_report_says_so() -> None:
    supply = supplied(1, Effort())
    assert len(supply.fit) == len(supply.held_out) == 1
    assert "single sample" in supply.notes[0]


def test_a_fifth_is_held_out_and_all_are_used_if_there_is_time() -> None:
    supply = supplied(60, Effort())
    assert (len(supply.fit), len(supply.held_out), supply.notes) == (48, 12, ())


def test_fewer_samples_are_used_if_time_is_short_and_the_report_says_so() -> None:
    effort = Effort(Clock(1e-4))
    supply = supplied(60, effort)
    assert (len(supply.fit), len(supply.held_out)) == (8, 8)
    assert "16 of 60 samples are used: there is no time for more" in supply.notes[0]
    assert effort.done == {"samples to judge on": 8, "samples to fit to": 8}


def test_what_time_decided_is_repeated_whatever_the_time() -> None:
    effort = Effort(Clock(1e-4), {"samples to judge on": 11, "samples to fit to": 30})
    supply = supplied(60, effort)
    assert (len(supply.fit), len(supply.held_out)) == (30, 11)


@pytest.mark.parametrize(
    ("made", "trusted"),
    [(None, True), (MadeUp(), False), (MadeUp({}, BORDER - 0.01, 5), True), (MadeUp({}, BORDER + 0.01, 5), False)],
)
def test_made_up_samples_are_trusted_only_if_they_fit_the_statistics(made: MadeUp | None, trusted: bool) -> None:
    data = replace(data_for(small()), made=made)
    assert Samples(data, data, "").trusted == trusted


def test_statistics_describe_a_model_only_if_they_follow_enough_of_its_layers() -> None:
    assert describes(model(NORMED))
    assert not describes(small())  # one of four


@pytest.mark.parametrize(
    "options", [{"recover": "reconstruct"}, {"recover": "reconstruct", "data": "synthetic"}, {"rounds": 2}]
)
def test_nothing_is_fitted_to_made_up_inputs_of_a_model_without_statistics(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="no BatchNorm statistics in this model show whether made-up ones resemble real ones"):
        onnxprune.prune(small(), 0.5, **options)
    report = onnxprune.prune(small(), 0.5, align="none", bench=False).report
    assert report.recovery is None
    assert report.unknown.startswith(
        "no --data; too little BatchNorm to make inputs by: nothing was fitted, and the kept weights"
    )


def test_figures_on_made_up_inputs_are_no_accuracy() -> None:
    report = onnxprune.prune(TRAINED, 0.3, align="none", bench=False, recover="reconstruct", time_budget="1m").report
    assert (report.accuracy, report.samples) == (None, 0)
    assert report.unknown.startswith("no --data; weights were fitted to ")
    assert "made-up inputs (image 1x28x28, 0 to 1) that fit the BatchNorm statistics well (mismatch 0." in report.unknown
    assert report.recovery is not None
    assert report.recovery.made is not None


def test_preprocessing_tells_made_up_inputs_their_range_and_size() -> None:
    open_sizes = model(NORMED.replace("x,", "x,", 1).replace("[N,3,8,8]", "[N,3,H,W]").replace("[N,4,6,6]", "[N,4,P,Q]"))
    options: dict[str, Any] = {"align": "none", "bench": False, "recover": "reconstruct", "time_budget": "5s"}
    report = onnxprune.prune(open_sizes, 0.5, preprocess="size=12x20,mean=0.5,std=0.25,scale=255", **options).report
    assert "made-up inputs (x 3x12x20, -2 to 2)" in report.unknown
    raw = onnxprune.prune(open_sizes, 0.5, preprocess="size=12,scale=1", **options).report
    assert "made-up inputs (x 3x12x12, 0 to 255)" in raw.unknown


def test_costs_are_those_of_the_most_frequent_size_of_the_samples() -> None:
    net = model(NORMED.replace("[N,3,8,8]", "[N,3,H,W]").replace("[N,4,6,6]", "[N,4,P,Q]"))
    chunks = tuple({"x": data_for(small(), n).chunks[0]["x"][..., :size]} for n, size in ((3, 8), (9, 5)))
    data = replace(data_for(small(), 1), chunks=chunks)
    assert sizes_of(data) == {"x": (1, 3, 8, 5)}
    report = onnxprune.prune(net, 0.5, align="none", bench=False, recover="none", data=data).report
    assert report.inputs == {"x": (1, 3, 8, 5)}
    assert not any("leaves sizes open" in note for note in report.notes)
    assert report.macs.before == 6 * 3 * (27 * 8 + 8 * 4)


def test_sizes_that_nobody_states_are_named() -> None:
    net = model(NORMED.replace("[N,3,8,8]", "[N,3,H,W]").replace("[N,4,6,6]", "[N,4,P,Q]"))
    quiet: dict[str, Any] = {"align": "none", "bench": False, "recover": "none"}
    assert "taken for MACs and latency: x 1x3x224x224" in onnxprune.prune(net, 0.5, **quiet).report.notes[0]
    stated = onnxprune.prune(net, 0.5, input_shape={"x": (1, 3, 9, 9)}, **quiet).report
    assert not any("leaves sizes open" in note for note in stated.notes)
