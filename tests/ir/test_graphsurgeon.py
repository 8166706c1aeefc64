# SPDX-License-Identifier: Apache-2.0
"""Graphs of onnx-graphsurgeon are accepted and returned."""

from __future__ import annotations

from tests.cases.nets import pruned, small


def test_a_graphsurgeon_graph_is_accepted_and_returned() -> None:
    import onnx_graphsurgeon as gs

    result = pruned(gs.import_onnx(small()), 0.5, align="none")
    assert isinstance(result.to_graphsurgeon(), gs.Graph)
    assert result.report.removed == 14
