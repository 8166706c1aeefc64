# SPDX-License-Identifier: Apache-2.0
"""Normalisations: statistics over the original width, or the number of kept groups."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnxprune.analysis.rules.site import Unsupported
from onnxprune.ir.semantics import mean_variance_axes, softmax_axes, uses_batch_statistics
from onnxprune.rewrite.fixups.restoring import in_place, put_back, shrunk
from onnxprune.rewrite.patch import Fixup, Patch


def normalization(patch: Patch) -> None:
    """LayerNormalization, RMSNormalization: statistics over the original width."""
    rank = len(patch.cutting.masks(patch.node.inputs[0]))
    first = patch.node.attribute("axis", -1) % rank
    read, made = patch.mask(0, rank - 1), patch.out_mask(rank - 1)
    if made is not None and not made.all() and (read is None or read.all()):
        for operand in (k for k in (1, 2) if patch.has(k)):
            patch.spread(operand, 0)
        patch.gather_after(rank - 1, np.flatnonzero(made))
        return
    put_back(patch, range(first, rank), [k for k in (1, 2) if patch.has(k)], computed=True)


def skip_normalization(patch: Patch) -> None:
    """SkipLayerNormalization and variants: statistics of a sum over the original width; the sum is an output, too."""
    rms = "Simplified" in patch.node.op
    scales, terms = ((2,), (0, 1, 3)) if rms else ((2, 3), (0, 1, 4))
    results = [k for k in (0, 3) if k < len(patch.node.outputs) and patch.node.outputs[k]]
    last = len(patch.cutting.masks(patch.node.inputs[0])) - 1
    put_back(patch, [last], [k for k in scales if patch.has(k)], [k for k in terms if patch.has(k)], results)


def single_group(patch: Patch) -> None:
    """GroupNormalization with one group: statistics over the original width."""
    sizes = shrunk(patch, [1])
    put_back(patch, [1])
    for after, before in sizes.values():
        for operand in (1, 2):
            patch.zeros_back(operand, {0: before - after})


def batch_norm(patch: Patch) -> None:
    """BatchNormalization with batch statistics: statistics over the original positions."""
    if uses_batch_statistics(patch.node):
        put_back(patch, [k for k in range(len(patch.cutting.masks(patch.node.inputs[0]))) if k != 1])


def instance_norm(patch: Patch) -> None:
    """InstanceNormalization: statistics over the original positions."""
    put_back(patch, range(2, len(patch.cutting.masks(patch.node.inputs[0]))))


def softmax(patch: Patch) -> None:
    """Softmax, LogSoftmax, Hardmax: include the residue of removed channels."""
    put_back(patch, softmax_axes(patch.node, len(patch.cutting.masks(patch.node.inputs[0]))))


def neighbours(patch: Patch) -> None:
    """LRN: put zeros at removed channels."""
    if shrunk(patch, [1]):
        in_place(patch, 1)


def mean_variance(patch: Patch) -> None:
    """MeanVarianceNormalization: statistics over the original positions."""
    put_back(patch, mean_variance_axes(patch.node, len(patch.cutting.masks(patch.node.inputs[0]))))


def quantized_softmax(patch: Patch) -> None:
    """QLinearSoftmax: residues cannot be restored in integer tensors."""
    if shrunk(patch, [patch.node.attribute("axis", -1) % len(patch.cutting.masks(patch.node.inputs[0]))]):
        raise Unsupported("normalises integers over the removed channels")


def group_norm(patch: Patch) -> None:
    """GroupNormalization: update the number of groups; a single group has statistics over the original width."""
    kept = patch.mask(0, 1)
    if patch.node.attribute("num_groups") == 1:
        single_group(patch)
    elif kept is not None:
        groups = kept.reshape(patch.node.attribute("num_groups"), -1)
        patch.set_attribute("num_groups", int(groups.any(1).sum()))


FIXUPS: Mapping[str, Fixup] = {
    "BatchNormalization": batch_norm,
    "GroupNormalization": group_norm,
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
}
