# SPDX-License-Identifier: Apache-2.0
"""The names of weights in an exported model: those that parameters and buffers have in the module."""

from __future__ import annotations

import ast
from collections.abc import Collection, Mapping

import onnx
from onnx import ModelProto, NodeProto, numpy_helper
from torch import Tensor, nn

SCALE, SHIFT = "scale", "shift"
"""Names of what a layer multiplies and adds without having weights for it; no module has tensors of these names."""
NORMALISATIONS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


def named_tensors(module: nn.Module) -> Mapping[str, Tensor]:
    """All parameters and buffers by name, also second names of shared ones."""
    return {**dict(module.named_parameters(remove_duplicate=False)), **dict(module.named_buffers(remove_duplicate=False))}


def with_own_weights(model: ModelProto, module: nn.Module) -> ModelProto:
    """The model in which each parameter and buffer is stored under its own name.

    The older exporter stores equal ones (the ones and zeros of fresh normalisations) once. Nothing would tell them from weights
    that a module really shares; those keep one name, the first.
    """
    tensors = named_tensors(module)
    first = {id(t): name for name, t in reversed(list(tensors.items()))}
    stored = {t.name: t for t in model.graph.initializer}
    rename: dict[str, str] = {}
    kept = []
    for node in model.graph.node:
        name = node.output[0] if node.output else ""
        source = rename.get(node.input[0], node.input[0]) if node.input else ""
        if node.op_type == "Identity" and source in stored and name in tensors:
            rename[name] = first[id(tensors[name])]
        else:
            kept.append(node)
    for name in [n for n in stored if n in tensors and first[id(tensors[n])] != n]:
        rename[name] = first[id(tensors[name])]
    for name in dict.fromkeys(rename.values()):
        if name not in stored:
            array = tensors[name].detach().cpu().contiguous().numpy()
            stored[name] = model.graph.initializer.add()
            stored[name].CopyFrom(numpy_helper.from_array(array, name))
    for node in kept:
        for k, name in enumerate(node.input):
            node.input[k] = rename.get(name, name)
    del model.graph.node[:]
    model.graph.node.extend(kept)
    _name_constants(model, module)
    return _without_unused(model)


def _name_constants(model: ModelProto, module: nn.Module) -> None:
    """Store the ones and zeros of normalisations without weights under names that tell the layer (`SCALE`, `SHIFT`).

    They are cut with the channels, and a plan has to say whose sizes follow.
    """
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, NORMALISATIONS)}
    known = {name for name, _ in module.named_modules()}
    values = (n for n in model.graph.node if n.op_type == "Constant" and n.attribute[0].HasField("t"))
    constants = {n.output[0]: n.attribute[0].t for n in values}
    constants |= {t.name: t for t in model.graph.initializer if t.name not in named_tensors(module)}
    for node in model.graph.node:
        layer = _layer_of(node, known) if node.op_type.endswith("Normalization") else ""
        for place, stem in ((1, SCALE), (2, SHIFT)):
            if layer in layers and len(node.input) > place and node.input[place] in constants:
                new = model.graph.initializer.add()
                new.CopyFrom(constants[node.input[place]])
                node.input[place] = new.name = f"{layer}.{stem}"


def _layer_of(node: NodeProto, known: Collection[str]) -> str:
    """The module that a node was exported from, one of `known`."""
    scopes = {p.key: p.value for p in node.metadata_props}.get("pkg.torch.onnx.name_scopes")
    if scopes:  # the names of modules from the outermost to the innermost, and the operator
        return str(ast.literal_eval(scopes)[-2])
    found = ""
    for part in node.name.strip("/").split("/")[:-1]:
        # a part is relative to the module that called it: `body`, then `body.0` for the first layer of that Sequential
        above = [".".join(found.split(".")[:n]) for n in range(found.count(".") + 1, -1, -1)]
        found = next((name for a in above if (name := f"{a}.{part}" if a else part) in known), "")
    return found


def _without_unused(model: ModelProto) -> ModelProto:
    """The model without weights that no node reads."""
    used = {name for node in model.graph.node for name in node.input} | {v.name for v in model.graph.output}
    for node in model.graph.node:
        for a in node.attribute:
            if a.type == onnx.AttributeProto.GRAPH:
                return model  # bodies may read weights of the graph around them
    unused = [t for t in model.graph.initializer if t.name not in used]
    for tensor in unused:
        model.graph.initializer.remove(tensor)
    return model
