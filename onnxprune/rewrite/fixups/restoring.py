# SPDX-License-Identifier: Apache-2.0
"""What removed channels gave to an operator that mixes the axis which shrinks is put back.

A mean over fewer channels is not the original's mean, nor is a normalisation by it. Because it is known what removed channels
hold here (`Flow.residue`, or the rule would have pinned them), the smaller graph can still compute the original's numbers.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from onnxprune.analysis.labels import Residue
from onnxprune.rewrite.patch import Patch
from onnxprune.types import Array


def shrunk(patch: Patch, axes: Iterable[int]) -> dict[int, tuple[int, int]]:
    """Of these axes of the first input those that shrink: axis -> how many stay, how many there were.

    None where the smaller graph may work on what is left.
    """
    if patch.cutting.coupled.policy.allow_renormalising:
        return {}
    masks = {k: patch.mask(0, k) for k in axes}
    return {k: (int(m.sum()), len(m)) for k, m in masks.items() if m is not None and not m.all()}


def put_back(
    patch: Patch, axes: Iterable[int], also: Iterable[int] = (), terms: Iterable[int] = (0,), results: Iterable[int] = (0,)
) -> None:
    """Run the operator at the original width, with what removed channels hold behind those that are left; drop their results.

    The order of channels does not matter to it. Of the operands, `terms` are added up to what the operator works on, and `also`
    (scale, shift) are applied to its results; all are aligned to the last axes of the first.
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
    for output in results:
        patch.first_after({k: after for k, (after, _) in sizes.items()}, output)


def _add_constant(patch: Patch, operand: int, rest: Array, axis: int, after: int, before: int) -> None:
    """Fill the positions behind the kept ones with constants."""
    if not rest.any():
        return
    shape = [before if k == axis else n for k, n in enumerate(rest.shape)]
    whole = np.zeros(shape, rest.dtype)
    whole[(slice(None),) * axis + (slice(after, None),)] = rest
    stem = f"{patch.node.inputs[operand]}_rest"
    patch.put(operand, patch.add_before("Add", [patch.proto.input[operand], patch.constant(stem, whole)], stem))


def in_place(patch: Patch, axis: int) -> None:
    """Zeros where channels were on an axis of the first input; of the result only the channels that are left."""
    mask = patch.mask(0, axis)
    if mask is not None and not mask.all():
        patch.spread(0, axis)
        patch.gather_after(axis, np.flatnonzero(mask))
