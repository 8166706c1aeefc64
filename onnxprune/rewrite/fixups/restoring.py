# SPDX-License-Identifier: Apache-2.0
"""Restores the contribution of removed channels to operators that mix channels.

A mean over fewer channels differs from the original mean, and so does a normalisation by it. The residue of removed channels is
known here (`Flow.residue`; otherwise the rule would have pinned them), so the smaller graph can still compute the original
values.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx

from onnxprune.analysis.labels import Residue
from onnxprune.rewrite.patch import Patch
from onnxprune.types import Array


def shrunk(patch: Patch, axes: Iterable[int]) -> dict[int, tuple[int, int]]:
    """Those of the given axes of the first input that shrink: axis -> (kept size, original size).

    Empty if the policy lets operators work on the kept channels only.
    """
    if patch.cutting.coupled.policy.allow_renormalising:
        return {}
    masks = {k: patch.mask(0, k) for k in axes}
    return {k: (int(m.sum()), len(m)) for k, m in masks.items() if m is not None and not m.all()}


def put_back(
    patch: Patch,
    axes: Iterable[int],
    also: Iterable[int] = (),
    terms: Iterable[int] = (0,),
    results: Iterable[int] = (0,),
    computed: bool = False,
) -> None:
    """Run the operator at the original width, with the residue after the kept channels, and drop the results of the residue.

    The order of channels does not matter to the operator. The operands `terms` are added up to form its input, and the operands
    `also` (scale, shift) are applied to its results. All are aligned to the last axes of the first operand. The residue is
    zero or constant, or `computed`.
    """
    sizes = shrunk(patch, axes)
    if not sizes:
        return
    rank = len(patch.cutting.coupled.flows[patch.node.inputs[0]].axes)
    for operand in (*terms, *also):
        name = patch.node.inputs[operand]
        flow = patch.cutting.coupled.flows[name]
        shift = len(flow.axes) - rank
        own = {k + shift: pair for k, pair in sizes.items() if k + shift >= 0 and flow.axes[k + shift] is not None}
        if own:
            patch.zeros_back(operand, {k: before - after for k, (after, before) in own.items()})
        for k, (after, before) in own.items():
            if operand in terms and flow.residue[k] is Residue.CONSTANT:
                _add_constant(patch, operand, patch.cutting.residues.constant(name, k), k, after, before)
            elif computed and operand in terms and flow.residue[k] is Residue.COMPUTED:
                _add_computed(patch, operand, k, after, before)
    for output in results:
        patch.first_after({k: after for k, (after, _) in sizes.items()}, output)


def _add_constant(patch: Patch, operand: int, residue: Array, axis: int, after: int, before: int) -> None:
    """Fill the positions after the kept ones with constants."""
    if not residue.any():
        return
    shape = [before if k == axis else n for k, n in enumerate(residue.shape)]
    whole = np.zeros(shape, residue.dtype)
    whole[(slice(None),) * axis + (slice(after, None),)] = residue
    stem = f"{patch.node.inputs[operand]}_rest"
    patch.put(operand, patch.add_before("Add", [patch.proto.input[operand], patch.constant(stem, whole)], stem))


def _add_computed(patch: Patch, operand: int, axis: int, after: int, before: int) -> None:
    """Fill the positions after the kept ones with a tensor that the smaller graph computes."""
    name = patch.node.inputs[operand]
    rank, fact = len(patch.cutting.coupled.flows[name].axes), patch.cutting.graph.facts[name].cases[0]
    rest = patch.residue(name, axis)
    if patch.size(rest, axis) == 1 < before - after:
        kind = onnx.helper.tensor_dtype_to_np_dtype(fact.dtype)
        ones = patch.constant(f"{rest}_ones", np.ones([before - after] + [1] * (rank - 1 - axis), kind))
        rest = patch.add_before("Mul", [rest, ones], rest)
    filled = patch.padded(rest, [after if k == axis else 0 for k in range(2 * rank)], rest)
    patch.put(operand, patch.add_before("Add", [patch.proto.input[operand], filled], filled))


def in_place(patch: Patch, axis: int) -> None:
    """Insert zeros at the removed channels of an axis of the first input, and remove these channels from the result."""
    mask = patch.mask(0, axis)
    if mask is not None and not mask.all():
        patch.spread(0, axis)
        patch.gather_after(axis, np.flatnonzero(mask))
