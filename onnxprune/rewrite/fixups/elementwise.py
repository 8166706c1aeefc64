# SPDX-License-Identifier: Apache-2.0
"""Element-wise operators: channels of a scale are picked from a tensor that keeps all of its own."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnxprune.rewrite.patch import Fixup, Patch


def scale(patch: Patch) -> None:
    """Mul: a factor of which no channel can be removed gives those that the result keeps."""
    rank = len(patch.cutting.masks(patch.node.outputs[0]))
    for axis in range(rank):
        made = patch.out_mask(axis)
        if made is None or made.all():
            continue
        for operand, name in enumerate(patch.node.inputs):
            own = patch.cutting.coupled.flows[name].axes
            at = axis - rank + len(own)
            if at < 0 or (patch.cutting.graph.shape(name) or ())[at] != len(made):
                continue
            labels = own[at]
            if labels is None or not patch.cutting.coupled.free[labels].any():
                patch.pick(operand, at, np.flatnonzero(made))


FIXUPS: Mapping[str, Fixup] = {"Mul": scale}
