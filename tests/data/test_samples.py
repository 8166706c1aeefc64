# SPDX-License-Identifier: Apache-2.0
"""Samples: chosen, split and batched."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.data.samples import Data
from onnxprune.errors import DataError


def numbered(*sizes: int, fixed: int | None = None) -> Data:
    """Samples filled with their own index, in chunks of several shapes."""
    ends = np.cumsum(sizes)
    chunks = tuple(
        {"x": np.arange(end - n, end, dtype=np.float32)[:, None] * np.ones((1, width + 1), np.float32)}
        for width, (n, end) in enumerate(zip(sizes, ends, strict=True))
    )
    return Data(chunks, np.arange(ends[-1]), fixed)


def inside(data: Data) -> list[int]:
    return [int(v) for batch in data.batches(3) for v in batch["x"][:, 0]]


@pytest.mark.parametrize("held_out", [1, 4, 0.25, 0.3, 0.9, 50])
@pytest.mark.parametrize("data", [numbered(7, 5), numbered(6, 4, fixed=2)], ids=["free", "fixed"])
def test_a_split_is_disjoint_complete_seeded_and_keeps_labels(data: Data, held_out: float) -> None:
    fit, held = data.split(held_out, seed=3)
    assert sorted(inside(fit) + inside(held)) == list(range(len(data)))
    assert 1 <= len(held) <= len(data) / 2
    for part in (fit, held):
        assert part.labels is not None
        assert part.labels.tolist() == inside(part)
        assert len(part) % data.unit == 0
    assert inside(data.split(held_out, seed=3)[1]) == inside(held)


def test_few_samples_are_split_in_halves_and_one_is_not_split() -> None:
    assert [len(part) for part in numbered(2).split(0.1)] == [1, 1]
    assert [len(part) for part in numbered(1).split(0.5)] == [1, 0]
    assert [len(part) for part in numbered(9).split(0)] == [9, 0]


def test_taking_keeps_order_and_mixes_chunks() -> None:
    taken = inside(numbered(50, 50).take(20))
    assert len(taken) == 20
    assert taken == sorted(taken)
    assert 3 < sum(v < 50 for v in taken) < 17
    assert len(numbered(3).take(5)) == 3
    assert len(numbered(6, fixed=2).take(1)) == 2


def test_batches_never_mix_shapes_and_honour_a_fixed_size() -> None:
    assert [len(b["x"]) for b in numbered(7, 5).batches(4)] == [4, 3, 4, 1]
    assert [len(b["x"]) for b in numbered(6, 4, fixed=2).batches(64)] == [2] * 5
    with pytest.raises(DataError, match="expected a multiple of 2"):
        numbered(7, fixed=2)
