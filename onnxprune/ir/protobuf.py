# SPDX-License-Identifier: Apache-2.0
"""Large models: read without their weights, and written one weight at a time, so that no weight is in memory twice.

Small files are read whole, without this module.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.message import DecodeError
from onnx import ModelProto

from onnxprune.ir.tensors import (
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


# Field numbers in onnx.proto on the path to the bytes of a weight.
GRAPH, INITIALIZER, RAW_DATA = 7, 5, 9


BYTES = 2  # wire type of length-delimited fields


def read(path: Path) -> ModelProto:
    """Read a model; its large initializers are left in the file.

    Raises:
        DecodeError: the bytes are not an ONNX model.
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
                raw = FileRange(file, inner, last - inner)
            else:
                tensor.MergeFromString(data[first:last])
        if raw is not None:
            leave(tensor, raw)
    model.graph.MergeFromString(bytes(rest))


def _fields(data: mmap.mmap, at: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield (number, begin, begin of the value, end) for each field of the message from `at` to `stop`."""
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
            raise DecodeError(f"a field of {length} bytes at {begin}, but only {stop - at} remain")
        yield number, begin, at, at + length
        at += length


def _varint(data: mmap.mmap, at: int, stop: int) -> tuple[int, int]:
    """A varint (seven bits per byte, lowest first), and the offset of its end."""
    value = shift = 0
    while at < stop and shift < 70:
        byte = data[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at
    raise DecodeError(f"an unterminated number at {at}")


def write(model: ModelProto, path: Path) -> None:
    """Write a model into one file of less than 2 GiB, one weight at a time."""
    light = without_initializers(model)
    graph = light.graph.SerializeToString()
    light.ClearField("graph")
    with path.open("wb") as file:
        file.write(light.SerializeToString())
        file.write(bytes([GRAPH << 3 | BYTES]))
        # the length is known only at the end: five bytes hold any length that protobuf allows
        mark = file.tell()
        file.write(_number(0, 5))
        file.write(graph)
        for t in model.graph.initializer:
            header, length = header_of(t).SerializeToString(), length_of(t)
            prefix = bytes([RAW_DATA << 3 | BYTES]) + _number(length) if length else b""
            file.write(bytes([INITIALIZER << 3 | BYTES]) + _number(len(header) + len(prefix) + length) + header + prefix)
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
