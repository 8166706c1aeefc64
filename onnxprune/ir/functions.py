# SPDX-License-Identifier: Apache-2.0
"""Functions that the file itself defines: every call is replaced with the nodes of the function."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter

import onnx
import onnx.inliner
import onnx.shape_inference
from onnx import ModelProto

from onnxprune.errors import ModelError, first_line
from onnxprune.ir.graph import all_nodes
from onnxprune.ir.tensors import header_of, without_initializers


def inlined(model: ModelProto) -> ModelProto:
    """The model without functions of its own, as `onnx.inliner` writes it; the model itself if it has none.

    A tensor inside a function is named anew in every call. Functions for another opset than the model's are converted to it;
    those that cannot be are left as they are.

    Raises:
        ModelError: a function calls itself, or onnx does not accept it.
    """
    if not model.functions:
        return model
    _check_calls(model)
    # the inliner copies the model several times, and needs of weights only the names
    light = without_initializers(model)
    light.graph.initializer.extend(header_of(t) for t in model.graph.initializer)
    _state_defaults(light)
    try:
        plain = onnx.inliner.inline_local_functions(light)
        plain = _converted(plain) if plain.functions else plain
    except Exception as e:  # onnx's own ValidationError, or RuntimeError
        raise ModelError(f"its functions cannot be inlined: {first_line(e)}; export the model without functions") from e
    del plain.graph.initializer[:]
    plain.graph.initializer.extend(model.graph.initializer)
    known = {o.domain for o in plain.opset_import}
    imported = {o.domain: o.version for f in model.functions for o in f.opset_import if o.domain not in known}
    plain.opset_import.extend(onnx.helper.make_opsetid(domain, version) for domain, version in imported.items())
    return plain


def _state_defaults(model: ModelProto) -> None:
    """Write default values of attributes into the calls that rely on them: the inliner forgets them (seen with onnx 1.23)."""
    defaults = {(f.domain, f.name): f.attribute_proto for f in model.functions}
    bodies = [model.graph.node, *(f.node for f in model.functions)]
    for node in (n for nodes in bodies for n in all_nodes(nodes)):
        given = {a.name for a in node.attribute}
        node.attribute.extend(a for a in defaults.get((node.domain, node.op_type), ()) if a.name not in given)


def _check_calls(model: ModelProto) -> None:
    own = {(f.domain, f.name) for f in model.functions}
    calls = {(f.domain, f.name): {(n.domain, n.op_type) for n in all_nodes(f.node)} & own for f in model.functions}
    try:
        TopologicalSorter(calls).prepare()
    except CycleError as e:
        raise ModelError(f"the function '{e.args[1][0][1]}' calls itself; export the model without functions") from e


def _converted(model: ModelProto) -> ModelProto:
    """The model with functions inlined that are written for another opset."""
    try:
        # the converter needs types of the operands of calls
        typed = onnx.shape_inference.infer_shapes(model)
        plain = onnx.inliner.inline_local_functions(typed, convert_version=True)
    except Exception:  # whatever the converter raises: the calls remain, as operators without a rule
        return model
    del plain.graph.value_info[:]
    plain.graph.value_info.extend(model.graph.value_info)
    return plain
