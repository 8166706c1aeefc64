# SPDX-License-Identifier: Apache-2.0
"""Sizes stored by Resize."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnxprune.rewrite.patch import Fixup, Patch


def resize(patch: Patch) -> None:
    """Resize by sizes: update them, since they include the number of channels."""
    if patch.node.opset < 11 or not patch.has(3):
        return
    shapes, axes = patch.out_shapes(), patch.node.attribute("axes")
    patch.set_operand(3, [np.array([s[a] for a in axes] if axes else s, np.int64) for s in shapes])


FIXUPS: Mapping[str, Fixup] = {
    "Resize": resize,
}
