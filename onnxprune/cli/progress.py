# SPDX-License-Identifier: Apache-2.0
"""What reaches the terminal: results on standard output, progress bars on stderr."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.segment import Segment

from onnxprune.cli import signals
from onnxprune.errors import printable
from onnxprune.types import Progress


class Output(Console):
    """Standard output, which raises when nobody reads it any more (rich would exit)."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Without control characters, which names in a model may hold."""
        for segment in super().render(renderable, options):
            lines = [printable(line) for line in segment.text.split("\n")]
            yield segment if segment.control else Segment("\n".join(lines), segment.style)

    def on_broken_pipe(self) -> None:
        """Raise BrokenPipeError."""
        raise BrokenPipeError


def console() -> Console:
    """Standard output; wide if it is not a terminal and no width is asked for (COLUMNS)."""
    known = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Output(highlight=False, emoji=False, width=None if known else 160, soft_wrap=False)


def print_all(parts: Iterable[RenderableType]) -> None:
    """Print tables and texts one below the other."""
    out = console()
    for part in parts:
        out.print(part)


def has_blocks() -> bool:
    """Whether standard output can show block characters."""
    return console().encoding.lower().startswith("utf")


QUIET, EVERY = 2.0, 10.0
"""Where there is no terminal: seconds before the first line, and between two lines about the same stage."""


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """Shows progress on stderr: a bar per stage on a terminal, otherwise a line per stage, and one every ten seconds.

    What the user's functions print meanwhile goes there, too: standard output is for the report.
    """
    with contextlib.redirect_stdout(sys.stderr):
        yield from _progress()


def _progress() -> Iterator[Progress]:
    terminal = Console(stderr=True)
    if not terminal.is_terminal:
        yield _heeding(progress_lines(lambda line: print(line, file=sys.stderr, flush=True)))
        return
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    columns = (SpinnerColumn(), TextColumn("{task.description:<10}"), BarColumn(), *times)
    with Bars(*columns, console=terminal, transient=True) as bars:
        tasks: dict[str, Any] = {}

        def show(stage: str, done: float) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=1.0)
            bars.update(tasks[stage], completed=done)

        yield _heeding(show)


def _heeding(show: Progress) -> Progress:
    """Progress that stops where a signal was lost in compiled code."""

    def heed(stage: str, done: float) -> None:
        signals.check()
        show(stage, done)

    return heed


def progress_lines(write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> Progress:
    """Progress as lines: one when a stage begins, and then at most one every `EVERY` seconds.

    In the first `QUIET` seconds lines are held back, so that a wrong option or file is answered by one line.

    Args:
        write: takes a line.
        clock: the time in seconds.
    """
    stages: dict[str, float] = {}
    pending: list[str] = []
    start = clock()

    def show(stage: str, done: float) -> None:
        now = clock()
        if stage not in stages:
            pending.append(f"onnxprune: {stage}")
            stages[stage] = now
        elif now - stages[stage] >= EVERY:
            pending.append(f"onnxprune: {stage}, {done:.0%}")
            stages[stage] = now
        if now - start >= QUIET:
            while pending:
                write(pending.pop(0))

    return show
