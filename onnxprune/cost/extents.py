# SPDX-License-Identifier: Apache-2.0
"""Products of the numbers of channels that are kept on some axes: sizes of tensors, and how often weights are multiplied."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxprune.types import Indices, Mask, Vector


@dataclass(frozen=True)
class Extents:
    """Many such products, for any cut of one model.

    Attributes:
        labels: the labels of all axes that they are made of, concatenated.
        starts: the start of each of those axes in `labels` (n_axes,).
        fixed: for each product, its factors without labels, multiplied (n_products,).
        axes: for each product, its labelled axes, padded with n_axes (n_products, most).
    """

    labels: Indices = field(repr=False)
    starts: Indices = field(repr=False)
    fixed: Vector = field(repr=False)
    axes: Indices = field(repr=False)

    @classmethod
    def over(cls, products: Iterable[tuple[float, Sequence[Indices]]]) -> Extents:
        """The products with these fixed factors and labelled axes."""
        known: dict[bytes, tuple[int, Indices]] = {}
        fixed, rows = list[float](), list[list[int]]()
        for factor, axes in products:
            fixed.append(factor)
            rows.append([known.setdefault(labels.tobytes(), (len(known), labels))[0] for labels in axes])
        most = max(map(len, rows), default=0)
        padded = [row + [len(known)] * (most - len(row)) for row in rows]
        kinds = [labels for _, labels in known.values()]
        starts = np.cumsum([0, *map(len, kinds)])[:-1]
        labels = np.concatenate([np.zeros(0, np.int64), *kinds])
        return cls(labels, starts, np.array(fixed, np.float64), np.array(padded, np.int64).reshape(len(rows), most))

    def of(self, dropped: Mask, multiple: int = 1) -> Vector:
        """The products (n_products,) without the labels `dropped` (n_labels,).

        Args:
            multiple: numbers of channels are rounded up to multiples of this.
        """
        counts = -(-self._counts(dropped) // multiple) * multiple
        found: Vector = self.fixed * np.append(counts, 1)[self.axes].prod(1)
        return found

    def off(self, dropped: Mask, multiple: int) -> Mask:
        """Which products (n_products,) have an axis whose number of channels is no multiple of this."""
        uneven: Mask = np.append(self._counts(dropped) % multiple > 0, False)
        return np.asarray(uneven[self.axes].any(1))

    def _counts(self, dropped: Mask) -> Indices:
        """The number of channels that are kept on each axis (n_axes,)."""
        kept = (~dropped[self.labels]).astype(np.int64)
        return np.add.reduceat(kept, self.starts) if len(self.starts) else kept
