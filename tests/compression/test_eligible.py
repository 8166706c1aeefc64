# SPDX-License-Identifier: Apache-2.0
"""Which weights of a model are divided: not the first and last, nor those that something else reads too."""

from __future__ import annotations

import pytest

from onnxprune.compression.blocks import BlockShape
from onnxprune.compression.eligible import eligible
from onnxprune.ir.facts import read_graph
from tests.cases.text import model

CHAIN = """g (float[N,4,8,8] x, float[8,4,3,3] w1, float[8,1,3,3] w2, float[12,4,1,1] w3, float[12,6,2,2] w4, float[6,8] w5,
    float[8,8] w6, float[5,8] w7) => (float[N,5] y) {
    a = Conv(x, w1)  b = Conv <group = 8> (a, w2)  c = Conv <group = 2> (b, w3)  d = ConvTranspose <strides = [2,2]> (c, w4)
    p = GlobalAveragePool(d)  f = Flatten(p)  e = MatMul(f, w5)  g = Gemm(e, w6)  y = Gemm <transB = 1> (g, w7) }"""
RUNS = {
    "w2": (1, 1, 1, 3),
    "w3": (1, 4, 1, 1),
    "w4": (4, 1, 1, 1),
    "w5": (4, 1),
    "w6": (4, 1),
}
"""Of blocks of four inputs."""


def found_in(text: str, block: str = "4", **options: object) -> dict[str, tuple[int, ...]]:
    """The runs of the weights that are divided."""
    blocks = eligible(read_graph(model(text)), BlockShape.parse(block), **options)  # type: ignore[arg-type]
    return {name: b.runs for name, b in blocks.items()}


def test_first_and_last_layers_stay_and_all_others_are_divided() -> None:
    assert found_in(CHAIN) == RUNS


def test_all_layers_means_all() -> None:
    assert found_in(CHAIN, all_layers=True) == {"w1": (1, 4, 1, 1), **RUNS, "w7": (1, 4)}


def test_excluded_patterns_stay() -> None:
    assert found_in(CHAIN, exclude=["w3", "w[56]"]).keys() == {"w2", "w4"}
    assert found_in(CHAIN, exclude=["*"]) == {}


def test_weights_whose_kernel_has_another_rank_stay() -> None:
    assert found_in(CHAIN, "1x4x1x1").keys() == {"w3", "w4"}


def test_every_branch_has_its_own_first_and_last_layers() -> None:
    text = """g (float[N,8] x, float[N,8] z, float[8,8] w1, float[8,8] w2, float[8,8] w3, float[8,8] w4, float[8,8] w5) =>
        (float[N,8] y, float[N,8] v) { a = MatMul(x, w1)  b = MatMul(z, w2)  c = Add(a, b)  d = MatMul(c, w3)
        y = MatMul(d, w4)  v = MatMul(d, w5) }"""
    assert found_in(text).keys() == {"w3"}


SHARED = """g (float[N,8] x, float[8,8] w0, float[8,8] w1, float[8,8] w9) => (float[N,8] y) {{
    a = MatMul(x, w0)  b = MatMul(a, w1)  {reads}  y = MatMul(c, w9) }}"""


@pytest.mark.parametrize(
    "reads",
    [
        "c = Add(b, w1)",
        "d = Relu(w1)  c = MatMul(b, d)",
        "c = Gemm <transB = 1> (b, w1)",
        "c = MatMul(w1, b)",
        "c = Gemm(b, w1, w1)",
    ],
    ids=["added", "through another node", "transposed", "on the left", "also the bias"],
)
def test_a_weight_that_is_read_in_another_way_too_stays(reads: str) -> None:
    assert found_in(SHARED.format(reads=reads)).keys() == set()


def test_a_weight_that_two_layers_read_alike_is_divided_once() -> None:
    assert found_in(SHARED.format(reads="c = MatMul(b, w1)")) == {"w1": (4, 1)}
    assert found_in(SHARED.format(reads="c = Gemm(b, w1)")) == {"w1": (4, 1)}


@pytest.mark.parametrize("end", ["y = MatMul(c, w1)", "d = MatMul(c, w9)  y = MatMul(d, w1)"])
def test_a_weight_that_a_first_or_last_layer_reads_stays_wherever_else_it_is_read(end: str) -> None:
    text = """g (float[N,8] x, float[8,8] w1, float[8,8] w9) => (float[N,8] y) {{
        a = MatMul(x, {first})  b = MatMul(a, w1)  c = Relu(b)  {end} }}"""
    assert "w1" not in found_in(text.format(first="w9", end=end))
    assert "w1" not in found_in(text.format(first="w1", end="d = MatMul(c, w1)  y = MatMul(d, w9)"))


def test_a_weight_that_a_body_reads_stays() -> None:
    text = """g (bool c, float[N,8] x, float[8,8] w0, float[8,8] w1, float[8,8] w9) => (float[N,8] y) {
        a = MatMul(x, w0)  b = MatMul(a, w1)
        d = If (c) < then_branch = t () => (e) { e = MatMul(b, w1) }, else_branch = s () => (h) { h = Relu(b) } >
        y = MatMul(d, w9) }"""
    assert found_in(text) == {}


@pytest.mark.parametrize("kind", ["float16", "float", "double"])
def test_weights_of_all_types_that_numpy_computes_with_are_divided(kind: str) -> None:
    text = SHARED.format(reads="c = Relu(b)").replace("float[", f"{kind}[")
    assert found_in(text) == {"w1": (4, 1)}
