# SPDX-License-Identifier: Apache-2.0
"""What the report says about accuracy, in words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

import onnxprune
from onnxprune.cli.progress import print_all
from onnxprune.data.samples import MadeUp
from onnxprune.errors import DataError
from onnxprune.evaluation.evaluator import Judgement
from onnxprune.ir.files import load
from onnxprune.options import Options
from onnxprune.pipeline.claims import recovery_warnings, ties, unknown
from onnxprune.pipeline.components import DEFAULT
from onnxprune.pipeline.prune import prune_loaded
from onnxprune.pipeline.resolve import resolved
from onnxprune.pipeline.samples import BORDER, Samples
from onnxprune.recovery.methods import Attempt, Recovery
from onnxprune.report.render.table import report_parts
from tests.cases.commands import Capture
from tests.cases.nets import small
from tests.cases.recovery import data_for
from tests.cases.text import model

QUIET: dict[str, Any] = {"align": "none", "bench": False}


def judged(lost: float) -> Judgement:
    return Judgement(lost, "", None, None, None, lost, 20)


def recovery(kept: str, varies: bool = True, **lost: float) -> Recovery:
    attempts = tuple(Attempt(name, judged(value), 0.1) for name, value in lost.items())
    return Recovery(small(), frozenset(), kept, judged(0), attempts, varies=varies)


def samples(made: MadeUp | None) -> Samples:
    data = replace(data_for(small()), made=made)
    return Samples(data, data, "somewhere")


def test_candidates_that_are_equally_good_are_named() -> None:
    assert ties(recovery("bias", none=0.5, bias=0.2, reconstruct=0.205)) == [
        "bias and reconstruct are equally good on the held-out samples (difference below 0.01)"
    ]
    assert not ties(recovery("bias", none=0.5, bias=0.2, reconstruct=0.3))
    assert not ties(recovery("none", none=0.95, bias=0.95)), "nothing is good"


def test_it_is_said_if_all_candidates_lost_the_original() -> None:
    [warning] = recovery_warnings(recovery("bias", none=1.2, bias=0.92), samples(None))
    assert warning.startswith("all candidates lost the original's outputs: bias, the best, loses 92% of what they tell")
    assert not recovery_warnings(recovery("bias", none=1.2, bias=0.5), samples(None))
    assert not recovery_warnings(recovery("bias", none=1.2, bias=0.92), samples(MadeUp({}, 0.1, 3))), "nothing is known"


def test_a_method_that_is_worse_than_the_cut_alone_warns() -> None:
    [warning] = recovery_warnings(recovery("reconstruct", none=0.2, reconstruct=0.4), samples(None))
    assert warning.startswith("reconstruct performs worse than the cut alone on held-out samples")


def test_outputs_that_do_not_vary_warn() -> None:
    [warning] = recovery_warnings(recovery("none", False, none=1.2, bias=1.1), samples(None))
    assert "do not vary over the held-out inputs" in warning


@pytest.mark.parametrize(("mismatch", "says"), [(BORDER / 2, "well"), (2 * BORDER, "too poorly")])
def test_made_up_inputs_are_described(mismatch: float, says: str) -> None:
    made = samples(MadeUp({"x": ((-2.0,), (2.5,))}, mismatch, 4))
    text = unknown(small(), recovery("reconstruct", reconstruct=0.1), made, "reconstruct")
    assert f"120 made-up inputs (x 3x8x8, -2 to 2.5) that fit the BatchNorm statistics {says} (mismatch {mismatch:.2f}" in text
    assert not unknown(small(), recovery("none", none=0.1), samples(None), "auto")


def test_the_report_opens_with_what_is_unknown(capsys: Capture) -> None:
    print_all(report_parts(onnxprune.prune(small(), 0.5, **QUIET).report))
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("accuracy: unknown: no --data; ")
    assert not any(line.startswith("accuracy  ") for line in lines)


BOXES: str = """g (float[N,3,8,8] x, float[16,3,3,3] w1, float[4,16,1,1] w2, float[5,16,1,1] w3, float[1,4,6,6] wg)
    => (float[N,9,6,6] y) <float k = {100}> { a = Conv(x, w1)  r = Relu(a)  b = Conv(r, w2)  g = Mul(wg, k)  h = Add(b, g)
    c = Conv(r, w3)  s = Sigmoid(c)  y = Concat <axis = 1> (h, s) }"""


def test_the_worst_part_is_shown_beside_what_it_lost(capsys: Capture) -> None:
    net: ModelProto = model(BOXES)
    x = np.random.default_rng(0).standard_normal((40, 3, 8, 8)).astype(np.float32)
    report = onnxprune.prune(net, 0.5, data={"x": x}, recover="none", **QUIET).report
    assert report.recovery is not None
    assert report.recovery.chosen is not None
    assert report.recovery.chosen.part in ("y[:, 0:4]", "y[:, 4:9]")
    print_all(report_parts(report))
    out = capsys.readouterr().out
    assert "most in" in out
    assert report.recovery.chosen.part in out
    assert "same best class" not in out


def test_a_benchmark_that_fails_leaves_the_result_and_says_so() -> None:
    def breaks(*_: Any, **__: Any) -> Any:
        raise DataError("onnxruntime cannot run the model: no threads left; use --no-bench")

    options = resolved(Options.of(ratio=0.5, recover="none"))
    result = prune_loaded(load(small()), options, components=replace(DEFAULT, run=breaks))
    assert result.report.benchmark is None
    assert result.report.verification is not None
    assert "latency is unknown: onnxruntime cannot run the model: no threads left; use --no-bench" in result.report.warnings
