# SPDX-License-Identifier: Apache-2.0
"""A temporary file for the large weights of models that are made here."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path

from onnx import ModelProto, TensorProto

from onnxprune.ir.tensors import LARGE_FILE, PAGE, FileRange, append_to, header_of, leave, size_of
from onnxprune.types import Array

SPILLED = "onnxprune.spilled"
"""Name of the file in a `Spill`, by which its weights are known."""


class Spill:
    """A temporary file that grows by weights, which leave memory for it. It lives as long as this object."""

    def __init__(self) -> None:
        folder = tempfile.mkdtemp(prefix="onnxprune-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.path = Path(folder) / SPILLED
        self.path.touch()

    def clear(self) -> None:
        """Forget all weights."""
        self.path.write_bytes(b"")

    def put(self, tensor: TensorProto) -> TensorProto:
        """The tensor left in this file; a small one as it was, in memory."""
        return append_to(tensor, self.path)

    def write(self, like: TensorProto, dims: Sequence[int], parts: Iterable[Array]) -> TensorProto:
        """A tensor left in this file, of name and type as `like`, its values given in parts along the first axis."""
        left = header_of(like)
        del left.dims[:]
        left.dims.extend(dims)
        with self.path.open("ab") as file:
            file.write(b"\0" * (-file.tell() % PAGE))
            start = file.tell()
            file.writelines(part.tobytes() for part in parts)
            leave(left, FileRange(str(self.path), start, file.tell() - start))
        return left


def spill_for(model: ModelProto) -> Spill | None:
    """A place for what is made of a large model; None for a small one, which stays in memory."""
    return Spill() if size_of(model) >= LARGE_FILE else None
