# SPDX-License-Identifier: Apache-2.0
"""A folder of images as samples for a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto

from onnxprune.data.arrays import data_of_chunks, inputs_of
from onnxprune.data.preprocess import default_for, image_input, parse
from onnxprune.data.samples import Data
from onnxprune.errors import DataError
from onnxprune.ir.facts import CASES_OF_BENCHMARK, read_once
from onnxprune.ir.graph import FLOATS, Fact
from onnxprune.types import Advance, Array, Indices, unwatched

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
MAX_NAMED = 3


def image_files(folder: Path) -> list[Path]:
    """All images in a folder and the folders in it, by name; hidden ones left out."""
    found = (p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    return sorted(p for p in found if not any(part.startswith(".") for part in p.relative_to(folder).parts))


def data_of_images(
    folder: Path,
    files: Sequence[Path],
    model: ModelProto,
    preprocess: str | None,
    labels: Array | None,
    progress: Advance = unwatched,
) -> Data:
    """Samples from image files, one decoded at a time.

    Args:
        folder: how messages call the place.
        files: the images, in the order of the samples.
        model: the model that they are for; it has one input.
        preprocess: how an image becomes an input; what is not said follows from the shape of the input.
        labels: one a file, or None.

    Raises:
        DataError: Pillow is missing, no image can be read, or what becomes of them does not fit the model.
    """
    name, fact = image_input(inputs_of(model), str(folder))
    whole = bool(fact.dtype) and fact.dtype not in FLOATS
    default = default_for(_shape(model, name, fact), whole)
    how = parse(preprocess or "", default)
    kind = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(fact.dtype)) if fact.dtype else np.dtype(np.float32)
    shapes = _Shapes(len(files))
    unread = []
    for k, image in enumerate(_opened(files)):
        if isinstance(image, str):
            unread.append(f"{files[k].name}: {image}")
        else:
            x = how(image)
            shapes.add(k, (np.rint(x) if whole else x).astype(kind, copy=False))
        progress((k + 1) / len(files))
    if not shapes.positions:
        raise DataError(f"{folder}: none of {len(files):,} images can be read: {unread[0]}")
    kept = None if labels is None else labels[shapes.positions]
    chunks = [{name: x} for x in shapes.arrays()]
    try:
        data = data_of_chunks(chunks, model, f"{folder}, prepared with {how},", kept)
    except DataError as e:
        advice = f"--preprocess {default}" if how != default else "an .npz or module:function instead"
        raise DataError(f"{e.message}; write {advice}") from None
    return replace(data, notes=(f"images prepared with --preprocess {how}", *_left_out(unread, len(files)), *data.notes))


class _Shapes:
    """Gathers arrays by their shape. Room is made for all at the first, so that no second copy is ever needed."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._found: dict[tuple[int, ...], tuple[Array, list[int]]] = {}

    def add(self, position: int, x: Array) -> None:
        if x.shape not in self._found:
            self._found[x.shape] = np.empty((self._most, *x.shape), x.dtype), []
        room, positions = self._found[x.shape]
        room[len(positions)] = x
        positions.append(position)

    @property
    def positions(self) -> list[int]:
        """Positions of all, in the order of the arrays."""
        return [k for _, positions in self._found.values() for k in positions]

    def arrays(self) -> Iterator[Array]:
        for room, positions in self._found.values():
            yield room[: len(positions)]


def _opened(files: Sequence[Path]) -> Iterator[Any]:
    """Each file's image, upright, or the reason why there is none."""
    try:
        from PIL import Image, ImageOps
    except ImportError as e:
        raise DataError("--data: reading images needs Pillow; install it with: pip install 'onnxprune[images]'") from e
    for file in files:
        try:
            with Image.open(file) as image:
                found: Any = ImageOps.exif_transpose(image)
                found.load()
        except Exception as e:  # Pillow raises OSError, ValueError, SyntaxError, struct.error and others of its own
            found = " ".join(str(e).split()).replace(str(file), file.name)[:120] or type(e).__name__
        yield found


def _left_out(unread: Sequence[str], total: int) -> list[str]:
    if not unread:
        return []
    more = f" and {len(unread) - MAX_NAMED} more" if len(unread) > MAX_NAMED else ""
    return [f"{len(unread)} of {total:,} images cannot be read and are left out: {'; '.join(unread[:MAX_NAMED])}{more}"]


def _shape(model: ModelProto, name: str, fact: Fact) -> tuple[int, ...]:
    """The shape of the input; channels that the file leaves open are those that the first convolution takes."""
    if fact.shape is None:
        raise DataError(f"--data: the model does not tell the shape of '{name}'; give an .npz or module:function")
    if len(fact.shape) == 4 and fact.shape[1] < 0 and fact.shape[3] not in (1, 3):
        filled = read_once(model, CASES_OF_BENCHMARK, {})[0].facts[name].shape or fact.shape
        return (fact.shape[0], filled[1], *fact.shape[2:])
    return fact.shape


def subfolder_labels(folder: Path, files: Sequence[Path], classes: int | None) -> tuple[Indices | None, list[str]]:
    """The subfolder of each image as its class, where there are as many as the model has classes; else a note why not.

    Classes are numbered in the order of the names, as torchvision's ImageFolder does; names that are 0, 1, 2, ... are numbers.
    """
    tops = [p.relative_to(folder).parts for p in files]
    names = sorted({parts[0] for parts in tops if len(parts) > 1})
    if len(names) < 2 or any(len(parts) == 1 for parts in tops):
        return None, []
    if classes != len(names):
        has = f"scores {classes} classes" if classes else "scores no classes"
        return None, [f"the {len(names)} subfolders are not taken for labels, for the model's first output {has}"]
    if {*names} == {str(k) for k in range(len(names))}:
        names.sort(key=int)
    return np.array([names.index(parts[0]) for parts in tops], np.int64), []
