# SPDX-License-Identifier: Apache-2.0
"""Settings for all tests."""

from __future__ import annotations

from typing import Any

import onnxruntime
import pytest

from onnxprune.errors import DataError
from onnxprune.pipeline import samples as supply

onnxruntime.set_default_logger_severity(4)


@pytest.fixture(autouse=True)
def without_made_up_inputs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests of the cut get the cut: without --data, no inputs are made up to recover with (marker `made_up`: they are).

    That is the default of the program and takes some seconds for every call; tests/test_synthetic.py looks at it.
    """

    def none(*_: Any) -> None:
        raise DataError("no inputs are made up in this test")

    if "made_up" not in request.keywords:
        monkeypatch.setattr(supply, "made", none)
