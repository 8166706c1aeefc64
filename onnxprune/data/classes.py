# SPDX-License-Identifier: Apache-2.0
"""Which outputs are class scores, and the number of classes."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto

from onnxprune.ir.facts import CASES_OF_BENCHMARK, read_once
from onnxprune.types import Array


def classes_of(model: ModelProto) -> int | None:
    """Number of classes that the first output scores; None if it does not score each sample as a whole."""
    facts = read_once(model, CASES_OF_BENCHMARK, {})[0].facts
    shape = facts[model.graph.output[0].name].shape or ()
    return shape[1] if len(shape) > 1 and shape[1] > 1 and all(n == 1 for n in shape[2:]) else None


def are_probabilities(scores: Array, axis: int = -1) -> bool:
    """Whether scores along an axis are non-negative and sum to 1."""
    return bool(scores.shape[axis] > 1 and scores.min() >= 0 and np.abs(scores.sum(axis, dtype=np.float64) - 1).max() < 0.01)


def class_axis(output: Array, labels: Array | None = None) -> int | None:
    """The class axis of a first output, or None if there seems to be none.

    In order of preference: the axis that labels lack; an axis along which the values are probabilities; the last of up to
    three axes (one class per sample, or per position in text) or the second of more (segmentation), unless the output looks
    like a grey or colour image.
    """
    if output.dtype.kind != "f" or output.ndim < 2 or not output.size:
        return None
    ends = [k for k in dict.fromkeys((output.ndim - 1, 1)) if output.shape[k] > 1]
    if labels is not None and labels.dtype.kind in "iu":
        fits = [k for k in ends if output.shape[1:k] + output.shape[k + 1 :] == labels.shape[1:]]
        if fits:
            return fits[0]
    likely = [k for k in ends if are_probabilities(output, k)]
    likely += [output.ndim - 1] if output.ndim <= 3 else [1] if output.shape[1] != 3 else []
    return next((k for k in likely if k in ends), None)
