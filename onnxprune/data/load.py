# SPDX-License-Identifier: Apache-2.0
"""`load_data`: whatever --data names, as samples for a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from onnxprune.data.arrays import data_of_arrays, data_of_calls, read_arrays
from onnxprune.data.classes import classes_of
from onnxprune.data.ground_truth import read_labels
from onnxprune.data.images import data_of_images, image_files, subfolder_labels
from onnxprune.data.samples import Data
from onnxprune.data.synthetic.statistics import misfit
from onnxprune.data.synthetic.synthesize import Refinement, synthesize
from onnxprune.data.user_code import data_of_entry, function_named, is_entry
from onnxprune.errors import DataError
from onnxprune.ir.facts import CASES_OF_BENCHMARK, read_once
from onnxprune.ort import sample
from onnxprune.types import Advance, Array, Shapes, unwatched

Source = str | Path | Mapping[str, Array] | Data
Labels = str | Path | Sequence[Any] | Array
MADE = ("random", "synthetic")
MOST, MADE_UP = 1024, 256
"""Samples that are read from a folder or asked of a function, and that are made up, where nobody asks for a number."""


@dataclass(frozen=True, slots=True)
class _Request:
    """What `load_data` is asked for."""

    source: Source
    model: ModelProto
    preprocess: str | None
    samples: int | None
    seed: int
    labels: Labels | None
    shapes: Shapes | None
    path: str | None
    refine: Refinement | None
    progress: Advance


def load_data(
    source: Source,
    model: ModelProto,
    *,
    preprocess: str | None = None,
    samples: int | None = None,
    seed: int = 0,
    labels: Labels | None = None,
    shapes: Shapes | None = None,
    path: str | None = None,
    refine: Refinement | None = None,
    progress: Advance = unwatched,
) -> Data:
    """Samples for the inputs of a model.

    Args:
        source: the path of an .npz or .npy (one array an input, samples first), of a folder of images (or of such files);
            `module:function`; `synthetic` or `random`; or input name -> array; or samples loaded before.
        model: the model that they are for.
        preprocess: how images become inputs, as `size=224x224,mean=...`; what is not said follows from the model's input.
        samples: how many to use at most, chosen by `seed`; by default all of an .npz, 1024 images, 256 made-up samples.
        seed: for what is chosen or made up.
        labels: one a sample, or a file of them (.npy, .npz, .csv), instead of those that the source has.
        shapes: input name -> shape, for sizes that the file leaves open and the source does not tell.
        path: of the model, for functions that want it.
        refine: takes steps of gradient descent on synthetic inputs.
        progress: told how much of a folder is read, or of synthetic inputs made.

    Raises:
        DataError: the source cannot be read, or does not fit the model's inputs.
    """
    if samples is not None and samples < 1:
        raise DataError(f"--samples: got {samples}, expected at least 1")
    data = _read(_Request(source, model, preprocess, samples, seed, labels, shapes, path, refine, progress))
    known = isinstance(source, Data) or (isinstance(source, str) and source in MADE)
    warning = None if known else misfit(model, data)
    return replace(data, warnings=(*data.warnings, warning)) if warning else data


def check_source(source: Source | None) -> None:
    """Refuse a source that does not exist, before any model is read: no such file or folder, or no such function.

    Raises:
        DataError: there is none.
    """
    if not isinstance(source, str | Path) or str(source) in MADE:
        return
    if is_entry(str(source)):
        function_named(str(source), "--data")
    else:
        check_exists(source, "--data")


def check_exists(path: str | Path, option: str) -> None:
    """Refuse the path of a file or folder that does not exist.

    Raises:
        DataError: there is none.
    """
    if not Path(path).exists():
        raise DataError(f"{option} {path}: no such file or folder; check the path")


def _read(ask: _Request) -> Data:
    if isinstance(ask.source, str | Path):
        folder = Path(ask.source)
        if str(ask.source) not in MADE and folder.is_dir() and (files := image_files(folder)):
            return _images(ask, folder, files)
    if ask.preprocess:
        raise DataError("--preprocess: is for a folder of images; other inputs are given as the model takes them")
    data = _given(ask)
    if ask.labels is not None:
        found = read_labels(ask.labels) if isinstance(ask.labels, str | Path) else np.asarray(ask.labels)
        data = replace(data, labels=found)
    return data if ask.samples is None else data.take(ask.samples, ask.seed)


def _given(ask: _Request) -> Data:
    """Everything but images."""
    if isinstance(ask.source, Data):
        return ask.source
    if isinstance(ask.source, Mapping):
        return data_of_arrays(ask.source, ask.model, "data")
    text = str(ask.source)
    if text == "random":
        return random_data(ask.model, ask.samples or MADE_UP, ask.seed, ask.shapes)
    if text == "synthetic":
        return synthesize(ask.model, ask.samples or MADE_UP, ask.seed, ask.shapes, ask.progress, ask.refine)
    if is_entry(text):
        return data_of_entry(text, ask.model, ask.samples or MOST, ask.path)
    if Path(ask.source).is_dir():
        return _folder_of_arrays(Path(ask.source), ask.model)
    return data_of_arrays(read_arrays(ask.source, "--data"), ask.model, text)


def _images(ask: _Request, folder: Path, files: Sequence[Path]) -> Data:
    """Some of the images of a folder, with the labels that a file or the folders in it give them."""
    names = [p.relative_to(folder).as_posix() for p in files]
    notes: list[str] = []
    if ask.labels is None:
        found, notes = subfolder_labels(folder, files, classes_of(ask.model))
    else:
        found = read_labels(ask.labels, names) if isinstance(ask.labels, str | Path) else np.asarray(ask.labels)
        if len(found) != len(files):
            raise DataError(f"--labels: got {len(found)} labels for {len(files):,} images in {folder}; expected one for each")
    most = ask.samples or MOST
    if len(files) > most:
        chosen = np.sort(np.random.default_rng(ask.seed).permutation(len(files))[:most])
        notes.append(f"{most:,} of {len(files):,} images are used, chosen at random (--samples)")
        files, found = [files[k] for k in chosen], None if found is None else found[chosen]
    data = data_of_images(folder, files, ask.model, ask.preprocess, found, ask.progress)
    return replace(data, notes=(*data.notes, *notes))


def _folder_of_arrays(folder: Path, model: ModelProto) -> Data:
    """The samples of all .npz and .npy in a folder, one or many a file."""
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in (".npz", ".npy"))
    if not files:
        raise DataError(f"--data {folder}: holds no images (.png, .jpg, .bmp, .webp, ...) and no .npz or .npy")
    return data_of_calls((read_arrays(file, "--data") for file in files), model, f"--data {folder}")


def random_data(model: ModelProto, count: int = MADE_UP, seed: int = 0, shapes: Shapes | None = None) -> Data:
    """Seeded standard normal numbers, small integers and True for the inputs of a model: for smoke tests."""
    rng = np.random.default_rng(seed)
    reading, inputs = read_once(model, CASES_OF_BENCHMARK, shapes or {})
    facts = reading.facts
    calls = ({n: sample(rng, facts[n].dtype, facts[n].shape or ()) for n in inputs} for _ in range(count))
    return data_of_calls(calls, model, "random")
