# SPDX-License-Identifier: Apache-2.0
"""Graphs of onnx-graphsurgeon come in and are given back."""

from __future__ import annotations

from tests.cases.nets import pruned, small


def test_a_graphsurgeon_graph_is_taken_and_given_back() -> None:
    import onnx_graphsurgeon as gs

    result = pruned(gs.import_onnx(small()), 0.5, align="none")
    assert isinstance(result.to_graphsurgeon(), gs.Graph)
    assert result.report.removed == 14
