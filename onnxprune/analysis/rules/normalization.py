# SPDX-License-Identifier: Apache-2.0
"""Operators that normalise over some axes and pass the others.

Where it is known what removed channels hold, the refit puts that back and the statistics stay the original's (`put_back.py`).
Elsewhere the channels stay, or, if the user allows it, the smaller graph normalises over those that are left.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from onnxprune.analysis.labels import Flow, Residue
from onnxprune.analysis.policy import WAY_OUT
from onnxprune.analysis.rules.signatures import SIGNATURES, by_signature
from onnxprune.analysis.rules.site import Rule, Site, Unsupported, everywhere, rules
from onnxprune.ir.graph import Graph, Node
from onnxprune.ir.semantics import mean_variance_axes, softmax_axes, uses_batch_statistics


def mix_or_hold(site: Site, flow: Flow, axes: Iterable[int]) -> set[int]:
    """Pin what takes part in a normalisation with numbers that the smaller graph cannot put back.

    Returns the axes along which the smaller graph normalises over what is left instead, because that is allowed.
    """
    shrinking = {k for k in axes if flow.axes[k] is not None}
    if site.policy.allow_renormalising:
        for k in shrinking:
            site.mix(flow.axes[k])
        return shrinking
    for k in shrinking:
        if flow.residue[k] < (Residue.CONSTANT if len(shrinking) == 1 else Residue.ZERO):
            site.pin(flow.axes[k], f"normalises over them, and removed ones would leave a trace{WAY_OUT}")
    return set()


def without_trace(flow: Flow, mixed: set[int], over: Iterable[int] = ()) -> Flow:
    """The flow behind a normalisation over the axes `over`: what removed positions hold depends on those that are left.

    Where it works on what is left, removed positions of the axes `mixed` count as zero.
    """
    rest = [Residue.UNKNOWN if k in over else r for k, r in enumerate(flow.residue)]
    return Flow(flow.axes, tuple(Residue.ZERO if k in mixed else r for k, r in enumerate(rest)))


def softmax(site: Site) -> list[Flow]:
    """Softmax, LogSoftmax, Hardmax: before opset 13 over all axes from `axis` (default 1) on, since then over one."""
    flow = site.flow(0)
    rank = len(flow.axes)
    mix_or_hold(site, flow, softmax_axes(site.node, rank))
    return [Flow(flow.axes, (Residue.UNKNOWN,) * rank)]


def batch_norm(site: Site) -> list[Flow]:
    """BatchNormalization: scale * (x - mean) / sqrt(variance + epsilon) + shift."""
    flow = site.flow(0)
    by_batch = [k for k in range(len(flow.axes)) if k != 1] if uses_batch_statistics(site.node) else []
    mixed = mix_or_hold(site, flow, by_batch)
    [found] = by_signature(SIGNATURES["BatchNormalization"])(site)
    return [without_trace(found, mixed, by_batch)]


def instance_norm(site: Site) -> list[Flow]:
    """InstanceNormalization: like BatchNormalization, by the statistics of each sample's own channel."""
    flow = site.flow(0)
    space = range(2, len(flow.axes))
    mixed = mix_or_hold(site, flow, space)
    [found] = by_signature("~n c s*, c, + c -> n c s*")(site)
    return [without_trace(found, mixed, space)]


def lp_norm(site: Site) -> list[Flow]:
    """LpNormalization: zeros add nothing to a norm."""
    flow = site.flow(0)
    axis = site.node.attribute("axis", -1) % len(flow.axes)
    axes, rest = flow.axes, [Residue.UNKNOWN] * len(flow.axes)
    if flow.zero[axis] or site.policy.allow_renormalising:
        if not flow.zero[axis]:
            site.mix(axes[axis])
        rest[axis] = Residue.ZERO
    else:
        site.pin(axes[axis], f"normalises over them, and removed ones would leave a trace{WAY_OUT}")
    return [Flow(axes, tuple(rest))]


def neighbours(site: Site) -> list[Flow]:
    """LRN: each channel is divided by a norm of those around it; zeros between them add nothing, but keep their place."""
    flow = site.flow(0)
    if not flow.zero[1] and not site.policy.allow_renormalising:
        site.pin(flow.axes[1], f"normalises over neighbouring ones, and removed ones would leave a trace{WAY_OUT}")
    elif site.policy.allow_renormalising:
        site.mix(flow.axes[1])
    return [Flow(flow.axes, tuple(r if r is Residue.ZERO else Residue.UNKNOWN for r in flow.residue))]


def mean_variance(site: Site) -> list[Flow]:
    """MeanVarianceNormalization over attribute `axes`, without scale and shift."""
    flow = site.flow(0)
    over = mean_variance_axes(site.node, len(flow.axes))
    mixed = mix_or_hold(site, flow, over)
    for k, labels in enumerate(flow.axes):
        if k not in over and flow.residue[k] >= Residue.CONSTANT:  # its variance is zero, and onnxruntime adds no epsilon
            site.pin(labels, "is not defined where a channel is zero")
    return [without_trace(Flow(flow.axes, (Residue.UNKNOWN,) * len(flow.axes)), mixed)]


def group_norm(site: Site) -> list[Flow]:
    """GroupNormalization: whole groups are cut, for each is normalised by itself; or, where that is allowed, as many members
    of every group, if that leaves more channels apart."""
    flow, factors, shift = site.flow(0), site.flow(1), site.flow(2)
    channels, scales, shifts = flow.axes[1], factors.axes[0], shift.axes[0]
    for k in range(2, len(flow.axes)):
        site.pin(flow.axes[k], "normalises over this axis")
    if channels is None or scales is None or shifts is None:
        raise Unsupported("meets channels that cannot be cut")
    if not len(channels) == len(scales) == len(shifts):
        raise Unsupported("has one scale for each group, as before opset 21")
    site.tie(channels, scales)
    site.tie(channels, shifts)
    rest = Residue.ZERO if factors.zero[0] and shift.zero[0] else Residue.UNKNOWN
    rank = len(flow.axes)
    passed = Flow((None, channels, *(None,) * (rank - 2)), tuple(rest if k == 1 else Residue.UNKNOWN for k in range(rank)))
    if site.node.attribute("num_groups") == 1:
        return [without_trace(passed, mix_or_hold(site, flow, [1]))]
    groups = channels.reshape(site.node.attribute("num_groups"), -1)
    whole, within = [(groups[:, :1], groups)], [(groups[:1], groups)]
    if site.policy.allow_renormalising and site.choose([whole, within], channels) == 1:
        site.mix(channels)
        site.even(groups)
    else:
        site.tie(*whole[0])
    return [passed]


def _reads_all(site: Site, flow: Flow) -> bool:
    """Whether all channels on the last axis must stay for the statistics, while scale and shift have channels of their own."""
    labels, rest = flow.axes[-1], flow.residue[-1]
    weights = [site.flow(k) for k in (1, 2) if site.has(k)]
    if site.node.fused or not weights or not all(len(w.axes) == 1 and w.axes[0] is not None for w in weights):
        return False
    if labels is None or not site.labels.atoms_left([], labels):
        return True
    return rest < Residue.CONSTANT and not site.policy.allow_renormalising


def _scaled_anew(site: Site, flow: Flow) -> Flow:
    """What comes in keeps its channels; those that go out are the scale's. Behind an embedding this frees the whole network."""
    site.pin(flow.axes[-1], f"normalises over them, and removed ones would leave a trace{WAY_OUT}")
    weights = [site.flow(k) for k in (1, 2) if site.has(k)]
    scales = np.asarray(weights[0].axes[0])
    for w in weights:
        site.tie(scales, np.asarray(w.axes[0]))
    rest = Residue.ZERO if all(w.zero[0] for w in weights) else Residue.UNKNOWN
    return Flow((*flow.axes[:-1], scales), (*(Residue.UNKNOWN for _ in flow.axes[:-1]), rest))


def layer_norm(site: Site) -> list[Flow]:
    """LayerNormalization, RMSNormalization over attribute `axis` and all after it, with scale and shift.

    Where it is known what removed channels hold the refit puts that back for the statistics: they stay the original's.
    """
    flow = site.flow(0)
    rank = len(flow.axes)
    first = site.node.attribute("axis", -1) % rank
    rest = [Residue.UNKNOWN] * rank
    if first == rank - 1 and _reads_all(site, flow):
        return [_scaled_anew(site, flow)]
    mixed = mix_or_hold(site, flow, range(first, rank))
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
        rest[k] = Residue.ZERO if unshifted or (made_zero and all(made_zero)) else Residue.UNKNOWN
    return [without_trace(Flow(flow.axes, tuple(rest)), mixed)]


def _but_variance(graph: Graph, node: Node, operand: int) -> bool:
    """A variance of zero makes no zeros."""
    return operand != 4


RULES: Mapping[str, Rule] = {
    **rules(batch_norm, "BatchNormalization", maskable=_but_variance),
    **rules(group_norm, "GroupNormalization", maskable=everywhere),
    **rules(instance_norm, "InstanceNormalization", maskable=everywhere),
    **rules(layer_norm, "LayerNormalization", maskable=everywhere),
    **rules(layer_norm, "RMSNormalization"),
    **rules(lp_norm, "LpNormalization"),
    **rules(mean_variance, "MeanVarianceNormalization"),
    **rules(neighbours, "LRN"),
    **rules(softmax, "Softmax", "LogSoftmax", "Hardmax"),
}
