# SPDX-License-Identifier: Apache-2.0
"""What is fitted together, and in which order."""

from __future__ import annotations

from onnxprune.calibration.jobs import ordered
from onnxprune.calibration.sums import find_sums
from onnxprune.ir.facts import read_graph
from tests.cases.text import model


def test_shared_weights_are_one_job_and_readers_come_later() -> None:
    text = """g (float[N,4,8] x, float[N,4,8] z, float[8,8] w1, float[8,6] w2) => (float[N,4,6] y) {
        a = MatMul(x, w1)  b = Relu(a)  c = MatMul(z, w1)  d = Sigmoid(c)  e = Mul(b, d)  y = MatMul(e, w2) }"""
    graph = read_graph(model(text))
    jobs = ordered(graph, find_sums(graph)[::-1])
    assert [[s.total for s in job] for job in jobs] == [["c", "a"], ["y"]]


def test_a_weight_used_again_on_its_own_result_is_fitted_once() -> None:
    text = "g (float[N,8] x, float[8,8] w) => (float[N,8] y) { a = MatMul(x, w)  b = Relu(a)  y = MatMul(b, w) }"
    graph = read_graph(model(text))
    assert [[s.total for s in job] for job in ordered(graph, find_sums(graph))] == [["a"]]
