# SPDX-License-Identifier: Apache-2.0
"""Operators that mix the axis which shrinks: what removed channels gave to the result is put back.

A mean over fewer channels is not the original's mean, nor is a normalisation by it. Because it is known what removed channels
hold here (`Flow.rest`, or the rule would have pinned them), the smaller graph can still compute the original's numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import prod

import numpy as np

from onnxprune.analysis.labels import Rest
from onnxprune.analysis.rules.axes import ACCOUNTED
from onnxprune.analysis.rules.site import Unsupported
from onnxprune.ir.semantics import mean_variance_axes, reduced_axes, softmax_axes, uses_batch_statistics
from onnxprune.rewrite.patch import Patch
from onnxprune.types import Array


def _kept(patch: Patch, axes: Iterable[int]) -> dict[int, tuple[int, int]]:
    """Of these axes of the first input those that shrink: axis -> how many stay, how many there were.

    None where the smaller graph may work on what is left.
    """
    if patch.cutting.coupled.policy.allow_renormalising:
        return {}
    masks = {k: patch.mask(0, k) for k in axes}
    return {k: (int(m.sum()), len(m)) for k, m in masks.items() if m is not None and not m.all()}


def _put_back(
    patch: Patch, axes: Iterable[int], also: Iterable[int] = (), terms: Iterable[int] = (0,), results: Iterable[int] = (0,)
) -> None:
    """Run the operator at the original width, with what removed channels hold behind those that are left; drop their results.

    The order of channels does not matter to it. Of the operands, `terms` are added up to what the operator works on, and `also`
    (scale, shift) are applied to its results; all are aligned to the last axes of the first.
    """
    shrunk = _kept(patch, axes)
    if not shrunk:
        return
    rank = len(patch.cutting.coupled.flows[patch.node.inputs[0]].axes)
    for operand in (*terms, *also):
        name = patch.node.inputs[operand]
        flow = patch.cutting.coupled.flows[name]
        shift = len(flow.axes) - rank
        own = {k + shift: sizes for k, sizes in shrunk.items() if k + shift >= 0 and flow.axes[k + shift] is not None}
        if own:
            patch.zeros_back(operand, {k: before - after for k, (after, before) in own.items()})
        for k, (after, before) in own.items():
            if operand in terms and flow.rest[k] is Rest.CONSTANT:
                _add_constant(patch, operand, patch.cutting.rests.constant(name, k), k, after, before)
    for output in results:
        patch.first_after({k: after for k, (after, _) in shrunk.items()}, output)


def _add_constant(patch: Patch, operand: int, rest: Array, axis: int, after: int, before: int) -> None:
    """Fill the positions behind the kept ones with constants."""
    if not rest.any():
        return
    shape = [before if k == axis else n for k, n in enumerate(rest.shape)]
    whole = np.zeros(shape, rest.dtype)
    whole[(slice(None),) * axis + (slice(after, None),)] = rest
    stem = f"{patch.node.inputs[operand]}_rest"
    patch.put(operand, patch.add_before("Add", [patch.proto.input[operand], patch.constant(stem, whole)], stem))


def normalization(patch: Patch) -> None:
    """LayerNormalization, RMSNormalization: the statistics of the original width."""
    rank = len(patch.cutting.masks(patch.node.inputs[0]))
    first = patch.node.attribute("axis", -1) % rank
    read, made = patch.mask(0, rank - 1), patch.out_mask(rank - 1)
    if made is not None and not made.all() and (read is None or read.all()):
        for operand in (k for k in (1, 2) if patch.has(k)):
            patch.spread(operand, 0)
        patch.gather_after(rank - 1, np.flatnonzero(made))
        return
    _put_back(patch, range(first, rank), [k for k in (1, 2) if patch.has(k)])


def skip_normalization(patch: Patch) -> None:
    """SkipLayerNormalization and its kin: the statistics of a sum of the original width; the sum is a result, too."""
    rms = "Simplified" in patch.node.op
    scales, terms = ((2,), (0, 1, 3)) if rms else ((2, 3), (0, 1, 4))
    results = [k for k in (0, 3) if k < len(patch.node.outputs) and patch.node.outputs[k]]
    last = len(patch.cutting.masks(patch.node.inputs[0])) - 1
    _put_back(patch, [last], [k for k in scales if patch.has(k)], [k for k in terms if patch.has(k)], results)


def single_group(patch: Patch) -> None:
    """GroupNormalization with one group: the statistics of the original width."""
    shrunk = _kept(patch, [1])
    _put_back(patch, [1])
    for after, before in shrunk.values():
        for operand in (1, 2):
            patch.zeros_back(operand, {0: before - after})


def batch_norm(patch: Patch) -> None:
    """BatchNormalization by batch statistics: those of the original's positions."""
    if uses_batch_statistics(patch.node):
        _put_back(patch, [k for k in range(len(patch.cutting.masks(patch.node.inputs[0]))) if k != 1])


def instance_norm(patch: Patch) -> None:
    """InstanceNormalization: the statistics of the original's positions."""
    _put_back(patch, range(2, len(patch.cutting.masks(patch.node.inputs[0]))))


def softmax(patch: Patch) -> None:
    """Softmax, LogSoftmax, Hardmax: removed channels count with what they hold."""
    _put_back(patch, softmax_axes(patch.node, len(patch.cutting.masks(patch.node.inputs[0]))))


def _in_place(patch: Patch, axis: int) -> None:
    """Zeros where channels were on an axis of the first input; of the result only the channels that are left."""
    mask = patch.mask(0, axis)
    if mask is not None and not mask.all():
        patch.spread(0, axis)
        patch.gather_after(axis, np.flatnonzero(mask))


def neighbours(patch: Patch) -> None:
    """LRN: removed channels keep their place."""
    if _kept(patch, [1]):
        _in_place(patch, 1)


def sliding(patch: Patch) -> None:
    """Conv: removed channels keep their place on the axes along which it slides."""
    for axis in range(2, len(patch.cutting.masks(patch.node.inputs[0]))):
        _in_place(patch, axis)


def mean_variance(patch: Patch) -> None:
    """MeanVarianceNormalization: the statistics of the original's positions."""
    _put_back(patch, mean_variance_axes(patch.node, len(patch.cutting.masks(patch.node.inputs[0]))))


def quantized_softmax(patch: Patch) -> None:
    """QLinearSoftmax: nothing is put back among integers."""
    if _kept(patch, [patch.node.attribute("axis", -1) % len(patch.cutting.masks(patch.node.inputs[0]))]):
        raise Unsupported("normalises integers over them")


def reduction(patch: Patch) -> None:
    """Means over the original number of channels; sums and extremes with what removed channels hold."""
    data, op = patch.node.inputs[0], patch.node.op
    flow = patch.cutting.coupled.flows[data]
    given = patch.old_value(1)
    shrunk = _kept(patch, reduced_axes(patch.node, len(flow.axes), None if given is None else given.tolist()))
    if not shrunk:
        return
    share = prod(after / before for after, before in shrunk.values())
    if op == "ReduceMean":
        patch.follow("Mul", patch.scalar(f"{data}_share", share))
    axis = next(iter(shrunk))
    if all(flow.rest[k] is Rest.ZERO for k in shrunk):
        if op in EXTREMES:
            patch.follow(EXTREMES[op], patch.scalar("zero", 0.0))
        return
    rest = patch.rest(data, axis)
    part = patch.add_copy(rest)
    if op in EXTREMES:
        patch.follow(EXTREMES[op], part)
        return
    after, before = shrunk[axis]
    missing = before - after
    factor = missing / before if op == "ReduceMean" else missing / patch.size(rest, axis)
    if op == "ReduceL2":
        part = patch.add_before("Mul", [part, part], part)
        patch.follow("Mul", "")
    patch.follow("Add", patch.add_before("Mul", [part, patch.scalar(f"{data}_missing", factor)], part))
    if op == "ReduceL2":
        patch.follow("Sqrt")


EXTREMES = {"ReduceMax": "Max", "ReduceMin": "Min"}

REFITS: Mapping[str, Callable[[Patch], None]] = {
    "BatchNormalization": batch_norm,
    "InstanceNormalization": instance_norm,
    "LayerNormalization": normalization,
    "RMSNormalization": normalization,
    "SimplifiedLayerNormalization": normalization,
    "com.microsoft.SkipLayerNormalization": skip_normalization,
    "com.microsoft.SkipSimplifiedLayerNormalization": skip_normalization,
    "LRN": neighbours,
    "MeanVarianceNormalization": mean_variance,
    "Softmax": softmax,
    "LogSoftmax": softmax,
    "Hardmax": softmax,
    "com.microsoft.QLinearSoftmax": quantized_softmax,
    **dict.fromkeys(ACCOUNTED, reduction),
}
