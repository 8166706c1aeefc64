# SPDX-License-Identifier: Apache-2.0
"""Amounts of multiply-accumulates, as the user writes them."""

from __future__ import annotations

import pytest

from onnxprune.errors import OptionError
from onnxprune.selection.budget import TARGETS, amount
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
    assert amount(text, "macs").number == pytest.approx(number)


@pytest.mark.parametrize(
    ("text", "number"), [("2MB", 2e6), ("2 MiB", 2 * 2**20), ("600kb", 6e5), ("1.5GiB", 1.5 * 2**30), ("40%", 0.4), (5e5, 5e5)]
)
@pytest.mark.parametrize("target", ["size", "memory"])
def test_bytes_are_read_with_their_units(text: str | float, number: float, target: str) -> None:
    assert amount(text, target).number == pytest.approx(number)


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("macs", "2MB"),
        ("params", "12ms"),
        ("size", "300M"),
        ("size", "2K"),
        ("memory", "5G"),
        ("size", "0MB"),
        ("memory", "-1MB"),
    ],
)
def test_a_unit_of_another_cost_is_refused(target: str, text: str) -> None:
    with pytest.raises(OptionError, match=rf"^`{target}`: got '{text}', expected the cost that may remain, such as 50% or"):
        pruned(small(), None, **{target: text})


@pytest.mark.parametrize("target", [name for name in TARGETS if name != "latency"])
def test_more_than_the_original_has_is_refused_before_any_work(target: str) -> None:
    with pytest.raises(OptionError, match=rf"^`{target}`: got .*, more than the original has, .*; expected what may remain"):
        pruned(small(), **{target: 1e12})
