# SPDX-License-Identifier: Apache-2.0
"""How much work on samples there is time for on this machine.

Numbers of samples, rounds and steps are decided by timing the work itself, and recorded, so that a run can be repeated exactly
on any machine.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field


class _Stops:
    """Seconds in which a clock and its parts stood still."""

    def __init__(self) -> None:
        self.seconds = 0.0


@dataclass(frozen=True)
class Clock:
    """A time budget.

    Attributes:
        budget: in seconds.
        start: value of `time.perf_counter` at creation, less what the clock had stood still before.
    """

    budget: float = math.inf
    start: float = field(default_factory=time.perf_counter)
    _stops: _Stops = field(default_factory=_Stops, repr=False, compare=False)

    def part(self, share: float) -> Clock:
        """A clock with a fraction of the time that is left, which stands still with this one."""
        return Clock(share * self.left, time.perf_counter() - self._stops.seconds, self._stops)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Stand still: what is done meanwhile takes no time of the budget."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._stops.seconds += time.perf_counter() - start

    @property
    def spent(self) -> float:
        """Seconds since the start, without those in which it stood still."""
        return time.perf_counter() - self.start - self._stops.seconds

    @property
    def left(self) -> float:
        """Seconds until the end, at least 0."""
        return max(self.budget - self.spent, 0.0)


@dataclass(frozen=True)
class Effort:
    """The work that there is time for, or that an earlier run did.

    Attributes:
        clock: the time budget; by default unlimited.
        repeated: what an earlier run did: name -> number; None: measure.
        done: what this run did; it grows as numbers are decided.
        prefix: what precedes the names of numbers, if the same work is done more than once.
    """

    clock: Clock = field(default_factory=Clock)
    repeated: Mapping[str, int] | None = None
    done: dict[str, int] = field(default_factory=dict)
    prefix: str = ""

    def within(self, share: float, prefix: str = "") -> Effort:
        """The same, with a fraction of the time that is left."""
        return Effort(self.clock.part(share), self.repeated, self.done, self.prefix + prefix)

    def known(self, name: str) -> int | None:
        """The number of a repeated run; None if there is none."""
        return None if self.repeated is None else self.repeated.get(self.prefix + name)

    def all_known(self, beginning: str) -> dict[str, int]:
        """The numbers of a repeated run whose names begin like this, by the rest of their names."""
        whole = self.prefix + beginning
        return {name.removeprefix(whole): n for name, n in (self.repeated or {}).items() if name.startswith(whole)}

    def amount(self, name: str, each: float, least: int, most: int) -> int:
        """How many units of work there is time for.

        Args:
            name: what is counted, for the record.
            each: seconds per unit.
            least, most: the bounds.
        """
        found = most if math.isinf(self.clock.budget) else int(self.clock.left / max(each, 1e-9))
        return self.record(name, min(max(found, least), most))

    def steps(self, name: str, least: int, most: int) -> Iterator[int]:
        """Count from 0 as long as there is time for another step like the slowest so far."""
        known = self.known(name)
        most = most if known is None else known
        slowest, self.done[self.prefix + name] = 0.0, 0
        for k in range(most):
            start = self.clock.spent
            if known is None and k >= least and self.clock.left < slowest:
                return
            yield k
            self.done[self.prefix + name] = k + 1
            slowest = max(slowest, self.clock.spent - start)

    def record(self, name: str, number: int) -> int:
        """Record a number that was decided; returns it, or that of the repeated run."""
        known = self.known(name)
        found = self.done[self.prefix + name] = number if known is None else known
        return found
