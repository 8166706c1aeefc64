# SPDX-License-Identifier: Apache-2.0
"""What a cut changes in a node besides its weights: sizes, indices and statistics that it stores.

One table: operator -> fix-up. Other operators need none: their shapes follow from their inputs. Files are named as those of
`analysis/rules`.
"""

from __future__ import annotations

from collections.abc import Mapping

from onnxprune.rewrite.fixups import (
    attention,
    convolution,
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
    indexing.FIXUPS,
    movement.FIXUPS,
    nbits.FIXUPS,
    normalization.FIXUPS,
    recurrent.FIXUPS,
    reduction.FIXUPS,
    resizing.FIXUPS,
)
