# SPDX-License-Identifier: Apache-2.0
"""Large models: read without their weights, and written one weight at a time, so that no weight is in memory twice.

Small files are read whole, without this module.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from google.protobuf.message import DecodeError
from onnx import ModelProto, TensorProto

from onnxprune.ir.tensors import (
    CHUNK,
    LARGE_TENSOR,
    FileRange,
    append_to,
    bytes_of,
    header_of,
    leave,
    length_of,
    range_of,
    without_initializers,
)

INLINE_LIMIT = 2**31 - 2**20
"""A protobuf message must be smaller than 2 GiB; larger models keep their weights in a separate file."""


BYTES = 2
"""Wire type of fields that state their length."""


GRAPH, INITIALIZER, RAW_DATA = (number << 3 | BYTES for number in (7, 5, 9))
"""Keys (field number in onnx.proto and wire type) on the path to the bytes of a weight."""


class _Source:
    """The bytes of a file from the first to the last, each read once.

    Attributes:
        at: offset of the next byte.
        digest: SHA-256 of all bytes before it.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.at, self.digest = file, 0, hashlib.sha256()

    def take(self, count: int) -> bytes:
        """The next bytes."""
        data = self._file.read(count)
        if len(data) < count:
            raise DecodeError(f"{count} bytes expected at {self.at}, but only {len(data)} remain")
        self.digest.update(data)
        self.at += count
        return data

    def skip(self, count: int) -> None:
        """Read on without keeping the bytes."""
        while count:
            count -= len(self.take(min(count, CHUNK)))


def read(path: Path, file: BinaryIO) -> tuple[str, ModelProto]:
    """The SHA-256 of a file, which is open at its start, and the model in it, whose large initializers are left in the file.

    Raises:
        DecodeError: the bytes are not an ONNX model.
    """
    source, model, rest = _Source(file), ModelProto(), bytearray()
    for key, head, end in _fields(source, path.stat().st_size):
        if key == GRAPH:
            _read_graph(model, source, end, str(path.resolve()))
        else:
            rest += head + source.take(end - source.at)
    model.MergeFromString(bytes(rest))
    return source.digest.hexdigest(), model


def _read_graph(model: ModelProto, source: _Source, stop: int, file: str) -> None:
    rest = bytearray()
    for key, head, end in _fields(source, stop):
        if key == INITIALIZER:
            _read_initializer(model.graph.initializer.add(), source, end, file)
        else:
            rest += head + source.take(end - source.at)
    model.graph.MergeFromString(bytes(rest))


def _read_initializer(tensor: TensorProto, source: _Source, stop: int, file: str) -> None:
    if stop - source.at < LARGE_TENSOR:
        tensor.MergeFromString(source.take(stop - source.at))
        return
    raw = None
    for key, head, end in _fields(source, stop):
        if key == RAW_DATA:
            raw = FileRange(file, source.at, end - source.at)
            source.skip(raw.length)
        else:
            tensor.MergeFromString(head + source.take(end - source.at))
    if raw is not None:
        leave(tensor, raw)


def _fields(source: _Source, stop: int) -> Iterator[tuple[int, bytes, int]]:
    """Yield (key, bytes before the value, end of the value) for each field of the message that ends at `stop`.

    The source is at the value then, and must be at its end before the next field is requested.
    """
    while source.at < stop:
        key, head = _varint(source, stop)
        kind, length = key & 7, 0
        if kind in (0, BYTES):
            number, more = _varint(source, stop)
            head, length = head + more, number if kind == BYTES else 0
        else:
            length = {1: 8, 5: 4}.get(kind, stop)
        if source.at + length > stop or not key >> 3:
            raise DecodeError(f"a field of {length} bytes at {source.at}, but only {stop - source.at} remain")
        yield key, head, source.at + length


def _varint(source: _Source, stop: int) -> tuple[int, bytes]:
    """A varint (seven bits per byte, lowest first), and its bytes."""
    value, found = 0, bytearray()
    while source.at < stop and len(found) < 10:
        found += source.take(1)
        value |= (found[-1] & 127) << 7 * (len(found) - 1)
        if found[-1] < 128:
            return value, bytes(found)
    raise DecodeError(f"an unterminated number at {source.at}")


def write(model: ModelProto, path: Path) -> None:
    """Write a model into one file of less than 2 GiB, one weight at a time."""
    light = without_initializers(model)
    graph = light.graph.SerializeToString()
    light.ClearField("graph")
    with path.open("wb") as file:
        file.write(light.SerializeToString())
        file.write(bytes([GRAPH]))
        # the length is known only at the end: five bytes hold any length that protobuf allows
        mark = file.tell()
        file.write(_number(0, 5))
        file.write(graph)
        for t in model.graph.initializer:
            header, length = header_of(t).SerializeToString(), length_of(t)
            prefix = bytes([RAW_DATA]) + _number(length) if length else b""
            file.write(bytes([INITIALIZER]) + _number(len(header) + len(prefix) + length) + header + prefix)
            for data in bytes_of(t):
                file.write(data)
        end = file.tell()
        file.seek(mark)
        file.write(_number(end - mark - 5, 5))


def write_external(model: ModelProto, path: Path, data: Path, location: str) -> None:
    """Write a model to `path` and the bytes of its initializers to `data`, which the model refers to as `location`.

    Weights that are already in the folder of `path` are left there.
    """
    light = without_initializers(model)
    data.touch()
    for t in model.graph.initializer:
        place = range_of(t)
        beside = place is not None and Path(place.file).parent == path.parent
        light.graph.initializer.append(t if beside else append_to(t, data))
    for t in light.graph.initializer:
        place = range_of(t)
        if place is not None:
            leave(t, place._replace(file=location if place.file == str(data) else Path(place.file).name))
    path.write_bytes(light.SerializeToString())


def _number(value: int, width: int = 1) -> bytes:
    """Encode `value` as a varint of at least `width` bytes."""
    found = bytearray()
    while value > 127 or len(found) < width - 1:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])
