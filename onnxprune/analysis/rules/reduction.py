# SPDX-License-Identifier: Apache-2.0
"""Operators that work along some axes and pass the others: reductions, extrema, sorting, running sums."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from onnxprune.analysis.labels import Flow, Residue
from onnxprune.analysis.policy import WAY_OUT
from onnxprune.analysis.rules.site import Rule, Site, Unsupported, rules
from onnxprune.ir.semantics import reduced_axes

# Reductions that map zeros to zero: channels that pass stay zero.
REDUCTIONS = frozenset(
    ["ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"]
)


# Reductions that a zero among the reduced elements does not change.
SUMS = frozenset({"ReduceL1", "ReduceL2", "ReduceSum", "ReduceSumSquare"})


# A fix-up adds the residue to these. Sums must then be over channels alone, because the residue may be stored only once.
ACCOUNTED = frozenset({"ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2"})


# A product of the kept elements does not determine the product of all.
ALL_OF_THEM = frozenset({"ReduceProd"})


def _keep(site: Site, flow: Flow, axes: Iterable[int], why: str) -> Flow:
    """Pin `axes` and pass the others, which need not be zero any more."""
    for k in axes:
        site.pin(flow.axes[k], why)
    return Flow(tuple(None if k in axes else x for k, x in enumerate(flow.axes)), (Residue.UNKNOWN,) * len(flow.axes))


def cumsum(site: Site) -> list[Flow]:
    """CumSum works along the axis given by its second input; zeros on it add nothing."""
    value = site.value(1)
    if value is None:
        raise Unsupported("sums along an unknown axis")
    flow = site.flow(0)
    axis = int(value.ravel()[0]) % len(flow.axes)
    if flow.zero[axis]:
        return [Flow(flow.axes, tuple(Residue.UNKNOWN if k == axis else r for k, r in enumerate(flow.residue)))]
    if site.policy.allow_renormalising:
        site.mix(flow.axes[axis])
        return [Flow(flow.axes, (Residue.UNKNOWN,) * len(flow.axes))]
    return [_keep(site, flow, (axis,), f"sums along this axis{WAY_OUT}")]


def cumprod(site: Site) -> list[Flow]:
    """CumProd works along the axis given by its second input."""
    value = site.value(1)
    if value is None:
        raise Unsupported("multiplies along an unknown axis")
    flow = site.flow(0)
    axis = int(value.ravel()[0]) % len(flow.axes)
    kept = _keep(site, flow, (axis,), "multiplies along this axis")
    if site.node.attribute("exclusive", 0):  # the first element is one in every channel
        return [kept]
    return [
        Flow(
            kept.axes,
            tuple(
                r if r is Residue.ZERO and x is not None else Residue.UNKNOWN
                for x, r in zip(kept.axes, flow.residue, strict=True)
            ),
        )
    ]


def arg_extreme(site: Site) -> list[Flow]:
    """ArgMax, ArgMin: like a reduction whose result depends on every position."""
    flow = site.flow(0)
    axis = site.node.attribute("axis", 0) % len(flow.axes)
    kept = _keep(site, flow, (axis,), "compares all positions of this axis")
    return [_without(kept, {axis}) if not site.node.attribute("keepdims", 1) else kept]


def top_k(site: Site) -> list[Flow]:
    """TopK sorts along one axis."""
    flow = site.flow(0)
    return [_keep(site, flow, (site.node.attribute("axis", -1) % len(flow.axes),), "sorts this axis")] * len(site.node.outputs)


def reduction(site: Site) -> list[Flow]:
    """Sums may lose zero positions; a fix-up accounts for removed channels in means and extrema; others need all channels,
    unless they may work on the kept ones."""
    flow = site.flow(0)
    rank = len(flow.axes)
    if site.has(1) and site.value(1) is None:
        raise Unsupported("reduces over unknown axes")
    given = site.value(1)
    axes = reduced_axes(site.node, rank, None if given is None else given.tolist())
    accounted = _accounted(site, flow, axes)
    way_out = "" if site.node.op in ALL_OF_THEM else WAY_OUT
    for k in axes:
        if k not in accounted:
            site.pin(flow.axes[k], f"reduces over them, so removing any would change the result{way_out}")
        elif (labels := flow.axes[k]) is not None:
            site.labels.touched.append(labels)
    for k, labels in enumerate(flow.axes):
        if site.node.op == "ReduceLogSum" and flow.zero[k] and k not in axes:
            site.pin(labels, "is not defined where a channel is zero")
    passed = Flow(
        tuple(None if k in axes else x for k, x in enumerate(flow.axes)),
        tuple(_passed(site, r) if k not in axes else Residue.UNKNOWN for k, r in enumerate(flow.residue)),
    )
    return [passed if site.node.attribute("keepdims", 1) else _without(passed, axes)]


def _accounted(site: Site, flow: Flow, axes: set[int]) -> set[int]:
    """The reduced axes that may shrink: all if removed channels are zero, else the one with most channels."""
    op, labelled = site.node.op, {k: x for k in axes if (x := flow.axes[k]) is not None}
    zeros = all(flow.zero[k] for k in labelled)
    if site.policy.allow_renormalising and op not in ALL_OF_THEM:
        for labels in labelled.values():
            if not (zeros and op in SUMS):
                site.mix(labels)
        return axes
    if op not in SUMS | ACCOUNTED:
        return set()
    if zeros:
        return axes
    known = [k for k in labelled if flow.residue[k]]
    if not known or op not in ACCOUNTED or (op in SUMS and len(axes) > 1):
        return set()
    return {max(known, key=lambda k: (site.labels.atoms_left([], labelled[k]), -k))}


def _without(flow: Flow, axes: set[int]) -> Flow:
    keep = [k for k in range(len(flow.axes)) if k not in axes]
    return Flow(tuple(flow.axes[k] for k in keep), tuple(flow.residue[k] for k in keep))


def _passed(site: Site, residue: Residue) -> Residue:
    """The residue of channels that pass a reduction over other axes."""
    if residue is Residue.ZERO:
        return Residue.ZERO if site.node.op in REDUCTIONS else Residue.UNKNOWN
    return residue if residue is Residue.CONSTANT else Residue.UNKNOWN


RULES: Mapping[str, Rule] = {
    **rules(reduction, *REDUCTIONS, "ReduceLogSum", "ReduceLogSumExp"),
    **rules(arg_extreme, "ArgMax", "ArgMin"),
    **rules(cumprod, "CumProd"),
    **rules(cumsum, "CumSum"),
    **rules(top_k, "TopK"),
}
