# SPDX-License-Identifier: Apache-2.0
"""Tests that need a release newer than the lowest that pyproject.toml allows say which; with an older one they must fail."""

from __future__ import annotations

import onnx
import onnxruntime
import pytest
from packaging.version import Version

INSTALLED = {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}


def has(**releases: str) -> bool:
    """Whether the installed packages are at least of these releases."""
    return not _missing(releases)


def needs(**releases: str) -> pytest.MarkDecorator:
    """A mark for a test that can pass only with these releases or newer ones.

    With older ones it runs all the same and is expected to fail, so nothing is hidden; with `-o xfail_strict=true` it must.
    """
    missing = _missing(releases)
    return pytest.mark.xfail(bool(missing), reason=f"needs {', '.join(missing)} or newer")


def _missing(releases: dict[str, str]) -> list[str]:
    return [f"{name} {least}" for name, least in releases.items() if Version(INSTALLED[name]) < Version(least)]
