# SPDX-License-Identifier: Apache-2.0
"""Blocks of weights that share one magnitude: how large they are, and how they divide a weight.

Source: Lin et al., Efficient Micro-Structured Weight Unification and Pruning (arXiv 2106.08301, 2021).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil, prod

import numpy as np

from onnxprune.errors import OptionError
from onnxprune.types import Array, Indices, Vector

FREE, SHARED, ZERO = 0, 1, 2
"""What is done to a block: its weights stay as they are, share one magnitude, or are all zero."""


@dataclass(frozen=True)
class BlockShape:
    """The size of a block.

    Attributes:
        outputs, inputs: numbers of channels.
        kernel: sizes on the axes of the kernel, as many as the kernel has. Empty: 1, but where a layer has fewer inputs than
            `inputs` (a depthwise convolution), positions of the kernel fill the block.
    """

    outputs: int
    inputs: int
    kernel: tuple[int, ...] = ()

    @classmethod
    def parse(cls, text: str) -> BlockShape:
        """A size as users write it: inputs, outputs x inputs, or outputs x inputs x kernel.

        Raises:
            OptionError: it is none of these.

        >>> BlockShape.parse("16"), BlockShape.parse("1x8x3x3")
        (BlockShape(outputs=1, inputs=16, kernel=()), BlockShape(outputs=1, inputs=8, kernel=(3, 3)))
        """
        if not re.fullmatch(r"[1-9]\d{0,8}(x[1-9]\d{0,8})*", text):
            raise OptionError(
                f"block size: got {text!r}, expected sizes such as 16 (inputs), 4x4 (outputs x inputs) or 1x8x3x3"
            )
        first, *others = (int(part) for part in text.split("x"))
        found = cls(first, others[0], tuple(others[1:])) if others else cls(1, first)
        if found.outputs * found.inputs * prod(found.kernel) == 1:
            raise OptionError(f"block size: got {text!r}, expected more than one weight; a block of one saves nothing")
        return found

    def check(self, weights: Sequence[tuple[Sequence[int], tuple[int, int]]]) -> None:
        """Reject a size that fits no weight.

        Args:
            weights: their shapes, and their axes of outputs and inputs.

        Raises:
            OptionError: it is larger than all of their axes, or of another rank.
        """
        kernels = [tuple(n for axis, n in enumerate(shape) if axis not in axes) for shape, axes in weights]
        ranks = sorted({len(kernel) for kernel in kernels})
        if self.kernel and len(self.kernel) not in ranks:
            known = ", ".join(str(2 + rank) for rank in ranks)
            raise OptionError(
                f"block size: got {self}, {2 + len(self.kernel)} sizes, but the weights of this model have {known} axes"
            )
        fitting = [k for k, kernel in enumerate(kernels) if not self.kernel or len(kernel) == len(self.kernel)]
        outputs, inputs = ([shape[axes[k]] for shape, axes in weights] for k in (0, 1))
        longest = [max(outputs[k] for k in fitting)]
        # positions of the kernel fill a block of which only the number of inputs is given
        longest += [max(inputs[k] * (1 if self.kernel else prod(kernels[k])) for k in fitting)]
        longest += [max(kernels[k][axis] for k in fitting) for axis in range(len(self.kernel))]
        names = ["outputs", "inputs", *["kernel positions"] * len(self.kernel)]
        for name, size, most in zip(names, (self.outputs, self.inputs, *self.kernel), longest, strict=True):
            if size > most:
                filled = " (inputs times kernel positions)" if name == "inputs" and not self.kernel and any(kernels) else ""
                largest = f"the largest weight of this model has {most}{filled}"
                raise OptionError(f"block size: got {self}, {size} {name}, but {largest}; choose a smaller block")

    def __str__(self) -> str:
        sizes = (self.outputs, self.inputs, *self.kernel)
        return str(self.inputs) if self.outputs == 1 and not self.kernel else "x".join(map(str, sizes))


@dataclass(frozen=True, eq=False)
class Blocks:
    """A weight, divided into blocks by runs on each of its axes; the last run of an axis may be shorter.

    Attributes:
        shape: of the weight, as it is stored.
        runs: length of the runs on each axis.
    """

    shape: tuple[int, ...]
    runs: tuple[int, ...]

    @property
    def grid(self) -> tuple[int, ...]:
        """Number of runs on each axis."""
        return tuple(ceil(n / run) for n, run in zip(self.shape, self.runs, strict=True))

    @property
    def count(self) -> int:
        """Number of blocks."""
        return prod(self.grid)

    @cached_property
    def numbers(self) -> Indices:
        """The number of the block of each weight, in the shape of the weight."""
        found = np.zeros((1,) * len(self.shape), np.int64)
        for axis, (n, run, many) in enumerate(zip(self.shape, self.runs, self.grid, strict=True)):
            along = np.arange(n) // run
            found = found * many + along.reshape(-1, *(1,) * (len(self.shape) - axis - 1))
        return found

    @cached_property
    def sizes(self) -> Indices:
        """Number of weights in each block (count,)."""
        return np.bincount(self.numbers.ravel(), minlength=self.count)

    def magnitudes(self, w: Array) -> Vector:
        """The mean absolute value of each block (count,): of one shared magnitude, the nearest to all of its weights."""
        found: Vector = np.bincount(self.numbers.ravel(), np.abs(w, dtype=np.float64).ravel(), self.count) / self.sizes
        return found

    def largest(self, w: Array, sign: int = 1) -> Vector:
        """The largest `sign` * |w| of each block (count,)."""
        found = np.full(self.count, -np.inf)
        np.maximum.at(found, self.numbers.ravel(), sign * np.abs(w, dtype=np.float64).ravel())
        return found

    def shared(self, magnitudes: Vector, w: Array) -> Vector:
        """The weight with the signs of `w` (that of 0 is +) and a magnitude for each block (count,)."""
        found: Vector = magnitudes[self.numbers] * np.where(w < 0, -1.0, 1.0)
        return found


def divided(shape: Sequence[int], axes: tuple[int, int], groups: int, block: BlockShape) -> Blocks | None:
    """The blocks of a weight; None if the weight has too few inputs, outputs or kernel positions for this size.

    Blocks lie within one group of a grouped convolution.

    Args:
        shape: of the weight, as it is stored.
        axes: the axes of outputs and inputs; all others are those of the kernel.
        groups: number of groups of a convolution, which lie on the first axis.
        block: the size that is asked for.
    """
    outputs, inputs = axes
    kernel = [axis for axis in range(len(shape)) if axis not in (outputs, inputs)]
    runs = [1] * len(shape)
    for axis, asked in ((outputs, block.outputs), (inputs, block.inputs)):
        runs[axis] = _run(shape[axis], asked, groups if axis == 0 else 1)
    if block.kernel:
        if len(block.kernel) != len(kernel):
            return None
        for axis, size in zip(kernel, block.kernel, strict=True):
            runs[axis] = min(size, shape[axis])
    elif runs[inputs] < block.inputs:
        left = block.inputs // runs[inputs]
        for axis in reversed(kernel):
            runs[axis] = min(shape[axis], left)
            left //= runs[axis]
    return Blocks(tuple(shape), tuple(runs)) if prod(runs) > 1 else None


def _run(size: int, asked: int, groups: int) -> int:
    """The longest run of at most `asked` channels; on an axis of several groups, one that divides a group."""
    if groups == 1:
        return min(size, asked)
    own = size // groups
    return max(n for n in range(1, min(own, asked) + 1) if own % n == 0)
