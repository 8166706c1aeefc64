# SPDX-License-Identifier: Apache-2.0
"""Channels that are provably always zero: no value leaves its interval, and without them nothing changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from onnxprune.analysis.analyse import analyse
from onnxprune.analysis.coupling import Coupled
from onnxprune.analysis.dead import dead_labels
from onnxprune.analysis.intervals import BOUNDED, MOVES, RULES, Intervals
from onnxprune.errors import CutError
from onnxprune.ir.facts import read_graph
from onnxprune.ir.files import load
from onnxprune.rewrite.cut import cut
from tests.cases.comparing import compare_all
from tests.cases.laws import CASES, ENDS, LAWS, every_value, fed, with_values
from tests.cases.nets import TRAINED, pruned, small
from tests.cases.running import runner
from tests.cases.text import model


def ranges(net: ModelProto) -> dict[str, tuple[float, float]]:
    return {name: ENDS if x.dtype.kind == "f" else (0, 4) for name, x in fed(net, 0).items()}


@pytest.mark.parametrize("scale", [1.0, 2.0**-10])
@pytest.mark.parametrize(("name", "sample"), LAWS, ids=[name for name, _ in LAWS])
def test_no_value_leaves_its_interval(name: str, sample: Any, scale: float) -> None:
    """Also where biases are large beside the inputs."""
    net = sample.model()
    coupled = analyse(read_graph(net)).coupled
    intervals = Intervals(coupled, {n: (e[0] * scale, e[1] * scale) if e == ENDS else e for n, e in ranges(net).items()})
    for seed in range(2):
        feeds = {n: (x * scale).astype(x.dtype) if x.dtype.kind == "f" else x for n, x in fed(net, seed).items()}
        for tensor, value in every_value(net, feeds).items():
            if isinstance(value, list) or np.asarray(value).dtype.kind not in "fiub" or tensor not in coupled.flows:
                continue
            found = intervals.of(tensor)
            rows = value if found.axis is None else np.moveaxis(value, found.axis, -1)
            unknown = np.isnan(rows)
            assert (unknown | (rows >= found.low)).all(), tensor
            assert (unknown | (rows <= found.high)).all(), tensor


def test_every_rule_has_a_sample() -> None:
    used = {node.op for _, sample in CASES for node in read_graph(sample.model()).elementary}
    assert {*RULES, *MOVES, *BOUNDED} - used == set()


def with_zero_channels(net: ModelProto, seed: int) -> ModelProto:
    """Half of what the first weights make is zero."""
    for tensor in net.graph.initializer:
        if tensor.name in ("w1", "w1b") and tensor.dims:
            values = onnx.numpy_helper.to_array(tensor).copy()
            values[np.random.default_rng(seed).permutation(len(values))[: len(values) // 2]] = 0
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    return net


def dead_of(coupled: Coupled, net: ModelProto) -> Any:
    return dead_labels(coupled, analyse(read_graph(net)).groups, ranges(net))


@pytest.mark.parametrize(("name", "sample"), LAWS, ids=[name for name, _ in LAWS])
def test_without_them_nothing_changes(name: str, sample: Any) -> None:
    net = with_zero_channels(sample.model(), 0)
    analysis = analyse(read_graph(net))
    dead = dead_of(analysis.coupled, net)
    if dead.any():
        try:
            smaller = cut(analysis.coupled, dead)
        except CutError:  # a node cannot follow any cut
            assert sample.refused
            return
        for seed in range(2):
            compare_all(net, runner(net)(fed(net, seed)), runner(smaller)(fed(net, seed)))


NORMED = """g (float[1,3,8,8] x, float[6,3,3,3] w1, float[6] ws1, float[6] wt1, float[6] wm1, float[6] wvar1,
    float[4,6,3,3] w2) => (float[] y) {
    a = Conv(x, w1)  b = BatchNormalization(a, ws1, wt1, wm1, wvar1)  c = Relu(b)  y = Conv <pads = [1,1,1,1]> (c, w2) }"""


def normed(scales: list[float], shifts: list[float]) -> ModelProto:
    return with_values(model(NORMED), ws1=scales, wt1=shifts)


def count(net: ModelProto, **options: Any) -> int:
    return pruned(net, 0.0, **options).report.dead


def test_a_scale_of_zero_and_no_positive_shift_is_dead() -> None:
    """The fourth channel is constant and positive, the fifth has a scale, however small."""
    assert count(normed([0, 0, 0, 0, 1e-6], [0, -1, -1e-9, 1e-3, -1])) == 3


def test_they_go_at_ratio_0_and_the_result_is_the_unmasked_original() -> None:
    net = normed([0, 0], [-1, -0.5])
    result = pruned(net, 0.0)
    report = result.report
    assert (report.removed, report.dead, report.ratio) == (0, 2, 0.0)
    assert report.prunable == 4
    assert [(g.before, g.after) for g in report.groups] == [(6, 4)]
    assert report.notes == ("2 channels are provably always zero and removed besides, without any change (2 of w1)",)
    feeds = fed(net, 0)
    compare_all(net, runner(net)(feeds), runner(result.model)(feeds))
    assert not report.missed


@pytest.mark.parametrize(
    "more", [{"ratio": 0.5}, {"macs": "40%"}, {"ratio": 0.5, "rounds": 2, "criterion": "obs", "recover": "bias"}], ids=str
)
def test_they_count_beside_the_ratio(more: dict[str, Any]) -> None:
    feeds = {"x": np.random.default_rng(0).standard_normal((20, 3, 8, 8)).astype(np.float32)}
    net = model(NORMED.replace("[1,3,8,8]", "[N,3,8,8]"))
    result = pruned(with_values(net, ws1=[0, 0], wt1=[-1, -0.5]), align="none", data=feeds, **more)
    report = result.report
    assert (report.prunable, report.dead) == (4, 2)
    if "ratio" in more:
        assert report.removed == 2
    assert set(result.plan.kept["w1"][0]) <= {2, 3, 4, 5}
    assert not report.missed


def test_what_masking_would_change_is_not_dead() -> None:
    """A hard sigmoid of at most -4 is zero; masked, its input would be zero, and it one half."""
    text = """g (float[1,3,8,8] x, float[6,3,1,1] w1, float[6] w1b, float[4,6,1,1] w2) => (float[] y) {
        a = Conv(x, w1, w1b)  b = HardSigmoid(a)  y = Conv(b, w2) }"""
    net = with_values(model(text), w1=[0.0], w1b=[-4.0])
    assert Intervals(analyse(read_graph(net)).coupled).of("b").high[0] == 0
    assert count(net) == 0


def test_ranges_of_inputs_are_those_of_their_type_or_as_stated() -> None:
    """With pixels from 0 to 1, the first filter of -1 and 1.5 as its bias is negative in part; with 3 * -1, always."""
    text = """g (KIND[N,3,8,8] x, float[6,3,1,1] w1, float[6] w1b, float[4,6,1,1] w2) => (float[] y) {
        z = Cast <to = 1> (x)  a = Conv(z, w1, w1b)  b = Relu(a)  y = Conv(b, w2) }"""
    plain = text.replace("z = Cast <to = 1> (x)  ", "").replace("(z,", "(x,")
    whole = with_values(model(text.replace("KIND", "uint8")), w1=[-1.0], w1b=[-0.5, 5, 5, 5, 5, 5])
    assert count(whole) == 1
    given = with_values(model(plain.replace("KIND", "float")), w1=[-1.0], w1b=[-0.5, 5, 5, 5, 5, 5])
    assert count(given) == 0
    options = {"data": "synthetic", "recover": "none", "time_budget": 5}
    assert count(given, preprocess="mean=0,std=1,scale=255", **options) == 1
    assert count(given, preprocess="mean=0.5,std=0.5,scale=255", **options) == 0


def test_a_bias_per_row_of_a_product_is_not_one_per_output() -> None:
    """Two of three rows have a negative bias; there are three outputs, too."""
    text = """g (float[3,4] x, float[4,3] w1, float[3,1] w2, float[3,2] w3) => (float[] y) {
        a = Gemm(x, w1, w2)  b = Relu(a)  y = MatMul(b, w3) }"""
    net = with_values(model(text), w1=np.zeros((4, 3)).tolist(), w2=[[-1.0], [-1.0], [2.0]])
    intervals = Intervals(analyse(read_graph(net)).coupled)
    assert intervals.of("a").high.max() >= 2
    assert count(net) == 0


def test_dropout_that_may_be_training_is_not_passed_on() -> None:
    text = """g (float[1,3,8,8] x, bool t, float[6,3,1,1] w1, float[4,6,1,1] w2) => (float[] y) <float r = {0.5}> {
        a = Sigmoid(x)  b = Dropout(a, r, t)  c = Conv(b, w1)  y = Conv(c, w2) }"""
    found = Intervals(analyse(read_graph(model(text))).coupled)
    assert found.of("a").high.max() < 1.1
    assert found.of("b").high.max() == np.inf


def test_the_last_channel_of_an_axis_stays() -> None:
    net = normed([0.0] * 6, [-1.0] * 6)
    assert count(net) == 5


def test_a_residual_spine_is_dead_only_where_all_that_is_added_is() -> None:
    text = """g (float[1,3,8,8] x, float[6,3,1,1] w1, float[6] w1b, float[6,3,1,1] w2, float[6] w2b, float[4,6,1,1] w3) =>
        (float[] y) {
        a = Conv(x, w1, w1b)  b = Relu(a)  c = Conv(x, w2, w2b)  d = Relu(c)  e = Add(b, d)  y = Conv(e, w3) }"""
    nothing = np.zeros((2, 3, 1, 1)).tolist()
    both = with_values(model(text), w1=nothing, w1b=[-1, -1], w2=nothing[:1], w2b=[-1])
    assert count(both) == 1


def test_what_is_excluded_stays() -> None:
    net = small()
    dead = with_values(net, ws1=[0, 0, 0], wt1=[-1, -1, -1], w3=np.zeros((3, 12, 3, 3)).tolist())
    assert count(dead) == 3
    assert pruned(dead, 0.0, exclude="w1").report.dead == 0
    assert count(load(TRAINED).model) == 0


def test_most_samples_have_some() -> None:
    """So that the law above is tested."""
    some = 0
    for _, sample in LAWS:
        net = with_zero_channels(sample.model(), 0)
        some += bool(dead_of(analyse(read_graph(net)).coupled, net).any())
    assert some > len(LAWS) // 4
