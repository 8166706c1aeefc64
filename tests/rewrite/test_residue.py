# SPDX-License-Identifier: Apache-2.0
"""The residue that rules claim for dropped channels is true of every tensor in the masked original.

Sums, means and normalisations rely on these claims to be exact, so a false claim becomes a wrong cut in its consumer.
"""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto

from onnxprune.analysis.couple import couple
from onnxprune.analysis.coupling import Coupled
from onnxprune.evaluation.verification import verify
from onnxprune.ir.facts import read_graph
from onnxprune.rewrite.cut import cut
from tests.cases.claims import false_claims
from tests.cases.operators import CASES
from tests.cases.operators.sample import Sample
from tests.cases.random_networks import network, random_layers
from tests.cases.text import model
from tests.cases.topologies import NETS


def coupled_of(net: ModelProto) -> Coupled:
    return couple(read_graph(net))


@pytest.mark.parametrize("sample", [s for _, s in CASES], ids=[name for name, _ in CASES])
def test_a_false_claim_of_a_rule_is_detected(sample: Sample) -> None:
    assert false_claims(coupled_of(sample.model()), 0) == []


@pytest.mark.parametrize("name", NETS)
def test_a_false_claim_in_a_whole_network_is_detected(name: str) -> None:
    assert false_claims(coupled_of(NETS[name].model()), 0) == []


def test_a_false_claim_in_a_random_network_is_detected() -> None:
    for seed in range(60):
        layers = random_layers(np.random.default_rng([11, seed]))
        assert false_claims(coupled_of(network(layers, seed)), seed) == [], f"seed {seed}"


@pytest.mark.parametrize("positions", [[0, 1], [2, 3, 4], [1, 4, 9]])
def test_dropped_padding_is_put_back_whatever_the_padded_tensor_depends_on(positions: list[int]) -> None:
    net = model(
        """g (float[N,3,6,6] x, float[8,3,1,1] w1, float[10] w3, float[4,10,1,1] w2) => (float[] y)
        <int64[8] p = {0,2,0,0,0,0,0,0}> {
        a = Conv(x, w1)  b = Sigmoid(a)  c = Pad(b, p)  d = Transpose <perm = [0,2,3,1]> (c)  e = LayerNormalization(d, w3)
        f = Transpose <perm = [0,3,1,2]> (e)  y = Conv(f, w2) }"""
    )
    coupled = coupled_of(net)
    scales = coupled.flows["w3"].axes[0]
    assert scales is not None
    dropped = np.isin(coupled.roots, coupled.roots[scales[positions]])
    verify(coupled, dropped, cut(coupled, dropped))
