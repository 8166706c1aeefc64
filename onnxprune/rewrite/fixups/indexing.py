# SPDX-License-Identifier: Apache-2.0
"""Indices and sizes of gather, scatter, crop and unpool operators after channels are removed."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from onnxprune.analysis.rules.site import Unsupported
from onnxprune.rewrite.patch import Fixup, Patch


def elements(patch: Patch) -> None:
    """GatherElements, ScatterElements: drop removed positions from index axes that carry no labels."""
    axis = patch.node.attribute("axis", 0) % len(patch.cutting.masks(patch.node.inputs[0]))
    for k, mask in enumerate(patch.cutting.masks(patch.node.inputs[0])):
        if k != axis and mask is not None and not mask.all() and patch.mask(1, k) is None:
            patch.pick(1, k, np.flatnonzero(mask))


def scatter_nd(patch: Patch) -> None:
    """ScatterND: renumber known row indices to count only kept rows."""
    kept = patch.mask(0, 0)
    if kept is None or kept.all() or (patch.cutting.graph.shape(patch.node.inputs[1]) or ())[-1:] != (1,):
        return
    [value, *_] = patch.known(1)
    rows = value[:, 0] % len(kept)
    rows = rows[kept[rows]]
    new = (np.cumsum(kept) - 1)[rows].reshape(-1, 1).astype(value.dtype)
    if not len(new):
        raise Unsupported("would write no rows")
    patch.set_operand(1, [new for _ in patch.cases()])


def sizes(operand: int) -> Callable[[Patch], None]:
    """A fix-up for operators with an operand for the output sizes: all of them, or those of attribute `axes`."""

    def fix(patch: Patch) -> None:
        if patch.has(operand):
            axes, shapes = patch.node.attribute("axes"), patch.out_shapes()
            kind = patch.known(operand)[0].dtype
            patch.set_operand(operand, [np.array([s[a] for a in axes] if axes else s, kind) for s in shapes])

    return fix


FIXUPS: Mapping[str, Fixup] = {
    "CenterCropPad": sizes(1),
    "GatherElements": elements,
    "MaxUnpool": sizes(2),
    "Scatter": elements,
    "ScatterElements": elements,
    "ScatterND": scatter_nd,
}
