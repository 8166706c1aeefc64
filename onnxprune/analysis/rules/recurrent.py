# SPDX-License-Identifier: Apache-2.0
"""LSTM, GRU, RNN: hidden units are channels. A unit without weights and bias remains zero at every step."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnxprune.analysis.labels import Flow, Residue
from onnxprune.analysis.rules.site import Rule, Site, Unsupported, everywhere, rules
from onnxprune.types import Indices

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
# Activations of the gates, per direction; those after the first must map zero to zero.
ACTIVATIONS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
ZERO_AT_ZERO = frozenset({"Tanh", "Relu", "Softsign", "LeakyRelu", "ScaledTanh", "Elu"})
BIAS, LENGTHS, HIDDEN, CELL, PEEPHOLES = 3, 4, 5, 6, 7


def recurrent(site: Site) -> list[Flow]:
    """X (time, batch, in), W (directions, gates * hidden, in), R (directions, gates * hidden, hidden), B, initial states, P."""
    _check(site)
    x, w, r = site.flow(0), site.flow(1), site.flow(2)
    hidden = r.axes[2]
    for k, axis in ((0, 0), (0, 1), (1, 0), (2, 0)):
        site.pin(site.flow(k).axes[axis], "uses this axis for directions, steps or samples")
    if hidden is None or w.axes[1] is None or r.axes[1] is None:
        raise Unsupported("has weights that are computed, or a single hidden unit")
    zero = w.zero[1] and r.zero[1] and r.zero[2]
    for labels in (w.axes[1], r.axes[1]):
        _tie_blocks(site, hidden, labels)
    for k in (BIAS, PEEPHOLES, HIDDEN, CELL):
        if site.has(k):
            zero &= _tie_operand(site, k, hidden)
    if not zero:
        site.pin(hidden, "starts from, or adds, values that do not become zero")
    _read(site, x, w)
    site.use(1, w.axes[1], True)
    residue = (Residue.UNKNOWN, Residue.UNKNOWN, Residue.ZERO)
    state = Flow((None, None, hidden), residue)
    return [Flow((None, None, None, hidden), (Residue.UNKNOWN, *residue)), state, state][: len(site.node.outputs)]


def _check(site: Site) -> None:
    op = site.node.op
    given = [a.decode() for a in site.node.attribute("activations", [])]
    if site.node.attribute("layout", 0):
        raise Unsupported("has the batch first (layout 1)")
    gates = len(ACTIVATIONS[op])
    for k, name in enumerate(given):
        if name not in ZERO_AT_ZERO and (gates == 1 or k % gates):
            raise Unsupported(f"uses the activation {name}, which is not zero at zero")


def _tie_blocks(site: Site, hidden: Indices, labels: Indices) -> None:
    """Gates are stored one after the other on an axis, each with a row per hidden unit."""
    site.tie(np.tile(hidden, len(labels) // len(hidden)), labels)


def _tie_operand(site: Site, k: int, hidden: Indices) -> bool:
    """Tie the last axis of a bias, peepholes or an initial state to the hidden units; return whether removed units are zero."""
    flow = site.flow(k)
    for labels in flow.axes[:-1]:
        site.pin(labels, "uses this axis for directions or samples")
    labels = flow.axes[-1]
    if labels is None:
        value = site.value(k)
        site.pin(hidden, "starts from a state that cannot be cut" if value is None else "reads numbers that are not weights")
        return False
    _tie_blocks(site, hidden, labels)
    return flow.zero[-1]


def _read(site: Site, x: Flow, w: Flow) -> None:
    """Tie the input channels, which are summed over."""
    ins, columns = x.axes[2], w.axes[2]
    if ins is None or columns is None:
        for labels in (ins, columns):
            site.pin(labels, "combines them with channels that cannot be cut")
        return
    site.tie(ins, columns)
    if not (x.zero[2] or w.zero[2]):
        site.pin(ins, "sums over channels that do not become zero")
    site.use(1, columns, False)


RULES: Mapping[str, Rule] = rules(recurrent, *GATES, maskable=everywhere)
