# SPDX-License-Identifier: Apache-2.0
"""Element-wise operators: channels of a scale are picked from a tensor that keeps all of its own."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnxprune.rewrite.patch import Fixup, Patch


def scale(patch: Patch) -> None:
    """Mul: a factor of which no channel is removed gives those that the result keeps."""
    rank = len(patch.cutting.masks(patch.node.outputs[0]))
    for axis in range(rank):
        made = patch.out_mask(axis)
        if made is None or made.all():
            continue
        for operand, name in enumerate(patch.node.inputs):
            masks = patch.cutting.masks(name)
            at = axis - rank + len(masks)
            whole = at >= 0 and ((read := masks[at]) is None or read.all())
            if whole and (patch.cutting.graph.shape(name) or ())[at] == len(made):
                patch.pick(operand, at, np.flatnonzero(made))


FIXUPS: Mapping[str, Fixup] = {"Mul": scale}
