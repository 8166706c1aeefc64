# SPDX-License-Identifier: Apache-2.0
"""The normal form is a simpler graph with the same outputs and the same weights, in which channels can be cut."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxprune.ir.normalize import normal_form
from tests.cases.law import cut_some, free_atoms
from tests.cases.nets import pruned
from tests.cases.running import random_feeds, runner
from tests.cases.text import model

HEAD = "g (float[2,3,8,8] x, float[12,3,3,3] w1, float[5,6,1,1] w2, float[5,6,1,1] w3) => (float[] y)"
SEQUENCES: dict[str, str] = {
    "chunks of one size": f"""{HEAD} <int64 n = {{6}}, int64 i = {{0}}, int64 j = {{1}}> {{ a = Conv(x, w1)
        s = SplitToSequence <axis = 1> (a, n)  b = SequenceAt(s, i)  c = SequenceAt(s, j)
        d = Conv(b, w2)  e = Conv(c, w3)  y = Add(d, e) }}""",
    "the last chunk is smaller": f"""{HEAD} <int64 n = {{10}}, int64 i = {{0}}, int64 j = {{1}},
        int64[1] six = {{6}}, int64[1] nought = {{0}}, int64[1] one = {{1}}, int64[4] grow = {{1,3,1,1}}> {{ a = Conv(x, w1)
        s = SplitToSequence <axis = 1> (a, n)  b = SequenceAt(s, i)  c = SequenceAt(s, j)  f = Slice(b, nought, six, one)
        k = Tile(c, grow)  d = Conv(f, w2)  e = Conv(k, w3)  y = Add(d, e) }}""",
    "sizes one by one": f"""{HEAD} <int64[3] n = {{2,6,4}}, int64 i = {{1}}> {{ a = Conv(x, w1)
        s = SplitToSequence <axis = -3> (a, n)  b = SequenceAt(s, i)  d = Conv(b, w2)  e = Conv(b, w3)  y = Add(d, e) }}""",
}


@pytest.mark.parametrize("text", SEQUENCES.values(), ids=SEQUENCES)
def test_parts_of_sequences_become_slices(text: str) -> None:
    made = model(text)
    plain = normal_form(made)
    onnx.checker.check_model(plain)
    feeds = random_feeds(made, np.random.default_rng(0), 2)
    np.testing.assert_array_equal(runner(plain)(feeds)[0], runner(made)(feeds)[0])
    assert {n.op_type for n in plain.graph.node} & {"SplitToSequence", "SequenceAt"} == set()
    assert free_atoms(made) == 0
    assert free_atoms(plain) == 12
    assert cut_some(plain, 0).dropped > 0
    assert pruned(made, 0.5).report.ratio == pytest.approx(0.5, abs=0.05)


ELSEWHERE = {
    "the place is computed": ("int64 p", "c = SequenceAt(s, p)"),
    "counted from the end": ("", "c = SequenceAt(s, last)"),
    "the sequence is used as a whole": ("", "c = ConcatFromSequence <axis = 1> (s)"),
}


@pytest.mark.parametrize(("inputs", "use"), ELSEWHERE.values(), ids=ELSEWHERE)
def test_sequences_used_in_other_ways_are_kept(inputs: str, use: str) -> None:
    made = model(f"""g (float[2,3,8,8] x, {inputs + "," if inputs else ""} float[12,3,3,3] w1) => (float[] y)
        <int64 n = {{6}}, int64 i = {{0}}, int64 last = {{-1}}> {{ a = Conv(x, w1)  s = SplitToSequence <axis = 1> (a, n)
        b = SequenceAt(s, i)  {use}  d = ReduceSum(b)  e = ReduceSum(c)  y = Add(d, e) }}""")
    kinds = [n.op_type for n in normal_form(made).graph.node]
    assert kinds == [n.op_type for n in made.graph.node]


def test_a_model_without_sequences_is_not_changed() -> None:
    made = model("g (float[2,3,8,8] x, float[8,3,3,3] w1) => (float[] y) { y = Conv(x, w1) }")
    assert normal_form(made) is made
