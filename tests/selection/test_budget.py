# SPDX-License-Identifier: Apache-2.0
"""Amounts of multiply-accumulates, as the user writes them."""

from __future__ import annotations

import pytest

from onnxprune.errors import OptionError
from onnxprune.selection.budget import amount
from tests.cases.nets import pruned, small


@pytest.mark.parametrize("given", ["", "half", "-5%", "0", "0%", "0.5", "50%%", "nan", "inf", "3 %M"])
def test_an_invalid_amount_gives_a_one_line_error(given: str) -> None:
    with pytest.raises(OptionError, match=r"^`macs`: got '.*', expected the cost that may remain"):
        pruned(small(), macs=given)


@pytest.mark.parametrize(
    ("text", "number"),
    [("50%", 0.5), ("12.5 %", 0.125), ("300M", 3e8), ("1.5g", 1.5e9), ("2e3", 2000), (7e6, 7e6), (".5K", 500)],
)
def test_amounts_are_read_with_their_units(text: str | float, number: float) -> None:
    assert amount(text, "--macs").number == pytest.approx(number)
