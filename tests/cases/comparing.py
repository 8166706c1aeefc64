# SPDX-License-Identifier: Apache-2.0
"""Comparison of outputs, as exactly as their type allows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto

from tests.cases.running import Array
from tests.cases.text import stored


def compare_all(
    original: ModelProto, expected: Sequence[Any], found: Sequence[Any], slack: float = 1, noise: Sequence[float] | None = None
) -> None:
    """Compare every output of a model with that of another."""
    for k, (v, p, q) in enumerate(zip(original.graph.output, expected, found, strict=True)):
        compare(v.name, np.asarray(p), np.asarray(q), slack, noise[k] if noise else 0.0)


def compare(name: str, p: Array, q: Array, slack: float = 1, noise: float = 0.0) -> None:
    """Integers must be equal; other values may differ by the rounding of their type (times `slack`) plus `noise`."""
    assert (p.shape, p.dtype) == (q.shape, q.dtype), f"{name}: {p.dtype}{p.shape} became {q.dtype}{q.shape}"
    if p.dtype.kind in "iub":
        np.testing.assert_array_equal(p, q, name)
        return
    tolerance = {"float64": 1e-9, "float32": 1e-4, "float16": 3e-2}.get(p.dtype.name, 8e-2)
    wide_p, wide_q = p.astype(np.float64), q.astype(np.float64)
    finite = np.isfinite(wide_p)
    assert finite.mean() > 0.5, f"{name}: the sample has too few finite values"
    gap = np.abs(wide_p - wide_q)[finite].max()
    assert gap <= slack * tolerance * (np.abs(wide_p[finite]).max() + 1e-3) + noise, f"{name}: differs by {gap:.2e}"


def distance(p: Any, q: Any) -> float:
    """The largest difference between finite values of two outputs."""
    p, q = (np.asarray(x).astype(np.float64) for x in np.broadcast_arrays(p, q))
    both = np.isfinite(p) & np.isfinite(q)
    return float(np.abs(p - q)[both].max(initial=0.0))


def rounded(model: ModelProto, seed: int) -> ModelProto:
    """The model with the last bit of every weight changed at random: the effect of rounding alone."""
    rng, moved = np.random.default_rng(seed), ModelProto()
    moved.CopyFrom(model)
    for tensor in stored(moved).values():
        array = onnx.numpy_helper.to_array(tensor)
        if array.dtype.kind == "f" and array.size > 1:
            nudged = np.nextafter(array, array + rng.choice([-1, 1], array.shape).astype(array.dtype))
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.where(array, nudged, array), tensor.name))
    return moved
