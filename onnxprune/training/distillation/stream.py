# SPDX-License-Identifier: Apache-2.0
"""An endless stream of training batches: random samples, and mixtures of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from onnxprune.data.samples import Data, count
from onnxprune.types import Array, Feeds, Rng

NARROW = 4
"""An axis of at most `NARROW` positions holds channels or the like, and is not split into blocks."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Samples of one shape.

    Attributes:
        samples: number of samples.
        feeds: input name -> array.
        labels: labels and their weights (n,); a mixture has the labels of both its samples. Empty without labels.
    """

    samples: int
    feeds: Feeds
    labels: tuple[tuple[Array, Array], ...] = ()


def stream(data: Data, size: int, rng: Rng) -> Iterator[Batch]:
    """Batches of `size` samples of one shape, shuffled, without end.

    Args:
        data: the samples; a fixed batch size of theirs overrides `size`.
        size: samples in a batch; a smaller last batch is filled up from the start of the shuffle.
        rng: determines the order.
    """
    starts = np.cumsum([0, *(count(c) for c in data.chunks)])
    while True:
        plan = [
            (k, chosen) for k, chunk in enumerate(data.chunks) for chosen in _shuffled(count(chunk), data.fixed or size, rng)
        ]
        for j in rng.permutation(len(plan)):
            k, chosen = plan[j]
            feeds = {name: x[chosen[0] if name in data.stacked else chosen] for name, x in data.chunks[k].items()}
            ones = np.ones(len(chosen), np.float32)
            yield Batch(len(chosen), feeds, () if data.labels is None else ((data.labels[starts[k] + chosen], ones),))


def _shuffled(n: int, size: int, rng: Rng) -> list[Array]:
    """All `n` positions in random order, in parts of `size` (of `n` if there are fewer)."""
    size = min(size, n)
    order = rng.permutation(n)
    return np.split(np.resize(order, -(-n // size) * size), -(-n // size))


def mixable(data: Data) -> bool:
    """Whether samples are floating-point, so that they can be averaged, and come in batches."""
    return not data.stacked and all(x.dtype.kind == "f" for chunk in data.chunks for x in chunk.values())


def mixed(batch: Batch, rng: Rng, blocks: float) -> Batch:
    """Each sample averaged with another, or with a block of it replaced by the other's.

    The teacher sees the same mixture, so nothing is assumed about what the inputs mean (mixup, Zhang et al. 2018; CutMix, Yun
    et al. 2019; for distillation, Beyer et al. 2022).

    Args:
        batch: samples whose inputs are all floating-point.
        rng: chooses pairs and shares.
        blocks: probability of replacing a block instead of averaging, 0 to 1.
    """
    n = batch.samples
    other, share, block = rng.permutation(n), rng.random(n).astype(np.float32), rng.random(n) < blocks
    feeds = {name: _mixed(x, x[other], share, block, rng) for name, x in batch.feeds.items()}
    both = tuple(pair for y, _ in batch.labels for pair in ((y, 1 - share), (y[other], share)))
    return Batch(n, feeds, both)


def _mixed(x: Array, y: Array, share: Array, block: Array, rng: Rng) -> Array:
    """`x` with a `share` (n,) of `y` in each sample, as a single block where `block` (n,) is True."""
    each = (slice(None), *[None] * (x.ndim - 1))
    taken: Array = share[each]
    wide = [k for k in range(1, x.ndim) if x.shape[k] > NARROW]
    if wide and block.any():
        taken = np.where(block[each], _inside(x.shape, wide, share, rng), taken)
    return np.asarray((1 - taken) * x + taken * y, x.dtype)


def _inside(shape: tuple[int, ...], axes: list[int], share: Array, rng: Rng) -> Array:
    """A mask of a block that covers about a `share` (n,) of the positions; it wraps around the edges."""
    inside: Array = np.ones([shape[0], *[1] * (len(shape) - 1)], bool)
    for axis in axes:
        size = shape[axis]
        start, length = rng.random(len(share)) * size, share ** (1 / len(axes)) * size
        here = (np.arange(size) - start[:, None]) % size < length[:, None]
        inside = inside & np.expand_dims(here, [k for k in range(1, len(shape)) if k != axis])
    return inside
