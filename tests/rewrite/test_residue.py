# SPDX-License-Identifier: Apache-2.0
"""What rules claim that removed channels hold is true: in the masked original every tensor is looked at.

Sums, means and normalisations are exact because of these claims, so a false one is a wrong cut that waits for its consumer.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto

from onnxprune.analysis.couple import couple
from onnxprune.analysis.coupling import Coupled
from onnxprune.analysis.groups import find_groups
from onnxprune.analysis.labels import Residue
from onnxprune.evaluation.reference import masked
from onnxprune.evaluation.verification import verify
from onnxprune.ir.facts import read_graph
from onnxprune.rewrite.cut import cut
from tests.models import choose, model, random_feeds, runner
from tests.test_attention import CASES as HEADS
from tests.test_fused import CASES as FUSED
from tests.test_ops import CASES as PLAIN
from tests.test_ops import Sample
from tests.test_picking import CASES as PICKING
from tests.test_random_graphs import LAYERS, network
from tests.test_topologies import NETS

CASES = [*PLAIN, *HEADS, *FUSED, *PICKING]


def false_claims(coupled: Coupled, seed: int) -> list[str]:
    """Tensors whose removed channels do not hold what is claimed, in one random cut."""
    rng = np.random.default_rng(seed)
    dropped = choose(coupled, find_groups(coupled), rng, 0.5)
    net = masked(coupled, dropped)
    made = {o for n in net.graph.node for o in n.output}
    axes = {
        (name, k): (labels, rest)
        for name, flow in coupled.flows.items()
        for k, (labels, rest) in enumerate(zip(flow.axes, flow.residue, strict=True))
        if name in made and labels is not None and dropped[labels].any() and rest >= Residue.CONSTANT
    }
    names = sorted({name for name, _ in axes})
    del net.graph.output[:]
    net.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    if not names:
        return []
    run = runner(net)
    one, two = (dict(zip(names, run(random_feeds(coupled.graph.model, rng, 2)), strict=True)) for _ in range(2))
    wrong = []
    for (name, k), (labels, rest) in axes.items():
        a, b = (np.compress(dropped[labels], np.asarray(x[name]), k) for x in (one, two))
        if not (
            holds_zero(a) and holds_zero(b) if rest is Residue.ZERO else np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
        ):
            wrong.append(f"{coupled.graph.producers[name]} axis {k}: {rest.name}")
    return wrong


def holds_zero(x: NDArray[Any]) -> bool:
    """Zeros; of integers, which may stand for numbers, the same one everywhere."""
    return not x.any() if x.dtype.kind == "f" else len(np.unique(x)) <= 1


def coupled_of(net: ModelProto) -> Coupled:
    return couple(read_graph(net))


@pytest.mark.parametrize("sample", [s for _, s in CASES], ids=[name for name, _ in CASES])
def test_claims_of_every_rule(sample: Sample) -> None:
    assert false_claims(coupled_of(model(sample.text, sample.opset)), 0) == []


@pytest.mark.parametrize("name", NETS)
def test_claims_in_whole_networks(name: str) -> None:
    net = NETS[name]
    assert false_claims(coupled_of(model(net.text, net.opset, functions=net.functions)), 0) == []


def test_claims_in_random_networks() -> None:
    for seed in range(60):
        rng = np.random.default_rng([11, seed])
        layers = rng.integers(0, len(LAYERS), int(rng.integers(1, 9))).tolist()
        assert false_claims(coupled_of(network(layers, seed)), seed) == [], f"seed {seed}"


@pytest.mark.parametrize("gone", [[0, 1], [2, 3, 4], [1, 4, 9]])
def test_padding_that_goes_is_put_back_whatever_the_padded_tensor_depends_on(gone: list[int]) -> None:
    net = model(
        """g (float[N,3,6,6] x, float[8,3,1,1] w1, float[10] w3, float[4,10,1,1] w2) => (float[] y)
        <int64[8] p = {0,2,0,0,0,0,0,0}> {
        a = Conv(x, w1)  b = Sigmoid(a)  c = Pad(b, p)  d = Transpose <perm = [0,2,3,1]> (c)  e = LayerNormalization(d, w3)
        f = Transpose <perm = [0,3,1,2]> (e)  y = Conv(f, w2) }"""
    )
    coupled = coupled_of(net)
    scales = coupled.flows["w3"].axes[0]
    assert scales is not None
    dropped = np.isin(coupled.roots, coupled.roots[scales[gone]])
    verify(coupled, dropped, cut(coupled, dropped))
