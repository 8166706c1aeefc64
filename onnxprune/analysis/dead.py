# SPDX-License-Identifier: Apache-2.0
"""Channels that are provably always zero: without them, the network computes what it computed with them.

And channels that are always the same number: what they add to the layers that read them is one number for each output, so that
the network can do without them, too, once these layers add it themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from onnxprune.analysis.coupling import Coupled
from onnxprune.analysis.groups import Group
from onnxprune.analysis.intervals import Intervals
from onnxprune.analysis.labels import Residue
from onnxprune.analysis.steady import Steady
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


@dataclass(frozen=True, eq=False)
class Read:
    """A tensor's axis whose channels a node mixes with others.

    Attributes:
        name, axis: the tensor and the axis.
        labels: those labels on it that the node mixes.
        node: the node; None: the tensor is an output of the model.
        place: which of the node's operands it is.
    """

    name: str
    axis: int
    labels: Indices = field(repr=False)
    node: Node | None = None
    place: int = 0


def dead_labels(coupled: Coupled, groups: Sequence[Group], ranges: Mapping[str, tuple[float, float]] | None = None) -> Mask:
    """Labels (n_labels,) of channels that are zero wherever a node mixes them with others, for all finite inputs in range.

    Masked, such channels are zero there as well, so that masking them changes nothing. The last channel of an axis is kept.

    Args:
        groups: the groups whose channels may go.
        ranges: for some inputs, the lowest and the highest number that they hold.
    """
    intervals = Intervals(coupled, ranges)
    return _dispensable(coupled, groups, lambda read: _is_zero(intervals, read), _none(coupled))


def steady_labels(
    coupled: Coupled, groups: Sequence[Group], steady: Steady, adding: Collection[int], among: Mask | None = None
) -> Mask:
    """Labels (n_labels,) of channels that are always the same, but not zero, wherever a node mixes them with others.

    Each of these nodes can add what they contribute itself. Masked, they are zero there. Channels that are dead are not among
    them, and one channel of each axis is neither.

    Args:
        groups: the groups whose channels may go.
        steady: the numbers that channels hold.
        adding: indices of the nodes whose first operand is multiplied by a stored weight, without padding, and to whose results
            an offset can be added.
        among: labels (n_labels,) to look at; None: all.
    """

    def is_steady(read: Read) -> Mask:
        zero = _is_zero(steady, read)
        if read.node is None or read.place or read.node.index not in adding or read.node.inputs.count(read.name) > 1:
            return zero
        return zero | (_vanishes(steady, read) & ~np.isnan(steady.values(read.name, read.axis)))

    holds: tuple[Callable[[Read], Mask], ...] = (is_steady, lambda read: _is_zero(steady, read))
    found, zero = (_dispensable(coupled, groups, one, _none(coupled), among) for one in holds)
    if not (found & ~zero).any():  # as usual: what is dead need not be known
        return _none(coupled)
    dead = dead_labels(coupled, groups)
    return _dispensable(coupled, groups, is_steady, dead, among) & ~dead


def _is_zero(intervals: Intervals, read: Read) -> Mask:
    """Which positions of an axis are always zero, masked or not."""
    low, high = intervals.per_position(read.name, read.axis)
    zero: Mask = (low == 0) & (high == 0) & _vanishes(intervals, read)
    return zero


def _vanishes(intervals: Intervals, read: Read) -> Mask:
    """Which positions of an axis are zero if they are masked."""
    flow = intervals.coupled.flows[read.name]
    return np.full(len(intervals.labels(read.name, read.axis)), flow.residue[read.axis] is Residue.ZERO)


def _dispensable(
    coupled: Coupled, groups: Sequence[Group], holds: Callable[[Read], Mask], gone: Mask, among: Mask | None = None
) -> Mask:
    """Labels (n_labels,) of channels of which something holds wherever a node mixes them with others; one of an axis is kept.

    Args:
        holds: for which positions of the axis it does.
        gone: labels that go in any case.
        among: labels to look at; None: all.
    """
    able, seen = _none(coupled), _none(coupled)
    for group in groups:
        if not group.blocks:
            able[group.roots] = True if among is None else among[group.roots]
    for mix in coupled.mixed:
        able[coupled.roots[mix.labels]] = False
    for read in _mixed(coupled):
        roots = coupled.roots[read.labels]
        seen[roots] = True
        labels = coupled.flows[read.name].axes[read.axis]
        assert labels is not None
        able[coupled.roots[labels[~holds(read) & np.isin(coupled.roots[labels], roots)]]] = False
    able &= seen
    for roots in coupled.spans():
        if (able | gone)[roots].all():
            able[roots[~gone[roots]][:1]] = False
    found: Mask = able[coupled.roots]
    return found


def _none(coupled: Coupled) -> Mask:
    return np.zeros(len(coupled.roots), bool)


def without(groups: Sequence[Group], dead: Mask) -> tuple[Group, ...]:
    """The groups without labels that are dead (n_labels,)."""
    found = (replace(g, roots=g.roots[~dead[g.roots]]) if dead[g.roots].any() else g for g in groups)
    return tuple(g for g in found if len(g))


def _mixed(coupled: Coupled) -> Iterator[Read]:
    """What nodes read other than channel by channel."""
    graph = coupled.graph
    for node in graph.elementary:
        passed = _passed(coupled, node)
        for place, name in enumerate((*node.inputs, *node.implicit)):
            for axis, labels in enumerate(_axes(coupled, name)):
                if labels is not None:
                    yield Read(name, axis, labels[~np.isin(coupled.roots[labels], passed)], node, place)
    for name in graph.outputs:
        for axis, labels in enumerate(_axes(coupled, name)):
            if labels is not None:
                yield Read(name, axis, labels)


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
