# SPDX-License-Identifier: Apache-2.0
"""What the original answers: samples on which it says nothing are left out, and labels are used or refused, never dropped."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from onnx import ModelProto

from onnxprune.data.batching import batch_size
from onnxprune.data.classes import ends_of, without
from onnxprune.data.ground_truth import is_number
from onnxprune.data.samples import Data, count
from onnxprune.errors import DataError, counted
from onnxprune.evaluation.evaluator import run
from onnxprune.types import Array, Mask, Outputs

SHAPES = 32
"""Maximum number of shapes of samples for which labels are compared with the output; texts may have many."""
IGNORED = 255
"""A label that means "do not count this", where the model has no such class; so does any number below 0."""
ADVICE = "say with --metric how good outputs are, or leave the labels out"


def answered(model: ModelProto, *parts: Data) -> tuple[list[Data], tuple[str, ...]]:
    """The samples on which a model answers, and a note on those that are left out: its outputs contain NaN, or nothing finite.

    Args:
        model: the original.
        parts: samples; the result has as many parts, of which some may be empty.

    Raises:
        DataError: it answers on none of them.
    """
    silent = [_silent(model, part) for part in parts]
    if not any(mask.any() for mask in silent):
        return list(parts), ()
    what = f"{sum(map(np.sum, silent)):,} of {counted(sum(map(len, parts)), 'sample')}"
    # batches of a fixed size go as a whole
    kept = [part.where(~_in_units(mask, part.unit)) for part, mask in zip(parts, silent, strict=True)]
    if not any(map(len, kept)):
        raise DataError(
            f"--data: the original answers NaN or infinity on {what}, although the inputs are finite, so that nothing can be "
            "compared with it; check the scale of the inputs (0 to 1, not 0 to 255?) and the model itself"
        )
    note = f"the original answers NaN or infinity on {what}, although the inputs are finite: they are left out"
    return kept, (note,)


def _in_units(mask: Mask, unit: int) -> Mask:
    return np.repeat(mask.reshape(-1, unit).any(1), unit)


def check_answered(model: ModelProto, data: Data) -> None:
    """Check that a model answers on all samples.

    Raises:
        DataError: its outputs contain NaN, or nothing finite, on some.
    """
    if (silent := _silent(model, data)).any():
        what = f"{int(silent.sum()):,} of {counted(len(data), 'sample')}"
        raise DataError(f"--data: the original answers NaN or infinity on {what}; leave them out, or mend them")


def _silent(model: ModelProto, data: Data) -> Mask:
    """The samples on which a model answers NaN, or nothing that is finite."""
    found: list[Mask | None] = []
    for size in (batch_size(data, model), 1):
        found = [_silent_in(outputs, count(feeds)) for outputs, feeds in run(model, data, size)]
        if all(mask is not None for mask in found):
            break
    # a batch of a fixed size that has no answers per sample has none as a whole
    masks = [np.ones(data.unit, bool) if mask is None else mask for mask in found]
    return np.concatenate(masks)


def _silent_in(outputs: Outputs, size: int) -> Mask | None:
    """The samples of a batch without an answer; None if the outputs do not tell which."""
    numbers = [y for y in outputs.values() if y.dtype.kind == "f" and y.size]
    if not numbers:
        return np.zeros(size, bool)
    if all(y.ndim and len(y) == size for y in numbers):
        rows = [y.reshape(size, -1) for y in numbers]
        return np.asarray(np.any([np.isnan(y).any(1) for y in rows], 0) | ~np.any([np.isfinite(y).any(1) for y in rows], 0))
    bad = any(np.isnan(y).any() for y in numbers) or not any(np.isfinite(y).any() for y in numbers)
    return np.full(size, bad) if size == 1 or not bad else None


def with_class_numbers(model: ModelProto, data: Data, where: str = "--data") -> Data:
    """The samples with labels that can be compared with the first output: the number of the right class at every position.

    Whole floats and truth values become integers, and one-hot labels the numbers of their classes. Numbers below 0, and 255
    where there are not so many classes, stand for no class and do not count; a note says how many.

    Args:
        where: the source of the labels, for messages.

    Raises:
        DataError: the labels are something else, or classes that the output does not have.
    """
    if data.labels is None:
        return data
    labels, classes, notes = _whole(data.labels, where), None, list[str]()
    for name, output in _first_outputs(model, data):
        labels, classes, note = _as_classes(name, output, labels, where)
        notes += [note] if note else []
    known = labels >= 0 if classes is None else (labels >= 0) & (labels < classes)
    wrong = ~known & (labels >= 0) & (labels != IGNORED)
    if classes is not None and wrong.any():
        at = np.argwhere(wrong)[0]
        of = f" (sample {at[0]}, counted from 0)" if len(data.chunks) == 1 else ""
        from_1 = "; do they count from 1?" if labels.max() == classes and labels.min() == 1 else ""
        got = f"got the label {labels[tuple(at)]}{of}, but the model's first output scores {classes} classes"
        raise DataError(f"{where}: {got}: expected 0 to {classes - 1}{from_1}; mend the labels, or {ADVICE}")
    if not known.any():
        raise DataError(f"{where}: {_listed(labels)} stand for no class, and there are no other labels; {ADVICE}")
    if not known.all():
        notes.append(f"{int((~known).sum()):,} of {counted(labels.size, 'label')} do not count: {_listed(labels[~known])}")
    return replace(data, labels=labels, notes=(*data.notes, *notes))


def _listed(labels: Array) -> str:
    found = np.unique(labels).tolist()
    return f"the numbers {', '.join(map(str, found[:3]))}{', ...' if len(found) > 3 else ''}"


def _whole(labels: Array, where: str) -> Array:
    """Labels as integers."""
    kind = labels.dtype.kind
    if kind in "US":
        words = (text for text in labels.ravel().tolist() if not is_number(text))
        got = f"got text such as {reprlib.repr(next(words, ''))} as labels"
        raise DataError(f"{where}: {got}, expected the numbers of classes from 0 on; {ADVICE}")
    with np.errstate(invalid="ignore"):
        found = labels.astype(np.int64)
    if not np.array_equal(found, labels):
        got = f"got the label {labels[found != labels].flat[0]}"
        raise DataError(f"{where}: {got}, expected whole numbers of classes from 0 on (or one-hot: 0 and a single 1); {ADVICE}")
    return found


def _first_outputs(model: ModelProto, data: Data) -> Iterator[tuple[str, Array]]:
    """The name of the first output, and its value for one sample of each shape."""
    few = tuple({n: x[: data.unit] for n, x in chunk.items()} for chunk in data.chunks[:SHAPES])
    for outputs, _ in run(model, replace(data, chunks=few, labels=None), 1):
        yield next(iter(outputs.items()))


def _as_classes(name: str, output: Array, labels: Array, where: str) -> tuple[Array, int | None, str]:
    """Labels in the shape of the best classes of an output, the number of classes (None: the output is a class), and a note."""
    own, positions = _squeezed(labels.shape[1:]), output.shape[1:]
    if output.dtype.kind in "iu" and own == _squeezed(positions):
        return labels.reshape(len(labels), *positions), None, ""
    ends = ends_of(output) if output.dtype.kind == "f" else []
    for axis in ends:
        if own == _squeezed(places := without(output.shape, axis)):
            return labels.reshape(len(labels), *places), output.shape[axis], ""
    if own == _squeezed(positions) and labels.min() >= 0 and labels.max() == 1:
        each = labels.reshape(len(labels), *positions)
        for axis in ends:
            if (each.sum(axis) == 1).all():
                return each.argmax(axis), output.shape[axis], "the labels are one-hot, and are taken as the numbers of classes"
    got = f"labels of shape {list(labels.shape[1:])} per sample" if own else "one label per sample"
    has = f"the model's first output, '{name}', has shape {list(positions)} per sample"
    raise DataError(f"{where}: got {got}, but {has}: expected the number of a class that it scores; {ADVICE}")


def _squeezed(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(n for n in shape if n != 1)
