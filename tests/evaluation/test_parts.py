# SPDX-License-Identifier: Apache-2.0
"""Which elements of an output belong together."""

from __future__ import annotations

import pytest

from onnxprune.evaluation.parts import parts_of
from tests.cases.recovery import batches_for
from tests.cases.text import model

HEADS = "float[N,8,4,4] x, float[4,8,1,1] w1, float[3,8,1,1] w2, float[4,8,1,1] w3, float[3,8,1,1] w4"
OUTPUTS = {
    "whole": ("float[N,4,4,4] y", "y = Conv(x, w1)", ["y"]),
    "channels": (
        "float[N,7,4,4] y",
        "a = Conv(x, w1)  b = Conv(x, w2)  y = Concat <axis = 1> (a, b)",
        ["y[:, 0:4]", "y[:, 4:7]"],
    ),
    "moved after it": (
        "float[N,16,7] y",
        "a = Conv(x, w1)  b = Conv(x, w2)  c = Concat <axis = 1> (a, b)  d = Reshape(c, s)  y = Transpose <perm = [0,2,1]> (d)",
        ["y[:, :, 0:4]", "y[:, :, 4:7]"],
    ),
    "levels, each of boxes and scores": (
        "float[N,7,32] y",
        """a = Conv(x, w1)  b = Conv(x, w2)  c = Conv(x, w3)  d = Conv(x, w4)  e = Concat <axis = 1> (a, b)
        f = Concat <axis = 1> (c, d)  g = Reshape(e, s)  h = Reshape(f, s)  y = Concat <axis = 2> (g, h)""",
        ["y[:, 0:4]", "y[:, 4:7]"],
    ),
    "alternating": (
        "float[N,8,4,4] y",
        """a = Conv(x, w1)  b = Conv(x, w3)  c = Unsqueeze(a, two)  d = Unsqueeze(b, two)  e = Concat <axis = 2> (c, d)
        y = Reshape(e, r)""",
        ["y[:, 0,2,...]", "y[:, 1,3,...]"],
    ),
    "a constant beside it": (
        "float[N,5,4,4] y",
        "a = Conv(x, w1)  y = Concat <axis = 1> (a, one)",
        ["y[:, 0:4]", "y[:, 4:5]"],
    ),
    "summed after it": (
        "float[N,7,4,4] y",
        "a = Conv(x, w1)  b = Conv(x, w2)  c = Concat <axis = 1> (a, b)  y = Sigmoid(c)",
        ["y"],
    ),
    "two outputs": ("float[N,4,4,4] y, float[N,3,4,4] z", "y = Conv(x, w1)  z = Conv(x, w2)", ["y", "z"]),
}


@pytest.mark.parametrize(("outputs", "body", "names"), OUTPUTS.values(), ids=OUTPUTS)
def test_parts_are_found_by_the_nodes_that_move_them(outputs: str, body: str, names: list[str]) -> None:
    constants = "int64[3] s = {1,7,16}, int64[4] r = {1,8,4,4}, int64[1] two = {2}"
    net = model(f"g ({HEADS}, float[1,1,4,4] one) => ({outputs}) <{constants}> {{ {body} }}")
    [feeds] = batches_for(net, 1, 1)
    assert [p.name for p in parts_of(net, feeds)] == names


def test_an_output_of_very_many_parts_is_judged_as_a_whole() -> None:
    joined = ", ".join(f"a{k}" for k in range(17))
    made = " ".join(f"a{k} = Relu(x)" for k in range(17))
    net = model(f"g (float[N,2] x) => (float[N,34] y) {{ {made} y = Concat <axis = 1> ({joined}) }}")
    assert [p.name for p in parts_of(net, batches_for(net, 1)[0])] == ["y"]
