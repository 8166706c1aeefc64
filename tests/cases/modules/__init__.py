# SPDX-License-Identifier: Apache-2.0
"""Small PyTorch modules of many architectures, as users write them."""

from __future__ import annotations

from tests.cases.modules import attention, convolutional, mobile, normalised, signals
from tests.cases.modules.case import Case
from tests.cases.modules.hard import HARD, REFUSED

MODULES: dict[str, Case] = {
    **convolutional.CASES,
    **mobile.CASES,
    **signals.CASES,
    **normalised.CASES,
    **attention.CASES,
}
"""Modules that follow a cut, by name."""

__all__ = ["HARD", "MODULES", "REFUSED", "Case"]
