# SPDX-License-Identifier: Apache-2.0
"""Labels in a separate file: .npy, .npz, or .csv with one line per sample."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from onnxprune.data.arrays import LABELS, read_arrays
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
        DataError: the file cannot be read, or has no label for a sample.
    """
    if Path(path).suffix.lower() != ".csv":
        return _stored(path)
    rows = _rows(path)
    if files is not None and len(rows[0]) > 1:
        return _typed(_by_name(rows, files, path))
    values = [row[-1].strip() for row in rows]
    return _typed(values if _is_number(values[0]) or not any(map(_is_number, values[1:])) else values[1:])


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
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise DataError(f"--labels {path}: {getattr(e, 'strerror', None) or 'not a text file'}; expected a .csv") from e
    if not rows:
        raise DataError(f"--labels {path}: is empty; expected one label per line")
    return rows


def _by_name(rows: Sequence[Sequence[str]], files: Sequence[str], path: str | Path) -> list[str]:
    known = {row[0].strip(): row[-1].strip() for row in rows}
    found = [known.get(name, known.get(Path(name).name)) for name in files]
    missing = [name for name, label in zip(files, found, strict=True) if label is None]
    if missing:
        raise DataError(f"--labels {path}: {len(missing)} of {len(files)} samples have no label; first: {missing[0]}")
    return [label for label in found if label is not None]


def _typed(values: Sequence[str]) -> Array:
    for kind in (np.int64, np.float64):
        try:
            return np.array(values).astype(kind)
        except ValueError:
            continue
    return np.array(values)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
