# SPDX-License-Identifier: Apache-2.0
"""The order of fits: what a fit reads is final before it runs, and sites that share a weight are fitted together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from onnxprune.calibration.sums import LinearSum
from onnxprune.ir.graph import Graph

Job = list[LinearSum]
Bits = int
"""A set of nodes: bit k stands for the node with index k."""


def ordered(graph: Graph, sites: Sequence[LinearSum]) -> list[Job]:
    """Jobs ordered so that everything a job reads is final before it; a cycle is broken at its first job."""
    above = _ancestors(graph)
    jobs = [_independent(above, job) for job in _by_weight(sites)]
    own = [_own(job) for job in jobs]
    reads = [_union(_read(site, above) for site in job) for job in jobs]
    remaining, order = list(range(len(jobs))), []
    while remaining:
        pending = _union(own[k] for k in remaining)
        ready = next((k for k in remaining if not reads[k] & (pending & ~own[k])), remaining[0])
        order.append(jobs[ready])
        remaining.remove(ready)
    return order


def _by_weight(sites: Sequence[LinearSum]) -> list[Job]:
    """One job for all single layers with the same weight; sums of several layers cannot share a job."""
    jobs: list[Job] = []
    taken: dict[str, Job] = {}
    for site in sites:
        shared = [taken[t.linear.weight] for t in site.terms if t.linear.weight in taken]
        if not shared:
            jobs.append([site])
            taken.update({t.linear.weight: jobs[-1] for t in site.terms})
        elif len(site.terms) == 1 and len(shared[0][0].terms) == 1:
            shared[0].append(site)
    return jobs


def _ancestors(graph: Graph) -> Mapping[str, Bits]:
    """Tensor -> the nodes it depends on."""
    found: dict[str, Bits] = {}
    for node in graph.nodes:
        bits = (1 << node.index) | _union(found.get(name, 0) for name in (*node.inputs, *node.implicit))
        found.update(dict.fromkeys(node.outputs, bits))
    return found


def _union(parts: Iterable[Bits]) -> Bits:
    bits = 0
    for part in parts:
        bits |= part
    return bits


def _own(job: Job) -> Bits:
    return _union(1 << t.linear.node.index for s in job for t in s.terms)


def _read(site: LinearSum, above: Mapping[str, Bits]) -> Bits:
    return _union(above.get(name, 0) for name in site.wants)


def _independent(above: Mapping[str, Bits], job: Job) -> Job:
    """The sites of a job whose inputs do not depend on the job's own weights, as they would in a recurrence."""
    own = _own(job)
    return [s for s in job if not _read(s, above) & own] or job[:1]
