# SPDX-License-Identifier: Apache-2.0
"""Settings for all tests, and how many random networks they look at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnxruntime
import pytest

if TYPE_CHECKING:
    from tests.cases.random_networks import Examined

pytest.register_assert_rewrite("tests.cases")
onnxruntime.set_default_logger_severity(4)

EXAMINED = pytest.StashKey["Examined"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("random networks")
    group.addoption("--networks", type=int, default=300, metavar="N", help="how many are cut and compared (default: 300)")
    group.addoption("--first", type=int, default=0, metavar="SEED", help="the seed of the first one (default: 0)")


@pytest.fixture
def examined(request: pytest.FixtureRequest) -> Examined:
    """Which random networks are asked for, and a place for what comes of them."""
    from tests.cases.random_networks import Examined

    first, count = (request.config.getoption(name) for name in ("--first", "--networks"))
    found = request.config.stash[EXAMINED] = Examined(range(first, first + count))
    return found


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """What came of the random networks, also of a run that was stopped half-way."""
    if EXAMINED in config.stash:
        for line in config.stash[EXAMINED].summary():
            terminalreporter.write_line(line)
