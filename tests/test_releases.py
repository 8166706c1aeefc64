# SPDX-License-Identifier: Apache-2.0
"""What tests state about the releases that they need."""

from __future__ import annotations

import onnx
import onnxruntime
from packaging.version import Version

from tests.cases.operators import SAMPLES
from tests.cases.releases import has, needs


def test_releases_are_compared_as_versions() -> None:
    assert has(onnx="1.9", onnxruntime="1.9")
    assert has(onnx=onnx.__version__, onnxruntime=onnxruntime.__version__)
    assert not has(onnx="1.9", onnxruntime="1000.0")


def test_a_test_is_expected_to_fail_only_with_a_release_that_is_too_old() -> None:
    assert needs(onnx="1.9").args == (False,)
    late = needs(onnx="1.9", onnxruntime="1000.0")
    assert late.args == (True,)
    assert late.kwargs["reason"] == "needs onnxruntime 1000.0 or newer"


def test_samples_state_releases() -> None:
    stated = {Version(sample.needs) for some in SAMPLES.values() for sample in some} - {Version("0")}
    assert stated
    assert min(stated) > Version("1.20")
