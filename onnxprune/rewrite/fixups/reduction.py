# SPDX-License-Identifier: Apache-2.0
"""Reductions over an axis that shrinks."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from onnxprune.analysis.labels import Residue
from onnxprune.analysis.rules.reduction import ACCOUNTED
from onnxprune.ir.semantics import reduced_axes
from onnxprune.rewrite.fixups.restoring import shrunk
from onnxprune.rewrite.patch import Fixup, Patch

EXTREMES = {"ReduceMax": "Max", "ReduceMin": "Min"}


def reduction(patch: Patch) -> None:
    """Means use the original number of channels; sums and extrema include the residue of removed channels."""
    data, op = patch.node.inputs[0], patch.node.op
    flow = patch.cutting.coupled.flows[data]
    given = patch.old_value(1)
    sizes = shrunk(patch, reduced_axes(patch.node, len(flow.axes), None if given is None else given.tolist()))
    if not sizes:
        return
    share = prod(after / before for after, before in sizes.values())
    if op == "ReduceMean":
        patch.follow("Mul", patch.scalar(f"{data}_share", share))
    axis = next(iter(sizes))
    if all(flow.residue[k] is Residue.ZERO for k in sizes):
        if op in EXTREMES:
            patch.follow(EXTREMES[op], patch.scalar("zero", 0.0))
        return
    residue = patch.residue(data, axis)
    part = patch.add_copy(residue)
    if op in EXTREMES:
        patch.follow(EXTREMES[op], part)
        return
    after, before = sizes[axis]
    missing = before - after
    factor = missing / before if op == "ReduceMean" else missing / patch.size(residue, axis)
    if op == "ReduceL2":
        part = patch.add_before("Mul", [part, part], part)
        patch.follow("Mul", "")
    patch.follow("Add", patch.add_before("Mul", [part, patch.scalar(f"{data}_missing", factor)], part))
    if op == "ReduceL2":
        patch.follow("Sqrt")


FIXUPS: Mapping[str, Fixup] = dict.fromkeys(ACCOUNTED, reduction)
