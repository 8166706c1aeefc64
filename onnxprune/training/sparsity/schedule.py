# SPDX-License-Identifier: Apache-2.0
"""Strengths of regularisers: a number, or a function of the step."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from onnxprune.errors import OptionError

Schedule = Callable[[int], float]
"""The number of steps done so far -> a strength."""


@dataclass(frozen=True)
class Strength:
    """A strength that is checked whenever it is read.

    Attributes:
        name: for messages, as in "L1 weights".
        given: a number of at least 0, or a schedule.

    Raises:
        OptionError: it is neither.
    """

    name: str
    given: float | Schedule

    def __post_init__(self) -> None:
        if not callable(self.given):
            self._checked(self.given, "")

    @property
    def off(self) -> bool:
        """Whether it is 0 at all steps."""
        return not callable(self.given) and self.given == 0

    def at(self, step: int) -> float:
        """The strength after a number of steps."""
        return self._checked(self.given(step), f" at step {step}") if callable(self.given) else float(self.given)

    def _checked(self, value: Any, when: str) -> float:
        if not is_number(value) or not 0 <= value < math.inf:
            expected = "a finite number of at least 0, or a function from the step to one"
            raise OptionError(f"{self.name}: got {value!r}{when}, expected {expected}")
        return float(value)


def constant(value: float) -> Schedule:
    """The same strength at all steps."""
    return lambda step: value


def ramp(start: float, end: float, steps: int, delay: int = 0) -> Schedule:
    """From `start` to `end` in a straight line over `steps` steps, after `delay` steps at `start`; then `end`.

    >>> strength = ramp(0.0, 1e-4, steps=100, delay=50)
    >>> [strength(k) for k in (0, 50, 100, 150, 1000)]
    [0.0, 0.0, 5e-05, 0.0001, 0.0001]
    """
    count(steps, "ramp steps")
    count(delay, "ramp delay", 0)
    return lambda step: start + (end - start) * min(1.0, max(0, step - delay) / steps)


def is_number(value: Any) -> bool:
    """Whether a value is a number, and not a bool."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def count(value: Any, name: str, least: int = 1) -> int:
    """A whole number of at least `least`.

    Raises:
        OptionError: it is not.
    """
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < least:
        raise OptionError(f"{name}: got {value!r}, expected a whole number of at least {least}")
    return int(value)


def share(value: Any, name: str) -> float:
    """A fraction of channels.

    Raises:
        OptionError: it is not at least 0 and below 1.
    """
    if not is_number(value) or not 0 <= value < 1:
        raise OptionError(f"{name}: got {value!r}, expected the share of channels that will go, at least 0 and below 1")
    return float(value)
