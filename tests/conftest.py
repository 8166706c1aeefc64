# SPDX-License-Identifier: Apache-2.0
"""Settings for all tests, and the number of random networks to examine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import onnxruntime
import pytest

if TYPE_CHECKING:
    from tests.cases.random_networks import Examined

pytest.register_assert_rewrite("tests.cases")
os.environ.pop("COLUMNS", None)  # a test runner's idea of the width of tables
onnxruntime.set_default_logger_severity(4)

EXAMINED = pytest.StashKey["Examined"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("random networks")
    group.addoption(
        "--networks", type=int, default=300, metavar="N", help="number of networks to cut and compare (default: 300)"
    )
    group.addoption("--first", type=int, default=0, metavar="SEED", help="seed of the first network (default: 0)")


def pytest_configure(config: pytest.Config) -> None:
    """One thread in each process of `-n`: threads of several processes that wait for one another take most of the time."""
    if config.getoption("numprocesses", None):
        for library in ("OMP", "OPENBLAS", "MKL"):
            os.environ.setdefault(f"{library}_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def without_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's cache is neither read nor written: its folder is below a file."""
    monkeypatch.setattr("platformdirs.user_cache_path", lambda *_, **__: Path(__file__) / "cache")


@pytest.fixture
def examined(request: pytest.FixtureRequest) -> Examined:
    """The requested random networks, and a record of their results."""
    from tests.cases.random_networks import Examined

    first, count = (request.config.getoption(name) for name in ("--first", "--networks"))
    found = request.config.stash[EXAMINED] = Examined(range(first, first + count))
    return found


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Report the results of the random networks, even if the run was interrupted."""
    if EXAMINED in config.stash:
        for line in config.stash[EXAMINED].summary():
            terminalreporter.write_line(line)
