# SPDX-License-Identifier: Apache-2.0
"""Attention and rotary position embedding: channels are tied by heads, or by positions within every head.

Queries, keys and values come as (batch, heads, sequence, size), where heads and their size shrink independently, or packed as
(batch, sequence, heads * size), where one of the two is chosen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxprune.analysis.labels import Axis, Flow, Residue
from onnxprune.analysis.rules.site import Pair, Rule, Site, Unsupported, rules
from onnxprune.types import Array, Indices

QUERY, KEY, VALUE, MASK, PAST_KEY, PAST_VALUE = range(6)
OUTER, MEMBERS, INNER = "whole heads", "members of every group of heads", "size of every head"
"""What may be cut. Keys and values may have fewer heads, each shared by a group of query heads."""
SHARED = "shares every key and value head among several query heads"
UNKNOWN_SIZES = "has heads of unknown number or size"


@dataclass(frozen=True, slots=True)
class Heads:
    """Queries, keys or values.

    Attributes:
        count: number of heads.
        flat: whether heads and their size share one axis.
        packed: (count, size) labels of that axis.
        outer, inner: labels of heads and of the positions in a head; None if they do not shrink.
        zero: whether removed heads and removed positions are zero.
    """

    count: int
    flat: bool
    packed: Indices | None
    outer: Axis
    inner: Axis
    zero: tuple[bool, bool]

    def seen(self, choice: str) -> Heads:
        """The same with labels of heads or of positions, as chosen for packed axes."""
        if self.packed is None:
            return self
        grid = self.packed
        return replace(self, outer=None, inner=grid[0]) if choice == INNER else replace(self, outer=grid[:, 0], inner=None)

    def rows(self, choice: str) -> list[Pair]:
        """Ties of a packed axis, which is cut by whole heads, or alike in every head."""
        if self.packed is None:
            return []
        return [(self.packed[:1], self.packed)] if choice == INNER else [(self.packed[:, :1], self.packed)]


def attention(site: Site) -> list[Flow]:
    """Scaled products of queries and keys weight the values; outputs 1 and 2 are keys and values, appended to the past ones."""
    q, k, v = (heads_at(site, at, count_at(site, at)) for at in (QUERY, KEY, VALUE))
    if q.count % k.count or k.count != v.count:
        raise Unsupported("has a number of query heads that is not a multiple of that of the key and value heads")
    past = [heads_at(site, at, k.count) if site.has(at) else None for at in (PAST_KEY, PAST_VALUE)]
    mask = _mask(site, q.count)
    flat = any(x.flat for x in (q, k, v))
    choices = [OUTER, *([MEMBERS] if q.count > k.count else []), *([INNER] if flat else [])]
    options = {choice: ties(site, choice, [q, k, v], past, mask) for choice in choices}
    choice = choose(site, options, [x.ravel() for h in (q, k, v) for x in (h.packed, h.outer, h.inner) if x is not None])
    for a, b in options[choice]:
        site.tie(a, b)
    return outputs(site, choice, q, k, v, past)


def choose(site: Site, options: Mapping[str, list[Pair]], of: Sequence[Indices]) -> str:
    """An option that cuts queries, keys and values alike, if there is one; among several, the policy decides."""
    whole = [c for c, pairs in options.items() if all(site.labels.atoms_left(pairs, part) > 1 for part in of)]
    candidates = whole or [*options]
    return candidates[site.choose([options[c] for c in candidates], *of, split=INNER in options)] if of else candidates[0]


def count_at(site: Site, at: int) -> int:
    """The number of heads of an operand."""
    shape, name = site.shape(at), "q_num_heads" if at == QUERY else "kv_num_heads"
    count = shape[1] if len(shape) == 4 else site.node.attribute(name, 0)
    if not count or shape[-1] is None or (len(shape) == 3 and shape[-1] % count):
        raise Unsupported(UNKNOWN_SIZES)
    return int(count)


def heads_at(site: Site, at: int, count: int) -> Heads:
    """Input `at`, with `count` heads."""
    flow = site.flow(at)
    rank = len(flow.axes)
    if rank not in (3, 4):
        raise Unsupported(f"has an operand of rank {rank}")
    for axis in (0, rank - 2):
        site.pin(flow.axes[axis], "attends over this axis" if axis else "works on each sample")
    last, zero = flow.axes[-1], flow.zero
    if rank == 3:
        return Heads(count, True, None if last is None else last.reshape(count, -1), None, None, (zero[2], zero[2]))
    if last is not None:
        site.labels.touched.append(last)
    if flow.axes[1] is not None:
        site.labels.touched.append(flow.axes[1])
    return Heads(count, False, None, flow.axes[1], last, (zero[1], zero[3]))


def _mask(site: Site, count: int) -> tuple[bool, Axis]:
    """Whether the mask has one value per head, and the labels of that axis."""
    if not site.has(MASK):
        return False, None
    flow, shape = site.flow(MASK), site.shape(MASK)
    place = len(shape) - 3
    for axis, labels in enumerate(flow.axes):
        if axis != place:
            site.pin(labels, "attends over this axis")
    each = place >= 0 and shape[place] == count > 1
    labels = flow.axes[place] if each else None
    if labels is not None:
        site.labels.touched.append(labels)
    return each, labels


def ties(
    site: Site, choice: str, operands: Sequence[Heads], past: Sequence[Heads | None], mask: tuple[bool, Axis]
) -> list[Pair]:
    """What must be tied to cut `choice`."""
    rows = [pair for x in operands for pair in x.rows(choice)]
    q, k, v = (x.seen(choice) for x in operands)
    return [*rows, *_meeting_heads(site, choice, [q, k, v], past, mask), *_meeting_sizes(site, choice, [q, k, v], past)]


def meet(site: Site, *axes: Axis) -> list[Pair]:
    """Ties that unite all axes; if one of them does not shrink, they pin the others."""
    given = [x for x in axes if x is not None]
    if given and len(given) < len(axes):
        given = [site.fixed(1, "combines them with heads that cannot be cut"), *given]
    return [(given[0], other) for other in given[1:]]


def hold(site: Site, labels: Axis, why: str) -> list[Pair]:
    """Ties that pin these labels."""
    return [] if labels is None else [(site.fixed(1, why), labels)]


def _meeting_heads(
    site: Site, choice: str, operands: Sequence[Heads], past: Sequence[Heads | None], mask: tuple[bool, Axis]
) -> list[Pair]:
    """A head of keys and values is kept as long as one of its query heads; a mask may have one value per query head."""
    q, k, v = operands
    each, own = mask
    heads = None if q.outer is None else q.outer.reshape(k.count, -1)
    if choice == MEMBERS:
        alike = [] if heads is None else [(heads[:1], heads)]
        shared = [pair for x in (k, v, *past) if x for pair in hold(site, x.outer, SHARED)]
        return [*alike, *shared, *(meet(site, q.outer, own) if each else [])]
    kept = [None if x.outer is None else x.outer[:, None] for x in (k, v, *past) if x]
    if choice == INNER or not each:
        return [*meet(site, heads, *kept), *hold(site, own, "has a bias for every head")]
    return meet(site, heads, *kept, None if own is None else own.reshape(k.count, -1))


def _meeting_sizes(site: Site, choice: str, operands: Sequence[Heads], past: Sequence[Heads | None]) -> list[Pair]:
    """Queries and keys are summed over together; some kernels restrict their sizes further."""
    q, k, v = operands
    pairs = meet(site, q.inner, k.inner, *(x.inner for x in past[:1] if x))
    pairs += meet(site, v.inner, *(x.inner for x in past[1:] if x))
    if not (q.zero[1] or (k.zero[1] and (past[0] is None or past[0].zero[1]))):
        pairs += hold(site, q.inner, "sums over channels that do not become zero")
    if choice != INNER and site.rank() == 3:
        pairs += hold(site, v.inner, "packs heads of one size on one axis")
    if site.node.limit("one_size", 0):
        pairs += meet(site, q.inner, v.inner)
    if (block := site.node.limit("multiple_of", 1)) > 1 and q.inner is not None:
        pairs += _in_blocks(site, q.inner, block)
    return pairs


def _in_blocks(site: Site, inner: Indices, block: int) -> list[Pair]:
    """Tie positions in blocks, so that the number kept is a multiple of `block`."""
    roots, first = np.unique(site.labels.root(inner), return_index=True)
    together = block * len(roots) // len(inner)  # pairs that are rotated together count twice
    roots = roots[np.argsort(first)]
    if together < 2 or len(roots) % together:
        return [(roots[:1], roots)]
    grid = roots.reshape(-1, together)
    return [(grid[:, :1], grid)]


def outputs(site: Site, choice: str, q: Heads, k: Heads, v: Heads, past: Sequence[Heads | None]) -> list[Flow]:
    """The result (heads of the queries, size of the values), then the present keys and values, and the scores."""
    present = [_present(x, choice, old) for x, old in zip((k, v), past, strict=True)]
    heads, size, residue = q.seen(choice).outer, v.seen(choice).inner, list(present[1].residue)
    residue[1] = Residue.UNKNOWN if choice == MEMBERS else residue[1]
    labels = None
    if site.rank() == 4:
        result = Flow((None, heads, None, size), tuple(residue))
    else:
        width = (site.out_cases()[0].shape or (0,))[-1] // q.count
        if choice == INNER:
            labels = None if size is None else np.tile(size, q.count)
        elif heads is not None:
            labels = np.repeat(heads, width)
        result = Flow((None, None, labels), (Residue.UNKNOWN, Residue.UNKNOWN, residue[3 if choice == INNER else 1]))
    scores = Flow((None, heads, None, None), (Residue.UNKNOWN,) * 4)
    return [result, *present, scores][: len(site.node.outputs)]


def _present(x: Heads, choice: str, past: Heads | None) -> Flow:
    """Keys or values, appended to the past ones."""
    before = past.zero if past else (True, True)
    outer, inner = (Residue.ZERO if a and b else Residue.UNKNOWN for a, b in zip(x.zero, before, strict=True))
    seen = x.seen(choice)
    return Flow((None, seen.outer, None, seen.inner), (Residue.UNKNOWN, outer, Residue.UNKNOWN, inner))


def rotary(site: Site) -> list[Flow]:
    """RotaryEmbedding rotates pairs of positions in every head by angles from tables, which the fix-up cuts.

    The attention that follows decides whether whole heads are cut or the same pairs in every head.
    """
    flow, shape = site.flow(0), site.shape(0)
    packed = len(shape) == 3
    count = site.node.attribute("num_heads", 0) if packed else 1
    if not count or shape[-1] is None or shape[-1] % count:
        raise Unsupported(UNKNOWN_SIZES)
    for axis in (0, len(shape) - 2):
        site.pin(flow.axes[axis], "works on each sample and position")
    for k in range(1, len(site.inputs)):
        if site.has(k):
            for labels in site.flow(k).axes:
                site.pin(labels, "takes angles from this table")
    labels = flow.axes[-1]
    if labels is not None:
        grid = labels.reshape(count, -1)
        rotated = grid[:, : site.node.attribute("rotary_embedding_dim", 0) or grid.shape[1]]
        first, second = pairs_of(rotated, bool(site.node.attribute("interleaved", 0)))
        site.tie(first, second)
        site.labels.needed.extend(first)
        if not all(name in site.graph.weights for name in site.node.inputs[1:3]):
            site.tie(grid[:, :1], grid) if packed else site.pin(labels, "rotates them by angles that are not weights")
    return [Flow(flow.axes, tuple(r if r is Residue.ZERO else Residue.UNKNOWN for r in flow.residue))]


def pairs_of(turned: Array, interleaved: bool) -> tuple[Array, Array]:
    """The two partners of every pair along the last axis."""
    half = turned.shape[-1] // 2
    if interleaved:
        return turned[..., 0::2], turned[..., 1::2]
    return turned[..., :half], turned[..., half:]


RULES: Mapping[str, Rule] = {**rules(attention, "Attention"), **rules(rotary, "RotaryEmbedding")}
