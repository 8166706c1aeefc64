# SPDX-License-Identifier: Apache-2.0
"""Types shared by several packages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Vector = NDArray[np.float64]
"""Double-precision numbers, of any rank."""
Indices = NDArray[np.int64]
"""Labels, classes, or positions on an axis."""
Mask = NDArray[np.bool_]
Feeds = dict[str, Array]
"""The inputs of one run of a model: input name -> array."""
Outputs = dict[str, Array]
"""The outputs of one run of a model: output name -> array."""
Ends = tuple[tuple[float, ...], tuple[float, ...]]
"""The lowest and the highest value of an input, one of each per channel."""
Shapes = Mapping[str, Sequence[int]]
"""Input name -> sizes of its axes."""
Rng = np.random.Generator
Advance = Callable[[float], None]
"""Called with the completed fraction of one stage, 0 to 1."""
Progress = Callable[[str, float], None]
"""Called with the name of a stage and its completed fraction, 0 to 1."""


def unwatched(done: float) -> None:
    """An `Advance` that ignores progress."""


def silent(stage: str, done: float) -> None:
    """A `Progress` that ignores progress."""


Value = TypeVar("Value")


def joined(*tables: Mapping[str, Value]) -> Mapping[str, Value]:
    """Merge tables; ValueError if two of them define the same name."""
    found: dict[str, Value] = {}
    for table in tables:
        if twice := found.keys() & table.keys():
            raise ValueError(f"defined twice: {', '.join(sorted(twice))}")
        found |= table
    return MappingProxyType(found)
