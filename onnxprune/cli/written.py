# SPDX-License-Identifier: Apache-2.0
"""The files that this command has written, so that an error that comes later does not say that there are none."""

from __future__ import annotations

from pathlib import Path

from onnxprune.ir.placing import placed

_files: list[Path] = []


def wrote(*paths: Path | None) -> None:
    """Remember files."""
    _files.extend(path for path in paths if path is not None)


def sentence() -> str:
    """What was written, for a message."""
    found = [*dict.fromkeys((*_files, *placed))]
    if not found:
        return "nothing was written"
    return f"{', '.join(map(str, found))} {'was' if len(found) == 1 else 'were'} written"


def forget() -> None:
    """Start anew."""
    _files.clear()
    placed.clear()
