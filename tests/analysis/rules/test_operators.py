# SPDX-License-Identifier: Apache-2.0
"""The cut law for every operator, placed between weights that make channels and weights that consume them."""

from __future__ import annotations

import pytest

from onnxprune.analysis.couple import couple
from onnxprune.analysis.rules import RULES
from onnxprune.ir.decompositions import key
from onnxprune.ir.facts import read_graph
from tests.cases.law import free_atoms, obeys_the_law, pins
from tests.cases.operators import SAMPLES, SEVERAL
from tests.cases.operators.sample import Sample, conv, named
from tests.cases.text import model

RULED = {op: samples for op, samples in SAMPLES.items() if op in RULES}
CASES = [*named(RULED), *SEVERAL.items()]


def test_a_rule_without_a_sample_is_detected() -> None:
    assert sorted(RULES.keys() - RULED.keys()) == []


def test_a_sample_without_its_operator_is_detected() -> None:
    for op, samples in RULED.items():
        for sample in samples:
            assert not sample.here or op in {key(n) for n in sample.model().graph.node}, f"{op}: {sample.text}"


@pytest.mark.parametrize("sample", [s for _, s in CASES], ids=[name for name, _ in CASES])
def test_a_rule_whose_cut_differs_from_the_masked_original_is_detected(sample: Sample) -> None:
    obeys_the_law(sample)


def test_dropout_in_training_keeps_its_channels() -> None:
    """It has no sample because its result is random."""
    made = model(conv("b = Dropout(a, r, t)", "", "float r = {0.3}, bool t = {1}"))
    assert "draws random numbers" in pins(couple(read_graph(made)))
    assert free_atoms(made) == 0
