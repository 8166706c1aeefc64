# SPDX-License-Identifier: Apache-2.0
"""Operators that work along some axes and pass the others: softmax, reductions, resizing, sorting."""

from __future__ import annotations

from collections.abc import Iterable

from onnxprune.labels import Axis, Flow
from onnxprune.ops.site import Rule, Site, Unsupported

# Reductions of zeros that are zero: channels that pass stay zero.
REDUCTIONS = frozenset(
    ["ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"]
)
# Those for which a zero among the reduced elements changes nothing.
SUMS = frozenset({"ReduceL1", "ReduceL2", "ReduceSum", "ReduceSumSquare"})


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
    return Flow(tuple(None if k in held else x for k, x in enumerate(flow.axes)), (False,) * len(flow.axes))


def softmax(site: Site) -> list[Flow]:
    """Softmax, LogSoftmax, Hardmax: before opset 13 over all axes from `axis` (default 1) on, since then over one."""
    new = site.node.opset >= 13
    return along(-1 if new else 1, "normalises over this axis", onwards=not new)(site)


def cumsum(site: Site) -> list[Flow]:
    """CumSum works along the axis that its second input names."""
    axis = site.value(1)
    if axis is None:
        raise Unsupported("sums along an axis that is not known")
    flow = site.flow(0)
    return [_keep(site, flow, (int(axis.ravel()[0]) % len(flow.axes),), "sums along this axis")]


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
    """Sums may lose positions that hold zeros; means, extremes and products need them all."""
    flow = site.flow(0)
    rank = len(flow.axes)
    axes = _reduced(site, rank)
    for k in axes:
        labels = flow.axes[k]
        if labels is None:
            continue
        if site.node.op in SUMS and flow.zero[k]:
            site.labels.touched.append(labels)
        else:
            site.pin(labels, "reduces over them, and zeros would count")
    for k, labels in enumerate(flow.axes):
        if site.node.op == "ReduceLogSum" and flow.zero[k] and k not in axes:
            site.pin(labels, "is not defined where a channel is zero")
    passed = Flow(
        tuple(None if k in axes else x for k, x in enumerate(flow.axes)),
        tuple(z and k not in axes and site.node.op in REDUCTIONS for k, z in enumerate(flow.zero)),
    )
    return [passed if site.node.attribute("keepdims", 1) else _without(passed, axes)]


def _reduced(site: Site, rank: int) -> set[int]:
    axes = site.node.attribute("axes")
    if axes is None and site.has(1):
        value = site.value(1)
        if value is None:
            raise Unsupported("reduces over axes that are not known")
        axes = value.tolist()
    if not axes:
        return set() if site.node.attribute("noop_with_empty_axes", 0) else set(range(rank))
    return {a % rank for a in axes}


def _without(flow: Flow, axes: set[int]) -> Flow:
    keep = [k for k in range(len(flow.axes)) if k not in axes]
    return Flow(tuple(flow.axes[k] for k in keep), tuple(flow.zero[k] for k in keep))


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
    return [Flow(tuple(axes), flow.zero)]


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
        elif all(node.op in ("Shape", "Size") for node, _ in site.graph.consumers[site.node.inputs[0]]):
            site.pin(labels, "is all that reads them")
        else:
            site.labels.touched.append(labels)
    return [Flow.plain(site.rank())]
