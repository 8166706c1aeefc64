# SPDX-License-Identifier: Apache-2.0
"""Constant, nonzero residues of removed channels in the masked original: a class token, a bias after the cut.

Means and normalisations include these values. They do not depend on the model's inputs, so the smaller graph can store them as
constants and still compute the original's statistics.
"""

from __future__ import annotations

import numpy as np
import onnx

from onnxprune.analysis.coupling import Coupled
from onnxprune.analysis.labels import Residue
from onnxprune.analysis.masking import mask_weight
from onnxprune.analysis.rules.site import Unsupported
from onnxprune.ir.graph import FLOATS, Node
from onnxprune.ir.infer import evaluate
from onnxprune.ir.tensors import array_of
from onnxprune.types import Array, Indices, Mask


class Residues:
    """The residues of dropped positions, found by evaluating the masked original on its weights alone.

    Attributes:
        made: (tensor, axis, body) -> tensor of that body of the pruned graph that holds the residue of the dropped positions.
        widths: the size of that axis for tensors in `made`; one if all removed channels hold the same values.
        constants: content -> name of each added constant, so that it is stored only once.
    """

    def __init__(self, coupled: Coupled, dropped: Mask) -> None:
        self._coupled, self._dropped = coupled, dropped
        self._shuffles = {shuffle.result: shuffle for shuffle in coupled.shuffles}
        self._full: dict[tuple[str, bytes], Array] = {}
        self.made: dict[tuple[str, int, int], str] = {}
        self.widths: dict[str, int] = {}
        self.constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def constant(self, name: str, axis: int) -> Array:
        """The residue of the dropped positions of an axis; size one along axes with equal values.

        Raises:
            Unsupported: the values depend on dynamic sizes, or cannot be computed here.
        """
        flow, cases = self._coupled.flows[name], self._coupled.graph.facts[name].cases
        labels = flow.axes[axis]
        assert labels is not None
        found = self._run(name, np.unique(self._coupled.roots[labels[self._dropped[labels]]]))
        for k, own in enumerate(flow.axes):
            if own is not None:
                found = np.compress(self._dropped[own] == (k == axis), found, k)
        for k in range(found.ndim):
            if (np.take(found, [0], k) == found).all():
                found = np.take(found, [0], k)
            elif len({(c.shape or ())[k] for c in cases}) > 1:
                raise Unsupported("mixes removed channels whose values depend on a dynamic size")
        return found

    def _run(self, name: str, classes: Indices) -> Array:
        """A whole tensor of the masked original, correct at all dropped labels of these classes.

        A tensor without these classes is correct everywhere, so zeros may not be substituted for any tensor it depends on.
        """
        residue = self._residue_of(name, classes)
        if residue is None:
            classes = classes[:0]
        key = (name, classes.tobytes())
        if key not in self._full:
            self._full[key] = self._compute(name, classes, residue)
        return self._full[key]

    def _compute(self, name: str, classes: Indices, residue: Residue | None) -> Array:
        graph, fact = self._coupled.graph, self._coupled.graph.facts[name].cases[0]
        if name in graph.weights:
            tensor = graph.weights[name].tensor
            return array_of(mask_weight(self._coupled, self._dropped, tensor, name))
        if fact.value is not None and fact.dtype not in FLOATS:
            return fact.value
        if residue is Residue.ZERO and fact.shape is not None:
            return self._zeros(name)
        if name in self._shuffles:
            shuffle = self._shuffles[name]
            return np.take(self._run(shuffle.source, classes), shuffle.order, shuffle.axis)
        node = graph.makers.get(name)
        values = None
        if node is not None:
            versions = {node.proto.domain: node.opset}
            values = evaluate(node.proto, versions, [self._operand(node, i, classes) if i else None for i in node.inputs])
        if node is None or values is None:
            raise Unsupported("mixes removed channels whose values cannot be computed")
        return values[node.outputs.index(name)]

    def _operand(self, node: Node, name: str, classes: Indices) -> Array:
        beside = node.op == "Concat" or (node.op == "Pad" and name == node.inputs[0])
        if beside and len(classes) and self._residue_of(name, classes) is None:
            return self._zeros(name)  # other channels, next to the requested ones
        return self._run(name, classes)

    def _zeros(self, name: str) -> Array:
        fact = self._coupled.graph.facts[name].cases[0]
        return np.broadcast_to(np.zeros((), onnx.helper.tensor_dtype_to_np_dtype(fact.dtype)), fact.shape or ())

    def _residue_of(self, name: str, classes: Indices) -> Residue | None:
        """The residue of the tensor where labels of these classes are dropped; None if it does not carry them."""
        flow = self._coupled.flows[name]
        for labels, residue in zip(flow.axes, flow.residue, strict=True):
            if labels is not None and np.isin(self._coupled.roots[labels], classes).any():
                return residue
        return None
