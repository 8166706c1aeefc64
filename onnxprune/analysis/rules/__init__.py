# SPDX-License-Identifier: Apache-2.0
"""How every operator treats channels, in one table: operator -> rule. An operator without a rule pins its inputs.

Each file covers a family of operators and contributes its part of the table.
"""

from __future__ import annotations

from collections.abc import Mapping

from onnxprune.analysis.rules import (
    attention,
    convolution,
    elementwise,
    indexing,
    linear_attention,
    movement,
    nbits,
    normalization,
    quantization,
    recurrent,
    reduction,
    resizing,
    signatures,
)
from onnxprune.analysis.rules.site import Rule
from onnxprune.types import joined

RULES: Mapping[str, Rule] = joined(
    attention.RULES,
    convolution.RULES,
    elementwise.RULES,
    indexing.RULES,
    linear_attention.RULES,
    movement.RULES,
    nbits.RULES,
    normalization.RULES,
    quantization.RULES,
    recurrent.RULES,
    reduction.RULES,
    resizing.RULES,
    signatures.RULES,
)
