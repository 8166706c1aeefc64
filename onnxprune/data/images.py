# SPDX-License-Identifier: Apache-2.0
"""A folder of images as samples for a model."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto

from onnxprune.data.arrays import check_sample, data_of_chunks, inputs_of
from onnxprune.data.preprocess import Preprocess, default_for, fitting, image_input, parse
from onnxprune.data.samples import Data
from onnxprune.errors import DataError, printable
from onnxprune.ir.facts import CASES_OF_BENCHMARK, read_once
from onnxprune.ir.graph import FLOATS, Fact
from onnxprune.types import Advance, Array, Ends, Indices, unwatched

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
MAX_NAMED = 3


def image_files(folder: Path) -> list[Path]:
    """All images in a folder and its subfolders, sorted by path; hidden files and folders are skipped."""
    named = (p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    found = (p for p in named if p.is_file() or (p.is_symlink() and not p.exists()))  # a broken link is named as unreadable
    return sorted(p for p in found if not any(part.startswith(".") for part in p.relative_to(folder).parts))


def data_of_images(
    folder: Path,
    files: Sequence[Path],
    model: ModelProto,
    preprocess: str | None,
    labels: Array | None,
    progress: Advance = unwatched,
) -> Data:
    """Samples from image files, which are decoded one at a time.

    Args:
        folder: the folder, for messages.
        files: the images, in the order of the samples.
        model: the model to feed; it has one input.
        preprocess: how an image becomes an input; settings not given follow from the shape of the input.
        labels: one per file, or None.

    Raises:
        DataError: Pillow is missing, no image can be read, or the prepared images do not match the model.
    """
    name, fact = image_input(inputs_of(model), str(folder))
    whole = _is_whole(fact)
    shape = _shape(model, name, fact)
    default = default_for(shape, whole)
    how = parse(preprocess or "", default)
    other = fitting(how, default, shape)
    kind = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(fact.dtype)) if fact.dtype else np.dtype(np.float32)
    where = f"{folder}, prepared with {how}"
    _check_holds(kind, how)
    advice = f"use --preprocess {other}" if how != other else "use an .npz or module:function instead"
    shapes = _Shapes(len(files))
    unread, several = list[str](), list[str]()
    for k, x in enumerate(_prepared(files, how, several)):
        if isinstance(x, str):
            unread.append(printable(f"{files[k].name}: {x}"))
        else:
            if not shapes.positions:  # a wrong setting shows at the first image: report it before the rest are decoded
                with _advising(advice):
                    check_sample(name, x, fact, where)
            try:
                shapes.add(k, (np.rint(x) if whole else x).astype(kind, copy=False))
            except MemoryError as e:
                size = "x".join(map(str, x.shape))
                raise DataError(
                    f"{where}: {len(files):,} inputs of {size} do not fit into memory; give fewer (--samples)"
                ) from e
        progress((k + 1) / len(files))
    if not shapes.positions:
        raise DataError(f"{folder}: none of the {len(files):,} images can be read: {unread[0]}")
    kept = None if labels is None else labels[shapes.positions]
    with _advising(advice):
        data = data_of_chunks([{name: x} for x in shapes.arrays()], model, where, kept)
    return replace(
        data,
        notes=(
            f"images prepared with --preprocess {how}",
            *_left_out(unread, len(files)),
            *_frames(several, len(files)),
            *data.notes,
        ),
    )


@contextmanager
def _advising(advice: str) -> Iterator[None]:
    """Append advice to an error about samples that do not match the model."""
    try:
        yield
    except DataError as e:
        raise DataError(f"{e.message}; {advice}") from None


def like_images(model: ModelProto, preprocess: str) -> tuple[Ends, dict[str, tuple[int, ...]]]:
    """The range of the values that images prepared in some way have, and the shape of the input they are for.

    Args:
        model: the model, with one input.
        preprocess: how an image becomes an input.

    Raises:
        DataError: a setting is wrong, or does not fit the input.
    """
    name, fact = image_input(inputs_of(model), "--preprocess")
    shape = _shape(model, name, fact)
    default = default_for(shape, _is_whole(fact))
    how = parse(preprocess, default)
    mean, std = np.array(how.mean), np.array(how.std)
    low, high = (tuple(np.atleast_1d((pixel / how.scale - mean) / std).tolist()) for pixel in (0, 255))
    axes = how.layout.removeprefix("n")
    sizes = {axis: n for axis, n in zip("hw", how.size or (), strict=False) if n} | {"c": how.channels}
    image = tuple(sizes.get(axis, max(n, 1)) for axis, n in zip(axes, shape[-len(axes) :], strict=False))
    with _advising(f"use --preprocess {fitting(how, default, shape)}"):
        check_sample(name, np.broadcast_to(np.float32(0), image), fact, f"images prepared with --preprocess {how}")
    layout = "n" * (len(shape) - len(axes)) + axes
    whole = tuple(n if n > 0 else (sizes | {"n": 1}).get(axis, n) for n, axis in zip(shape, layout, strict=True))
    return (low, high), {name: whole} if min(whole) > 0 else {}


def _is_whole(fact: Fact) -> bool:
    return bool(fact.dtype) and fact.dtype not in FLOATS


class _Shapes:
    """Groups arrays by shape. The first array of a shape allocates space for all files, so that no array is copied twice."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._found: dict[tuple[int, ...], tuple[Array, list[int]]] = {}

    def add(self, position: int, x: Array) -> None:
        if x.shape not in self._found:
            self._found[x.shape] = np.empty((self._capacity, *x.shape), x.dtype), []
        buffer, positions = self._found[x.shape]
        buffer[len(positions)] = x
        positions.append(position)

    @property
    def positions(self) -> list[int]:
        """Positions of all arrays, in the order of `arrays`."""
        return [k for _, positions in self._found.values() for k in positions]

    def arrays(self) -> Iterator[Array]:
        for buffer, positions in self._found.values():
            yield buffer[: len(positions)]


def _check_holds(kind: np.dtype[Any], how: Preprocess) -> None:
    """Check that the type of the input can hold what pixels become.

    Raises:
        DataError: it cannot.
    """
    ends = np.array([how.normalised(pixel) for pixel in (0.0, 255.0)])
    low, high = float(ends.min()), float(ends.max())
    if kind.kind in "bcSUO":
        raise DataError(f"--preprocess: images do not become {kind}, the type of the model's input; use an .npz instead")
    if kind.kind not in "iuf":  # such as bfloat16
        return
    limits = np.iinfo(kind) if kind.kind in "iu" else np.finfo(kind)
    if round(low) < float(limits.min) or round(high) > float(limits.max):
        raise DataError(
            f"--preprocess: with {how}, pixels become {low:g} to {high:g}, which {kind}, the type of the model's input, cannot "
            "hold; set mean, std and scale as in your own code before inference"
        )


@contextmanager
def _unwarned() -> Iterator[None]:
    """Silence warnings of large images, and of flaws that do not keep them from being read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _prepared(files: Sequence[Path], how: Preprocess, several: list[str]) -> Iterator[Array | str]:
    """Each file's image as an input, or the reason why there is none; `several` receives names of files with several frames."""
    try:
        from PIL import Image, ImageOps
    except ImportError as e:
        raise DataError("--data: reading images needs Pillow; install it with: pip install 'onnxprune[images]'") from e
    for file in files:
        found: Array | str
        try:
            with _unwarned(), Image.open(file) as image:
                if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:  # photographs may hold a preview, too
                    several.append(file.name)
                upright: Any = ImageOps.exif_transpose(image)
                upright.load()
                found = how(upright)
        except Exception as e:  # Pillow raises OSError, ValueError, SyntaxError, struct.error and its own exceptions
            found = " ".join(str(e).split()).replace(str(file), file.name)[:120] or type(e).__name__
        yield found


def _left_out(unread: Sequence[str], total: int) -> list[str]:
    if not unread:
        return []
    more = f" and {len(unread) - MAX_NAMED} more" if len(unread) > MAX_NAMED else ""
    return [f"{len(unread)} of {total:,} images cannot be read and are skipped: {'; '.join(unread[:MAX_NAMED])}{more}"]


def _frames(several: Sequence[str], total: int) -> list[str]:
    shown = printable(", ".join(several[:MAX_NAMED])) + (", ..." if len(several) > MAX_NAMED else "")
    return [f"{len(several)} of {total:,} images have several frames, of which the first is used: {shown}"] if several else []


def _shape(model: ModelProto, name: str, fact: Fact) -> tuple[int, ...]:
    """The shape of the input; a dynamic number of channels is replaced by the number that the first convolution takes."""
    if fact.shape is None:
        raise DataError(f"--data: the model does not state the shape of '{name}'; use an .npz or module:function")
    if len(fact.shape) == 4 and fact.shape[1] < 0 and fact.shape[3] not in (1, 3):
        filled = read_once(model, CASES_OF_BENCHMARK, {})[0].facts[name].shape or fact.shape
        return (fact.shape[0], filled[1], *fact.shape[2:])
    return fact.shape


def subfolder_labels(folder: Path, files: Sequence[Path], classes: int | None) -> tuple[Indices | None, list[str]]:
    """Each image's subfolder as its class, if there are as many as the model has classes; else a note that says why not.

    Classes are numbered in the order of the names, as in torchvision's ImageFolder; the names 0, 1, 2, ... sort as numbers.
    """
    tops = [p.relative_to(folder).parts for p in files]
    names = sorted({parts[0] for parts in tops if len(parts) > 1})
    if len(names) < 2 or any(len(parts) == 1 for parts in tops):
        return None, []
    if classes != len(names):
        has = f"scores {classes} classes" if classes else "scores no classes"
        return None, [f"the {len(names)} subfolders are not used as labels because the model's first output {has}"]
    if {*names} == {str(k) for k in range(len(names))}:
        names.sort(key=int)
    return np.array([names.index(parts[0]) for parts in tops], np.int64), []
