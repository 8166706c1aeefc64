# SPDX-License-Identifier: Apache-2.0
"""Operators that normalise over some axes and pass the others.

If the residue of removed channels is known, the fix-up restores it, and the statistics stay those of the original
(`rewrite/fixups/restoring.py`). Otherwise the channels are kept, or, if the user allows it, the smaller graph normalises over
those that are kept.
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

ONE_OUTPUT = ("", "SimplifiedLayerNormalization")
"""Operators that normalise one tensor and nothing else; others also add a tensor to it and return the sum."""


def mix_or_hold(site: Site, flow: Flow, axes: Iterable[int], least: Residue = Residue.CONSTANT) -> set[int]:
    """Pin axes of a normalisation whose residue the smaller graph cannot restore: on a single axis, one below `least`.

    Returns the axes along which the smaller graph normalises over the kept channels instead, because that is allowed.
    """
    shrinking = {k for k in axes if flow.axes[k] is not None}
    if site.policy.allow_renormalising:
        for k in shrinking:
            site.mix(flow.axes[k])
        return shrinking
    for k in shrinking:
        if flow.residue[k] < (least if len(shrinking) == 1 else Residue.ZERO):
            site.pin(flow.axes[k], f"normalises over them, so removing any would change the result{WAY_OUT}")
    return set()


def without_trace(flow: Flow, mixed: set[int], over: Iterable[int] = ()) -> Flow:
    """The flow after a normalisation over the axes `over`, along which the residue depends on the kept positions.

    If the smaller graph normalises over the kept positions, removed positions of the axes `mixed` count as zero.
    """
    residue = [Residue.UNKNOWN if k in over else r for k, r in enumerate(flow.residue)]
    return Flow(flow.axes, tuple(Residue.ZERO if k in mixed else r for k, r in enumerate(residue)))


def softmax(site: Site) -> list[Flow]:
    """Softmax, LogSoftmax, Hardmax: before opset 13 over `axis` (default 1) and all after it, since then over one axis."""
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
    """InstanceNormalization: like BatchNormalization, with the statistics of each sample and channel."""
    flow = site.flow(0)
    space = range(2, len(flow.axes))
    mixed = mix_or_hold(site, flow, space)
    [found] = by_signature("~n c s*, c, + c -> n c s*")(site)
    if flow.zero[1] and site.flow(2).zero[0]:  # a channel of zeros has no deviation, whatever its scale
        found = Flow(found.axes, tuple(Residue.ZERO if k == 1 else r for k, r in enumerate(found.residue)))
    return [without_trace(found, mixed, space)]


def lp_norm(site: Site) -> list[Flow]:
    """LpNormalization: zeros add nothing to a norm."""
    flow = site.flow(0)
    axis = site.node.attribute("axis", -1) % len(flow.axes)
    axes, residue = flow.axes, [Residue.UNKNOWN] * len(flow.axes)
    if flow.zero[axis] or site.policy.allow_renormalising:
        if not flow.zero[axis]:
            site.mix(axes[axis])
        residue[axis] = Residue.ZERO
    else:
        site.pin(axes[axis], f"normalises over them, so removing any would change the result{WAY_OUT}")
    return [Flow(axes, tuple(residue))]


def neighbours(site: Site) -> list[Flow]:
    """LRN: each channel is divided by a norm over its neighbours; zero channels add nothing, but keep their place."""
    flow = site.flow(0)
    if not flow.zero[1] and not site.policy.allow_renormalising:
        site.pin(flow.axes[1], f"normalises over neighbouring channels, so removing any would change the result{WAY_OUT}")
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
    """GroupNormalization: whole groups are cut, since each is normalised on its own; or, if renormalising is allowed and keeps
    more channels separate, the same number of members of every group."""
    flow, factors, shift = site.flow(0), site.flow(1), site.flow(2)
    channels, scales, shifts = flow.axes[1], factors.axes[0], shift.axes[0]
    for k in range(2, len(flow.axes)):
        site.pin(flow.axes[k], "normalises over this axis")
    if channels is None or scales is None or shifts is None:
        raise Unsupported("combines them with channels that cannot be cut")
    if not len(channels) == len(scales) == len(shifts):
        raise Unsupported("has one scale for each group, as before opset 21")
    site.tie(channels, scales)
    site.tie(channels, shifts)
    residue = Residue.ZERO if factors.zero[0] and shift.zero[0] else Residue.UNKNOWN
    rank = len(flow.axes)
    passed = Flow((None, channels, *(None,) * (rank - 2)), tuple(residue if k == 1 else Residue.UNKNOWN for k in range(rank)))
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
    """Whether the statistics need all channels on the last axis, while scale and shift have channels of their own."""
    labels, residue = flow.axes[-1], flow.residue[-1]
    weights = [site.flow(k) for k in (1, 2) if site.has(k)]
    if site.node.fused not in ONE_OUTPUT or not weights or not all(len(w.axes) == 1 and w.axes[0] is not None for w in weights):
        return False
    if labels is None or not site.labels.atoms_left([], labels):
        return True
    return residue is Residue.UNKNOWN and not site.policy.allow_renormalising


def _with_channels_of_scale(site: Site, flow: Flow) -> Flow:
    """The input keeps its channels; the output has those of the scale. After an embedding, this frees the whole network."""
    site.pin(flow.axes[-1], f"normalises over them, so removing any would change the result{WAY_OUT}")
    weights = [site.flow(k) for k in (1, 2) if site.has(k)]
    scales = np.asarray(weights[0].axes[0])
    for w in weights:
        site.tie(scales, np.asarray(w.axes[0]))
    residue = Residue.ZERO if all(w.zero[0] for w in weights) else Residue.UNKNOWN
    return Flow((*flow.axes[:-1], scales), (*(Residue.UNKNOWN for _ in flow.axes[:-1]), residue))


def layer_norm(site: Site) -> list[Flow]:
    """LayerNormalization, RMSNormalization over attribute `axis` and all after it, with scale and shift.

    If the residue of removed channels is known, the fix-up restores it for the statistics, which stay those of the original.
    """
    flow = site.flow(0)
    rank = len(flow.axes)
    first = site.node.attribute("axis", -1) % rank
    residue = [Residue.UNKNOWN] * rank
    if first == rank - 1 and _reads_all(site, flow):
        return [_with_channels_of_scale(site, flow)]
    mixed = mix_or_hold(site, flow, range(first, rank), Residue.COMPUTED if site.node.fused in ONE_OUTPUT else Residue.CONSTANT)
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
        residue[k] = Residue.ZERO if unshifted or (made_zero and all(made_zero)) else Residue.UNKNOWN
    return [without_trace(Flow(flow.axes, tuple(residue)), mixed)]


def _except_variance(graph: Graph, node: Node, operand: int) -> bool:
    """Everywhere except at the variance: a variance of zero makes no zeros."""
    return operand != 4


RULES: Mapping[str, Rule] = {
    **rules(batch_norm, "BatchNormalization", maskable=_except_variance),
    **rules(group_norm, "GroupNormalization", maskable=everywhere),
    **rules(instance_norm, "InstanceNormalization", maskable=everywhere),
    **rules(layer_norm, "LayerNormalization", maskable=everywhere),
    **rules(layer_norm, "RMSNormalization"),
    **rules(lp_norm, "LpNormalization"),
    **rules(mean_variance, "MeanVarianceNormalization"),
    **rules(neighbours, "LRN"),
    **rules(softmax, "Softmax", "LogSoftmax", "Hardmax"),
}
