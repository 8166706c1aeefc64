# SPDX-License-Identifier: Apache-2.0
"""LinearAttention: keys and values accumulate in a state of (heads, size of keys, size of values), which queries read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from onnxprune.analysis.labels import Flow, Residue
from onnxprune.analysis.rules.attention import (
    INNER,
    KEY,
    MEMBERS,
    OUTER,
    QUERY,
    VALUE,
    Heads,
    choose,
    count_at,
    heads_at,
    hold,
    meet,
    outputs,
    ties,
)
from onnxprune.analysis.rules.site import Pair, Rule, Site, Unsupported, rules

STATE, DECAY, BETA = 3, 4, 5
DELTA = (b"delta", b"gated_delta")
"""Updates that subtract from the values what the state returns for a key: keys are summed over without queries."""


def linear_attention(site: Site) -> list[Flow]:
    """All inputs are packed (batch, sequence, heads * size); decay and beta are per head, or decay is per position."""
    q, k, v = (heads_at(site, at, count_at(site, at)) for at in (QUERY, KEY, VALUE))
    if site.node.attribute("update_rule", b"gated_delta") in DELTA:
        q = replace(q, zero=(q.zero[0], False))
    past = [_state(site, k.count, axis) if site.has(STATE) else None for axis in (2, 3)]
    gates = [heads_at(site, at, _count(site, at, k.count)) for at in (DECAY, BETA) if site.has(at)]
    options: dict[str, list[Pair]] = {}
    for choice in (OUTER, *([MEMBERS] if q.count > k.count else []), INNER):
        gated = [pair for gate in gates for pair in _gate(site, choice, gate, k)]
        options[choice] = [*ties(site, choice, [q, k, v], past, (False, None)), *gated]
    choice = choose(site, options, [x.packed.ravel() for x in (q, k, v) if x.packed is not None])
    for a, b in options[choice]:
        site.tie(a, b)
    keys, values = k.seen(choice), v.seen(choice)
    state = Flow((None, keys.outer, keys.inner, values.inner), _state_residue(k, v, past))
    return [outputs(site, choice, q, k, v, past)[0], state][: len(site.node.outputs)]


def _count(site: Site, at: int, heads: int) -> int:
    """The heads of a gate: decay has one number per head or per position of the keys; beta may have a single one."""
    width = site.shape(at)[-1]
    if width is None or (width != 1 and width % heads):
        raise Unsupported("has gates of unknown width")
    return heads if width > 1 else 1


def _gate(site: Site, choice: str, gate: Heads, k: Heads) -> list[Pair]:
    """Gates follow the heads of the keys; a decay per position also follows their size."""
    if gate.count == 1 and k.count > 1:
        return []
    rows = gate.rows(choice)
    if choice == OUTER:
        return [*rows, *meet(site, k.seen(choice).outer, gate.seen(choice).outer)]
    if choice == INNER and gate.packed is not None and gate.packed.shape[1] > 1:
        return [*rows, *meet(site, k.seen(choice).inner, gate.seen(choice).inner)]
    return hold(site, None if gate.packed is None else gate.packed.ravel(), "has a gate for every head")


def _state(site: Site, count: int, axis: int) -> Heads:
    """The state as past keys (axis 2) or past values (axis 3)."""
    flow = site.flow(STATE)
    site.pin(flow.axes[0], "works on each sample")
    site.labels.touched.extend(x for x in flow.axes[1:] if x is not None)
    return Heads(count, False, None, flow.axes[1], flow.axes[axis], (flow.zero[1], flow.zero[axis]))


def _state_residue(k: Heads, v: Heads, past: Sequence[Heads | None]) -> tuple[Residue, ...]:
    """A head, or a position of keys or values, that is zero leaves zeros in the state."""
    keys, values = (old.zero if old else (True, True) for old in past)
    zeros = (k.zero[0] and keys[0], k.zero[1] and keys[1], v.zero[1] and values[1])
    return (Residue.UNKNOWN, *(Residue.ZERO if z else Residue.UNKNOWN for z in zeros))


RULES: Mapping[str, Rule] = rules(linear_attention, "LinearAttention")
