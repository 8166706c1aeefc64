# SPDX-License-Identifier: Apache-2.0
"""Files written by real exporters (README.md)."""

from __future__ import annotations

import gzip
from pathlib import Path

from onnx import ModelProto

FOLDER = Path(__file__).parent
SUFFIX = ".onnx.gz"
NAMES = sorted(path.name.removesuffix(SUFFIX) for path in FOLDER.glob(f"*{SUFFIX}"))


def read(name: str) -> ModelProto:
    """A file as its exporter wrote it."""
    return ModelProto.FromString(gzip.decompress((FOLDER / f"{name}{SUFFIX}").read_bytes()))
