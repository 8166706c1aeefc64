# SPDX-License-Identifier: Apache-2.0
"""The cost that may remain, as a fraction or an amount."""

from __future__ import annotations

import re
from dataclasses import dataclass

from onnxprune.errors import OptionError

UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


@dataclass(frozen=True, slots=True)
class Amount:
    """What may remain: `number`, or that fraction of the original if `relative`."""

    number: float
    relative: bool

    def of(self, whole: float) -> float:
        """The limit, for a model that costs `whole`."""
        return self.number * whole if self.relative else self.number


def amount(text: str | float, option: str) -> Amount:
    """Read `50%`, `300M`, `1.5G` or a plain number, as given to `option`.

    Raises:
        OptionError: it is none of these, it leaves nothing, or it is more than the whole.

    >>> amount("50%", "--macs"), amount("300M", "--macs").number
    (Amount(number=0.5, relative=True), 300000000.0)
    """
    read = re.fullmatch(r"(\d+\.?\d*(?:e\d+)?|\.\d+)\s*([KMGT%]?)", str(text).strip(), re.IGNORECASE)
    found = read and Amount(float(read[1]) * (0.01 if read[2] == "%" else UNITS[read[2].upper()]), read[2] == "%")
    if not found or found.number <= 0 or (not found.relative and found.number < 1):
        raise OptionError(f"{option}: got '{text}', expected the cost that may remain, such as 50% or 300M")
    if read and not read[2] and found.number <= 100:
        raise OptionError(f"{option}: got '{text}', a cost without a unit; did you mean {read[1]}%?")
    if found.relative and found.number > 1:
        raise OptionError(f"{option}: got '{text}', expected at most 100%, the cost of the original")
    return found
