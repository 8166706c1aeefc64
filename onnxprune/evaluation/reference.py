# SPDX-License-Identifier: Apache-2.0
"""The reference of a cut: the original at full width.

Removed channels are made absent in two ways, both independent of how `rewrite` cuts. The weights that produce and read them
are set to zero. A node that mixes channels (a mean, a normalisation) gets its inputs without the removed positions, if the user
allows it to work on the kept channels. Everything else is unchanged. A pruned model with the same outputs therefore computes
the original with those channels zeroed, in which these nodes see only the kept channels.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto

from onnxprune.analysis.coupling import Coupled
from onnxprune.analysis.labels import Residue
from onnxprune.analysis.masking import mask_weight
from onnxprune.ir.bodies import body_graphs
from onnxprune.ir.facts import skeleton
from onnxprune.ir.graph import Body, constant_tensor, subgraphs
from onnxprune.ir.spill import Spill
from onnxprune.types import Indices, Mask


def masked(coupled: Coupled, dropped: Mask, spill: Spill | None = None) -> ModelProto:
    """The original with the dropped slices of its weights set to zero, wherever zero means absent (`mask_weight`).

    Args:
        spill: where large changed weights are stored, to keep them out of memory.
    """
    model = skeleton(coupled.graph.model)
    for t in coupled.graph.model.graph.initializer:
        model.graph.initializer.append(mask_weight(coupled, dropped, t, t.name, spill))
    for n in coupled.graph.model.graph.node:
        model.graph.node.add().CopyFrom(n)
    for graph, body in body_graphs(model):
        for t in graph.initializer if body.prefix else ():
            t.CopyFrom(mask_weight(coupled, dropped, t, body.named(t.name)))
        for place, n in enumerate(graph.node):
            if not n.name and any(subgraphs(n)):
                n.name = f"#{place}"  # its bodies are known by its position, which may change
            tensor = constant_tensor(n)
            if tensor is not None:
                tensor.CopyFrom(mask_weight(coupled, dropped, tensor, body.named(n.output[0])))
    return model


def reference(coupled: Coupled, dropped: Mask, spill: Spill | None = None) -> ModelProto:
    """`masked`, with renormalising nodes restricted to the kept channels.

    Args:
        dropped: (n_labels,) True for labels that are dropped.
        spill: as for `masked`.
    """
    model = masked(coupled, dropped, spill)
    mixed = coupled.renormalising(dropped)
    for index, (graph, body) in reversed([*enumerate(body_graphs(model))] if mixed else []):  # inner bodies first
        places = {n.place: k for k in mixed if (n := coupled.graph.nodes[k]).body == index}
        if places:
            nodes = [*graph.node]
            del graph.node[:]
            for place, node in enumerate(nodes):
                labels = mixed[places[place]] if place in places else None
                removed = None if labels is None else dropped & np.isin(coupled.roots, coupled.roots[labels])
                graph.node.extend([node] if removed is None else _KeptOnly(coupled, model, node, body, removed).nodes())
    return model


class _KeptOnly:
    """A node restricted to the kept channels: removed positions are taken out of its inputs and refilled in its outputs."""

    def __init__(self, coupled: Coupled, model: ModelProto, node: NodeProto, body: Body, removed: Mask) -> None:
        self.coupled, self.model, self.node, self.body, self.removed = coupled, model, node, body, removed
        self.taken = {name for n in coupled.graph.nodes for name in n.outputs} | set(coupled.graph.facts)
        self.taken |= {t.name for t in model.graph.initializer}

    def nodes(self) -> list[NodeProto]:
        node = NodeProto()
        node.CopyFrom(self.node)
        before: list[NodeProto] = []
        after: list[NodeProto] = []
        for k, name in enumerate(self.node.input):
            for axis, kept in self._masks(name):
                node.input[k] = self._gather(before, node.input[k], axis, np.flatnonzero(kept), f"{name} kept {axis}")
        for k, name in enumerate(self.node.output):
            masks = self._masks(name)
            if not masks:
                continue
            node.output[k] = full = self._name(f"{name} of what is kept")
            for axis, kept in masks:
                full = self._gather(after, full, axis, np.where(kept, np.cumsum(kept) - 1, 0), f"{name} full {axis}")
                full = self._fill(after, full, name, axis, kept)
            after[-1].output[0] = name
        return [*before, node, *after]

    def _masks(self, name: str) -> list[tuple[int, Mask]]:
        """Axes of a tensor that carry channels mixed by the node, and the mask of their kept positions."""
        axes = self.coupled.flows[self.body.named(name)].axes if name else ()
        masks = [(k, ~self.removed[labels]) for k, labels in enumerate(axes) if labels is not None]
        return [(k, kept) for k, kept in masks if not kept.all()]

    def _gather(self, nodes: list[NodeProto], data: str, axis: int, positions: Indices, stem: str) -> str:
        name = self._name(stem)
        index = self._constant(positions.astype(np.int64), f"{stem} positions")
        nodes.append(onnx.helper.make_node("Gather", [data, index], [name], axis=axis))
        return name

    def _fill(self, nodes: list[NodeProto], data: str, like: str, axis: int, kept: Mask) -> str:
        """Set removed positions to zero if the analysis relies on it, else to one: finite, and not the original's value."""
        name = self.body.named(like)
        flow, fact = self.coupled.flows[name], self.coupled.graph.facts[name].cases[0]
        number = 0 if flow.residue[axis] is Residue.ZERO else 1
        kind = onnx.helper.tensor_dtype_to_np_dtype(fact.dtype)
        mask = self._constant(kept.reshape([-1] + [1] * (len(flow.axes) - axis - 1)), f"{like} mask {axis}")
        name = self._name(f"{like} filled {axis}")
        filler = self._constant(np.array(number, kind), f"{like} rest {axis}")
        nodes.append(onnx.helper.make_node("Where", [mask, data, filler], [name]))
        return name

    def _constant(self, value: NDArray[np.generic], stem: str) -> str:
        name = self._name(stem)
        self.model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
        return name

    def _name(self, stem: str) -> str:
        while stem in self.taken:
            stem += "_"
        self.taken.add(stem)
        return stem
