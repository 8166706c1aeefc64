# SPDX-License-Identifier: Apache-2.0
"""More inputs from few: a window of each sample is replaced by that of another one. After CutMix (Yun et al., 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np

from onnxprune.types import Array, Feeds, Rng

SMALLEST, LARGEST = 0.125, 0.5
"""Size of the window, as a fraction of the longest axis of an input."""


def mixed(batches: Sequence[Feeds], count: int, seed: int = 0) -> list[Feeds]:
    """As many batches as hold `count` mixed samples, to be appended to the given ones.

    Batches at even places are mixed with each other, and so are those at odd places: fits are judged on every other batch.
    """
    rng = np.random.default_rng([seed, 1])
    found: list[Feeds] = []
    while count > 0:
        place = len(batches) + len(found)
        fold = batches[place % 2 :: 2] or batches
        feeds = fold[len(found) // 2 % len(fold)]
        others = [b for b in fold if _shapes(b) == _shapes(feeds)]
        found.append(_mix(feeds, others[int(rng.integers(len(others)))], rng))
        count -= max(len(x) for x in feeds.values())
    return found


def _shapes(feeds: Feeds) -> dict[str, tuple[int, ...]]:
    return {name: x.shape[1:] for name, x in feeds.items()}


def _mix(a: Feeds, b: Feeds, rng: Rng) -> Feeds:
    """Every sample of `a` with a window of a sample of `b`; the window lies at the same fraction of every input."""
    samples = max(len(x) for x in a.values())
    partners = rng.integers(max(len(x) for x in b.values()), size=samples)
    sizes = rng.uniform(SMALLEST, LARGEST, samples)
    starts = rng.uniform(0, 1 - sizes)
    return {name: _replaced(x, b[name], partners, starts, sizes) for name, x in a.items()}


def _replaced(x: Array, other: Array, partners: Array, starts: Array, sizes: Array) -> Array:
    if x.ndim < 2 or len(x) != len(partners):
        return x
    found = np.moveaxis(x.copy(), 1 + int(np.argmax(x.shape[1:])), 1)
    source = np.moveaxis(other, 1 + int(np.argmax(x.shape[1:])), 1)
    length = found.shape[1]
    for k, (partner, start, size) in enumerate(zip(partners, starts, sizes, strict=True)):
        window = slice(int(start * length), ceil((start + size) * length))
        found[k, window] = source[partner % len(source), window]
    return np.ascontiguousarray(np.moveaxis(found, 1, 1 + int(np.argmax(x.shape[1:]))))
