# SPDX-License-Identifier: Apache-2.0
"""A temporary file for the large weights of models that are created by this program."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from onnx import ModelProto, TensorProto

from onnxprune.ir.scratch import Scratch
from onnxprune.ir.tensors import LARGE_FILE, PAGE, FileRange, append_to, header_of, leave, size_of
from onnxprune.types import Array

SPILLED = "onnxprune.spilled"
"""The file name in a `Spill`, which identifies spilled weights."""


class Spill:
    """A growing temporary file that holds weights so that they need not stay in memory. It lives as long as this object."""

    def __init__(self) -> None:
        self._folder = Scratch()
        self.path = self._folder.path / SPILLED
        self.path.touch()

    def clear(self) -> None:
        """Remove all weights from the file."""
        self.path.write_bytes(b"")

    def put(self, tensor: TensorProto) -> TensorProto:
        """The tensor, stored in this file; a small one is returned in memory."""
        return append_to(tensor, self.path)

    def write(self, like: TensorProto, dims: Sequence[int], parts: Iterable[Array]) -> TensorProto:
        """Write a tensor with the name and type of `like`; its values are given in parts along the first axis."""
        result = header_of(like)
        del result.dims[:]
        result.dims.extend(dims)
        with self.path.open("ab") as file:
            file.write(b"\0" * (-file.tell() % PAGE))
            start = file.tell()
            file.writelines(part.tobytes() for part in parts)
            leave(result, FileRange(str(self.path), start, file.tell() - start))
        return result


def spill_for(model: ModelProto) -> Spill | None:
    """A spill file for what is derived from a large model; None for a small model, for which memory is enough."""
    return Spill() if size_of(model) >= LARGE_FILE else None
