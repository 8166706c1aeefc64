# SPDX-License-Identifier: Apache-2.0
"""Where the program starts: signals first, then the modules, which take a moment to load."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from onnxprune.cli import signals


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line and exit."""
    _give_streams()
    try:
        signals.install()
        from onnxprune.cli.app import run  # not before signals are handled

        signals.check()
        status = run(arguments)
    except KeyboardInterrupt:
        print(f"onnxprune: {signals.sentence()}; nothing was written", file=sys.stderr)
        status = signals.status()
    _leave(status)


def _give_streams() -> None:
    """Streams for a program whose own are closed, and no error about characters that a stream cannot show."""
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _leave(status: int) -> None:
    """Exit, without an error about standard output that nobody reads any more."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        drop_output()
    sys.exit(status)


def drop_output() -> None:
    """Write what is still meant for standard output nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
