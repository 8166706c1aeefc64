# SPDX-License-Identifier: Apache-2.0
"""Atoms (channels that are kept or dropped together) and groups of atoms that are comparable with each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from onnxprune.analysis.coupling import Coupled
from onnxprune.analysis.labels import Even, Pin, distinct
from onnxprune.analysis.rules.recurrent import GATES
from onnxprune.analysis.rules.site import Use
from onnxprune.ir.graph import Node
from onnxprune.ir.products import macs_of
from onnxprune.ir.semantics import PRODUCERS
from onnxprune.types import Indices


@dataclass(frozen=True, eq=False)
class Group:
    """Atoms that own slices of the same weights and axes: they share one width.

    Attributes:
        name: the first weight that produces these channels.
        roots: the class of each atom (n_atoms,), in the order of the channels.
        members: (weight, axis) of every slice.
        producers: indices into `Coupled.uses` of the convolutions and matrix products that produce these channels.
        channels: the number of output channels of the first producer per atom.
        blocks: arrays (n_blocks, size) of atom indices: the same number must be kept in every row, and the choice is free.
    """

    name: str
    roots: Indices = field(repr=False)
    members: tuple[tuple[str, int], ...]
    producers: tuple[int, ...]
    channels: int
    blocks: tuple[Indices, ...] = field(default=(), repr=False)

    def __len__(self) -> int:
        """Number of atoms."""
        return len(self.roots)


def find_groups(coupled: Coupled) -> tuple[Group, ...]:
    """All groups of free atoms, in graph order.

    Channels that no convolution or matrix product produces or reads are left out: keeping them costs nothing. So are those of
    stored values that are not weights, such as coordinates and masks.
    """
    in_products = np.zeros(len(coupled.roots), bool)
    for use in coupled.uses:
        if use.op in PRODUCERS:
            in_products[coupled.roots[use.labels]] = True
    label = np.flatnonzero(coupled.free & (coupled.owner_of >= 0) & in_products[coupled.roots])
    # one number per pair sorts much faster than pairs do
    root, owner = np.divmod(distinct(coupled.roots[label] * len(coupled.owners) + coupled.owner_of[label]), len(coupled.owners))
    bounds = np.flatnonzero(np.diff(root, prepend=-1, append=-1))
    roots = root[bounds[:-1]]
    by_owners: dict[bytes, list[int]] = {}
    for k in range(len(roots)):
        by_owners.setdefault(owner[bounds[k] : bounds[k + 1]].tobytes(), []).append(k)
    uses_of = _producers_by_class(coupled)
    found = [_group(coupled, roots[np.array(ks)], np.frombuffer(owners, np.int64), uses_of) for owners, ks in by_owners.items()]
    found = [_with_blocks(g, coupled.evens) for g in found if g.producers or not _buffered(coupled, g)]
    order = {name: k for k, name in enumerate(coupled.graph.weights)}
    return tuple(sorted(found, key=lambda g: (g.producers[0] if g.producers else len(coupled.uses), order[g.members[0][0]])))


def _with_blocks(group: Group, evens: Sequence[Even]) -> Group:
    """The group with the demands on its atoms."""
    mine = [e.labels for e in evens if np.isin(e.labels.ravel()[0], group.roots)]
    order = np.argsort(group.roots)
    return replace(group, blocks=tuple(order[np.searchsorted(group.roots, rows, sorter=order)] for rows in mine))


def producing(coupled: Coupled) -> dict[int, Use]:
    """Index into `Coupled.uses` -> a use of a weight that produces channels.

    A bias does not, and neither does a stored operand that a weight multiplies: its rows are positions.
    """
    found = {k: u for k, u in enumerate(coupled.uses) if u.produces and u.op in PRODUCERS and u.operand != 2}
    weighted = {u.node for u in found.values() if u.operand == 1}
    return {k: u for k, u in found.items() if u.operand or u.node not in weighted}


def _producers_by_class(coupled: Coupled) -> dict[int, list[int]]:
    """Class -> uses that produce its channels."""
    found: dict[int, list[int]] = {}
    for k, use in producing(coupled).items():
        for root in distinct(coupled.roots[use.labels]).tolist():
            found.setdefault(root, []).append(k)
    return found


def _buffered(coupled: Coupled, group: Group) -> bool:
    """Whether stored values that are not weights make these channels: they reach a product as they are, or beside others.

    The values of an embedding and the scales of a normalisation are weights: they meet values that depend on the inputs.
    """
    graph, queue, seen = coupled.graph, [weight for weight, _ in group.members], set[str]()
    while queue:
        tensor = queue.pop()
        seen.add(tensor)
        for node, _ in graph.consumers.get(tensor, ()):
            if node.op in PRODUCERS or node.op == "Concat":
                continue
            if not coupled.live.isdisjoint(node.outputs):
                return False
            queue.extend(name for name in node.outputs if name not in seen)
    return True


def _group(coupled: Coupled, roots: Indices, owners: Indices, uses_of: dict[int, list[int]]) -> Group:
    members = tuple((coupled.owners[k].weight, coupled.owners[k].axis) for k in owners.tolist())
    producers = tuple(sorted({u for root in roots.tolist() for u in uses_of.get(root, ())}))
    if producers:
        use = coupled.uses[producers[0]]
        name = coupled.owners[coupled.owner_of[use.labels[0]]].weight
        channels = int(np.isin(coupled.roots[use.labels], roots).sum()) // len(roots) // GATES.get(use.op, 1)
    else:
        name, channels = members[0][0], 1
    return Group(name, roots, members, producers, max(1, channels))


@dataclass(frozen=True, slots=True)
class Pinned:
    """Channels that cannot be cut, and why.

    Attributes:
        pin: what needs them.
        channels: the number of output channels of convolutions and matrix products that it pins.
        weights: the weights that produce them.
        macs: the share of the model's multiply-accumulates that produces them, 0 to 1.
    """

    pin: Pin
    channels: int
    weights: tuple[str, ...]
    macs: float


def find_pinned(coupled: Coupled) -> tuple[Pinned, ...]:
    """Pinned channels by pin, most work first. Channels of one weight with the same pin are counted once."""
    facts, rows = coupled.sizes, list[tuple[Pin, float, str, float]]()
    total = max(1, sum(macs_of(n, facts) for n in coupled.graph.elementary))
    makers = producing(coupled).values()
    for use in makers:
        pinned = distinct(use.labels[~coupled.free[use.labels]])
        each = _share(coupled, coupled.graph.nodes[use.node], total) / len(use.labels)
        for root, count in zip(*np.unique(coupled.roots[pinned], return_counts=True), strict=True):
            owner = int(coupled.owner_of[pinned[0]])
            weight = coupled.owners[owner].weight if owner >= 0 else coupled.graph.nodes[use.node].inputs[use.operand]
            rows.append((coupled.first_pin[int(root)], count / GATES.get(use.op, 1), weight, count * each))
    known = {use.node for use in makers}
    unknown = (n for n in coupled.graph.nodes if n.op in PRODUCERS and n.index not in known and _makes_channels(coupled, n))
    rows += [(_held(coupled, n), _width(coupled, n), n.inputs[1], _share(coupled, n, total)) for n in unknown]
    by_pin: dict[Pin, list[tuple[Pin, float, str, float]]] = {}
    for row in rows:
        by_pin.setdefault(row[0], []).append(row)
    found = [
        Pinned(
            pin, round(sum(n for _, n, _, _ in mine)), tuple(dict.fromkeys(w for _, _, w, _ in mine)), sum(m for *_, m in mine)
        )
        for pin, mine in by_pin.items()
    ]
    return tuple(sorted(found, key=lambda h: (-h.macs, -h.channels)))


def _share(coupled: Coupled, node: Node, total: int) -> float:
    """The share of a node in all multiply-accumulates."""
    return sum(macs_of(part, coupled.sizes) for part in coupled.graph.parts_of(node)) / total


def _makes_channels(coupled: Coupled, node: Node) -> bool:
    """Whether a node whose channels have no labels makes some; a product of two computed tensors only combines them."""
    return node.op not in ("MatMul", "Gemm", "Einsum") or node.inputs[1] not in coupled.live


def _width(coupled: Coupled, node: Node) -> int:
    """The number of channels that a node makes; 0 if unknown."""
    windowed = node.op.startswith("Conv")
    made = next((name for name in node.outputs if name), "")
    out, weight = coupled.sizes[made].shape if made else None, coupled.graph.shape(node.inputs[1])
    if out is not None:
        return max(0, out[1 if windowed else -1])
    return (weight[0 if windowed else -1] or 0) if weight else 0


def _held(coupled: Coupled, node: Node) -> Pin:
    """Why the channels that a node makes have no labels."""
    weight = node.inputs[1]
    own = next((pin for _, pin in coupled.pins if pin.node == str(node)), None)
    if own is not None and weight in coupled.graph.weights:
        return own
    maker = coupled.graph.producers.get(weight)
    source = "which is an input of the model" if maker is None else f"which {maker} computes"
    return Pin(str(node), f"takes its weights from '{weight}', {source}")
