# SPDX-License-Identifier: Apache-2.0
"""The cut law for operators that are decomposed: those of onnxruntime's optimizer and quantizer, and a few of ONNX."""

from __future__ import annotations

import pytest

from onnxprune.ir.decompositions import CHAINS, key
from tests.cases.law import obeys_the_law
from tests.cases.operators import SAMPLES
from tests.cases.operators.sample import Sample, named

DECOMPOSED = {op: samples for op, samples in SAMPLES.items() if op in CHAINS}
CASES = named(DECOMPOSED)


def test_a_decomposition_without_a_sample_is_detected() -> None:
    assert sorted(CHAINS.keys() - DECOMPOSED.keys()) == []


def test_a_sample_without_its_operator_is_detected() -> None:
    for op, samples in DECOMPOSED.items():
        for sample in samples:
            assert not sample.here or op in {key(n) for n in sample.model().graph.node}, f"{op}: {sample.text}"


@pytest.mark.parametrize("sample", [s for _, s in CASES], ids=[name for name, _ in CASES])
def test_a_decomposition_whose_cut_differs_from_the_masked_original_is_detected(sample: Sample) -> None:
    obeys_the_law(sample)
