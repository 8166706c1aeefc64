# SPDX-License-Identifier: Apache-2.0
"""Which axis of the result carries the labels of a moved axis.

If the result varies along one axis, that axis carries them. If it varies along several (channels split into groups x
members), the user's policy decides, or whatever keeps most channels separate, and the other labels are tied.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxprune.analysis.labels import Flow, Residue
from onnxprune.analysis.rules.site import Site
from onnxprune.ir.graph import Graph
from onnxprune.types import Indices

# DepthToSpace stores a block size, not sizes: only its channel axis can shrink.
CHANNELS_ONLY = frozenset({"DepthToSpace", "SpaceToDepth"})


@dataclass(frozen=True, slots=True)
class Carried:
    """Labels that an output axis receives from one input axis."""

    axis: int
    labels: Indices
    residue: Residue


def carried(site: Site, name: str, grids: list[Indices], source: Indices, rest: Residue) -> Carried | None:
    """The axis of output `name` that carries the labels of `source` that arrive there, if all cases agree."""
    if len({g.ndim for g in grids}) > 1:
        site.pin(source.ravel()[source.ravel() >= 0], "has as many axes as the sizes of its inputs decide")
        return None
    spanned = sorted(set().union(*(_varying(g) for g in grids)))
    small = [g[tuple(slice(None if k in spanned else 1) for k in range(g.ndim))] for g in grids]
    with site.labels.marked(small) as marks:
        labels = source[marks[source]]
    if not len(labels):
        return None
    if not spanned:
        site.pin(labels, "selects a single one of them")
        return None
    fixed_size = [k for k in spanned if len({g.shape[k] for g in grids}) == 1]
    options = [1] if site.node.op in CHANNELS_ONLY and 1 in fixed_size else [] if site.node.op in CHANNELS_ONLY else fixed_size
    if not options:
        site.pin(labels, "moves them onto an axis of dynamic size")
        return None
    if len(options) > 1:
        options = [k for k in options if not _picked_apart(site.graph, name, k)] or options
    rows = {k: [_rows(g, k) for g in small] for k in options}
    best = options[0] if len(options) == 1 else _choose(site, rows, labels)
    return Carried(best, _tie_rows(site, rows[best]), rest)


def _choose(site: Site, rows: dict[int, list[Indices]], labels: Indices) -> int:
    """The carrying axis. Only a Reshape splits channels; elsewhere they vary along two axes because different channels meet."""
    return [*rows][site.choose([_ties(r) for r in rows.values()], labels, split=site.node.op == "Reshape")]


def _picked_apart(graph: Graph, name: str, axis: int) -> bool:
    """Whether single positions of the axis are picked next, such as q, k and v from a packed product: none can be removed."""
    for node, place in graph.consumers.get(name, ()):
        out, rank = node.outputs[0], len(graph.shape(name) or ())
        if node.op == "Transpose":
            order = node.attribute("perm", [*range(rank)][::-1])
            picked = _picked_apart(graph, out, order.index(axis))
        elif node.op == "Gather":
            single = graph.shape(node.inputs[1]) in ((), (1,))
            picked = place == 0 and single and node.attribute("axis", 0) % rank == axis
        else:
            picked = node.op in ("Slice", "Split") and (graph.shape(out) or ())[axis : axis + 1] == (1,)
        if picked:
            return True
    return False


def _varying(grid: Indices) -> list[int]:
    """Axes along which a grid is not constant."""
    wide = [k for k, n in enumerate(grid.shape) if n > 1 and grid.strides[k]]  # stride 0: broadcast, so constant
    return [k for k in wide if bool((grid[(slice(None),) * k + (slice(1),)] != grid).any())]


def _rows(grid: Indices, axis: int) -> Indices:
    """(size of the axis, everything else), without repeated columns."""
    rows = np.moveaxis(grid, axis, 0).reshape(grid.shape[axis], -1)
    if rows.shape[1] > 1:
        keep = np.ones(rows.shape[1], bool)
        keep[1:] = (rows[:, 1:] != rows[:, :-1]).any(0)
        rows = rows[:, keep]
    return rows


def _ties(rows: list[Indices]) -> list[tuple[Indices, Indices]]:
    """The ties that give each position of the axis a single label."""
    pairs = []
    first = rows[0].max(1)
    for r in rows:
        known = (r >= 0) & (first >= 0)[:, None]
        pairs.append((np.broadcast_to(first[:, None], r.shape)[known], r[known]))
    return pairs


def _tie_rows(site: Site, rows: list[Indices]) -> Indices:
    """Tie the labels; positions that no label reached (padding) get fresh labels that no weight owns."""
    labels: Indices = rows[0].max(1)
    for a, b in _ties(rows):
        site.tie(a, b)
    empty = labels < 0
    labels[empty] = site.labels.fresh(int(empty.sum()))
    return labels


def merge(site: Site, rank: int, received: list[Carried]) -> Flow:
    """One flow from the labels of each input axis; if two meet on one axis, the one with more channels stays free."""
    axes: list[Carried | None] = [None] * rank
    for c in received:
        rival = axes[c.axis]
        if rival is not None:
            smaller, larger = sorted((rival, c), key=lambda x: site.labels.atoms_left([], x.labels))
            site.pin(smaller.labels, "folds them into an axis with other channels")
            c = larger
        axes[c.axis] = c
    return Flow(tuple(c.labels if c else None for c in axes), tuple(c.residue if c else Residue.UNKNOWN for c in axes))
