# SPDX-License-Identifier: Apache-2.0
"""The cost that may remain, as a fraction or an amount."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from onnxprune.errors import OptionError

COUNTS = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
BYTES = {"": 1.0, "B": 1.0, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KIB": 2.0**10, "MIB": 2.0**20, "GIB": 2.0**30}


@dataclass(frozen=True, slots=True)
class Quantity:
    """How amounts of one cost are written: units in capitals, examples for messages, and the least amount."""

    units: Mapping[str, float]
    examples: str
    least: float = 1.0


TARGETS: Mapping[str, Quantity] = MappingProxyType(
    {
        "macs": Quantity(COUNTS, "50% or 300M"),
        "params": Quantity(COUNTS, "50% or 5M"),
        "size": Quantity(BYTES, "50% or 2MB"),
        "memory": Quantity(BYTES, "50% or 20MB"),
        "latency": Quantity({"US": 1e-3, "MS": 1.0, "S": 1e3}, "50% or 12ms", 0.0),
    }
)
"""The costs that can be limited, by the name of their option."""


@dataclass(frozen=True, slots=True)
class Amount:
    """What may remain: `number`, or that fraction of the original if `relative`."""

    number: float
    relative: bool

    def of(self, whole: float) -> float:
        """The limit, for a model that costs `whole`."""
        return self.number * whole if self.relative else self.number


def amount(text: str | float, target: str) -> Amount:
    """Read `50%`, `300M`, `1.5G`, `2MB` or a plain number, as given for one of `TARGETS`.

    Raises:
        OptionError: it is none of these, it leaves nothing, or it is more than the whole.

    >>> amount("50%", "macs"), amount("300M", "macs").number, amount("1.5MiB", "size").number
    (Amount(number=0.5, relative=True), 300000000.0, 1572864.0)
    """
    option, quantity = f"--{target}", TARGETS[target]
    read = re.fullmatch(r"(\d+\.?\d*(?:e\d+)?|\.\d+)\s*([a-z]*|%)", str(text).strip(), re.IGNORECASE)
    unit = read[2].upper() if read else ""
    factor = 0.01 if unit == "%" else quantity.units.get(unit, 0.0)
    found = Amount(float(read[1]) * factor, unit == "%") if read else Amount(0.0, False)
    if not math.isfinite(found.number) or found.number <= 0 or (not found.relative and found.number < quantity.least):
        raise OptionError(f"{option}: got '{text}', expected the cost that may remain, such as {quantity.examples}")
    if read and not unit and found.number <= 100:
        raise OptionError(f"{option}: got '{text}', a cost without a unit; did you mean {read[1]}%?")
    if found.relative and found.number > 1:
        raise OptionError(f"{option}: got '{text}', expected at most 100%, the cost of the original")
    return found


def fraction(text: str | float, option: str) -> float:
    """Read `1%` or `0.01`, a share below one half.

    Raises:
        OptionError: it is none.

    >>> fraction("1%", "--max-loss"), fraction(0.02, "--max-loss")
    (0.01, 0.02)
    """
    read = re.fullmatch(r"(\d+\.?\d*|\.\d+)\s*(%?)", str(text).strip())
    found = float(read[1]) * (0.01 if read[2] else 1.0) if read else -1.0
    if read and not read[2] and 0.5 <= found < 50:
        raise OptionError(f"{option}: got '{text}', expected a share such as 1% or 0.01; did you mean {read[1]}%?")
    if not 0 <= found < 0.5:
        raise OptionError(f"{option}: got '{text}', expected a share below one half, such as 1% or 0.01")
    return found
