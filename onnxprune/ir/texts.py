# SPDX-License-Identifier: Apache-2.0
"""Small text files that users name."""

from __future__ import annotations

import errno
from pathlib import Path

MOST = 2**28
"""Bytes of a text file: plans of the largest models have a few million."""


def text_of(path: Path) -> str:
    """The text in a file.

    Raises:
        OSError: it cannot be read, is a device or a pipe, or is too large.
        UnicodeDecodeError: it is not text.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "is a folder" if path.is_dir() else "is not a regular file")
    if path.stat().st_size > MOST:
        raise OSError(errno.EFBIG, f"is larger than {MOST >> 20} MiB")
    return path.read_text(encoding="utf-8")
