# SPDX-License-Identifier: Apache-2.0
"""Samples for the inputs of a model: immutable, in memory, served in batches that the model accepts."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from onnxprune.errors import DataError, counted
from onnxprune.types import Array, Ends, Feeds, Mask


@dataclass(frozen=True)
class MadeUp:
    """What made-up samples are like.

    Attributes:
        ranges: input name -> the lowest and the highest value, per channel, that samples may have.
        mismatch: distance of the activations that they cause from the BatchNorm statistics of the model, 0 if as in training;
            None if the model stores no such statistics.
        layers: number of BatchNorm layers compared.
    """

    ranges: Mapping[str, Ends] = field(default_factory=dict)
    mismatch: float | None = None
    layers: int = 0


@dataclass(frozen=True, eq=False)
class Data:
    """Samples for the inputs of a model.

    Attributes:
        chunks: mappings input name -> array whose first axis counts samples. Within a chunk every input has one shape; shapes
            may differ between chunks.
        labels: ground truth of each sample, in order, samples on the first axis; None if unknown.
        fixed: the batch size fixed by the file; every batch has it. None: any.
        stacked: inputs without a sample axis. Their arrays have one axis more than the model's input, and a batch (always one
            sample: `fixed` is 1) omits it.
        made: what made-up samples are like; None for the user's own.
        notes, warnings: sentences for the report, such as the number of unreadable images, or that the inputs hardly resemble
            those of training.
    """

    chunks: tuple[Feeds, ...] = field(repr=False)
    labels: Array | None = field(default=None, repr=False)
    fixed: int | None = None
    stacked: frozenset[str] = frozenset()
    made: MadeUp | None = None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Reject arrays that differ in their number of samples, or that do not divide into batches of the fixed size."""
        counts = [{len(x) for x in chunk.values()} for chunk in self.chunks]
        if any(len(c) != 1 or 0 in c for c in counts):
            sizes = sorted(set().union(*counts))
            raise DataError(f"the arrays have {sizes} samples; expected the same nonzero number in each")
        if any(n % self.unit for c in counts for n in c):
            got = counted(len(self), "sample")
            raise DataError(f"got {got} of one shape, expected a multiple of {self.unit}, the model's batch size")
        if self.labels is not None and len(self.labels) != len(self):
            got = f"{counted(len(self.labels), 'label')} for {counted(len(self), 'sample')}"
            raise DataError(f"got {got}; expected one per sample")

    def __len__(self) -> int:
        """Number of samples."""
        return sum(count(chunk) for chunk in self.chunks)

    @property
    def unit(self) -> int:
        """Samples that stay together: `fixed`, or 1."""
        return self.fixed or 1

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the inputs."""
        return tuple(self.chunks[0]) if self.chunks else ()

    @property
    def integers(self) -> dict[str, Array]:
        """The integers that occur in each input of integers: others may index past the end of a table."""
        whole = [name for name in self.names if self.chunks[0][name].dtype.kind in "iu"]
        return {name: np.unique(np.concatenate([chunk[name].ravel() for chunk in self.chunks])) for name in whole}

    @property
    def digest(self) -> str:
        """SHA-256 of all samples and labels."""
        digest = hashlib.sha256()
        for chunk in self.chunks:
            for name in sorted(chunk):
                digest.update(np.ascontiguousarray(chunk[name]).tobytes())
        if self.labels is not None:
            digest.update(np.ascontiguousarray(self.labels).tobytes())
        return digest.hexdigest()

    def batches(self, size: int) -> Iterator[Feeds]:
        """Feeds of at most `size` samples (exactly `fixed`, if set), in order; shapes are never mixed."""
        step = self.fixed or max(1, size)
        for chunk in self.chunks:
            for k in range(0, count(chunk), step):
                # `x[k]` of a single axis would be a number, which onnxruntime does not take
                yield {name: x[k, ...] if name in self.stacked else x[k : k + step] for name, x in chunk.items()}

    def split(self, held_out: int | float, seed: int = 0) -> tuple[Data, Data]:
        """Samples to fit on and samples to evaluate on: disjoint, chosen by `seed`, in the original order.

        Args:
            held_out: number (int) or fraction (float) of samples to hold out, rounded up to whole batches of a fixed size, and
                at most half. A single sample is not held out: the second part is then empty.
        """
        requested = held_out if isinstance(held_out, int) else math.ceil(held_out * len(self))
        chosen = self._choose(min(-(-requested // self.unit) * self.unit, len(self) // 2), seed)
        return self.where(~chosen), self.where(chosen)

    def take(self, n: int, seed: int = 0) -> Data:
        """At most `n` samples (at least one batch of a fixed size), chosen by `seed`, in the original order."""
        return self if n >= len(self) else self.where(self._choose(max(n, self.unit), seed))

    def _choose(self, n: int, seed: int) -> Mask:
        """A mask of `n` samples chosen at random, in whole units."""
        units = len(self) // self.unit
        chosen = np.zeros(units, bool)
        chosen[np.random.default_rng(seed).permutation(units)[: max(n, 0) // self.unit]] = True
        return np.repeat(chosen, self.unit)

    def where(self, mask: Mask) -> Data:
        """The samples that a mask (one entry per sample) selects."""
        chunks, at = [], 0
        for chunk in self.chunks:
            here = mask[at : at + count(chunk)]
            at += len(here)
            if here.any():
                chunks.append({name: x[here] for name, x in chunk.items()})
        return replace(self, chunks=tuple(chunks), labels=None if self.labels is None else self.labels[mask])


def count(chunk: Feeds) -> int:
    """Number of samples in a chunk."""
    return len(next(iter(chunk.values())))
