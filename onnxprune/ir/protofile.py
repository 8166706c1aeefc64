# SPDX-License-Identifier: Apache-2.0
"""Large models: read without their weights, written one weight at a time, so that no weight is in memory twice.

A weight that is *left in its file* is a tensor with external data whose location is an absolute path. `array_of` maps it into
memory for as long as somebody looks at the array. Small files are read as a whole; nothing here is about them.
"""

from __future__ import annotations

import math
import mmap
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto, TensorProto
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from onnxprune.types import Array

LARGE_FILE = 2**26
"""From this size on, large weights of a file are left in it."""
LARGE_TENSOR = 2**16
"""Smaller tensors are always in memory: sizes, indices, biases."""
INLINE_LIMIT = 2**31 - 2**20
"""Protobuf cannot hold 2 GiB or more in one message; larger models keep their weights in a file of their own."""
CHUNK = 2**24
SMALL = 2**10
"""Smaller tensors are written into the model itself, where onnx and onnxruntime look for sizes."""
PAGE = 2**12
"""Weights begin at multiples of this, so that onnxruntime can map them."""
PLAIN: dict[int, str] = {
    TensorProto.FLOAT: "<f4", TensorProto.DOUBLE: "<f8", TensorProto.FLOAT16: "<f2", TensorProto.BOOL: "?",
    TensorProto.INT64: "<i8", TensorProto.INT32: "<i4", TensorProto.INT16: "<i2", TensorProto.INT8: "i1",
    TensorProto.UINT64: "<u8", TensorProto.UINT32: "<u4", TensorProto.UINT16: "<u2", TensorProto.UINT8: "u1",
}  # fmt: skip
"""Element types that numpy reads from a file as they are."""
ODD: dict[int, int] = {TensorProto.BFLOAT16: 16, TensorProto.INT4: 4, TensorProto.UINT4: 4}
"""Bits of element types that numpy does not read so."""
SPILLED = "onnxprune.spilled"
"""Name of the file in a `Spill`, by which its weights are known."""
# Numbers of fields in onnx.proto that lead to the bytes of a weight.
GRAPH, INITIALIZER, RAW_DATA = 7, 5, 9
BYTES = 2  # wire type of everything that has a length


class Place(NamedTuple):
    """Bytes in a file."""

    file: str
    offset: int
    length: int


def place_of(tensor: TensorProto) -> Place | None:
    """Where the bytes of a tensor lie that was left in its file; None for one in memory."""
    if not uses_external_data(tensor):
        return None
    info = ExternalDataInfo(tensor)
    return Place(info.location, info.offset or 0, info.length or 0)


def leave(tensor: TensorProto, place: Place) -> None:
    """Let a tensor stand for bytes in a file."""
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in (("location", place.file), ("offset", place.offset), ("length", place.length)):
        tensor.external_data.add(key=key, value=str(value))


def is_large(tensor: TensorProto) -> bool:
    """Whether the values are many, and of a type that can be read in parts."""
    return bool(tensor.dims) and tensor.data_type in PLAIN and nbytes(tensor) >= LARGE_TENSOR


def take(tensor: TensorProto) -> None:
    """Bring the bytes of a tensor into memory."""
    place = place_of(tensor)
    if place is not None:
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
        tensor.raw_data = b"".join(_read(place))


def take_all(model: ModelProto) -> None:
    """Bring all weights of a model into memory, so that it stands by itself."""
    for tensor in model.graph.initializer:
        take(tensor)


def array_of(tensor: TensorProto) -> Array:
    """The values of a tensor, in memory or left in its file; read only."""
    place = place_of(tensor)
    if place is None:
        return onnx.numpy_helper.to_array(tensor)
    kind = PLAIN.get(tensor.data_type)
    if kind is None:
        whole = TensorProto(data_type=tensor.data_type, dims=tensor.dims, raw_data=b"".join(_read(place)))
        return onnx.numpy_helper.to_array(whole)
    return np.asarray(np.memmap(place.file, kind, "r", place.offset, tuple(tensor.dims)))


def slabs(tensor: TensorProto) -> Iterator[tuple[slice, Array]]:
    """The values of a tensor in parts along its first axis, of about `CHUNK` bytes each, and where each part lies."""
    place, kind, dims = place_of(tensor), PLAIN.get(tensor.data_type), tuple(tensor.dims)
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
    """The raw bytes of a tensor, piece by piece; nothing for one that keeps its values in typed fields."""
    place = place_of(tensor)
    if place is not None:
        yield from _read(place)
    elif tensor.HasField("raw_data"):
        yield tensor.raw_data


def length_of(tensor: TensorProto) -> int:
    """How many bytes `bytes_of` has."""
    place = place_of(tensor)
    if place is not None:
        return place.length
    return len(tensor.raw_data) if tensor.HasField("raw_data") else 0


def nbytes(tensor: TensorProto) -> int:
    """How many bytes the values of a tensor take, by its type and shape; 0 where the type is unusual."""
    kind = PLAIN.get(tensor.data_type)
    bits = 8 * np.dtype(kind).itemsize if kind else ODD.get(tensor.data_type, 0)
    return -(-bits * math.prod(tensor.dims) // 8)


def size_of(model: ModelProto) -> int:
    """Bytes of the model with all its weights (to within a few a weight)."""
    light = _without_initializers(model)
    return int(light.ByteSize()) + sum(length_of(t) + _header(t).ByteSize() for t in model.graph.initializer)


def _read(place: Place) -> Iterator[bytes]:
    with Path(place.file).open("rb") as file:
        file.seek(place.offset)
        left = place.length
        while left and (data := file.read(min(CHUNK, left))):
            left -= len(data)
            yield data


def read(path: Path) -> ModelProto:
    """The model in a file, its large initializers left there.

    Raises:
        DecodeError: the bytes are no ONNX model.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        model, rest = ModelProto(), bytearray()
        for number, begin, value, end in _fields(data, 0, len(data)):
            if number == GRAPH:
                _read_graph(model, data, value, end, str(path.resolve()))
            else:
                rest += data[begin:end]
        model.MergeFromString(bytes(rest))
        return model


def _read_graph(model: ModelProto, data: mmap.mmap, start: int, stop: int, file: str) -> None:
    rest = bytearray()
    for number, begin, value, end in _fields(data, start, stop):
        if number != INITIALIZER:
            rest += data[begin:end]
            continue
        tensor, raw = model.graph.initializer.add(), None
        if end - value < LARGE_TENSOR:
            tensor.MergeFromString(data[value:end])
            continue
        for part, first, inner, last in _fields(data, value, end):
            if part == RAW_DATA:
                raw = Place(file, inner, last - inner)
            else:
                tensor.MergeFromString(data[first:last])
        if raw is not None:
            leave(tensor, raw)
    model.graph.MergeFromString(bytes(rest))


def _fields(data: mmap.mmap, at: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
    """(number, begin, begin of the value, end) of each field of a message that lies at `at` to `stop`."""
    while at < stop:
        begin = at
        key, at = _varint(data, at, stop)
        number, kind = key >> 3, key & 7
        if kind == BYTES:
            length, at = _varint(data, at, stop)
        elif kind == 0:
            length = _varint(data, at, stop)[1] - at
        else:
            length = {1: 8, 5: 4}.get(kind, stop)
        if at + length > stop or not number:
            raise DecodeError(f"a field of {length} bytes at {begin}, where {stop - at} are left")
        yield number, begin, at, at + length
        at += length


def _varint(data: mmap.mmap, at: int, stop: int) -> tuple[int, int]:
    """A number of seven bits a byte, lowest first, and where it ends."""
    value = shift = 0
    while at < stop and shift < 70:
        byte = data[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at
    raise DecodeError(f"a number without end at {at}")


def write(model: ModelProto, path: Path) -> None:
    """Write a model into one file of less than 2 GiB, one weight at a time."""
    light = _without_initializers(model)
    graph = light.graph.SerializeToString()
    light.ClearField("graph")
    with path.open("wb") as file:
        file.write(light.SerializeToString())
        file.write(bytes([GRAPH << 3 | BYTES]))
        # the length is known at the end: five bytes hold any that protobuf allows
        mark = file.tell()
        file.write(_number(0, 5))
        file.write(graph)
        for t in model.graph.initializer:
            header, length = _header(t).SerializeToString(), length_of(t)
            prefix = bytes([RAW_DATA << 3 | BYTES]) + _number(length) if length else b""
            file.write(bytes([INITIALIZER << 3 | BYTES]) + _number(len(header) + len(prefix) + length) + header + prefix)
            for data in bytes_of(t):
                file.write(data)
        end = file.tell()
        file.seek(mark)
        file.write(_number(end - mark - 5, 5))


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
        return _append(tensor, self.path)

    def write(self, like: TensorProto, dims: Sequence[int], parts: Iterable[Array]) -> TensorProto:
        """A tensor left in this file, of name and type as `like`, its values given in parts along the first axis."""
        left = _header(like)
        del left.dims[:]
        left.dims.extend(dims)
        with self.path.open("ab") as file:
            file.write(b"\0" * (-file.tell() % PAGE))
            start = file.tell()
            file.writelines(part.tobytes() for part in parts)
            leave(left, Place(str(self.path), start, file.tell() - start))
        return left


def spill_for(model: ModelProto) -> Spill | None:
    """A place for what is made of a large model; None for a small one, which stays in memory."""
    return Spill() if size_of(model) >= LARGE_FILE else None


def _append(tensor: TensorProto, file: Path) -> TensorProto:
    """The tensor left at the end of a file; a small one in memory."""
    length, left = length_of(tensor), _header(tensor)
    with file.open("ab") as out:
        if length < SMALL:
            left.CopyFrom(tensor)
            take(left)
        else:
            out.write(b"\0" * (-out.tell() % PAGE))
            leave(left, Place(str(file), out.tell(), length))
            out.writelines(bytes_of(tensor))
    return left


def write_external(model: ModelProto, path: Path, data: Path, location: str) -> None:
    """Write a model to `path` and the bytes of its initializers to `data`, which the model calls `location`.

    Weights that lie in the folder of `path` already are left where they are.
    """
    light = _without_initializers(model)
    data.touch()
    for t in model.graph.initializer:
        place = place_of(t)
        beside = place is not None and Path(place.file).parent == path.parent
        light.graph.initializer.append(t if beside else _append(t, data))
    for t in light.graph.initializer:
        place = place_of(t)
        if place is not None:
            leave(t, place._replace(file=location if place.file == str(data) else Path(place.file).name))
    path.write_bytes(light.SerializeToString())


def _number(value: int, width: int = 1) -> bytes:
    """A varint of at least `width` bytes."""
    found = bytearray()
    while value > 127 or len(found) < width - 1:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def _header(tensor: TensorProto) -> TensorProto:
    """The tensor without its raw bytes."""
    header = TensorProto()
    copy_without(tensor, header, {"raw_data", "external_data", "data_location"})
    return header


def _without_initializers(model: ModelProto) -> ModelProto:
    light = ModelProto()
    copy_without(model, light, {"graph"})
    copy_without(model.graph, light.graph, {"initializer"})
    return light


def copy_without(source: Any, target: Any, leave: set[str]) -> None:
    """Copy all fields of a message but some."""
    for field, value in source.ListFields():
        if field.name in leave:
            continue
        if isinstance(value, (str, bytes, int, float)):
            setattr(target, field.name, value)
        elif hasattr(value, "MergeFrom"):
            getattr(target, field.name).MergeFrom(value)
        else:
            getattr(target, field.name).extend(value)
