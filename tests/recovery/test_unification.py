# SPDX-License-Identifier: Apache-2.0
"""Whole networks, unified layer by layer: every kind of layer gets its blocks, and loses less than by projection."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
import pytest
from onnx import ModelProto

from onnxprune.analysis.couple import couple
from onnxprune.calibration.linear import Linear, linear_of
from onnxprune.compression.blocks import FREE, SHARED, ZERO, BlockShape
from onnxprune.compression.division import Division
from onnxprune.compression.eligible import eligible
from onnxprune.ir.facts import read_graph
from onnxprune.ir.graph import read_weights
from onnxprune.ort import session
from onnxprune.recovery.effort import FitSettings
from onnxprune.recovery.reconstruct import reconstruct
from onnxprune.recovery.unification import in_divisions, losses_of, projected
from tests.cases.blocks import Array
from tests.cases.recovery import COPIES, batches_for, error
from tests.cases.text import model

NETS = {
    **COPIES,
    "groups": """g (float[N,8,6,6] x, float[8,8,1,1] w1, float[12,4,3,3] w2, float[12] w2b, float[12,1,3,3] w3,
        float[5,12,1,1] w4) => (float[N,5,2,2] y) { a = Conv(x, w1)  r = Relu(a)  b = Conv <group = 2> (r, w2, w2b)  s = Relu(b)
        c = Conv <group = 12> (s, w3)  y = Conv(c, w4) }""",
    "transposed groups": """g (float[N,4,6,6] x, float[8,4,1,1] w1, float[8,3,2,2] w2) => (float[N,6,12,12] y) {
        a = Conv(x, w1)  r = Relu(a)  y = ConvTranspose <group = 2, strides = [2,2]> (r, w2) }""",
}
KINDS = {"shared": (SHARED,), "all kinds": (SHARED, FREE, ZERO, SHARED)}


def divisions_of(net: ModelProto, block: str, kinds: tuple[int, ...]) -> dict[str, Division]:
    """Blocks of these kinds in all weights."""
    found = eligible(read_graph(net), BlockShape.parse(block), all_layers=True)
    return {name: Division(b, np.resize(kinds, b.count)) for name, b in found.items()}


def fitted(net: ModelProto, divisions: Mapping[str, Division]) -> ModelProto:
    """The network with its layers fitted and unified."""
    coupled = couple(read_graph(net))
    nothing = np.zeros(len(coupled.roots), bool)
    constrain = partial(in_divisions, divisions=divisions)
    return reconstruct(coupled, nothing, net, batches_for(net, 4, 32), FitSettings(), constrain=constrain).model


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)
def test_every_kind_of_layer_gets_its_blocks_and_loses_less_than_by_projection(name: str, kinds: tuple[int, ...]) -> None:
    net = model(NETS[name])
    divisions = divisions_of(net, "4", kinds)
    assert divisions
    found, fresh = fitted(net, divisions), batches_for(net, 2, 32, seed=9)
    weights = read_weights(found)
    assert [division.wrong(weights[weight].array) for weight, division in divisions.items()] == [0] * len(divisions)
    assert error(net, found, fresh) < error(net, projected(net, divisions), fresh)


@pytest.mark.parametrize("block", ["2x4", "4x4", "1x2x3x3"])
def test_blocks_of_several_outputs_and_of_kernels_too(block: str) -> None:
    net = model(COPIES["batch norm"])
    divisions = divisions_of(net, block, KINDS["all kinds"])
    found, fresh = fitted(net, divisions), batches_for(net, 2, 32, seed=9)
    assert not any(d.wrong(read_weights(found)[name].array) for name, d in divisions.items())
    assert error(net, found, fresh) < error(net, projected(net, divisions), fresh)


def test_weights_that_have_the_structure_are_only_rounded() -> None:
    net = model(COPIES["conv"])
    divisions = divisions_of(net, "4", KINDS["all kinds"])
    once = projected(net, divisions)
    assert projected(once, divisions) == once
    assert all(w.shape == read_weights(net)[name].shape for name, w in read_weights(once).items())


def moments(net: ModelProto, batch: Mapping[str, Array], name: str, centred: bool) -> tuple[Linear, Array]:
    """A linear node, and the second moments of its inputs (groups, d, d) over all rows, or their covariance."""
    weights, graph = read_weights(net), read_graph(net)
    [linear] = [found for node in graph.nodes if (found := linear_of(node, weights)) is not None and found.weight == name]
    copy = ModelProto()
    copy.CopyFrom(net)
    ends = (linear.node.inputs[0], linear.node.outputs[0])
    known = {v.name for v in copy.graph.output}
    for end in ends:
        if end not in known and end in graph.producers:
            copy.graph.output.add(name=end)
    values = {**batch, **dict(zip([o.name for o in copy.graph.output], run(copy, batch), strict=True))}
    y = values[ends[1]]
    rows = linear.rows(values[ends[0]], np.arange(y.size // y.shape[linear.channel_axis])).astype(np.float64)
    rows = rows - rows.mean(1, keepdims=True) if centred else rows
    return linear, np.einsum("gnd,gne->gde", rows, rows) / rows.shape[1]


def run(net: ModelProto, batch: Mapping[str, Array]) -> list[Array]:
    return list(session(net.SerializeToString(), plain=True).run(None, dict(batch)))


@pytest.mark.parametrize("name", ["conv", "transposed", "gemm", "tokens", "groups", "transposed groups"])
def test_a_zeroed_block_loses_what_all_other_weights_of_its_layer_and_its_bias_cannot_make_up_for(name: str) -> None:
    net, bare = model(NETS[name]), {"w1"} if name == "tokens" else set()  # bare: products without a bias
    [batch] = batches_for(net, 1, 4)
    blocks = {weight: d.blocks for weight, d in divisions_of(net, "4", (SHARED,)).items()}
    found = losses_of(read_graph(net), blocks, [batch])
    assert found.keys() == blocks.keys()
    for weight, b in blocks.items():
        linear, seen = moments(net, batch, weight, weight not in bare)
        numbers, w = (linear.matrix(x) for x in (b.numbers, read_weights(net)[weight].array.astype(np.float64)))
        lost, whole = np.zeros(b.count), 0.0
        for g, x in enumerate(seen):
            h = x + (0.01 * np.trace(x) / len(x) or 1.0) * np.eye(len(x))
            whole += np.trace(w[g].T @ h @ w[g])
            for k, o in np.ndindex(b.count, w.shape[2]):
                mine = numbers[g][:, o] == k
                if mine.any():
                    lost[k] += w[g][mine, o] @ np.linalg.solve(np.linalg.inv(h)[np.ix_(mine, mine)], w[g][mine, o])
        np.testing.assert_allclose(found[weight].zero, lost / whole, rtol=1e-3, atol=1e-9)
