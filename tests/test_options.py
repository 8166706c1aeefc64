# SPDX-License-Identifier: Apache-2.0
"""Wishes of the user that contradict each other, or say nothing."""

from __future__ import annotations

from typing import Any

import pytest

import onnxprune
from onnxprune.errors import OptionError
from onnxprune.options import RecoveryOptions
from tests.cases.nets import pruned, small


def test_both_or_neither_of_ratio_and_budget_are_refused() -> None:
    with pytest.raises(OptionError, match="got neither"):
        pruned(small())
    with pytest.raises(OptionError, match="got both"):
        pruned(small(), 0.5, macs="50%")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"recover": "magic"}, "recover`: got 'magic'; expected one of auto, none, bias, reconstruct, distill"),
        ({"rounds": 0}, "rounds`: got 0"),
        ({"rounds": 2, "recover": "none"}, "rounds`: recovers after each round"),
        ({"time_budget": "soon"}, "time_budget`: got 'soon', expected a time such as 90s, 10m or 1h"),
        ({"criterion": "obs", "recover": "none"}, "criterion` obs: looks at activations"),
    ],
)
def test_what_is_asked_wrongly_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        onnxprune.Options.of(ratio=0.5, **options)


def test_time_budgets_are_read_as_seconds() -> None:
    assert [RecoveryOptions(time_budget=t).seconds() for t in ("90s", "10m", "1h", 5, None)] == [90, 600, 3600, 5, None]
