# SPDX-License-Identifier: Apache-2.0
"""Channels that are provably always zero: without them, the network computes what it computed with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from onnxprune.analysis.coupling import Coupled
from onnxprune.analysis.groups import Group
from onnxprune.analysis.intervals import Intervals
from onnxprune.analysis.labels import Residue
from onnxprune.ir.decompositions import LABELS_ONLY
from onnxprune.ir.graph import Node
from onnxprune.types import Indices, Mask

BY_CHANNEL = frozenset(
    """
    Abs Add Asinh Atan AveragePool BatchNormalization Cast Ceil Celu Clip Concat Div Dropout Elu Erf Exp Flatten Floor Gelu
    GlobalAveragePool GlobalMaxPool HardSigmoid HardSwish Identity LeakyRelu MaxPool Mish Mul Neg PRelu Pad Relu Reshape Resize
    Round Selu Sigmoid Sign Sin Slice Softplus Softsign Split Sqrt Squeeze Sub Swish Tanh ThresholdedRelu Transpose Unsqueeze
    Upsample
    """.split()
)
"""Operators whose results in a channel depend on that channel only, wherever its label is on the result, too."""


def dead_labels(coupled: Coupled, groups: Sequence[Group], ranges: Mapping[str, tuple[float, float]] | None = None) -> Mask:
    """Labels (n_labels,) of channels that are zero wherever a node mixes them with others, for all finite inputs in range.

    Masked, such channels are zero there as well, so that masking them changes nothing. The last channel of an axis is kept.

    Args:
        groups: the groups whose channels may go.
        ranges: for some inputs, the lowest and the highest number that they hold.
    """
    able = np.zeros(len(coupled.roots), bool)
    for group in groups:
        if not group.blocks:
            able[group.roots] = True
    for mix in coupled.mixed:
        able[coupled.roots[mix.labels]] = False
    intervals, seen = Intervals(coupled, ranges), np.zeros(len(coupled.roots), bool)
    for name, axis, read in _mixed(coupled):
        roots = coupled.roots[read]
        seen[roots] = True
        low, high = intervals.per_position(name, axis)
        zero = (low == 0) & (high == 0) if coupled.flows[name].residue[axis] is Residue.ZERO else np.zeros(len(low), bool)
        labels = coupled.flows[name].axes[axis]
        assert labels is not None
        able[coupled.roots[labels[~zero & np.isin(coupled.roots[labels], roots)]]] = False
    able &= seen
    for roots in coupled.spans():
        if able[roots].all():
            able[roots[:1]] = False
    found: Mask = able[coupled.roots]
    return found


def without(groups: Sequence[Group], dead: Mask) -> tuple[Group, ...]:
    """The groups without labels that are dead (n_labels,)."""
    found = (replace(g, roots=g.roots[~dead[g.roots]]) if dead[g.roots].any() else g for g in groups)
    return tuple(g for g in found if len(g))


def _mixed(coupled: Coupled) -> Iterator[tuple[str, int, Indices]]:
    """Tensors, axes and the labels on them that a node reads other than channel by channel."""
    graph = coupled.graph
    for node in graph.elementary:
        passed = _passed(coupled, node)
        for name in (*node.inputs, *node.implicit):
            for axis, labels in enumerate(_axes(coupled, name)):
                if labels is not None:
                    yield name, axis, labels[~np.isin(coupled.roots[labels], passed)]
    for name in graph.outputs:
        for axis, labels in enumerate(_axes(coupled, name)):
            if labels is not None:
                yield name, axis, labels


def _axes(coupled: Coupled, name: str) -> Sequence[Indices | None]:
    return coupled.flows[name].axes if name in coupled.live and name in coupled.flows else ()


def _passed(coupled: Coupled, node: Node) -> Indices:
    """The classes that a node keeps apart from each other."""
    if node.fused in LABELS_ONLY:  # its parts show where labels go, and no values
        return coupled.roots[:0]
    depthwise = node.op == "Conv" and _is_depthwise(coupled, node)
    carried = [x for out in node.outputs for x in _axes(coupled, out) if x is not None]
    return coupled.roots[np.concatenate(carried)] if carried and (node.op in BY_CHANNEL or depthwise) else coupled.roots[:0]


def _is_depthwise(coupled: Coupled, node: Node) -> bool:
    shape = coupled.sizes[node.inputs[1]].shape or ()
    return len(shape) > 1 and shape[1] == 1 and int(node.attribute("group", 1)) > 1
