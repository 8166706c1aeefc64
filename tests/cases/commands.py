# SPDX-License-Identifier: Apache-2.0
"""The command line as tests call it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from onnxprune.cli.app import run

Capture = pytest.CaptureFixture[str]
FAST = ("--no-bench", "--recover", "none")


def files(folder: Path) -> dict[str, bytes]:
    """The contents of all files in a folder."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def refused(arguments: Sequence[str], capsys: Capture, status: int = 2) -> str:
    """The single line on stderr of a command that fails."""
    assert run(arguments) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("onnxprune: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return err
