# SPDX-License-Identifier: Apache-2.0
"""A model in a newer version of ONNX's operators, which some types of codes need."""

from __future__ import annotations

from collections.abc import Collection

import onnx.version_converter
from onnx import ModelProto

from onnxprune.ir.bodies import rename
from onnxprune.ir.graph import defined, opsets

KEPT = ("metadata_props", "producer_name", "producer_version", "domain", "model_version", "doc_string")
"""What the converter drops."""


def converted(model: ModelProto, opset: int) -> ModelProto | None:
    """The model in at least this opset; itself if it has it already, None if onnx cannot convert it.

    The result is not verified: onnx's converter is known to change some operators wrongly.
    """
    if opsets(model)[""] >= opset:
        return model
    try:
        found = onnx.version_converter.convert_version(model, opset)
    except Exception:  # the converter raises many types, on models that it does not know
        return None
    for field in KEPT:
        found.ClearField(field)
    kept = ModelProto()
    kept.CopyFrom(model)
    for name in (field.name for field in kept.DESCRIPTOR.fields if field.name not in KEPT):
        kept.ClearField(name)
    found.MergeFrom(kept)
    _name_in_order(found, model)
    domains = {entry.domain for entry in found.opset_import}
    found.opset_import.extend(entry for entry in model.opset_import if entry.domain not in domains | {"", "ai.onnx"})
    return found


def _name_in_order(found: ModelProto, model: ModelProto) -> None:
    """Name what the converter made by its order, so that models that differ in their weights alone get the same names."""
    known = defined(model.graph)
    made = [t.name for t in found.graph.initializer] + [name for node in found.graph.node for name in node.output if name]
    new = dict.fromkeys(name for name in made if name not in known)
    names = {old: _free(f"opset_{k}", known) for k, old in enumerate(new)}
    for node in found.graph.node:
        rename(node, names)
    for tensor in found.graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for value in found.graph.value_info:
        value.name = names.get(value.name, value.name)


def _free(name: str, taken: Collection[str]) -> str:
    return name if name not in taken else _free(f"{name}_", taken)
