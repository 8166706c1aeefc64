# SPDX-License-Identifier: Apache-2.0
"""How much single layers keep: exact ratios, floors and ceilings by patterns of weight names, as a file states them."""

from __future__ import annotations

import fnmatch
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

from onnxprune.errors import OptionError, first_line
from onnxprune.ir.texts import text_of
from onnxprune.selection.units import FLOOR

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

KEYS = ("keep_at_least", "keep_at_most")
FORM = 'expected "PATTERN" = RATIO, the fraction to remove (0.3), or "PATTERN" = {keep_at_least = 0.2, keep_at_most = 0.8}'


@dataclass(frozen=True, slots=True)
class Bounds:
    """The smallest and the largest fraction of its channels that a group keeps, 0 to 1."""

    least: float = FLOOR
    most: float = 1.0

    @property
    def fixed(self) -> bool:
        """Whether they leave no choice."""
        return self.least == self.most

    def within(self, outer: Bounds) -> Bounds:
        """These bounds as far as others allow: the narrower one holds, and where they contradict each other, the other.

        >>> Bounds(0.2, 0.6).within(Bounds(0.3, 1.0)), Bounds(0.2, 0.6).within(Bounds(0.7, 0.7))
        (Bounds(least=0.3, most=0.6), Bounds(least=0.7, most=0.7))
        """
        return Bounds(*(min(max(x, outer.least), outer.most) for x in (self.least, self.most)))


ANY = Bounds()


@dataclass(frozen=True)
class LayerRatios:
    """Bounds by patterns of the names of weights that produce channels; of several that match, the first counts.

    Attributes:
        source: where they come from, for messages.
        patterns: pattern -> bounds, in the order of the file.
        outer: others that hold, too, and win; None: there are none.
    """

    source: str
    patterns: Mapping[str, Bounds]
    outer: LayerRatios | None = None

    @classmethod
    def read(cls, given: str | Path | Mapping[str, Any]) -> LayerRatios:
        """Read a TOML file, or a mapping of the same form.

        Raises:
            OptionError: there is no such file, or it has another form.
        """
        if isinstance(given, Mapping):
            return cls("the given mapping", {name: _bounds(name, value, "--layer-ratios") for name, value in given.items()})
        try:
            found = tomllib.loads(text_of(Path(given)))
        except (OSError, ValueError, RecursionError) as e:  # not text, not TOML, a number of thousands of digits
            why = e.strerror if isinstance(e, OSError) else first_line(e, 80)
            raise OptionError(f"--layer-ratios {given}: cannot be read: {why}; {FORM}") from e
        if not found:
            raise OptionError(f"--layer-ratios {given}: is empty; {FORM}")
        return cls(str(given), {name: _bounds(name, value, f"--layer-ratios {given}") for name, value in found.items()})

    def __str__(self) -> str:
        return self.source

    def of(self, weights: Sequence[str]) -> Bounds:
        """The bounds of a group whose channels these weights produce."""
        own = next((bounds for pattern, bounds in self.patterns.items() if fnmatch.filter(weights, pattern)), None)
        if self.outer is None:
            return own or ANY
        outer = self.outer.of(weights)
        return own.within(outer) if own else outer


def _bounds(name: str, value: Any, option: str) -> Bounds:
    if _is_number(value):
        if not 0 <= value < 1:
            raise OptionError(f"{option}: '{name}': got {value!r:.20}, expected 0 <= ratio < 1, the fraction to remove")
        return Bounds(1 - value, 1 - value)
    if not isinstance(value, Mapping) or not value or not all(k in KEYS and _is_number(v) for k, v in value.items()):
        raise OptionError(f"{option}: '{name}': got {str(value)[:80]}; {FORM}")
    most = float(value.get(KEYS[1], ANY.most))
    found = Bounds(float(value.get(KEYS[0], min(ANY.least, most))), most)
    if not 0 <= found.least <= found.most <= 1:
        raise OptionError(f"{option}: '{name}': got {found.least:g} to {found.most:g}, expected fractions in ascending order")
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
