# SPDX-License-Identifier: Apache-2.0
"""Fix-ups: what a cut changes in a node besides its weights, such as stored sizes, indices and statistics.

One table maps operators to fix-ups. Other operators need none: their shapes follow from their inputs. Files are named as in
`analysis/rules`.
"""

from __future__ import annotations

from collections.abc import Mapping

from onnxprune.rewrite.fixups import (
    attention,
    convolution,
    elementwise,
    indexing,
    movement,
    nbits,
    normalization,
    recurrent,
    reduction,
    resizing,
)
from onnxprune.rewrite.patch import Fixup
from onnxprune.types import joined

FIXUPS: Mapping[str, Fixup] = joined(
    attention.FIXUPS,
    convolution.FIXUPS,
    elementwise.FIXUPS,
    indexing.FIXUPS,
    movement.FIXUPS,
    nbits.FIXUPS,
    normalization.FIXUPS,
    recurrent.FIXUPS,
    reduction.FIXUPS,
    resizing.FIXUPS,
)
