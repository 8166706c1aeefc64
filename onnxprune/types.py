# SPDX-License-Identifier: Apache-2.0
"""Names of types that several packages share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Vector = NDArray[np.float64]
"""Numbers in double precision, of any rank."""
Indices = NDArray[np.int64]
"""Labels, classes, or positions on an axis."""
Mask = NDArray[np.bool_]
Feeds = dict[str, Array]
"""What a model is fed in one run: input name -> array."""
Outputs = dict[str, Array]
"""What a model gives back: output name -> array."""
Shapes = Mapping[str, Sequence[int]]
"""Input name -> sizes of its axes."""
Rng = np.random.Generator
Advance = Callable[[float], None]
"""Told how much of one stage is done, 0 to 1."""
Progress = Callable[[str, float], None]
"""Told the name of a stage and how much of it is done, 0 to 1."""


def unwatched(done: float) -> None:
    """The `Advance` of work that nobody watches."""


def silent(stage: str, done: float) -> None:
    """The `Progress` of work that nobody watches."""


Value = TypeVar("Value")


def joined(*tables: Mapping[str, Value]) -> Mapping[str, Value]:
    """Tables as one; ValueError where two of them name the same thing."""
    found: dict[str, Value] = {}
    for table in tables:
        if twice := found.keys() & table.keys():
            raise ValueError(f"defined twice: {', '.join(sorted(twice))}")
        found |= table
    return MappingProxyType(found)
