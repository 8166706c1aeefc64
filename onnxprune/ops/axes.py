# SPDX-License-Identifier: Apache-2.0
"""Operators that work along some axes and pass the others: softmax, reductions, resizing, sorting."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from numpy.typing import NDArray

from onnxprune.graph import Node
from onnxprune.labels import Axis, Flow, Rest
from onnxprune.ops.signatures import SIGNATURES, by_signature
from onnxprune.ops.site import Rule, Site, Unsupported

# Reductions of zeros that are zero: channels that pass stay zero.
REDUCTIONS = frozenset(
    ["ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"]
)
# Those for which a zero among the reduced elements changes nothing, and those that a refit makes right.
SUMS = frozenset({"ReduceL1", "ReduceL2", "ReduceSum", "ReduceSumSquare"})
# A refit adds what removed channels hold; a sum must then be over them alone, for their numbers may be stored only once.
ACCOUNTED = frozenset({"ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2"})


def along(default: int, why: str, onwards: bool = False) -> Rule:
    """The operator works along attribute `axis` (with `onwards`, that axis and all after it), and passes the others."""

    def rule(site: Site) -> list[Flow]:
        flow = site.flow(0)
        rank = len(flow.axes)
        axis = site.node.attribute("axis", default) % rank
        held = range(axis, rank) if onwards else (axis,)
        return [_keep(site, flow, held, why)] * len(site.node.outputs)

    return rule


def _keep(site: Site, flow: Flow, held: Iterable[int], why: str) -> Flow:
    """Pin the axes `held` and pass the others, which need not be zero any more."""
    for k in held:
        site.pin(flow.axes[k], why)
    return Flow(tuple(None if k in held else x for k, x in enumerate(flow.axes)), (Rest.UNKNOWN,) * len(flow.axes))


def _hold_traces(site: Site, flow: Flow, axes: Iterable[int]) -> None:
    """Pin what takes part in a normalisation with numbers that the smaller graph cannot put back."""
    shrinking = [k for k in axes if flow.axes[k] is not None]
    for k in shrinking:
        if flow.rest[k] < (Rest.CONSTANT if len(shrinking) == 1 else Rest.ZERO):
            site.pin(flow.axes[k], "normalises over them, and removed ones would leave a trace")


def softmax(site: Site) -> list[Flow]:
    """Softmax, LogSoftmax, Hardmax: before opset 13 over all axes from `axis` (default 1) on, since then over one."""
    flow = site.flow(0)
    rank = len(flow.axes)
    _hold_traces(site, flow, softmax_axes(site.node, rank))
    return [Flow(flow.axes, (Rest.UNKNOWN,) * rank)]


def softmax_axes(node: Node, rank: int) -> range:
    """The axes over which Softmax, LogSoftmax and Hardmax normalise."""
    new = node.opset >= 13
    axis = node.attribute("axis", -1 if new else 1) % rank
    return range(axis, axis + 1 if new else rank)


def cumsum(site: Site) -> list[Flow]:
    """CumSum works along the axis that its second input names; zeros on it add nothing."""
    value = site.value(1)
    if value is None:
        raise Unsupported("sums along an axis that is not known")
    flow = site.flow(0)
    axis = int(value.ravel()[0]) % len(flow.axes)
    if flow.zero[axis]:
        return [Flow(flow.axes, tuple(Rest.UNKNOWN if k == axis else r for k, r in enumerate(flow.rest)))]
    return [_keep(site, flow, (axis,), "sums along this axis")]


def trains(node: Node) -> bool:
    """Whether a BatchNormalization normalises by the statistics of its input, as it does when weights are standardised."""
    return bool(node.attribute("training_mode", 0)) or len([o for o in node.outputs if o]) > 1


def batch_norm(site: Site) -> list[Flow]:
    """BatchNormalization: scale * (x - mean) / sqrt(variance + epsilon) + shift."""
    if trains(site.node):
        flow = site.flow(0)
        _hold_traces(site, flow, [k for k in range(len(flow.axes)) if k != 1])
    return by_signature(SIGNATURES["BatchNormalization"])(site)


def group_norm(site: Site) -> list[Flow]:
    """GroupNormalization: whole groups are cut, for each is normalised by itself."""
    flow, factors, shift = site.flow(0), site.flow(1), site.flow(2)
    channels, scales, shifts = flow.axes[1], factors.axes[0], shift.axes[0]
    for k in range(2, len(flow.axes)):
        site.pin(flow.axes[k], "normalises over this axis")
    if channels is None or scales is None or shifts is None:
        raise Unsupported("meets channels that cannot be cut")
    if not len(channels) == len(scales) == len(shifts):
        raise Unsupported("has one scale for each group, as before opset 21")
    groups = channels.reshape(site.node.attribute("num_groups"), -1)
    site.tie(groups[:, :1], groups)
    site.tie(channels, scales)
    site.tie(channels, shifts)
    rest = Rest.ZERO if factors.zero[0] and shift.zero[0] else Rest.UNKNOWN
    rank = len(flow.axes)
    return [Flow((None, channels, *(None,) * (rank - 2)), tuple(rest if k == 1 else Rest.UNKNOWN for k in range(rank)))]


def layer_norm(site: Site) -> list[Flow]:
    """LayerNormalization, RMSNormalization over attribute `axis` and all after it, with scale and shift.

    Where it is known what removed channels hold the refit puts that back for the statistics: they stay the original's.
    """
    flow = site.flow(0)
    rank = len(flow.axes)
    first = site.node.attribute("axis", -1) % rank
    rest = [Rest.UNKNOWN] * rank
    _hold_traces(site, flow, range(first, rank))
    for k in range(first, rank):
        labels = flow.axes[k]
        if labels is None:
            continue
        site.labels.touched.append(labels)
        made_zero = []
        for operand in (1, 2):
            if site.has(operand):
                other = site.flow(operand)
                at = k - rank + len(other.axes)
                scales = other.axes[at] if at >= 0 else None
                if scales is not None:
                    site.tie(labels, scales)
                    made_zero.append(other.zero[at])
                elif at >= 0 and site.shape(operand)[at] != 1:
                    site.pin(labels, "scales them by numbers that cannot be cut")
        unshifted = site.node.op == "RMSNormalization" and flow.zero[k]
        rest[k] = Rest.ZERO if unshifted or (made_zero and all(made_zero)) else Rest.UNKNOWN
    return [Flow(flow.axes, tuple(rest))]


def arg_extreme(site: Site) -> list[Flow]:
    """ArgMax, ArgMin: like a reduction of which the result depends on every position."""
    flow = site.flow(0)
    axis = site.node.attribute("axis", 0) % len(flow.axes)
    kept = _keep(site, flow, (axis,), "compares all positions of this axis")
    return [_without(kept, {axis}) if not site.node.attribute("keepdims", 1) else kept]


def top_k(site: Site) -> list[Flow]:
    """TopK sorts along one axis."""
    return along(-1, "sorts this axis")(site)


def reduction(site: Site) -> list[Flow]:
    """Sums may lose positions that hold zeros; a refit accounts for them in means and extremes; others need them all."""
    flow = site.flow(0)
    rank = len(flow.axes)
    if site.has(1) and site.value(1) is None:
        raise Unsupported("reduces over axes that are not known")
    axes = reduced_axes(site.node, rank, site.value(1))
    accounted = _accounted(site, flow, axes)
    for k in axes:
        if k not in accounted:
            site.pin(flow.axes[k], "reduces over them, and removed ones would leave a trace")
        elif (labels := flow.axes[k]) is not None:
            site.labels.touched.append(labels)
    for k, labels in enumerate(flow.axes):
        if site.node.op == "ReduceLogSum" and flow.zero[k] and k not in axes:
            site.pin(labels, "is not defined where a channel is zero")
    passed = Flow(
        tuple(None if k in axes else x for k, x in enumerate(flow.axes)),
        tuple(_passed(site, r) if k not in axes else Rest.UNKNOWN for k, r in enumerate(flow.rest)),
    )
    return [passed if site.node.attribute("keepdims", 1) else _without(passed, axes)]


def _accounted(site: Site, flow: Flow, axes: set[int]) -> set[int]:
    """The reduced axes that may shrink: all where removed channels are zero, else the one with most channels."""
    op, labelled = site.node.op, {k: x for k in axes if (x := flow.axes[k]) is not None}
    if op not in SUMS | ACCOUNTED:
        return set()
    if all(flow.zero[k] for k in labelled):
        return axes
    known = [k for k in labelled if flow.rest[k]]
    if not known or op not in ACCOUNTED or (op in SUMS and len(axes) > 1):
        return set()
    return {max(known, key=lambda k: (site.labels.atoms_left([], labelled[k]), -k))}


def reduced_axes(node: Node, rank: int, given: NDArray[Any] | None) -> set[int]:
    """The axes that a reduction takes away; `given` is its second input, where it has one."""
    axes = node.attribute("axes") if given is None else given.tolist()
    if not axes:
        return set() if node.attribute("noop_with_empty_axes", 0) else set(range(rank))
    return {a % rank for a in axes}


def _without(flow: Flow, axes: set[int]) -> Flow:
    keep = [k for k in range(len(flow.axes)) if k not in axes]
    return Flow(tuple(flow.axes[k] for k in keep), tuple(flow.rest[k] for k in keep))


def _passed(site: Site, rest: Rest) -> Rest:
    """What a reduction over other axes makes of removed channels."""
    if rest is Rest.ZERO:
        return Rest.ZERO if site.node.op in REDUCTIONS else Rest.UNKNOWN
    return rest if rest is Rest.CONSTANT else Rest.UNKNOWN


def resize(site: Site) -> list[Flow]:
    """Resize, Upsample: axes that keep their size in all cases pass; interpolation along the others leaves zeros zero."""
    if site.node.attribute("coordinate_transformation_mode", b"") == b"tf_crop_and_resize":
        raise Unsupported("crops while it resizes")
    flow = site.flow(0)
    scaled = _scaled(site)
    axes: list[Axis] = []
    for k, labels in enumerate(flow.axes):
        same = k not in scaled and all(
            (a.shape or ())[k] == (b.shape or ())[k] for a, b in zip(site.cases(0), site.out_cases(), strict=True)
        )
        if not same:
            site.pin(labels, "resizes this axis")
        axes.append(labels if same else None)
    return [Flow(tuple(axes), tuple(r if r is Rest.ZERO else Rest.UNKNOWN for r in flow.rest))]


def _scaled(site: Site) -> set[int]:
    """Axes with a scale other than one: rounding may hide it in the sizes."""
    place = 2 if site.node.op == "Resize" and site.node.opset >= 11 else 1
    scales = site.value(place)
    if scales is None or not scales.size:
        return set()
    axes = site.node.attribute("axes") or range(scales.size)
    return {axis for axis, scale in zip(axes, scales.tolist(), strict=True) if scale != 1.0}


def observe(site: Site) -> list[Flow]:
    """Shape, Size: sizes are read anew from the smaller tensor, and the cut sees to whoever needs the old ones."""
    unknown = any(c.value is None for c in site.out_cases())
    for labels in site.flow(0).axes:
        if labels is None:
            continue
        if unknown:
            site.pin(labels, "reads their number where other sizes are not known")
        else:
            site.labels.touched.append(labels)
    return [Flow.plain(site.rank())]
