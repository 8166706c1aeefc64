# SPDX-License-Identifier: Apache-2.0
"""Files of arrays that are damaged, or claim what they do not hold: one line, and nothing is allocated or run for them."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from onnxprune.data.array_files import read_arrays
from onnxprune.errors import DataError

X = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def npy(shape: str, kind: object = "<f4", data: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    """An .npy file whose header says what it likes."""
    header = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    size = struct.pack("<H" if version == (1, 0) else "<I", len(header))
    return b"\x93NUMPY" + bytes(version) + size + header + data


def good() -> bytes:
    file = io.BytesIO()
    np.save(file, X)
    return file.getvalue()


def packed(*members: tuple[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """An .npz with these members."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return file.getvalue()


def changed(data: bytes, at: int, to: bytes) -> bytes:
    return data[:at] + to + data[at + len(to) :]


def directory(data: bytes) -> int:
    """Where the first entry of the directory of a zip file begins."""
    return data.rindex(b"PK\x01\x02")


PLAIN = packed(("x.npy", good()))
DEFLATED = packed(("x.npy", good()), method=zipfile.ZIP_DEFLATED)
BROKEN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not an .npz or .npy"),
    "text": (b"hello", "not an .npz or .npy"),
    "pickled": (pickle.dumps({"x": X}), "not an .npz or .npy"),
    "header claims 4 exabytes": (npy(f"({2**60},)"), "but there are 0 bytes"),
    "sizes overflow": (npy(f"({2**40}, {2**40}, {2**40})"), "but there are 0 bytes"),
    "negative sizes": (npy("(-2, -3)", data=bytes(24)), "should have the shape [-2, -3]"),
    "elements without size": (npy(f"({2**60},)", "<U0"), "should have the shape"),
    "header unfinished": (good()[:20], "or a damaged one"),
    "header not a dict": (npy("(" * 30), "or a damaged one"),
    "header with code": (npy("__import__('os').abort()"), "or a damaged one"),
    "truncated": (good()[:-1], "(96 bytes), but there are 95"),
    "more than one array": (good() * 2, "(96 bytes), but there are"),
    "objects": (npy("(1,)", "|O", pickle.dumps([1])), "holds Python objects"),
    "objects in fields": (npy("(1,)", [("a", "|O")], pickle.dumps([1])), "holds Python objects"),
    "unknown version": (npy("(1,)", data=bytes(4), version=(9, 0)), "no plain numbers"),
    "zip truncated": (PLAIN[:-30], "or a damaged one"),
    "zip with another byte": (changed(PLAIN, PLAIN.index(X.tobytes()) + 40, b"\xff"), "or a damaged one"),
    "zip deflated, with other bytes": (changed(DEFLATED, 70, b"\xff\xff\xff"), "or a damaged one"),
    "zip claims 2 GB": (
        changed(changed(PLAIN, directory(PLAIN) + 24, struct.pack("<I", 2**31)), 22, struct.pack("<I", 2**31)),
        "'x' cannot have 2,147,483,648 bytes",
    ),
    "zip encrypted": (changed(changed(PLAIN, directory(PLAIN) + 8, b"\1"), 6, b"\1"), "or a damaged one"),
    "zip with an unknown method": (changed(changed(PLAIN, directory(PLAIN) + 10, b"c"), 8, b"c"), "or a damaged one"),
    "an array in it claims 4 exabytes": (packed(("x.npy", npy(f"({2**60},)"))), "'x' should have the shape"),
    "an array in it has objects": (packed(("x.npy", good()), ("m.npy", npy("(1,)", "|O", b""))), "'m' holds Python objects"),
    "two arrays of one name": (
        packed(("x.npy", good()), ("w.npy", good())).replace(b"w.npy", b"x.npy"),
        "two arrays named 'x'",
    ),
}


@pytest.mark.parametrize(("content", "why"), BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_refused_in_one_line(content: bytes, why: str, tmp_path: Path) -> None:
    (tmp_path / "d.npz").write_bytes(content)
    with pytest.raises(DataError) as e:
        read_arrays(tmp_path / "d.npz", "--data")
    assert why in e.value.message
    assert "expected an .npz or .npy file" in e.value.message
    assert "\n" not in e.value.message


PLACES: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (lambda p: None, "No such file"),
    "folder": (Path.mkdir, "no regular file"),
    "pipe": (os.mkfifo, "no regular file"),
}


@pytest.mark.parametrize(("make", "why"), PLACES.values(), ids=PLACES)
def test_only_regular_files_are_opened(make: Callable[[Path], object], why: str, tmp_path: Path) -> None:
    make(tmp_path / "d.npz")
    with pytest.raises(DataError, match=why):
        read_arrays(tmp_path / "d.npz", "--data")


def test_arrays_of_every_order_and_method_are_read_as_numpy_does(tmp_path: Path) -> None:
    arrays = {"x": X, "turned": X.T, "big": X.astype(">f8"), "text": np.array(["a", "bc"]), "none": X[:0], "one": np.float32(3)}
    np.savez_compressed(tmp_path / "d.npz", **arrays)  # type: ignore[arg-type]
    found = read_arrays(tmp_path / "d.npz", "--data")
    assert {name: x.tolist() for name, x in found.items()} == {name: np.asarray(x).tolist() for name, x in arrays.items()}
    np.save(tmp_path / "d.npy", X)
    assert np.array_equal(read_arrays(tmp_path / "d.npy", "--data")[""], X)


def test_any_other_bytes_are_read_or_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for k in range(300):
        content = bytearray((PLAIN, DEFLATED, good())[k % 3])
        for at in rng.integers(0, len(content), 4):
            content[at] = rng.integers(256)
        (tmp_path / "d.npz").write_bytes(content)
        try:
            read_arrays(tmp_path / "d.npz", "--data")
        except DataError as e:
            assert "\n" not in e.message
