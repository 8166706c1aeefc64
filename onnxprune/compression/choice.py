# SPDX-License-Identifier: Apache-2.0
"""Which blocks are zeroed and which share a magnitude: those that change least in what their layers compute."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from onnxprune.compression.blocks import FREE, SHARED, ZERO, Blocks
from onnxprune.errors import OptionError
from onnxprune.types import Array, Vector


@dataclass(frozen=True)
class Shares:
    """How much is unified.

    Attributes:
        shared: the share of all blocks that get one magnitude.
        zero: the share that is zeroed; it is chosen first.
        scope: "global": of all weights together, "local": of each weight.

    Raises:
        OptionError: a share is not in [0, 1], their sum is above 1, or nothing would be done.
    """

    shared: float = 1.0
    zero: float = 0.0
    scope: str = "global"

    def __post_init__(self) -> None:
        for name, value in (("zero", self.zero), ("share", self.shared)):  # the default of the latter follows from the former
            if not 0 <= value <= 1:
                raise OptionError(f"--{name}: got {value:g}, expected a share of all blocks, between 0 and 1")
        if not 0 < self.shared + self.zero <= 1 + 1e-9:
            total = self.shared + self.zero
            raise OptionError(f"--share and --zero: got {total:g} together, expected more than 0 and at most 1")
        if self.scope not in ("global", "local"):
            raise OptionError(f"--scope: got '{self.scope}', expected global or local")

    @property
    def everything(self) -> bool:
        """Whether all blocks get one magnitude, so that nothing is to be chosen."""
        return self.shared == 1

    def of(self, total: int) -> tuple[int, int]:
        """How many of so many blocks are zeroed and get one magnitude; together all of them, if the shares are everything."""
        zero = round(self.zero * total)
        everything = self.zero + self.shared >= 1 - 1e-9
        return zero, total - zero if everything else min(total - zero, round(self.shared * total))


@dataclass(frozen=True, eq=False)
class Losses:
    """What each block of a weight would lose (count,), as a share of what its layer computes: zeroed, or of one magnitude."""

    zero: Vector
    shared: Vector

    @classmethod
    def of(cls, blocks: Blocks, w: Array) -> Losses:
        """By the changes of the weights alone, as a share of their squares."""
        w = w.astype(np.float64)
        near = blocks.shared(blocks.magnitudes(w), w)
        whole = float((w**2).sum()) or 1.0

        def per_block(error: Array) -> Vector:
            found: Vector = np.bincount(blocks.numbers.ravel(), (error**2).ravel(), blocks.count) / whole
            return found

        return cls(per_block(w), per_block(w - near))


def chosen(losses: Mapping[str, Losses], shares: Shares) -> dict[str, Array]:
    """FREE, SHARED or ZERO for each block (count,), by the name of the weight."""
    if shares.scope == "local" and len(losses) > 1:
        return {name: chosen({name: mine}, shares)[name] for name, mine in losses.items()}
    sizes = [len(mine.zero) for mine in losses.values()]
    zero, shared = (np.concatenate([getattr(mine, what) for mine in losses.values()]) for what in ("zero", "shared"))
    total = len(zero)
    actions = np.full(total, FREE)
    n_zero, n_shared = shares.of(total)
    actions[np.argsort(zero, kind="stable")[:n_zero]] = ZERO
    left = np.flatnonzero(actions == FREE)
    actions[left[np.argsort(shared[left], kind="stable")[:n_shared]]] = SHARED
    return dict(zip(losses, np.split(actions, np.cumsum(sizes)[:-1]), strict=True))
