# SPDX-License-Identifier: Apache-2.0
"""Conversion from and to onnx-graphsurgeon graphs."""

from __future__ import annotations

from typing import Any

from onnx import ModelProto


def is_graphsurgeon(source: Any) -> bool:
    """Whether `source` is an `onnx_graphsurgeon.Graph`, without importing that package."""
    return type(source).__module__.startswith("onnx_graphsurgeon")


def from_graphsurgeon(graph: Any) -> ModelProto:
    """The ONNX model of an `onnx_graphsurgeon.Graph`."""
    import onnx_graphsurgeon as gs

    model: ModelProto = gs.export_onnx(graph)
    return model


def to_graphsurgeon(model: ModelProto) -> Any:
    """The model as an `onnx_graphsurgeon.Graph` for further editing. (It drops metadata_props and the model version.)"""
    import onnx_graphsurgeon as gs

    return gs.import_onnx(model)
