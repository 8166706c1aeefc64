# SPDX-License-Identifier: Apache-2.0
"""Weights with the slices of removed channels set to zero."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from onnx import TensorProto

from onnxprune.analysis.coupling import Coupled
from onnxprune.ir.graph import with_values
from onnxprune.ir.quantization import INTEGERS, absent
from onnxprune.ir.spill import Spill
from onnxprune.ir.tensors import array_of, is_large, slabs
from onnxprune.types import Array, Mask


def mask_weight(coupled: Coupled, dropped: Mask, tensor: TensorProto, name: str, spill: Spill | None = None) -> TensorProto:
    """The weight with its dropped slices set to zero (integers: to their zero point), if zero means absent to all its consumers
    (`MASKABLE`).

    Args:
        spill: where to store a large result.
    """
    flow = coupled.flows[name]
    if not any(flow.zero) or not any(x is not None and dropped[x].any() for x in flow.axes):
        return tensor
    if spill is not None and is_large(tensor) and tensor.data_type not in INTEGERS:
        return spill.write(tensor, tensor.dims, _mask_slabs(tensor, [None if x is None else dropped[x] for x in flow.axes]))
    array = array_of(tensor)
    removed = np.zeros(array.shape, bool)
    for axis, labels in enumerate(flow.axes):
        if labels is not None:
            removed[(slice(None),) * axis + (dropped[labels],)] = True
    fill = absent(coupled.graph, name) if tensor.data_type in INTEGERS else np.zeros((), array.dtype)
    return with_values(tensor, np.where(removed, np.asarray(fill).astype(array.dtype), array))


def _mask_slabs(tensor: TensorProto, removed: Sequence[Mask | None]) -> Iterator[Array]:
    for rows, part in slabs(tensor):
        array = part.copy()
        for axis, own in enumerate(removed):
            if own is not None:
                array[(slice(None),) * axis + (own[rows] if axis == 0 else own,)] = 0
        yield array
