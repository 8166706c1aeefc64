# SPDX-License-Identifier: Apache-2.0
"""Models packed with Zstandard (`NAME.onnx.zst`), and the names of files derived from a model's.

A packed model is known by its first bytes. It is expanded in memory, and only after its size has been counted, so that a file
that expands without end is refused without being held.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any

from onnxprune.errors import ModelError
from onnxprune.ir.protobuf import INLINE_LIMIT
from onnxprune.ir.tensors import CHUNK

MAGIC = bytes.fromhex("28b52ffd")
"""The first bytes of a Zstandard frame (RFC 8878)."""


ENDING = ".zst"


LEVEL = 19
"""The highest level of compression that expands in 8 MiB of memory; a file is packed once and expanded often."""


STEP = 2**20
"""Bytes compressed at a time: few, because level 19 is slow and Ctrl-C waits for them."""


def names_packed(path: Path) -> bool:
    """Whether a file of this name is packed.

    >>> names_packed(Path("m.onnx.zst")), names_packed(Path("m.onnx"))
    (True, False)
    """
    return path.suffix.lower() == ENDING


def packed_name(path: Path) -> Path:
    """The name of a packed file.

    >>> [packed_name(Path(p)).name for p in ("m.onnx", "m.onnx.zst")]
    ['m.onnx.zst', 'm.onnx.zst']
    """
    return path if names_packed(path) else path.with_name(path.name + ENDING)


def named_after(model: Path, ending: str) -> Path:
    """The file beside a model with another ending, instead of `.onnx` or `.onnx.zst`.

    >>> [named_after(Path(p), ".pruned.onnx").name for p in ("m.onnx", "m.onnx.zst", "m.v2.zst")]
    ['m.pruned.onnx', 'm.pruned.onnx', 'm.v2.pruned.onnx']
    """
    inner = model.with_suffix("") if names_packed(model) else model
    return (inner if inner.suffix == ".onnx" else model).with_suffix(ending)


def is_packed(path: Path, file: BufferedReader) -> bool:
    """Whether an open file is packed; nothing is read from it.

    Raises:
        ModelError: the name says that it is, and the first bytes say that it is not.
    """
    first = file.peek(len(MAGIC))[: len(MAGIC)]
    if names_packed(path) and first != MAGIC:
        got = f"begins with the bytes {first.hex(' ')}, expected {MAGIC.hex(' ')}"
        raise ModelError(f"{path}: is not a Zstandard file: {got}; rename it if it is not packed, or pack it again")
    return first == MAGIC


def expanded(path: Path, file: BufferedReader) -> bytes:
    """The bytes of the model in a packed file, which is open at its start.

    Raises:
        ModelError: the file is damaged, or expands to nothing or to more than a model can have.
    """
    with _expanding(path):
        _check_size(path, _stated(file))
        with _stream(file) as counted:
            size = _count(counted)
        _check_size(path, size)
        file.seek(0)
        with _stream(file) as stream:
            return bytes(stream.read(size))


def pack(plain: Path, target: Path) -> None:
    """Compress a file into another, with a checksum and its size, by which damage is noticed."""
    zstd = _zstd()
    parameter = zstd.CompressionParameter
    compressor = zstd.ZstdCompressor(options={parameter.compression_level: LEVEL, parameter.checksum_flag: 1})
    compressor.set_pledged_input_size(plain.stat().st_size)
    with plain.open("rb") as source, target.open("wb") as out:
        while data := source.read(STEP):
            out.write(compressor.compress(data))
        out.write(compressor.flush())


def _zstd() -> Any:
    """Python's own module, or the same for an older Python; imported on demand, for a quick start."""
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd


@contextlib.contextmanager
def _expanding(path: Path) -> Iterator[None]:
    """Raise ModelError with the reason if a file cannot be expanded."""
    try:
        yield
    except EOFError as e:
        got = f"its Zstandard data stop before their end ({path.stat().st_size} bytes)"
        raise ModelError(f"{path}: is truncated: {got}; copy it again") from e
    except _zstd().ZstdError as e:
        why = str(e).rpartition(": ")[2].partition(". ")[0]
        raise ModelError(f"{path}: is damaged, Zstandard cannot expand it ({why}); copy it again, or pack it again") from e


def _stream(file: BufferedReader) -> Any:
    return _zstd().ZstdFile(file)


def _stated(file: BufferedReader) -> int | None:
    """The size in bytes that the first frame of a file states; None if it does not. Nothing is read from the file."""
    size: int | None = _zstd().get_frame_info(file.peek()).decompressed_size
    return size


def _count(stream: Any) -> int:
    """The number of bytes in a stream, counted up to the first that are too many."""
    size = 0
    while size <= INLINE_LIMIT and (data := stream.read(CHUNK)):
        size += len(data)
    return size


def _check_size(path: Path, size: int | None) -> None:
    """Check that an ONNX file can have this many bytes; None: unknown."""
    if size == 0:
        raise ModelError(f"{path}: expands to 0 bytes, expected an ONNX model; pack it again")
    if size is not None and size > INLINE_LIMIT:
        most = f"to more than {INLINE_LIMIT:,} bytes, the most that an ONNX file can have"
        raise ModelError(f"{path}: expands {most}; pack the .onnx file alone, and keep large weights in a file beside it")


def packed_size(data: bytes) -> int:
    """The number of bytes that data take when packed."""
    return len(_zstd().compress(data, LEVEL))
