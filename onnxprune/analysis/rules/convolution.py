# SPDX-License-Identifier: Apache-2.0
"""Convolutions, plain and grouped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from onnxprune.analysis.labels import Flow, Residue
from onnxprune.analysis.rules.signatures import SIGNATURES, by_signature
from onnxprune.analysis.rules.site import Pair, Rule, Site, Unsupported, everywhere, rules
from onnxprune.types import Indices

Pairs = list[Pair]


def convolution(site: Site) -> list[Flow]:
    """Conv and ConvTranspose: a signature, unless there are groups."""
    _keep_blocks_even(site)
    if site.node.attribute("group", 1) == 1:
        return by_signature(SIGNATURES[site.node.op])(site)
    return grouped(site)


def _keep_blocks_even(site: Site) -> None:
    """A deformable convolution moves each of several blocks of its input by offsets of their own."""
    blocks, channels = site.node.limit("blocks", 1), site.flow(0).axes[1]
    if blocks > 1 and channels is not None:
        site.even(channels.reshape(blocks, -1))


def sliding(site: Site) -> list[Flow]:
    """Conv, also along an axis of channels that it slides over (efficient channel attention), if that axis keeps its size.

    A removed channel is zero there, and its neighbours still see it: the fix-up puts the zeros back in place.
    """
    x = site.flow(0)
    along = [k for k in range(2, len(x.axes)) if x.axes[k] is not None and _keeps_size(site, k)]
    if not along or site.node.fused:  # the fix-up supports only plain convolutions
        return convolution(site)
    for k in along:
        if x.zero[k]:
            site.labels.touched.append(np.asarray(x.axes[k]))
        else:
            site.pin(x.axes[k], "combines neighbours along this axis, so removing any would change the result")
    others = Flow(tuple(None if k in along else a for k, a in enumerate(x.axes)), x.residue)
    [out] = convolution(replace(site, inputs=(others, *site.inputs[1:])))
    return [Flow(tuple(x.axes[k] if k in along else a for k, a in enumerate(out.axes)), out.residue)]


def _keeps_size(site: Site, axis: int) -> bool:
    strides = site.node.attribute("strides") or [1] * axis
    sizes = zip(site.cases(0), site.out_cases(), strict=True)
    return strides[axis - 2] == 1 and all((a.shape or ())[axis] == (b.shape or ())[axis] for a, b in sizes)


def grouped(site: Site) -> list[Flow]:
    """Grouped convolution. Either whole groups are cut, inputs and outputs together, or members of every group.

    The option that keeps more channels separate is chosen. Depthwise convolution is the first option, with one member per
    group. If members are cut, the same number must be kept in every group. On the side on which all groups share one axis of
    the weight (inputs, or outputs of ConvTranspose), they must also be the same members.
    """
    x, w = site.flow(0), site.flow(1)
    group = site.node.attribute("group", 1)
    for flow in (x, w):
        for labels in flow.axes[2:]:
            site.pin(labels, "works across this axis")
    outs, ins = (0, 1) if site.node.op == "Conv" else (1, 0)
    channels = x.axes[1] if len(x.axes) > 1 else None
    if site.shape(0)[1] is None:
        raise Unsupported("has a dynamic number of input channels")
    if channels is None:
        channels = site.fixed(int(site.shape(0)[1] or 0), "reads channels that cannot be cut", (0, 1))
    if w.axes[0] is None and site.shape(1)[0] != 1:
        raise Unsupported("has a kernel that is computed from data")
    whole, within, out = _options(site, channels, group, outs)
    own = out.reshape(group, -1) if outs == 0 else channels.reshape(group, -1)
    choose_whole = site.choose([whole, [*within, (own[:1], own)]], channels, out) == 0
    for a, b in whole if choose_whole else within:
        site.tie(a, b)
    if not choose_whole:
        site.even(own)
    if choose_whole:
        site.pin(w.axes[1], "is cut in whole groups")
    elif ins == 1 and w.axes[1] is not None:
        site.labels.touched.append(w.axes[1])
    zero = bool(w.zero[outs]) or (choose_whole and x.zero[1])
    if site.has(2):
        bias = site.flow(2)
        if bias.axes[0] is None:
            site.pin(out, "adds a bias that cannot be cut")
        else:
            site.tie(out, bias.axes[0])
            site.use(2, bias.axes[0], True)
        zero = zero and bias.zero[0]
    if not choose_whole and not (x.zero[1] or w.zero[ins]):
        site.pin(channels, "sums over channels that do not become zero")
    site.pin(x.axes[0], "works on each sample")
    rows = w.axes[outs]
    # all groups of a ConvTranspose share one axis of outputs, whose members are then cut in every group
    site.use(1, rows if rows is not None and (len(rows) == len(out) or not choose_whole) else None, True)
    rank = site.rank()
    residue = [Residue.ZERO if zero and k == 1 else Residue.UNKNOWN for k in range(rank)]
    return [Flow(tuple(out if k == 1 else None for k in range(rank)), tuple(residue))]


def _options(site: Site, channels: Indices, group: int, outs: int) -> tuple[Pairs, Pairs, Indices]:
    """Ties for cutting whole groups, ties for cutting members of every group, and the labels of the output's channels.

    The ties for members omit the side on which every group has an axis of its own.
    """
    w = site.flow(1)
    x = channels.reshape(group, -1)
    whole: Pairs = [(x[:, :1], x)]
    within: Pairs = []
    if site.node.op == "Conv":
        out = w.axes[0]
        if out is None:
            raise Unsupported("has a single output channel in several groups")
        grid = out.reshape(group, -1)
        whole.append((x[:, :1], grid))
        within.append((x[:1], x))
        if w.axes[1] is not None:
            within.append((x[:1], w.axes[1][None]))
        return whole, within, out
    members = site.shape(1)[1] or 1
    rows = w.axes[0]
    if rows is None:
        raise Unsupported("has a single input channel in several groups")
    out = site.labels.fresh(group * members)
    grid = out.reshape(group, members)
    whole += [(x, rows.reshape(group, -1)), (x[:, :1], grid)]
    within += [(x, rows.reshape(group, -1)), (grid[:1], grid)]
    if w.axes[1] is not None:
        within.append((w.axes[1][None], grid))
    return whole, within, out


RULES: Mapping[str, Rule] = {
    **rules(sliding, "Conv", maskable=everywhere),
    **rules(convolution, "ConvTranspose", maskable=everywhere),
}
