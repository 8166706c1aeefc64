# SPDX-License-Identifier: Apache-2.0
"""A part of the zoo that comes with every clone (README.md)."""

from __future__ import annotations

from pathlib import Path

from hydrate import hydrate
from onnx import ModelProto

FOLDER = Path(__file__).parent
SUFFIX = ".onnx.gz"
NAMES = sorted(path.name.removesuffix(SUFFIX) for path in FOLDER.glob(f"*{SUFFIX}"))


def read(name: str) -> ModelProto:
    """A graph with weights."""
    return hydrate(FOLDER / f"{name}{SUFFIX}")
