# SPDX-License-Identifier: Apache-2.0
"""What is done to the blocks of a weight, and the nearest weights of that kind that a file can store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.compression.blocks import FREE, SHARED, ZERO, Blocks
from onnxprune.types import Array, Indices, Mask, Vector

FINE = 127
"""Codes as large as this are so fine that a fit need not know of them."""
SHARES = np.linspace(0.3, 1, 29)[:-1]
"""Coarse steps that are tried, as shares of the step that reaches the largest weight: others may gain more than it loses."""
ROUNDING = 1e-6
"""Relative size of errors that are only rounding."""
LEAST = np.finfo(np.float16).smallest_subnormal
"""The least magnitude in float16: less would be zero, which no one asked for."""
HALF_BITS = 10
"""Bits of a number in float16 after the first."""
LEAST_HALF = 2 * float(np.finfo(np.float16).tiny)
"""Numbers are stored in float16 if the largest is at least this: the smallest ones then lose no more than it does."""


@dataclass(frozen=True)
class Division:
    """What is done to one weight.

    Attributes:
        blocks: how it is divided.
        actions: FREE, SHARED or ZERO for each block (count,).
        levels: the largest code of a free block: its weights are whole multiples of a step of its own. 0: they are any numbers.
    """

    blocks: Blocks
    actions: Array
    levels: int = 0

    @property
    def done_to(self) -> Array:
        """The action of each weight, in the shape of the weight."""
        found: Array = self.actions[self.blocks.numbers]
        return found

    def steps(self, w: Array) -> Vector:
        """What the weights of each block (count,) are multiples of, in a weight that has this structure: a shared magnitude, or
        the step of a free block that has levels; else 0."""
        found = np.where(self.actions == SHARED, self.blocks.largest(w), 0.0)
        return found + self._free_steps(w, exact_shares(self.levels)) if self.levels else found

    def codes(self, w: Array, steps: Vector) -> Array:
        """The multiples, in the shape of the weight: -1 or 1 if a magnitude is shared, up to `levels` in free blocks."""
        return codes_of(w.astype(np.float64), steps[self.blocks.numbers], max(self.levels, 1))

    def projected(self, w: Array) -> Array:
        """The nearest weight that has this structure, in the type of `w`."""
        action, near = self.done_to, w.astype(np.float64)
        if self.levels:
            steps = self._free_steps(w, (*exact_shares(self.levels), *coarser_shares(self.levels)))
            near = steps[self.blocks.numbers] * self.codes(w, steps)
        near = np.where(action == SHARED, self.blocks.shared(self.blocks.magnitudes(w), w), near)
        return np.where(action == ZERO, 0.0, near).astype(w.dtype)

    def wrong(self, w: Array) -> int:
        """How many blocks have another structure: several magnitudes, one that is not finite, or none where zero is claimed."""
        with np.errstate(invalid="ignore"):
            most, least = self.blocks.largest(w), -self.blocks.largest(w, -1)
            allowed = 4 * np.finfo(w.dtype).eps * most
            wrong = (self.actions == SHARED) & ~(most - least <= allowed) | (self.actions == ZERO) & (most != 0)
            if self.levels:
                steps = self.steps(w)
                off = np.abs(w - steps[self.blocks.numbers] * self.codes(w, steps))
                wrong |= (self.actions == FREE) & ~(self.blocks.largest(off) <= allowed)
        return int(wrong.sum())

    def _free_steps(self, w: Array, shares: Sequence[float]) -> Vector:
        """The best step of each free block (count,), 0 for the others, among some shares of its largest weight."""
        free, found = self.done_to == FREE, np.zeros(self.blocks.count)
        if free.any():
            found = best_steps(w[free].astype(np.float64), self.blocks.numbers[free], self.blocks.count, self.levels, shares)
        return found


def codes_of(values: Array, steps: Array, levels: Array | int) -> Array:
    """The nearest multiples of steps, of at most `levels`; 0 where the step is 0."""
    found: Array = np.clip(np.rint(values / np.where(steps > 0, steps, 1)), -levels, levels) * (steps > 0)
    return found


def exact_shares(levels: int) -> tuple[float, ...]:
    """Steps with which the largest weight of a block is a multiple, as shares of it."""
    return tuple(1 / n for n in range(levels, 0, -1)) if levels < FINE else (1 / levels,)


def coarser_shares(levels: int) -> tuple[float, ...]:
    """Steps with which it is cut off, as shares of it."""
    return tuple(SHARES / levels) if levels < FINE else ()


def best_steps(
    values: Vector, numbers: Indices, count: int, levels: int, shares: Sequence[float], sizes: Vector | float = 1.0
) -> Vector:
    """The step of each block (count,) with which codes have the least squared error, among shares of its largest value.

    Args:
        values: weights (n,).
        numbers: the block of each weight (n,).
        levels: the largest code.
        sizes: how much an error of each weight counts (n,).
    """
    largest = np.zeros(count)
    np.maximum.at(largest, numbers, np.abs(values))
    best, least = np.zeros(count), np.full(count, np.inf)
    rounding = np.bincount(numbers, (ROUNDING * largest[numbers] * sizes) ** 2, count)
    for share in shares:
        steps = largest * share
        off = values - codes_of(values, steps[numbers], levels) * steps[numbers]
        error = np.maximum(np.bincount(numbers, (off * sizes) ** 2, count), rounding)
        # of several steps that fit, the one that was rounded to float16
        error = np.where((error == rounding) & are_half(steps), 0, error)
        best, least = np.where(error < least, steps, best), np.minimum(error, least)
    return best


def rounded(w: Array, division: Division, bits: int = HALF_BITS) -> Array:
    """A weight that has the structure, all that a file stores of it but codes rounded to float16 if that keeps its precision.

    Args:
        bits: of a magnitude after the first that are kept; the others become 0.
    """
    action, steps, near = division.done_to, division.steps(w), w
    codes, shared = division.codes(w, steps), division.actions == SHARED
    numbers = (action == FREE) & (division.levels == 0)
    if fits_half(steps):
        half = np.where(shared, of_bits(steps, bits), steps).astype(np.float16)
        half = np.where(shared & (steps > 0), np.maximum(half, LEAST), half)
        near = np.where(numbers, w, codes * half.astype(np.float64)[division.blocks.numbers])
    if fits_half(free := np.where(numbers, w, 0)):
        near = np.where(numbers, free.astype(np.float16), near)
    return near.astype(w.dtype)


def of_bits(numbers: Array, bits: int) -> Array:
    """The nearest numbers of so many bits after the first."""
    fractions, exponents = np.frexp(numbers)
    found: Array = np.ldexp(np.round(np.ldexp(fractions, bits + 1)), exponents - bits - 1)
    return found


def are_half(numbers: Array) -> Mask:
    """Which numbers float16 has."""
    with np.errstate(over="ignore"):
        found: Mask = numbers.astype(np.float16) == numbers
    return found


def fits_half(numbers: Array) -> bool:
    """Whether float16 keeps the precision of numbers, or there are none but zeros."""
    largest = float(np.max(np.abs(numbers), initial=0.0))
    return largest == 0 or LEAST_HALF <= largest <= float(np.finfo(np.float16).max)


def as_half(numbers: Array) -> Array | None:
    """The numbers in float16, if they have no other values there."""
    if not fits_half(numbers):
        return None
    half = numbers.astype(np.float16)
    return half if np.array_equal(half.astype(numbers.dtype), numbers) else None
