# SPDX-License-Identifier: Apache-2.0
"""Samples of all operators, one file per family: graphs around one operator, and the expected results of their cuts."""

from __future__ import annotations

from collections.abc import Mapping

from onnxprune.types import joined
from tests.cases.operators import (
    attention,
    convolution,
    elementwise,
    fused,
    indexing,
    linear_attention,
    movement,
    normalization,
    pooling,
    products,
    quantization,
    recurrent,
    reduction,
    resizing,
)
from tests.cases.operators.patterns import PATTERNS
from tests.cases.operators.sample import Sample, named
from tests.cases.operators.weights import WEIGHTS

PLAIN: Mapping[str, list[Sample]] = joined(
    elementwise.SAMPLES,
    convolution.SAMPLES,
    products.SAMPLES,
    normalization.SAMPLES,
    recurrent.SAMPLES,
    quantization.SAMPLES,
    movement.SAMPLES,
    reduction.SAMPLES,
    pooling.SAMPLES,
    resizing.SAMPLES,
)
"""Operators that networks are made of, wherever they come from."""
OTHERS: Mapping[str, list[Sample]] = joined(attention.SAMPLES, linear_attention.SAMPLES, indexing.SAMPLES, fused.SAMPLES)
SAMPLES: Mapping[str, list[Sample]] = joined(PLAIN, OTHERS)
SEVERAL: Mapping[str, Sample] = joined(WEIGHTS, PATTERNS)
"""Samples of several operators together."""

PLAIN_CASES: list[tuple[str, Sample]] = [case for case in (*named(PLAIN), *SEVERAL.items()) if case[1].here]
CASES: list[tuple[str, Sample]] = [*PLAIN_CASES, *(case for case in named(OTHERS) if case[1].here)]
"""Those that the installed releases run; that the others do not is checked with the law (`obeys_the_law`)."""
