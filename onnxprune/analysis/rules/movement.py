# SPDX-License-Identifier: Apache-2.0
"""Operators that only move elements: the rule is the operator, run by ONNX's reference evaluator on labels.

For each labelled axis, the operator moves a grid that holds, at every element, the label of its position on that axis.
`carry.py` decides which axis of the result carries the labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx

from onnxprune.analysis.labels import Flow, Residue
from onnxprune.analysis.rules.carry import CHANNELS_ONLY, Carried, carried, merge
from onnxprune.analysis.rules.site import Rule, Site, Unsupported, everywhere, rules
from onnxprune.ir.graph import FLOATS, Graph
from onnxprune.ir.infer import evaluate
from onnxprune.types import Array, Indices

MOVES = frozenset(
    "Concat DepthToSpace Expand Flatten Gather Pad Reshape Slice SpaceToDepth Split Squeeze Tile Transpose Unsqueeze".split()
)
# These treat all axes alike except the one they work along, so the others may shrink to one position in a grid.
ALONG = {"Concat": 1, "Gather": 0, "Split": 0}
FREELY = frozenset({"Transpose", "Squeeze", "Unsqueeze"})


def movement(site: Site) -> list[Flow]:
    """Follow the labels of every input axis."""
    data = range(len(site.inputs)) if site.node.op == "Concat" else range(1)
    if any(flow is not None for k, flow in enumerate(site.inputs) if k not in data and flow and any(_labelled(flow))):
        raise Unsupported("takes sizes or indices from channels")
    _pin_unsupported_axes(site)
    received: list[list[Carried]] = [[] for _ in site.node.outputs]
    for axis in range(max(len(site.flow(k).axes) for k in data)):
        if any(site.flow(k).axes[axis] is not None for k in data):
            for output, found in enumerate(_move_axis(site, axis, data)):
                if found is not None:
                    received[output].append(found)
    return [merge(site, site.rank(output), found) for output, found in enumerate(received)]


def _pin_unsupported_axes(site: Site) -> None:
    """Pin axes that the operator works on in a way that no fix-up can follow."""
    if site.node.op == "Pad":
        for labels, pads in zip(site.flow(0).axes, zip(*_pads(site), strict=True), strict=True):
            if min(pads) < 0 or (any(pads) and _mode(site) != "constant"):
                site.pin(labels, "crops this axis" if min(pads) < 0 else f"pads this axis by '{_mode(site)}'")
    if site.node.op in CHANNELS_ONLY:
        for labels in site.flow(0).axes[2:]:
            site.pin(labels, "cuts this axis into blocks")


def _labelled(flow: Flow) -> list[bool]:
    return [x is not None for x in flow.axes]


def _mode(site: Site) -> str:
    return str(site.node.attribute("mode", b"constant").decode())


def _pads(site: Site) -> tuple[list[int], list[int]]:
    """Positions added before and after each axis."""
    rank = len(site.flow(0).axes)
    value = site.value(1) if site.node.opset >= 11 else np.array(site.node.attribute("pads", []))
    if value is None or (site.has(3) and site.value(3) is None):
        raise Unsupported("pads by unknown sizes")
    begins, ends = [0] * rank, [0] * rank
    axes = site.value(3) if site.has(3) else None
    where = [int(a) % rank for a in axes] if axes is not None else list(range(rank))
    for k, axis in enumerate(where):
        begins[axis], ends[axis] = int(value[k]), int(value[k + len(where)])
    return begins, ends


def _move_axis(site: Site, axis: int, data: range) -> list[Carried | None]:
    """Move the labels of one input axis; pin them unless all cases agree."""
    flows = [site.flow(k) for k in data]
    labels = [
        site.fixed(_size(site, k, axis), "joins them with channels that cannot be cut", (k, axis)) if x is None else x
        for k, x in zip(data, (f.axes[axis] for f in flows), strict=True)
    ]
    residue = min(f.residue[axis] for f in flows if f.axes[axis] is not None)
    by_data = any(c.value is None for k in range(len(site.inputs)) if site.has(k) and k not in data for c in site.cases(k))
    if residue is Residue.COMPUTED or (residue is Residue.CONSTANT and by_data):
        residue = Residue.UNKNOWN
    every = [_run(site, axis, data, labels, case) for case in range(len(site.cases(0)))]
    found = [
        carried(site, name, [grids[k] for grids in every], np.concatenate(labels), residue) if name else None
        for k, name in enumerate(site.node.outputs)
    ]
    if site.node.op == "Pad" and _pad_value(site) != 0:
        found = [None if c is None else Carried(c.axis, c.labels, Residue.UNKNOWN) for c in found]
    site.labels.touched.extend(labels)
    return found


def _size(site: Site, k: int, axis: int) -> int:
    size = site.shape(k)[axis]
    if size is None:
        raise Unsupported("joins channels with an axis of dynamic size")
    return size


def _pad_value(site: Site) -> float:
    if site.node.opset < 11:
        return float(site.node.attribute("value", 0.0))
    if not site.has(2):
        return 0.0
    value = site.value(2)
    return float("nan") if value is None else float(value.ravel()[0])


def _run(site: Site, axis: int, data: range, labels: list[Indices], case: int) -> list[Indices]:
    """The grids of all outputs for one case; -1 marks positions that the operator created itself."""
    node = site.node
    if node.op == "Reshape":
        return [_reshape(site, labels[0], axis, case)]
    inputs: list[Any] = []
    for k in range(len(site.inputs)):
        if site.inputs[k] is None:
            inputs.append(None)
        elif k in data:
            shape = list(site.cases(k)[case].shape or ())
            inputs.append(_grid(labels[data.index(k)], axis, _shrunk(site, shape, axis)))
        else:
            inputs.append(_operand(site, k, case))
    if node.op == "Pad":
        return [_pad(site, inputs[0])]
    grids = evaluate(node.proto, {node.proto.domain: node.opset}, inputs)
    if grids is None:
        raise Unsupported("could not be run on labels")
    return grids


def _operand(site: Site, k: int, case: int) -> Array:
    fact = site.cases(k)[case]
    if fact.value is not None:
        return fact.value
    if site.node.op == "Gather" and fact.shape is not None:
        # computed indices may pick any position, so that axis is kept (pinned in `gather`); the others move alike
        return np.zeros([2 if n < 0 else n for n in fact.shape], np.int64)
    raise Unsupported("moves them by unknown sizes or indices")


def _shrunk(site: Site, shape: list[int], axis: int) -> list[int]:
    """Sizes of a grid: axes that the operator treats alike shrink to two positions (Squeeze would drop an axis of size one)."""
    alike = _alike(site, len(shape))
    if site.node.op == "Concat" and axis in alike:  # the tensors are joined along another axis
        alike = dict.fromkeys(range(len(shape)), 1)
    small = [n if k == axis or k not in alike else 2 * alike[k] if n < 0 else min(n, 2 * alike[k]) for k, n in enumerate(shape)]
    if min(small, default=0) < 0:
        raise Unsupported("moves them beside an axis of unknown size")
    return small


def _alike(site: Site, rank: int) -> dict[int, int]:
    """Axis -> block size, for axes along which all blocks of that many positions are treated alike (1: all positions)."""
    op = site.node.op
    if op in CHANNELS_ONLY:
        block = site.node.attribute("blocksize") if op == "SpaceToDepth" else 1
        return dict.fromkeys(range(2, rank), block)
    along = site.node.attribute("axis", ALONG.get(op, 0)) % max(1, rank)
    return {k: 1 for k in range(rank) if op in FREELY or (op in ALONG and k != along)}


def _grid(labels: Indices, axis: int, shape: list[int]) -> Indices:
    column = labels.reshape([-1 if k == axis else 1 for k in range(len(shape))])
    return np.broadcast_to(column, shape)


def blocks(a: tuple[int, ...], b: tuple[int, ...]) -> list[tuple[range, range]]:
    """The finest pairs of axis ranges between which a row-major reshape from `a` to `b` moves elements.

    >>> blocks((2, 12, 5), (2, 3, 4, 5))
    [(range(0, 1), range(0, 1)), (range(1, 2), range(1, 3)), (range(2, 3), range(3, 4))]
    """
    found: list[tuple[range, range]] = []
    i = j = 0
    while i < len(a) and j < len(b):
        i0, j0, left, right = i, j, a[i], b[j]
        i, j = i + 1, j + 1
        while left != right:
            if left < right:
                left, i = left * a[i], i + 1
            else:
                right, j = right * b[j], j + 1
        found.append((range(i0, i), range(j0, j)))
    if found:  # all remaining axes have size 1
        found[-1] = (range(found[-1][0].start, len(a)), range(found[-1][1].start, len(b)))
    return found


def _reshape(site: Site, labels: Indices, axis: int, case: int) -> Indices:
    """Reshape a grid from which the blocks that do not contain `axis` are left out."""
    a, b = site.cases(0)[case].shape, site.out_cases()[case].shape
    if not a or not b or np.prod(a) != np.prod(b) or min(a) <= 0:
        raise Unsupported("reshapes to unknown sizes")
    small_a, small_b = [1] * len(a), [1] * len(b)
    for own, other in blocks(a, b):
        if axis in own:
            small_a[own.start : own.stop] = a[own.start : own.stop]
            small_b[other.start : other.stop] = b[other.start : other.stop]
    return np.ascontiguousarray(_grid(labels, axis, small_a)).reshape(small_b)


def _pad(site: Site, grid: Indices) -> Indices:
    begins, ends = _pads(site)
    for axis, (b, e) in enumerate(zip(begins, ends, strict=True)):
        if b < 0 or e < 0:
            grid = np.take(grid, range(max(0, -b), grid.shape[axis] - max(0, -e)), axis)
    width = [(max(0, b), max(0, e)) for b, e in zip(begins, ends, strict=True)]
    return np.pad(grid, width, constant_values=-1) if _mode(site) == "constant" else np.pad(grid, width, mode="edge")


def gather(site: Site) -> list[Flow]:
    """Gather: indices that are computed from data pin the axis that they index."""
    flow = site.flow(0)
    axis = site.node.attribute("axis", 0) % max(1, len(flow.axes))
    if any(c.value is None for c in site.cases(1)):
        site.pin(flow.axes[axis], "picks them by indices that are computed from data")
        axes = tuple(None if k == axis else x for k, x in enumerate(flow.axes))
        [found] = movement(replace(site, inputs=(Flow(axes, flow.residue), *site.inputs[1:])))
        return [_of_table(site, found)]
    return movement(site)


def _of_table(site: Site, flow: Flow) -> Flow:
    """What the columns of an embedding hold is known to a fix-up, which looks them up in a table of the removed columns.

    That takes time at every normalisation, so it is left to networks that carry the embedding on: elsewhere the normalisation
    alone reads all columns, and the channels behind it are free.
    """
    table = site.flow(0)
    if not site.stored[0] or site.node.fused or len(table.axes) != 2 or site.node.attribute("axis", 0) % 2:
        return flow
    known = flow.axes[-1] is not None and table.residue[1] is Residue.CONSTANT
    if not known or not _is_carried_on(site.graph, site.node.outputs[0]):
        return flow
    return Flow(flow.axes, (*flow.residue[:-1], Residue.COMPUTED))


def _is_carried_on(graph: Graph, name: str) -> bool:
    """Whether something that is computed from a tensor is added to it: the tensor is a residual stream."""
    for node, k in graph.consumers.get(name, ()):
        others = [other for j, other in enumerate(node.inputs) if j != k and other]
        if node.op == "Add" and any(name in graph.sources_of(other) for other in others):
            return True
        if node.op in ("Add", "Cast", "Dropout", "Identity", "Mul") and _is_carried_on(graph, node.outputs[0]):
            return True
    return False


def expand(site: Site) -> list[Flow]:
    """Expand: repeated positions are the same, so any of them may be removed."""
    flow = site.flow(0)
    moved = movement(site)[0] if any(_labelled(flow)) else Flow.plain(site.rank())
    value = site.value(0)
    return [_repeated(site, moved, len(flow.axes), value is not None and not value.any())]


def constant_of_shape(site: Site) -> list[Flow]:
    """ConstantOfShape: like Expand of a scalar."""
    value = site.node.attribute("value")
    return [_repeated(site, Flow.plain(site.rank()), 0, value is None or not onnx.numpy_helper.to_array(value).any())]


def _repeated(site: Site, flow: Flow, rank: int, zero: bool) -> Flow:
    """Give the axes along which a tensor is repeated labels that no weight owns; only for floating-point values, not sizes."""
    if site.out_cases()[0].dtype not in FLOATS or any(c.shape is None for c in site.out_cases()):
        return flow
    axes, residue = list(flow.axes), list(flow.residue)
    for k in range(len(axes)):
        own = k - (len(axes) - rank)
        sizes = {(c.shape or ())[k] for c in site.out_cases()}
        single = own < 0 or all((c.shape or ())[own] == 1 for c in site.cases(0))
        if single and len(sizes) == 1 and (size := sizes.pop()) > 1:
            axes[k], residue[k] = site.labels.fresh(size), Residue.ZERO if zero else Residue.UNKNOWN
    return Flow(tuple(axes), tuple(residue))


MASKABLE = frozenset("Reshape Squeeze Transpose Unsqueeze".split())
"""Operators whose output for a masked tensor is still the whole tensor, masked."""

RULES: Mapping[str, Rule] = {
    **rules(movement, *MOVES - MASKABLE - {"Expand", "Gather"}),
    **rules(movement, *MASKABLE, maskable=everywhere),
    **rules(gather, "Gather"),
    **rules(expand, "Expand", makes_positions=True),
    **rules(constant_of_shape, "ConstantOfShape", makes_positions=True),
}
