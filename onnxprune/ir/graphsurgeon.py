# SPDX-License-Identifier: Apache-2.0
"""Graphs of onnx-graphsurgeon, in and out."""

from __future__ import annotations

from typing import Any

from onnx import ModelProto


def is_graphsurgeon(source: Any) -> bool:
    """Whether something is an `onnx_graphsurgeon.Graph`, told without loading that package."""
    return type(source).__module__.startswith("onnx_graphsurgeon")


def from_graphsurgeon(graph: Any) -> ModelProto:
    """The ONNX model of an `onnx_graphsurgeon.Graph`."""
    import onnx_graphsurgeon as gs

    model: ModelProto = gs.export_onnx(graph)
    return model


def to_graphsurgeon(model: ModelProto) -> Any:
    """The model as an `onnx_graphsurgeon.Graph`, to edit further. (graphsurgeon drops metadata_props and the model version.)"""
    import onnx_graphsurgeon as gs

    return gs.import_onnx(model)
