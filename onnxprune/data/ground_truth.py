# SPDX-License-Identifier: Apache-2.0
"""Labels in a separate file: .npy, .npz, or .csv with one line per sample."""

from __future__ import annotations

import csv
import reprlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from onnxprune.data.array_files import read_arrays
from onnxprune.data.arrays import LABELS
from onnxprune.errors import DataError
from onnxprune.types import Array


def read_labels(path: str | Path, files: Sequence[str] | None = None) -> Array:
    """One label per sample: integers if possible, else floats, else text.

    Args:
        path: `.npy`; `.npz` with one array, or one called label, labels or y; `.csv` with one label per line (the last
            column; a header line is skipped).
        files: names of the samples. The first column of a .csv with at least two columns then identifies them, in any order:
            by path in the folder, or by file name alone.

    Raises:
        DataError: the file cannot be read, or has no label, or two labels, for a sample.
    """
    if Path(path).suffix.lower() != ".csv":
        return _stored(path)
    rows = _rows(path)
    if files is not None and len(rows[0]) > 1:
        return _typed(_by_name(rows, files, path))
    values = [row[-1].strip() for row in rows]
    return _typed(values if is_number(values[0]) or not any(map(is_number, values[1:])) else values[1:])


def _stored(path: str | Path) -> Array:
    arrays = read_arrays(path, "--labels")
    names = [n for n in LABELS if n in arrays] or (list(arrays) if len(arrays) == 1 else [])
    if not names:
        raise DataError(f"--labels {path}: got arrays {sorted(arrays)}, expected one, or one named {', '.join(LABELS)}")
    return arrays[names[0]]


def _rows(path: str | Path) -> list[list[str]]:
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row]
    except UnicodeDecodeError as e:
        raise DataError(f"--labels {path}: not a text file in UTF-8; expected a .csv in this encoding") from e
    except (OSError, ValueError, csv.Error) as e:
        raise DataError(f"--labels {path}: {getattr(e, 'strerror', None) or 'not a text file'}; expected a .csv") from e
    if not rows:
        raise DataError(f"--labels {path}: is empty; expected one label per line")
    if any("\0" in cell for row in rows for cell in row):
        raise DataError(f"--labels {path}: not a text file; expected a .csv")
    if odd := next((k for k, row in enumerate(rows) if len(row) != len(rows[0])), 0):
        got = f"line {odd + 1} has {len(rows[odd])} columns, and the first {len(rows[0])}"
        raise DataError(f"--labels {path}: {got}; expected the same in each: put names with commas in quotes")
    for other in ";\t":
        if all(len(row) == 1 and other in row[0] for row in rows):
            got = f"got columns separated by {other!r}, as in {reprlib.repr(rows[0][0])}"
            raise DataError(f"--labels {path}: {got}; expected commas, and the label in the last column")
    return rows


def _by_name(rows: Sequence[Sequence[str]], files: Sequence[str], path: str | Path) -> list[str]:
    known: dict[str, str] = {}
    for row in rows:
        name, label = row[0].strip(), row[-1].strip()
        if known.setdefault(name, label) != label:
            raise DataError(f"--labels {path}: two labels for '{name}': {known[name]} and {label}; expected one")
    names = Counter(Path(name).name for name in files)
    unclear = [n for n in files if n not in known and Path(n).name in known and names[Path(n).name] > 1]
    if unclear:
        which = f"'{Path(unclear[0]).name}' names {names[Path(unclear[0]).name]} files in subfolders"
        raise DataError(f"--labels {path}: {which}; expected paths, such as {unclear[0]}")
    found = [known.get(name, known.get(Path(name).name)) for name in files]
    missing = [name for name, label in zip(files, found, strict=True) if label is None]
    if missing:
        raise DataError(f"--labels {path}: {len(missing)} of {len(files)} samples have no label; first: {missing[0]}")
    return [label for label in found if label is not None]


def _typed(values: Sequence[str]) -> Array:
    for kind in (np.int64, np.float64):
        try:
            return np.array(values).astype(kind)
        except (ValueError, OverflowError):
            continue
    return np.array(values)


def is_number(text: str | bytes) -> bool:
    """Whether a text is a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True
