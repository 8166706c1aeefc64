# SPDX-License-Identifier: Apache-2.0
"""Operators that pick or place elements along some axes and pass the others: gathering, scattering, sampling, region pooling.

Along the axes that they work on, channels are kept unless the positions are known.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np

from onnxprune.analysis.labels import Flow, Residue
from onnxprune.analysis.rules.signatures import by_signature
from onnxprune.analysis.rules.site import Rule, Site, Unsupported, rules
from onnxprune.ir.graph import Graph, Node
from onnxprune.types import Indices


def letters(rank: int, pinned: Collection[int] = (), first: int = 0) -> str:
    """The letters of a signature for `rank` axes; those in `pinned` never shrink.

    >>> letters(4, {1})
    'a0 _ a2 a3'
    """
    return " ".join("_" if k in pinned else f"a{k + first}" for k in range(rank))


def gather_elements(site: Site) -> list[Flow]:
    """Positions along one axis are picked for each element; indices follow the other axes, or the fix-up cuts them."""
    axes = _along(site)
    return by_signature(f"{axes}, ~{_like(site, 1, axes)} -> {axes}")(site)


def scatter_elements(site: Site) -> list[Flow]:
    """Positions along one axis are overwritten for each element."""
    axes = _along(site)
    if site.node.attribute("reduction", b"none") not in (b"none", b"add"):
        return [_no_zeros(f) for f in by_signature(f"{axes}, ~{_like(site, 1, axes)}, ~{axes} -> {axes}")(site)]
    return by_signature(f"{axes}, ~{_like(site, 1, axes)}, + {axes} -> {axes}")(site)


def _no_zeros(flow: Flow) -> Flow:
    return Flow(flow.axes, (Residue.UNKNOWN,) * len(flow.axes))


def _along(site: Site) -> str:
    """All axes except the one that the operator works along and those whose first part alone is used."""
    data, indices = site.shape(0), site.shape(1)
    parts = {k for k, (a, b) in enumerate(zip(data, indices, strict=True)) if a != b}
    return letters(len(data), {site.node.attribute("axis", 0) % max(1, len(data))} | parts)


def _like(site: Site, k: int, axes: str) -> str:
    """Indices carry the channels of `axes` if they were computed from channels; otherwise they have no labels."""
    return " ".join(word if x is not None else "_" for word, x in zip(axes.split(), site.flow(k).axes, strict=True))


def gather_nd(site: Site) -> list[Flow]:
    """Elements are picked along the first axes; the axes after them are taken whole."""
    depth = site.shape(1)[-1]
    if depth is None:
        raise Unsupported("indexes an unknown number of axes")
    first = site.node.attribute("batch_dims", 0) + depth
    whole = letters(len(site.flow(0).axes) - first, (), first)
    index_rank = len(site.flow(1).axes)
    return by_signature(f"{'_ ' * first}{whole}, ~{'_ ' * index_rank} -> {'_ ' * (index_rank - 1)}{whole}")(site)


def scatter_nd(site: Site) -> list[Flow]:
    """Elements are written along the first axes; the axes after them are written whole. Rows at known positions can be cut."""
    rows, own, new = known_rows(site), site.flow(0).axes[0], site.flow(2).axes[0]
    if rows is None or own is None:
        return _scatter_blocks(site)
    if new is None:
        site.pin(own[rows], "overwrites them with values that cannot be cut")
    else:
        site.tie(own[rows], new)
    bare = tuple(f and Flow((None, *f.axes[1:]), f.residue) for f in site.inputs)
    [passed] = _scatter_blocks(replace(site, inputs=bare))
    zero = all(f.zero[0] for f in (site.flow(0), site.flow(2))) and new is not None
    site.labels.touched.append(own)
    return [Flow((own, *passed.axes[1:]), (Residue.ZERO if zero else Residue.UNKNOWN, *passed.residue[1:]))]


def known_rows(site: Site) -> Indices | None:
    """The rows that ScatterND writes, if they are known, the same in all cases, and each is written only once."""
    value, shape = site.value(1), site.shape(1)
    size = site.shape(0)[0]
    if value is None or len(shape) != 2 or shape[-1] != 1 or size is None:
        return None
    rows = np.asarray(value[:, 0] % size, np.int64)
    return rows if len(np.unique(rows)) == len(rows) else None


def _scatter_blocks(site: Site) -> list[Flow]:
    depth = site.shape(1)[-1]
    if depth is None:
        raise Unsupported("writes along an unknown number of axes")
    whole = letters(len(site.flow(0).axes) - depth, (), depth)
    index_rank = len(site.flow(1).axes)
    mark = "+" if site.node.attribute("reduction", b"none") in (b"none", b"add") else "~"
    text = f"{'_ ' * depth}{whole}, ~{'_ ' * index_rank}, {mark} {'_ ' * (index_rank - 1)}{whole} -> {'_ ' * depth}{whole}"
    found = by_signature(text)(site)
    return found if mark == "+" else [_no_zeros(f) for f in found]


def tensor_scatter(site: Site) -> list[Flow]:
    """A cache is overwritten along one axis, at a different position for each sample."""
    rank = len(site.flow(0).axes)
    axes = letters(rank, {0, site.node.attribute("axis", -2) % rank})
    return by_signature(f"{axes}, + {axes}, ~_ -> {axes}")(site)


def compress(site: Site) -> list[Flow]:
    """Positions of one axis are picked by a condition; without an axis, elements of the whole tensor."""
    rank = len(site.flow(0).axes)
    axis = site.node.attribute("axis")
    fixed = range(rank) if axis is None else {axis % rank}
    axes = letters(rank, fixed)
    return by_signature(f"{axes}, ~_ -> {'_' if axis is None else axes}")(site)


def reverse_sequence(site: Site) -> list[Flow]:
    """One axis is reversed up to a length that is given for each position of another axis."""
    axes = letters(len(site.flow(0).axes), {site.node.attribute("batch_axis", 1), site.node.attribute("time_axis", 0)})
    return by_signature(f"{axes}, ~_ -> {axes}")(site)


def one_hot(site: Site) -> list[Flow]:
    """Indices that were computed from channels (e.g. by ArgMax) pass; a new axis is inserted."""
    flow = site.flow(0)
    for k in (1, 2):
        for labels in site.flow(k).axes:
            site.pin(labels, "turns them into an axis")
    rank = len(flow.axes) + 1
    axis = site.node.attribute("axis", -1) % rank
    axes = [*flow.axes[:axis], None, *flow.axes[axis:]]
    return [Flow(tuple(axes), (Residue.UNKNOWN,) * rank)]


def col2im(site: Site) -> list[Flow]:
    """Blocks are summed into an image: each of its channels has one row per position in a block."""
    flow = site.flow(0)
    size = site.value(2)
    if size is None:
        raise Unsupported("adds up blocks of unknown size")
    site.pin(flow.axes[0], "works on each sample")
    site.pin(flow.axes[2], "places them in an image")
    rank, rows = site.rank(), flow.axes[1]
    if rows is None:
        return [Flow.plain(rank)]
    grid = rows.reshape(-1, int(np.prod(size)))
    site.tie(grid[:, :1], grid)
    residue = [Residue.UNKNOWN, Residue.ZERO if flow.zero[1] else Residue.UNKNOWN, *[Residue.UNKNOWN] * (rank - 2)]
    return [Flow((None, grid[:, 0], *(None,) * (rank - 2)), tuple(residue))]


def center_crop_pad(site: Site) -> list[Flow]:
    """Axes that keep their size pass; zeros that are added or removed change nothing for the others."""
    flow = site.flow(0)
    axes = []
    for k, labels in enumerate(flow.axes):
        same = all((a.shape or ())[k] == (b.shape or ())[k] for a, b in zip(site.cases(0), site.out_cases(), strict=True))
        if not same:
            site.pin(labels, "crops or pads this axis")
        axes.append(labels if same else None)
    return [Flow(tuple(axes), tuple(r if r is Residue.ZERO else Residue.UNKNOWN for r in flow.residue))]


def max_pool(site: Site) -> list[Flow]:
    """Indices of the maxima count through all channels: only MaxUnpool reads them in a way that allows fewer channels."""
    [passed] = by_signature("n c _* -> n c _*")(site)
    readers = site.graph.consumers.get(site.node.outputs[1], ()) if len(site.node.outputs) > 1 else ()
    outside = len(site.node.outputs) > 1 and site.node.outputs[1] in site.graph.outputs
    sizes = [fact.shape and fact.shape[2:] for fact in site.graph.facts[site.node.inputs[0]].cases]
    if outside or any(node.op != "MaxUnpool" or k != 1 or _sizes(site.graph, node) != sizes for node, k in readers):
        return [passed]
    return [passed, Flow(passed.axes, (Residue.UNKNOWN,) * len(passed.axes))]


def _sizes(graph: Graph, node: Node) -> list[tuple[int, ...] | None]:
    """The sizes of a node's output beyond samples and channels; if they are not those of the maxima's input, positions move."""
    return [fact.shape and fact.shape[2:] for fact in graph.facts[node.outputs[0]].cases]


def dft(site: Site) -> list[Flow]:
    """A transform along one axis; the last axis holds real and imaginary parts."""
    flow = site.flow(0)
    rank = len(flow.axes)
    given = site.value(2) if site.has(2) else None
    if site.has(2) and given is None:
        raise Unsupported("transforms an unknown axis")
    axis = int(given.ravel()[0]) if given is not None else site.node.attribute("axis", 1 if site.node.opset < 20 else -2)
    axes = letters(rank, {axis % rank, rank - 1})
    return by_signature(f"{axes}, , -> {axes}")(site)


def conv_with_state(site: Site) -> list[Flow]:
    """CausalConvWithState: a filter per channel along the last axis; the state holds the latest inputs."""
    [passed] = by_signature("n c _, c _ _, + c, + n c _ -> n c _")(site)
    zero = site.flow(0).zero[1] and (not site.has(3) or site.flow(3).zero[1])
    state = Flow(passed.axes, (Residue.UNKNOWN, Residue.ZERO if zero else Residue.UNKNOWN, Residue.UNKNOWN))
    return [passed, state][: len(site.node.outputs)]


RULES: Mapping[str, Rule] = {
    **rules(conv_with_state, "CausalConvWithState"),
    **rules(center_crop_pad, "CenterCropPad"),
    **rules(col2im, "Col2Im"),
    **rules(compress, "Compress"),
    **rules(dft, "DFT"),
    **rules(gather_elements, "GatherElements"),
    **rules(gather_nd, "GatherND"),
    **rules(max_pool, "MaxPool"),
    **rules(one_hot, "OneHot"),
    **rules(reverse_sequence, "ReverseSequence"),
    **rules(scatter_elements, "Scatter", "ScatterElements"),
    **rules(scatter_nd, "ScatterND"),
    **rules(tensor_scatter, "TensorScatter"),
    **rules(by_signature("n c _*, ~n _* -> n c _*"), "GridSample"),
    **rules(by_signature("_ c _ _, ~_ _ -> _ c _ _"), "MaxRoiPool"),
    **rules(by_signature("n c _*, ~n c _*, ~_ -> n c _*"), "MaxUnpool"),
    **rules(by_signature("_ c _ _, ~_ _, ~_ -> _ c _ _"), "RoiAlign"),
    **rules(by_signature("s* _ _, -> s* _ _"), "Trilu"),
}
