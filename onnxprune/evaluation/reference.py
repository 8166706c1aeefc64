# SPDX-License-Identifier: Apache-2.0
"""What a cut is compared with: the original, with nothing taken out of it.

Removed channels are made to be absent in two ways, and neither knows how `rewrite.py` cuts: the weights that make and read them
are set to zero; and a node that works on channels together (a mean, a normalisation), where the user allows that it works on
those that are left, is given its inputs without the removed positions. Everything else is the original's, at full width. A
pruned model that gives the same outputs therefore computes the original with those channels zeroed, in which these nodes see
only the channels that are left.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto

from onnxprune.analysis.coupling import Coupled
from onnxprune.analysis.labels import Residue
from onnxprune.analysis.masking import mask_weight
from onnxprune.ir.facts import skeleton
from onnxprune.ir.graph import constant_tensor
from onnxprune.ir.spill import Spill
from onnxprune.types import Indices, Mask


def masked(coupled: Coupled, dropped: Mask, spill: Spill | None = None) -> ModelProto:
    """The original with the dropped slices of its weights set to zero, wherever zero means absent (`MASKABLE`).

    Args:
        spill: where large weights go that were changed, so that they are not in memory.
    """
    graph = coupled.graph
    model = skeleton(graph.model)
    for t in graph.model.graph.initializer:
        model.graph.initializer.append(mask_weight(coupled, dropped, t, t.name, spill))
    for n in graph.model.graph.node:
        tensor, new = constant_tensor(n), NodeProto()
        new.CopyFrom(n)
        if tensor is not None:
            new.attribute[0].t.CopyFrom(mask_weight(coupled, dropped, tensor, n.output[0]))
        model.graph.node.append(new)
    return model


def reference(coupled: Coupled, dropped: Mask, spill: Spill | None = None) -> ModelProto:
    """`masked`, with the nodes that renormalise working on what is left.

    Args:
        dropped: (n_labels,) True for labels that go.
        spill: as for `masked`.
    """
    model = masked(coupled, dropped, spill)
    mixed = coupled.renormalising(dropped)
    if mixed:
        nodes = [*model.graph.node]
        del model.graph.node[:]
        for k, node in enumerate(nodes):
            gone = dropped & np.isin(coupled.roots, coupled.roots[mixed[k]]) if k in mixed else None
            model.graph.node.extend([node] if gone is None else _Left(coupled, model, node, gone).nodes())
    return model


class _Left:
    """One node that works on what is left: removed positions are taken out of its inputs and filled up in its outputs."""

    def __init__(self, coupled: Coupled, model: ModelProto, node: NodeProto, gone: Mask) -> None:
        self.coupled, self.model, self.node, self.gone = coupled, model, node, gone
        self.taken = {name for n in coupled.graph.nodes for name in n.outputs} | set(coupled.graph.facts)

    def nodes(self) -> list[NodeProto]:
        node = NodeProto()
        node.CopyFrom(self.node)
        before: list[NodeProto] = []
        after: list[NodeProto] = []
        for k, name in enumerate(self.node.input):
            for axis, left in self._masks(name):
                node.input[k] = self._gather(before, node.input[k], axis, np.flatnonzero(left), f"{name} left {axis}")
        for k, name in enumerate(self.node.output):
            masks = self._masks(name)
            if not masks:
                continue
            node.output[k] = full = self._name(f"{name} of what is left")
            for axis, left in masks:
                full = self._gather(after, full, axis, np.where(left, np.cumsum(left) - 1, 0), f"{name} full {axis}")
                full = self._fill(after, full, name, axis, left)
            after[-1].output[0] = name
        return [*before, node, *after]

    def _masks(self, name: str) -> list[tuple[int, Mask]]:
        """Axes of a tensor that carry channels which the node mixes, and which of their positions are left."""
        axes = self.coupled.flows[name].axes if name else ()
        masks = [(k, ~self.gone[labels]) for k, labels in enumerate(axes) if labels is not None]
        return [(k, left) for k, left in masks if not left.all()]

    def _gather(self, nodes: list[NodeProto], data: str, axis: int, positions: Indices, stem: str) -> str:
        name = self._name(stem)
        index = self._constant(positions.astype(np.int64), f"{stem} positions")
        nodes.append(onnx.helper.make_node("Gather", [data, index], [name], axis=axis))
        return name

    def _fill(self, nodes: list[NodeProto], data: str, like: str, axis: int, left: Mask) -> str:
        """Removed positions hold zero where the analysis counts on it, else one: finite and not what the original holds."""
        flow, fact = self.coupled.flows[like], self.coupled.graph.facts[like].cases[0]
        number = 0 if flow.residue[axis] is Residue.ZERO else 1
        kind = onnx.helper.tensor_dtype_to_np_dtype(fact.dtype)
        mask = self._constant(left.reshape([-1] + [1] * (len(flow.axes) - axis - 1)), f"{like} mask {axis}")
        name = self._name(f"{like} filled {axis}")
        rest = self._constant(np.array(number, kind), f"{like} rest {axis}")
        nodes.append(onnx.helper.make_node("Where", [mask, data, rest], [name]))
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
