# SPDX-License-Identifier: Apache-2.0
"""Standard output and error as pipelines leave them: closed, full, unread, or of a poor encoding."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def give_streams() -> None:
    """Streams for a program whose own are closed, and no error about characters that a stream cannot show."""
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def drop_output() -> None:
    """Write what is still meant for standard output nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
