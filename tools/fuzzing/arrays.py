# SPDX-License-Identifier: Apache-2.0
"""Mutants of inputs, labels and scores."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np

from fuzzing.blobs import NAMES, REALS, damaged
from fuzzing.cases import Case
from fuzzing.classifier import QUICK, classifier
from fuzzing.seeds import generator


def arrays() -> dict[str, Any]:
    """Inputs and labels for the classifier."""
    rng = np.random.default_rng(0)
    return {"x": rng.standard_normal((16, 3, 8, 8)).astype("f4"), "label": rng.integers(0, 4, 16)}


def packed(found: dict[str, Any], compress: bool = False) -> bytes:
    """An .npz file."""
    made_bytes = io.BytesIO()
    with zipfile.ZipFile(made_bytes, "w", zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED) as file:
        for name, array in found.items():
            file.writestr(zipfile.ZipInfo(name + ".npy"), array if isinstance(array, bytes) else npy(array))
    return made_bytes.getvalue()


def npy(array: Any) -> bytes:
    """An .npy file, with objects pickled."""
    made_bytes = io.BytesIO()
    np.lib.format.write_array(made_bytes, np.asarray(array), allow_pickle=True)
    return made_bytes.getvalue()


def header(shape: str, dtype: str = "<f4") -> bytes:
    """An .npy file that states anything, with a few bytes of content."""
    said = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(said)) + said.encode() + bytes(64)


SHAPES = (
    *"(1000000000000,) (16,3,8,10**9) (-1,) (2**62,2**62) () (16,3,8,8) 'x' None (0,3,8,8) (1.5,)".split(),
    *("(" * 200 + ")" * 200, "[16]", "(16L,)"),
)
"""What the header of an .npy file may state."""
FILES = ("bytes", "header", "single", "csv", "model")
"""What may be odd about the file itself."""
MORE = ("", "--recover none", "--recover bias", "--criterion obs", "--max-loss 5%", "--rounds 2")
DTYPES = ("<f4", "<f8", "<f2", ">f4", "<i8", "|u1", "|b1", "<c8", "<U5", "|S5", "|O", "<M8[s]", "<V8", "junk")


def data(name: str, seed: int) -> Case:
    """Arrays that are damaged or do not fit; as inputs, labels or scores."""
    rng = generator(seed, "data", name)
    found, what = arrays(), rng.choice((*ODD, *FILES))
    use = rng.choice(("--data", "--data", "--data", "--data", "--labels", "--scores"))
    files = {"m.onnx": classifier(), "d.npz": packed(arrays())}
    if use == "--scores":
        found = {"w1": found["x"][:8, 0, 0, 0], "w2": found["x"][:, 0, 0, 0]}
    key = rng.choice(list(found))
    array, whole = found[key], packed(found)
    if what == "bytes":
        whole, _ = damaged(rng, whole, classifier())
    elif what == "header":
        whole = packed({**found, key: header(rng.choice(SHAPES), rng.choice(DTYPES))})
    elif what == "single":
        whole = npy(array)
    elif what == "csv":
        cells = ("1", "0", "1;2", "1,2", "-1", "nan", "a", "9" * 30, "", "²", "1.5")
        whole = "\n".join(rng.choice(cells) for _ in range(16)).encode()
    elif what == "model":
        whole = classifier()
    else:
        with np.errstate(all="ignore"):
            ODD[what](rng, found, key)
        whole = packed(found, rng.random() < 0.3)
    ending = {"single": "npy", "csv": "csv"}.get(what, rng.choice(("npz", "npz", "npz", "npy")))
    place = f"b.{ending}"
    given = ["--data", "d.npz"] if use == "--labels" else []
    more = rng.choice(MORE).split() if use != "--scores" else []
    return Case(
        f"data/{name}", f"{use}: {what} of {key}", {**files, place: whole}, ("m.onnx", *QUICK, *given, use, place, *more)
    )


def _set(rng: Random, found: dict[str, Any], key: str) -> None:
    value = rng.choice(REALS)
    a = found[key] = found[key].astype(rng.choice(("f4", "f8")))
    a.reshape(-1)[rng.choice((slice(None), slice(1), slice(0, None, 7)))] = value


def _type(rng: Random, found: dict[str, Any], key: str) -> None:
    found[key] = found[key].astype(rng.choice(("f8", "f2", "i8", "u1", "?", "c8", "U5", "S5", "O", ">f4", "f4")))


def _shape(rng: Random, found: dict[str, Any], key: str) -> None:
    a = found[key]
    ways = [
        a[:0],
        a[:1],
        a[:3],
        a[None],
        a.reshape(-1),
        a[0],
        np.float32(1),
        a[..., None],
        np.repeat(a, 2, -1),
        a.T,
        a[..., :0],
    ]
    found[key] = rng.choice(ways)


def _name(rng: Random, found: dict[str, Any], key: str) -> None:
    found[rng.choice((*(n for n in NAMES if "\0" not in n), "X", "y", "labels", "label"))] = found.pop(key)


def _objects(rng: Random, found: dict[str, Any], key: str) -> None:
    made = np.empty(16, object)
    made[:] = [rng.choice((None, "a", 1, [1, 2], {"a": 1}, b"", 1.5)) for _ in range(16)]
    found[key] = made


def _record(rng: Random, found: dict[str, Any], key: str) -> None:
    found[key] = np.zeros(16, rng.choice(([("a", "f4"), ("b", "i8")], "M8[s]", "m8[s]", "V4")))


def _labels(rng: Random, found: dict[str, Any], key: str) -> None:
    ways = [np.eye(4)[np.arange(16) % 4], np.arange(16) + 0.5, np.array(["a"] * 16), np.zeros((16, 2))]
    ways += [np.full(16, number) for number in (-1, 99, 2**62)]
    found["label"] = rng.choice(ways)


def _more(rng: Random, found: dict[str, Any], key: str) -> None:
    found[rng.choice(("z", "extra", "x.1"))] = rng.choice((found[key], np.zeros(3), np.float64(1)))


ODD: dict[str, Callable[[Random, dict[str, Any], str], None]] = {
    "values": _set,
    "type": _type,
    "shape": _shape,
    "name": _name,
    "objects": _objects,
    "record": _record,
    "labels": _labels,
    "more": _more,
}
"""What is odd -> what changes the arrays so."""
