# SPDX-License-Identifier: Apache-2.0
"""What reaches the terminal: results on standard output, progress bars on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from onnxprune.types import Progress


def console() -> Console:
    """Standard output; wide if it is not a terminal and no width is asked for (COLUMNS)."""
    known = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(highlight=False, emoji=False, width=None if known else 160, soft_wrap=False)


def print_all(parts: Iterable[RenderableType]) -> None:
    """Print tables and texts one below the other."""
    out = console()
    for part in parts:
        out.print(part)


def has_blocks() -> bool:
    """Whether standard output can show block characters."""
    return console().encoding.lower().startswith("utf")


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """A progress bar per stage, on stderr if that is a terminal; silent otherwise."""
    terminal = Console(stderr=True)
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    columns = (SpinnerColumn(), TextColumn("{task.description:<10}"), BarColumn(), *times)
    with Bars(*columns, console=terminal, transient=True, disable=not terminal.is_terminal) as bars:
        tasks: dict[str, Any] = {}

        def show(stage: str, done: float) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=1.0)
            bars.update(tasks[stage], completed=done)

        yield show
