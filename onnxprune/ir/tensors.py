# SPDX-License-Identifier: Apache-2.0
"""Stored tensors: their values and their bytes, in memory or left in a file.

A tensor that is *left in its file* has external data whose location is an absolute path. `array_of` maps it into memory for
as long as the array is referenced.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import ModelProto, TensorProto
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from onnxprune.types import Array

LARGE_FILE = 2**26
"""Files of at least this many bytes keep their large weights on disk."""


LARGE_TENSOR = 2**16
"""Tensors of fewer bytes are always in memory: sizes, indices, biases."""


CHUNK = 2**24


SMALL = 2**10
"""Tensors of fewer bytes are written into the model itself, where onnx and onnxruntime look for sizes."""


PAGE = 2**12
"""Weights are aligned to multiples of this, so that onnxruntime can map them."""


PLAIN: dict[int, str] = {
    TensorProto.FLOAT: "<f4", TensorProto.DOUBLE: "<f8", TensorProto.FLOAT16: "<f2", TensorProto.BOOL: "?",
    TensorProto.INT64: "<i8", TensorProto.INT32: "<i4", TensorProto.INT16: "<i2", TensorProto.INT8: "i1",
    TensorProto.COMPLEX64: "<c8", TensorProto.COMPLEX128: "<c16",
    TensorProto.UINT64: "<u8", TensorProto.UINT32: "<u4", TensorProto.UINT16: "<u2", TensorProto.UINT8: "u1",
}  # fmt: skip
"""Element types that numpy can read directly from a file."""


ODD: dict[int, int] = {TensorProto.BFLOAT16: 16, TensorProto.INT4: 4, TensorProto.UINT4: 4}
"""Bit widths of element types that numpy cannot read directly."""


class FileRange(NamedTuple):
    """A range of bytes in a file."""

    file: str
    offset: int
    length: int


def range_of(tensor: TensorProto) -> FileRange | None:
    """The byte range of a tensor that was left in its file; None for a tensor in memory."""
    if not uses_external_data(tensor):
        return None
    info = ExternalDataInfo(tensor)
    return FileRange(info.location, info.offset or 0, info.length or 0)


def leave(tensor: TensorProto, place: FileRange) -> None:
    """Make a tensor refer to a range of bytes in a file."""
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in (("location", place.file), ("offset", place.offset), ("length", place.length)):
        tensor.external_data.add(key=key, value=str(value))


def is_large(tensor: TensorProto) -> bool:
    """Whether a tensor is large, and of a type that can be read in parts."""
    return bool(tensor.dims) and tensor.data_type in PLAIN and nbytes(tensor) >= LARGE_TENSOR


def take(tensor: TensorProto) -> None:
    """Load the bytes of a tensor into memory."""
    place = range_of(tensor)
    if place is not None:
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
        tensor.raw_data = b"".join(_read(place))


def take_all(model: ModelProto) -> None:
    """Load all weights of a model into memory, so that the model is self-contained."""
    for tensor in model.graph.initializer:
        take(tensor)


def array_of(tensor: TensorProto) -> Array:
    """The values of a tensor, in memory or left in its file; read-only."""
    place = range_of(tensor)
    if place is None:
        return onnx.numpy_helper.to_array(tensor)
    kind = PLAIN.get(tensor.data_type)
    if kind is None:
        whole = TensorProto(data_type=tensor.data_type, dims=tensor.dims, raw_data=b"".join(_read(place)))
        return onnx.numpy_helper.to_array(whole)
    return np.asarray(np.memmap(place.file, kind, "r", place.offset, tuple(tensor.dims)))


def slabs(tensor: TensorProto) -> Iterator[tuple[slice, Array]]:
    """Yield the values of a tensor in parts along its first axis, of about `CHUNK` bytes each, with the slice of each part."""
    place, kind, dims = range_of(tensor), PLAIN.get(tensor.data_type), tuple(tensor.dims)
    step = max(1, CHUNK * dims[0] // max(1, nbytes(tensor))) if dims else 1
    if place is None or kind is None or not dims:
        whole = np.atleast_1d(array_of(tensor))
        yield from ((slice(k, k + step), whole[k : k + step]) for k in range(0, len(whole), step))
        return
    row = place.length // max(1, dims[0])
    with Path(place.file).open("rb") as file:
        file.seek(place.offset)
        for k in range(0, dims[0], step):
            data = file.read(row * min(step, dims[0] - k))
            yield slice(k, k + step), np.frombuffer(data, kind).reshape(-1, *dims[1:])


def bytes_of(tensor: TensorProto) -> Iterator[bytes]:
    """The raw bytes of a tensor, in chunks; nothing for a tensor that keeps its values in typed fields."""
    place = range_of(tensor)
    if place is not None:
        yield from _read(place)
    elif tensor.HasField("raw_data"):
        yield tensor.raw_data


def length_of(tensor: TensorProto) -> int:
    """The number of bytes that `bytes_of` yields."""
    place = range_of(tensor)
    if place is not None:
        return place.length
    return len(tensor.raw_data) if tensor.HasField("raw_data") else 0


def nbytes(tensor: TensorProto) -> int:
    """The number of bytes that the values of a tensor take, from its type and shape; 0 for an unusual type."""
    kind = PLAIN.get(tensor.data_type)
    bits = 8 * np.dtype(kind).itemsize if kind else ODD.get(tensor.data_type, 0)
    return -(-bits * math.prod(tensor.dims) // 8)


def size_of(model: ModelProto) -> int:
    """Bytes of the model, serialised with all its weights."""
    light = without_initializers(model)
    tensors = (header_of(t).ByteSize() + _in_field(length_of(t)) for t in model.graph.initializer)
    graph = light.graph.ByteSize() + sum(map(_in_field, tensors))
    return int(light.ByteSize()) - _in_field(light.graph.ByteSize()) + _in_field(graph)


def _in_field(length: int) -> int:
    """Bytes of a protobuf field of so many bytes, with its tag and its length; none if it is empty."""
    return 1 + max(1, -(-length.bit_length() // 7)) + length if length else 0


def _read(place: FileRange) -> Iterator[bytes]:
    with Path(place.file).open("rb") as file:
        file.seek(place.offset)
        remaining = place.length
        while remaining and (data := file.read(min(CHUNK, remaining))):
            remaining -= len(data)
            yield data


def append_to(tensor: TensorProto, file: Path) -> TensorProto:
    """Append a tensor to a file and return it as left there; a small one is returned in memory."""
    length, result = length_of(tensor), header_of(tensor)
    with file.open("ab") as out:
        if length < SMALL:
            result.CopyFrom(tensor)
            take(result)
        else:
            out.write(b"\0" * (-out.tell() % PAGE))
            leave(result, FileRange(str(file), out.tell(), length))
            out.writelines(bytes_of(tensor))
    return result


def header_of(tensor: TensorProto) -> TensorProto:
    """The tensor without its raw bytes."""
    header = TensorProto()
    copy_without(tensor, header, {"raw_data", "external_data", "data_location"})
    return header


def without_initializers(model: ModelProto) -> ModelProto:
    """A copy of a model without its initializers."""
    light = ModelProto()
    copy_without(model, light, {"graph"})
    copy_without(model.graph, light.graph, {"initializer"})
    return light


def copy_without(source: Any, target: Any, leave: set[str]) -> None:
    """Copy all fields of a message except those in `leave`."""
    for field, value in source.ListFields():
        if field.name in leave:
            continue
        if isinstance(value, (str, bytes, int, float)):
            if isinstance(value, bytes) and field.type == field.TYPE_STRING:  # text that is none, and that no runtime reads
                value = value.decode(errors="replace")
            setattr(target, field.name, value)
        elif hasattr(value, "MergeFrom"):
            getattr(target, field.name).MergeFrom(value)
        else:
            getattr(target, field.name).extend(value)
