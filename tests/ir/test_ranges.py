# SPDX-License-Identifier: Apache-2.0
"""The numbers that an input may hold: each case runs in onnxruntime at both ends, and fails just beyond a bound."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.cost.benchmark import random_feeds
from onnxprune.data.load import load_data, random_data
from onnxprune.ir.facts import CASES_OF_BENCHMARK, read_once
from onnxprune.ir.ranges import numbers_of
from tests.cases.nets import pruned
from tests.cases.releases import needs
from tests.cases.running import runner
from tests.cases.text import model

TABLE = "float[5,4] w1"
# body -> the lowest and the highest number that `i` is drawn from, and whether numbers above that fail
BODIES: dict[str, tuple[str, int, int, bool]] = {
    "rows of a table": ("y = Gather(w1, i)", 0, 4, True),
    "columns of a table": ("y = Gather <axis = 1> (w1, i)", 0, 3, True),
    "the smallest of several": ("a = Gather(w1, i)  b = Gather(w2, i)  y = Add(a, b)", 0, 1, True),
    "moved before": ("k = Cast <to = 7> (i)  u = Unsqueeze(k, one)  y = Gather(w1, u)", 0, 4, True),
    "shifted": ("k = Add(i, two)  y = Gather(w1, k)", 0, 2, True),
    "counted from three": ("k = Sub(i, three)  y = GatherElements(w9, k)", 0, 5, True),
    "scaled": ("k = Mul(i, two)  y = Gather(w1, k)", 0, 2, True),
    "halved": ("k = Div(i, two)  y = Gather(w1, k)", 0, 8, False),
    "offset by column": ("k = Add(i, offsets)  y = Gather(w1, k)", 0, 1, True),
    "turned around": ("k = Sub(three, i)  y = Gather(w1, k)", 0, 8, True),
    "clipped": ("k = Clip(i, nought, three)  y = Gather(w1, k)", 0, 7, False),
    "clipped too late": ("k = Clip(i, nought, nine)  y = Gather(w1, k)", 0, 4, True),
    "remainder": ("k = Mod(i, three)  y = Gather(w1, k)", 0, 7, False),
    "smaller of two": ("k = Min(i, three)  y = Gather(w1, k)", 0, 7, False),
    "classes": ("y = OneHot(i, three, values)", 0, 2, False),
    "elements": ("y = GatherElements(w9, i)", 0, 2, True),
    "tuples": ("u = Unsqueeze(i, one)  y = GatherND(w1, u)", 0, 4, True),
    "tuples of two": ("u = Unsqueeze(i, one)  v = Concat <axis = 1> (u, u)  y = GatherND(w1, v)", 0, 3, True),
    "scattered": ("u = Unsqueeze(i, one)  y = ScatterND(w1, u, w4)", 0, 4, True),
    "samples of regions": ("y = RoiAlign <output_height = 1, output_width = 1, sampling_ratio = 2> (w5, w6, i)", 0, 1, True),
    "lengths": ("s = Cast <to = 6> (i)  y = LSTM <hidden_size = 2> (w7, w8, wr, , s)", 1, 6, True),
    "lengths to reverse": ("y = ReverseSequence <time_axis = 0, batch_axis = 1> (w7, i)", 1, 6, True),
    "inside a branch": (
        "y = If (c) <then_branch = t () => (p) { p = Gather(w1, i) }, else_branch = e () => (q) { q = Gather(w1, i) }>",
        0,
        4,
        True,
    ),
    "no table": ("y = Cast <to = 1> (i)", 0, 7, False),
}
GIVEN = (
    "float[2,4] w2, float[3,4] w4, float[2,3,8,8] w5, float[3,4] w6, float[6,3,4] w7, float[1,8,4] w8, "
    "float[1,8,2] wr, float[3] w9"
)
CONSTANTS = (
    "int64[1] one = {1}, int64 two = {2}, int64 three = {3}, int64 nought = {0}, int64 nine = {9}, "
    "int64[3] offsets = {0, 3, 1}, float[2] values = {0, 1}, bool c = {1}"
)


NEEDS = {"samples of regions": needs(onnxruntime="1.25")}  # before, numbers outside are read from anywhere


@pytest.mark.parametrize(
    ("body", "low", "high", "fails"), [pytest.param(*BODIES[k], marks=NEEDS.get(k, ())) for k in BODIES], ids=BODIES
)
def test_numbers_are_those_that_run(body: str, low: int, high: int, fails: bool) -> None:
    text = f"g (int64[3] i, {TABLE}, {GIVEN}) => (float[] y) <{CONSTANTS}> {{ {body} }}"
    net = model(text.replace("int64[3] i", "int32[3] i") if "Cast <to = 7>" in body else text)
    feeds = random_feeds(net, {"i": (3,)})
    reading, names = read_once(net, CASES_OF_BENCHMARK, {})
    numbers = numbers_of(names, reading.elementary(), reading.facts).get("i", np.arange(8))
    assert (numbers[0], numbers[-1]) == (low, high)
    assert low <= feeds["i"].min() <= feeds["i"].max() <= high
    run, kind = runner(net), feeds["i"].dtype
    for number in (low, high):
        run({"i": np.full(3, number, kind)})
    if fails:
        with pytest.raises(Exception, match="ONNXRuntimeError"):
            run({"i": np.full(3, high + 1, kind)})


TYPES = """g (int64[1,8] ids, int64[1,8] seg, float[50,16] w1, float[2,16] w2, float[16] w3, float[16] w4, float[16,24] w5,
    float[24,5] w6) => (float[] y) {
    e = Gather(w1, ids)  s = Gather(w2, seg)  x = Add(e, s)  n = LayerNormalization(x, w3, w4)
    h = MatMul(n, w5)  r = Relu(h)  y = MatMul(r, w6) }"""


@pytest.mark.parametrize("data", [None, "random", "synthetic"])
def test_a_model_with_a_small_table_is_verified_and_timed(data: str | None) -> None:
    found = pruned(model(TYPES), 0.5, align="none", data=data, bench=True, recover="none")
    assert found.report.verification is not None
    assert found.report.verification.error < 1e-5


def test_random_samples_keep_within_the_table() -> None:
    data = random_data(model(TYPES), 32)
    assert data.integers["seg"].tolist() == [0, 1]
    assert data.integers["ids"].max() > 8


def test_synthetic_samples_keep_within_the_table() -> None:
    data = load_data("synthetic", model(TYPES.replace("seg", "kind")), samples=32)
    assert data.integers["kind"].max() == 1


def test_the_samples_tell_the_range_where_no_table_does() -> None:
    """The index is computed by an operator through which bounds are not carried."""
    net = model(
        TYPES.replace("s = Gather(w2, seg)", "f = Cast <to = 1> (seg)  q = Pow(f, f)  k = Cast <to = 7> (q)  s = Gather(w2, k)")
    )
    samples = {"ids": np.arange(64).reshape(8, 8) % 50, "seg": np.ones((8, 8), np.int64)}
    with pytest.raises(Exception, match="the original does not run"):
        pruned(net, 0.5, align="none")
    assert pruned(net, 0.5, align="none", data=samples, recover="none").report.verification is not None


def test_an_index_may_have_come_through_a_deep_network() -> None:
    steps = "".join(f"i{k} = Identity(i{k - 1})  " for k in range(1, 3000))
    net = model(f"g (int64[N] i0, float[5,4] w1) => (float[N,4] y) {{ {steps} y = Gather(w1, i2999) }}")
    reading, names = read_once(net, CASES_OF_BENCHMARK, {})
    assert numbers_of(names, reading.elementary(), reading.facts)["i0"].tolist() == [0, 1, 2, 3, 4]
