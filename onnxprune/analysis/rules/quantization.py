# SPDX-License-Identifier: Apache-2.0
"""Quantized tensors. A removed channel is zero if it holds the zero point."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from onnxprune.analysis.labels import Axis, Flow, Residue
from onnxprune.analysis.rules.site import Rule, Site, everywhere, rules
from onnxprune.ir.graph import Graph
from onnxprune.ir.quantization import SCALE, ZERO_POINT, zero_point_of

PASSED = frozenset("Flatten Gather Identity MaxPool Reshape Slice Split Squeeze Transpose Unsqueeze".split())
"""Operators that do not change what integers mean."""


def linear(site: Site) -> list[Flow]:
    """QuantizeLinear and DequantizeLinear pass every axis. Scales and zero points are per tensor, or per channel of `axis`."""
    flow = site.flow(0)
    residue = [r if r is Residue.ZERO and _stands_for_zero(site) else Residue.UNKNOWN for r in flow.residue]
    axes = list(flow.axes)
    for at, k, numbers, zero in _numbers(site, len(axes)):
        labels = axes[at]
        if labels is None or numbers is None:
            for x in (labels, numbers):
                site.pin(x, "scales them by numbers that cannot be cut")
            axes[at] = None
            continue
        block = site.node.attribute("block_size") if len(numbers) < len(labels) else 1
        site.tie(labels, numbers[np.arange(len(labels)) // block])
        if k == SCALE and zero and site.node.op == "DequantizeLinear":
            residue[at] = Residue.ZERO
    return [Flow(tuple(axes), tuple(Residue.UNKNOWN if x is None else r for x, r in zip(axes, residue, strict=True)))]


def _numbers(site: Site, rank: int) -> Iterator[tuple[int, int, Axis, bool]]:
    """Axes along which scales and zero points differ: (axis of the data, operand, its labels there, whether they are zero)."""
    blocked, axis = site.node.attribute("block_size", 0), site.node.attribute("axis", 1) % max(1, rank)
    for k in (SCALE, ZERO_POINT):
        if not site.has(k):
            continue
        flow, shape = site.flow(k), site.shape(k)
        if blocked:
            yield from ((at, k, flow.axes[at], flow.zero[at]) for at in range(rank) if shape[at] != 1)
        elif shape and shape[0] != 1:
            yield axis, k, flow.axes[0], flow.zero[0]


def _stands_for_zero(site: Site) -> bool:
    """Whether a removed channel is still read as zero: integers are, if every consumer has the same zero point."""
    if site.node.op == "DequantizeLinear":
        return True
    return _read_with(site.graph, site.node.outputs[0], zero_point_of(site.node))


def _read_with(graph: Graph, name: str, own: str) -> bool:
    """Whether all consumers of these integers, perhaps after they were moved, have this zero point."""
    for node, k in graph.consumers.get(name, ()):
        if node.op in PASSED and k == 0:
            if not all(_read_with(graph, output, own) for output in node.outputs if output):
                return False
            continue
        if node.op != "DequantizeLinear" or k != 0:
            return False
        other = zero_point_of(node)
        if own != other and not _equal(graph, own, other):
            return False
    return name not in graph.outputs


def _equal(graph: Graph, a: str, b: str) -> bool:
    one, other = (graph.facts[name].value if name else np.zeros(1) for name in (a, b))
    return one is not None and other is not None and np.array_equal(one.ravel(), other.ravel())


def dynamic(site: Site) -> list[Flow]:
    """DynamicQuantizeLinear computes its own range, which always includes zero, so zero channels do not change it."""
    flow = site.flow(0)
    for labels, residue in zip(flow.axes, flow.residue, strict=True):
        if residue is not Residue.ZERO:
            site.pin(labels, "derives its range from them, so removing any would change the result")
    residue = Residue.ZERO if _stands_for_zero(site) else Residue.UNKNOWN
    passed = Flow(flow.axes, tuple(residue if r is Residue.ZERO else Residue.UNKNOWN for r in flow.residue))
    return [passed, Flow.plain(0), Flow.plain(0)]


RULES: Mapping[str, Rule] = {
    **rules(linear, "QuantizeLinear"),
    **rules(linear, "DequantizeLinear", maskable=everywhere, integers=True),
    **rules(dynamic, "DynamicQuantizeLinear"),
}
