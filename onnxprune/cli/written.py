# SPDX-License-Identifier: Apache-2.0
"""The files that this command has written, so that an error that comes later does not say that there are none."""

from __future__ import annotations

from pathlib import Path

_files: list[Path] = []


def wrote(*paths: Path | None) -> None:
    """Remember files."""
    _files.extend(path for path in paths if path is not None)


def sentence() -> str:
    """What was written, for a message."""
    if not _files:
        return "nothing was written"
    return f"{', '.join(map(str, _files))} {'was' if len(_files) == 1 else 'were'} written"


def forget() -> None:
    """Start anew."""
    _files.clear()
