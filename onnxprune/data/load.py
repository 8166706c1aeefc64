# SPDX-License-Identifier: Apache-2.0
"""`load_data`: samples for a model from any source that --data accepts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import ModelProto, TensorProto

from onnxprune.data.array_files import read_arrays
from onnxprune.data.arrays import checked_labels, data_of_arrays, data_of_calls, inputs_of
from onnxprune.data.classes import classes_of
from onnxprune.data.ground_truth import read_labels
from onnxprune.data.images import data_of_images, image_files, like_images, subfolder_labels
from onnxprune.data.samples import Data, MadeUp
from onnxprune.data.user_code import data_of_entry, function_named, is_entry
from onnxprune.effort import Effort
from onnxprune.errors import DataError, counted
from onnxprune.ir.facts import CASES_OF_BENCHMARK, read_once
from onnxprune.ir.ranges import numbers_of
from onnxprune.ort import sample
from onnxprune.types import Advance, Array, Shapes, unwatched

if TYPE_CHECKING:
    from onnxprune.data.synthetic.synthesize import Refinement

Source = str | Path | Mapping[str, Array] | Data
Labels = str | Path | Sequence[Any] | Array
MADE = ("random", "synthetic")
NOT_PREPARED = (
    "--preprocess: applies only to folders of images and to synthetic inputs; pass other inputs as the model expects them"
)
MOST, GENERATED = 1024, 256
"""Default number of samples that are read from a folder or requested from a function, and that are generated."""
VALUES = 2**30
"""Maximum number of values in noise (4 GiB of float32)."""


@dataclass(frozen=True, slots=True)
class _Request:
    """The arguments of `load_data`."""

    source: Source
    model: ModelProto
    preprocess: str | None
    samples: int | None
    seed: int
    labels: Labels | None
    shapes: Shapes | None
    path: str | None
    refine: Refinement | None
    effort: Effort | None
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
    effort: Effort | None = None,
    progress: Advance = unwatched,
) -> Data:
    """Samples for the inputs of a model.

    Args:
        source: the path of an .npz or .npy (one array per input, samples first) or of a folder of images or of such files;
            `module:function`; `synthetic` or `random`; input name -> array; or samples loaded before.
        model: the model to feed.
        preprocess: how images become inputs, as `size=224x224,mean=...`; settings not given follow from the model's input.
        samples: maximum number of samples, chosen by `seed`; by default all of an .npz, 1024 images, 256 generated samples.
        seed: for choosing and generating samples.
        labels: one per sample, or a file of labels (.npy, .npz, .csv), instead of those of the source.
        shapes: input name -> shape, for dynamic sizes that the source does not determine.
        path: path of the model, for functions that take it.
        refine: performs steps of gradient descent on synthetic inputs.
        effort: the time that there is to generate synthetic inputs.
        progress: called with the fraction of a folder that is read, or of synthetic inputs that is generated.

    Raises:
        DataError: the source cannot be read, or does not match the model's inputs.
    """
    if samples is not None and samples < 1:
        raise DataError(f"--samples: got {samples}, expected at least 1")
    if not inputs_of(model):
        raise DataError("--data: the model has no inputs that could be fed; leave the option out")
    data = _read(_Request(source, model, preprocess, samples, seed, labels, shapes, path, refine, effort, progress))
    from onnxprune.data.synthetic.statistics import misfit  # on demand, for a quick start

    known = isinstance(source, Data) or (isinstance(source, str) and source in MADE)
    warning = None if known else misfit(model, data)
    return replace(data, warnings=(*data.warnings, warning)) if warning else data


def check_source(source: Source | None, preprocess: str | None = None) -> None:
    """Reject a source that does not exist, or that `preprocess` does not apply to, before any model is read.

    Raises:
        DataError: there is no such file, folder or function, or `preprocess` is given for anything but a folder of images.
    """
    named = isinstance(source, str | Path) and str(source) not in MADE
    if named and not str(source):
        raise DataError("--data: got '', expected a file, a folder, module:function, synthetic or random")
    if named and not is_entry(str(source)):
        check_exists(str(source), "--data")
    if preprocess and source not in (None, "synthetic") and not (named and Path(str(source)).is_dir()):
        raise DataError(NOT_PREPARED)
    if named and is_entry(str(source)):
        function_named(str(source), "--data")


def check_exists(path: str | Path, option: str, folders: bool = True) -> None:
    """Reject the path of a file or folder that does not exist.

    Args:
        folders: whether it may be that of a folder.

    Raises:
        DataError: the path does not exist, or is that of a folder.
    """
    try:
        known, is_folder = Path(path).exists(), Path(path).is_dir()
    except OSError as e:  # such as a name that is too long
        raise DataError(f"{option} {path}: cannot be read: {e.strerror}") from e
    if not known:
        raise DataError(f"{option} {path}: no such file or folder; check the path")
    if is_folder and not folders:
        raise DataError(f"{option} {path}: is a folder; expected a file")


def _read(request: _Request) -> Data:
    if isinstance(request.source, str | Path):
        folder = Path(request.source)
        if str(request.source) not in MADE and folder.is_dir() and (files := image_files(folder)):
            return _images(request, folder, files)
    if request.preprocess and request.source != "synthetic":
        raise DataError(NOT_PREPARED)
    labels = _labels(request)  # a wrong file is reported before a function is called for samples
    data = _given(request)
    if labels is not None:
        if len(labels) != len(data):
            got = f"{counted(len(labels), 'label')} for {counted(len(data), 'sample')}"
            raise DataError(f"--labels: got {got}; expected one per sample")
        data = replace(data, labels=labels)
    return data if request.samples is None else data.take(request.samples, request.seed)


def _labels(request: _Request, names: Sequence[str] | None = None) -> Array | None:
    """The labels that are given beside the source; `names` are those of its files."""
    if request.labels is None:
        return None
    if isinstance(request.labels, str | Path):
        return checked_labels(read_labels(request.labels, names), f"--labels {request.labels}")
    return checked_labels(request.labels, "--labels")


def _given(request: _Request) -> Data:
    """Samples from any source but a folder of images."""
    if isinstance(request.source, Data):
        return request.source
    if isinstance(request.source, Mapping):
        return data_of_arrays(request.source, request.model, "data")
    text = str(request.source)
    if text == "random":
        return random_data(request.model, request.samples or GENERATED, request.seed, request.shapes)
    if text == "synthetic":
        from onnxprune.data.synthetic.synthesize import synthesize  # on demand, for a quick start

        count, ends, shapes = request.samples or GENERATED, None, request.shapes or {}
        if request.preprocess:
            ends, sizes = like_images(request.model, request.preprocess)
            shapes = {**sizes, **shapes}
        return synthesize(request.model, count, request.seed, shapes, request.progress, request.refine, request.effort, ends)
    if is_entry(text):
        return data_of_entry(text, request.model, request.samples or MOST, request.path)
    if Path(request.source).is_dir():
        return _folder_of_arrays(Path(request.source), request.model)
    return data_of_arrays(read_arrays(request.source, "--data"), request.model, text)


def _images(request: _Request, folder: Path, files: Sequence[Path]) -> Data:
    """At most the requested number of images of a folder, with labels from a file or from subfolders."""
    found, notes = _labels(request, [p.relative_to(folder).as_posix() for p in files]), list[str]()
    if found is None:
        found, notes = subfolder_labels(folder, files, classes_of(request.model))
    elif len(found) != len(files):
        got = f"{counted(len(found), 'label')} for {counted(len(files), 'image')}"
        raise DataError(f"--labels: got {got} in {folder}; expected one per image")
    most = request.samples or MOST
    if len(files) > most:
        chosen = np.sort(np.random.default_rng(request.seed).permutation(len(files))[:most])
        notes.append(f"{most:,} of {len(files):,} images are used, chosen at random (--samples)")
        files, found = [files[k] for k in chosen], None if found is None else found[chosen]
    data = data_of_images(folder, files, request.model, request.preprocess, found, request.progress)
    return replace(data, notes=(*data.notes, *notes))


def _folder_of_arrays(folder: Path, model: ModelProto) -> Data:
    """The samples of all .npz and .npy files in a folder, one or more per file."""
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in (".npz", ".npy"))
    if not files:
        raise DataError(f"--data {folder}: contains no images (.png, .jpg, .bmp, .webp, ...) and no .npz or .npy files")
    return data_of_calls((read_arrays(file, "--data") for file in files), model, f"--data {folder}")


def random_data(model: ModelProto, count: int = GENERATED, seed: int = 0, shapes: Shapes | None = None) -> Data:
    """Seeded standard normal numbers, small integers and True as inputs of a model, for smoke tests."""
    rng = np.random.default_rng(seed)
    reading, inputs = read_once(model, CASES_OF_BENCHMARK, shapes or {})
    facts, numbers = reading.facts, numbers_of(inputs, reading.elementary(), reading.facts)
    if texts := [n for n in inputs if facts[n].dtype == TensorProto.STRING]:
        raise DataError(f"--data random: '{texts[0]}' takes text, which cannot be made up; give an .npz or module:function")
    values = sum(math.prod(facts[n].shape or ()) for n in inputs)
    if count * values > VALUES:
        got = f"{count:,} samples of {values:,} numbers"
        raise DataError(f"--samples: got {got}, expected at most {VALUES // max(values, 1):,} generated ones of this size")
    calls = ({n: sample(rng, facts[n].dtype, facts[n].shape or (), numbers.get(n)) for n in inputs} for _ in range(count))
    return replace(data_of_calls(calls, model, "random"), made=MadeUp())
