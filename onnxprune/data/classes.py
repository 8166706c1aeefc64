# SPDX-License-Identifier: Apache-2.0
"""Which outputs are class scores, and the number of classes."""

from __future__ import annotations

from collections.abc import Sequence

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


CONFIDENT, USUAL, FEW = 0.25, 0.9, 8
"""The mean probability of the best of many classes from which raw scores are those of classes; the share of samples with the
same best class above which they are not; the number of samples from which that share counts."""


def class_axis(output: Array, labels: Array | None = None, raw: bool = True) -> int | None:
    """The class axis of an output, or None if it is not known to score classes.

    In order of preference: the axis that labels lack; an axis along which the values are probabilities or their logarithms; the
    only axis besides that of the samples, if a softmax over it is confident, and of different classes. (Embeddings are never
    confident, and of coordinates always the same one is largest.) Other scores at several positions (segmentation and text
    without a softmax, boxes, masks) cannot be told from numbers that score nothing.

    Args:
        output: the output for several samples, or a part of it.
        labels: the labels of some samples, if there are any.
        raw: whether scores that are no probabilities count, as at the end of a classifier without a softmax.
    """
    if output.dtype.kind != "f" or output.ndim < 2 or not output.size:
        return None
    ends = ends_of(output)
    if labels is not None and labels.dtype.kind in "iu":
        fits = [k for k in ends if without(output.shape, k) == labels.shape[1:]]
        if fits:
            return fits[0]
    if not np.isfinite(output).all():
        return None
    likely = [k for k in ends if are_probabilities(output, k) or are_logarithms(output, k)]
    likely += [k for k in ends if raw and output.size == output.shape[0] * output.shape[k] and _are_scores(output, k)]
    return next(iter(likely), None)


def ends_of(output: Array) -> list[int]:
    """The axes that may be that of the classes: the last, and the one after the samples."""
    return [k for k in dict.fromkeys((output.ndim - 1, 1)) if 0 < k < output.ndim and output.shape[k] > 1]


def without(shape: Sequence[int], axis: int) -> tuple[int, ...]:
    """The shape of one sample, without an axis."""
    return (*shape[1:axis], *shape[axis + 1 :])


def best_class(scores: Array, axis: int) -> Array:
    """The best class at every position; -1 where a score is NaN, so that it is no class."""
    unknown = np.isnan(scores).any(axis)
    best = scores.argmax(axis)
    return np.where(unknown, -1, best) if unknown.any() else best


def are_logarithms(scores: Array, axis: int = -1) -> bool:
    """Whether scores along an axis are logarithms of probabilities."""
    return bool(scores.max() <= 0) and are_probabilities(np.exp(scores), axis)


def softmax(scores: Array, axis: int = -1) -> Array:
    """Probabilities from scores."""
    raised = np.exp(scores.astype(np.float64) - scores.max(axis, keepdims=True))
    return np.asarray(raised / raised.sum(axis, keepdims=True))


def _are_scores(output: Array, axis: int) -> bool:
    """Whether raw scores are those of classes."""
    flat = np.moveaxis(output, axis, -1).reshape(len(output), -1)
    classes, best = flat.shape[1], flat.argmax(1)
    confident = softmax(flat).max(1).mean() >= CONFIDENT + (1 - CONFIDENT) / classes
    varied = len(best) < FEW or np.unique(best, return_counts=True)[1].max() <= USUAL * len(best)
    return bool(confident and varied)
