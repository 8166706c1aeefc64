# SPDX-License-Identifier: Apache-2.0
"""Arrays in .npz and .npy files. What a file claims is compared with what it holds before anything is allocated for it."""

from __future__ import annotations

import math
import warnings
import zipfile
from pathlib import Path
from typing import IO, Any

from numpy.lib import format as npy

from onnxprune.errors import DataError
from onnxprune.types import Array

ZIP, NPY = (b"PK\x03\x04", b"PK\x05\x06"), b"\x93NUMPY"
DEFLATES_TO = 1100
"""Bytes that one byte of a deflated file can become at most (1032), and some room."""


def read_arrays(path: str | Path, option: str) -> dict[str, Array]:
    """The arrays of an .npz by name, or the array of an .npy under the empty name; pickled objects are rejected.

    Raises:
        DataError: the file cannot be read, is damaged, claims more than it holds, or holds anything but plain arrays.
    """
    try:
        if Path(path).exists() and not Path(path).is_file():
            raise DataError(f"{option} {path}: is no regular file; expected an .npz or .npy file")
        with Path(path).open("rb") as file:
            return _arrays(file)
    except DataError:
        raise
    except _DamagedError as e:
        raise DataError(f"{option} {path}: {e}; expected an .npz or .npy file of plain arrays") from e
    except MemoryError as e:
        raise DataError(f"{option} {path}: does not fit into memory; give fewer samples") from e
    except Exception as e:  # a damaged file raises what it likes: ValueError, zlib.error, TokenError, RuntimeError, ...
        reason = getattr(e, "strerror", None) or "not an .npz or .npy of plain arrays, or a damaged one"
        raise DataError(f"{option} {path}: {reason}; expected an .npz or .npy file") from e


class _DamagedError(Exception):
    """What is wrong with a file."""


def _arrays(file: IO[bytes]) -> dict[str, Array]:
    size = file.seek(0, 2)
    file.seek(0)
    start = file.read(len(NPY))
    file.seek(0)
    if start == NPY:
        return {"": _array(file, size, "the array")}
    if not start.startswith(ZIP):
        raise _DamagedError("not an .npz or .npy of plain arrays")
    found: dict[str, Array] = {}
    with zipfile.ZipFile(file) as packed:
        members = packed.infolist()
        if sum(m.compress_size for m in members) > size:
            raise _DamagedError(f"damaged: its members take more than its {size:,} bytes")
        for member in members:
            name = member.filename.removesuffix(".npy")
            if name == member.filename:  # something else, such as a text: it is no array
                continue
            if name in found:
                raise _DamagedError(f"has two arrays named '{name}'")
            if member.file_size > DEFLATES_TO * (member.compress_size + 1):
                raise _DamagedError(f"damaged: '{name}' cannot have {member.file_size:,} bytes")
            with packed.open(member) as stream:
                found[name] = _array(stream, member.file_size, f"'{name}'")
    return found


def _array(stream: IO[bytes], size: int, what: str) -> Array:
    """The array in a stream of so many bytes."""
    version = npy.read_magic(stream)
    readers: dict[tuple[int, int], Any] = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    if version not in readers:
        raise _DamagedError(f"{what} has no plain numbers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about headers that Python 2 wrote
        shape, _, dtype = readers[version](stream)
    if dtype.hasobject:
        raise _DamagedError(f"{what} holds Python objects (pickled), which are never read")
    room, need = size - stream.tell(), math.prod(shape) * dtype.itemsize
    if need != room or not dtype.itemsize or min(shape, default=0) < 0:
        raise _DamagedError(
            f"damaged: {what} should have the shape {list(shape)} ({need:,} bytes), but there are {room:,} bytes"
        )
    stream.seek(0)
    found: Array = npy.read_array(stream, allow_pickle=False)
    stream.read(1)  # at its end, the checksum is compared
    return found
