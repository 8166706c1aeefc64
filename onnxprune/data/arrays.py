# SPDX-License-Identifier: Apache-2.0
"""Samples for the inputs of a model, from arrays in files or in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto

from onnxprune.data.samples import Data, count
from onnxprune.errors import DataError, counted
from onnxprune.ir.graph import Fact, free_inputs
from onnxprune.ir.infer import fact_of_type
from onnxprune.types import Array, Feeds

LABELS = ("label", "labels", "y")
LABEL = ""
"""The name of labels among the arrays of one feed: no input has it."""


def data_of_arrays(arrays: Mapping[str, Array], model: ModelProto, where: str) -> Data:
    """Samples from one array per input and, optionally, one of labels (`label`, `labels` or `y`).

    Raises:
        DataError: an input has no array, or its array has the wrong shape or type.
    """
    facts = inputs_of(model)
    if list(arrays) == [""]:
        arrays = {next(iter(facts)): arrays[""]}
    missing = [n for n in facts if n not in arrays]
    if missing:
        got = sorted(map(str, arrays))
        raise DataError(f"{where}: got arrays {got}, expected one per input; missing: {', '.join(missing)}")
    labels = next((checked_labels(arrays[k], f"{where}: '{k}'") for k in LABELS if k in arrays and k not in facts), None)
    return data_of_chunks([{n: as_array(n, arrays[n], where) for n in facts}], model, where, labels)


def as_array(name: str, value: Any, where: str) -> Array:
    """A value as an array.

    Raises:
        DataError: it is none, such as lists of different lengths.
    """
    try:
        return np.asarray(value)
    except (ValueError, TypeError, OverflowError) as e:
        raise DataError(f"{where}: '{name}' is not an array of numbers: {str(e)[:100]}; expected rows of equal length") from e


def checked_labels(labels: Any, where: str) -> Array:
    """Labels as an array with one entry per sample; what they stand for is not checked.

    Raises:
        DataError: they are no numbers or texts, or one of them is NaN or infinite.
    """
    try:
        found = np.asarray(labels)
    except (ValueError, TypeError, OverflowError) as e:
        raise DataError(f"{where}: got lists of different lengths, expected an array, samples on the first axis") from e
    if found.dtype.kind not in "iufbUS":
        got = "Python objects" if found.dtype.kind == "O" else f"type {found.dtype}"
        raise DataError(f"{where}: got {got}, expected labels that are numbers or texts, one per sample")
    if not found.ndim:
        raise DataError(f"{where}: got the single value {found}, expected one label per sample")
    if found.dtype.kind == "f" and not np.isfinite(found).all():
        at = int(np.argwhere(~np.isfinite(found))[0][0])
        what = "NaN" if np.isnan(found[at]).any() else "infinity"
        raise DataError(
            f"{where}: got {what} as a label, first of sample {at} (counted from 0); expected a label for each sample"
        )
    return found


def data_of_chunks(chunks: Sequence[Feeds], model: ModelProto, where: str, labels: Array | None = None) -> Data:
    """Samples from arrays whose first axis counts samples; an error names the input that does not match.

    An array may have one axis more than its input: that axis then counts samples, and each sample is fed alone. If the file
    fixes the batch size, samples that do not fill a batch are dropped.
    """
    facts = inputs_of(model)
    typed = [{n: as_typed(n, chunk[n], facts[n], where) for n in facts} for chunk in chunks]
    stacked = frozenset(n for n, fact in facts.items() if _is_stacked(typed[0][n], fact))
    for chunk in typed:
        for n, x in chunk.items():
            _check_shape(n, x.shape[1:] if n in stacked else x.shape, facts[n], n not in stacked, where)
            check_numbers(n, x, where)
    try:
        fixed = 1 if stacked else fixed_batch(facts)
    except DataError as e:
        raise DataError(f"{where}: {e.message}; add a leading sample axis to every array (numpy.stack)") from None
    try:
        return _whole_batches(Data(tuple(typed), labels, None, stacked), fixed)
    except DataError as e:
        raise DataError(f"{where}: {e.message}") from None


def check_numbers(name: str, array: Array, where: str, first: int = 0) -> None:
    """Check that numbers are finite; only -inf is legitimate in masks, which are added to scores: nothing in them is above 0.

    Args:
        name: the input.
        array: its samples, on the first axis.
        where: the source, for the message.
        first: the number of the first of these samples.

    Raises:
        DataError: the array contains NaN or infinity.
    """
    if array.dtype.kind not in "fc":
        return
    known = np.isfinite(array)
    if known.all():
        return
    wrong = ~known
    if not np.isnan(array).any() and array.max() <= 0 and known.reshape(len(array), -1).any(1).all():
        return
    samples = np.flatnonzero(wrong.reshape(len(array), -1).any(1))
    what = "NaN" if np.isnan(array[samples[0]]).any() else f"infinity (as {array.dtype})"
    more = f", in {len(samples)} of {len(array):,}" if len(samples) > 1 else ""
    raise DataError(
        f"{where}: '{name}' contains {what}, first in sample {first + samples[0]} (counted from 0){more}; expected finite "
        "numbers, as the model gets them in use: mend these samples or leave them out"
    )


def _whole_batches(data: Data, fixed: int | None) -> Data:
    """The data with a fixed batch size, without the samples that do not fill a batch."""
    counts = [count(chunk) for chunk in data.chunks]
    kept = [n - n % (fixed or 1) for n in counts]
    if not any(kept):
        got = counted(len(data), "sample")
        raise DataError(f"got {got}, expected at least {fixed} of the same shape, the model's batch size")
    if kept == counts:
        return replace(data, fixed=fixed)
    mask = np.concatenate([np.arange(n) < k for n, k in zip(counts, kept, strict=True)])
    left = len(data) - sum(kept)
    verb = "is" if left == 1 else "are"
    note = f"{left} of {counted(len(data), 'sample')} {verb} dropped because the model takes {fixed} at a time"
    return replace(data.where(mask), fixed=fixed, notes=(*data.notes, note))


def inputs_of(model: ModelProto) -> dict[str, Fact]:
    """Type and shape of each input that a caller must feed, as stated in the file; dynamic sizes are -1."""
    return {v.name: fact_of_type(v.type) for v in free_inputs(model)}


def fixed_batch(facts: Mapping[str, Fact]) -> int | None:
    """The batch size fixed by the file, or None if it accepts any.

    Raises:
        DataError: the first axes of the inputs do not all count samples.
    """
    sizes = {name: fact.shape[0] if fact.shape else 0 for name, fact in facts.items() if fact.shape is not None}
    stated = set(sizes.values()) - {-1}
    if len(stated) > 1 or 0 in stated or (stated - {1} and -1 in sizes.values()):
        listed = ", ".join(f"'{n}' {'any' if size < 0 else size or 'none'}" for n, size in sizes.items())
        raise DataError(f"the first axes of the inputs ({listed}) do not all count samples")
    return next(iter(stated), None)


def data_of_calls(calls: Iterable[Feeds], model: ModelProto, where: str) -> Data:
    """Samples from feeds for the model, each a single sample (with or without the sample axis) or a batch.

    If the inputs have no common sample axis, every feed is one sample. A feed may include labels, as `label`.

    Raises:
        DataError: there are none, or one does not match the model; the message counts them from 0.
    """
    facts, groups = inputs_of(model), dict[tuple[tuple[int, ...], ...], list[Feeds]]()
    common, total, labelled = counts_samples(facts), 0, 0
    for call in calls:
        call = _as_batch(named(call, facts, where), facts, common, f"{where}, at sample {total} (counted from 0)")
        for n in facts:
            check_numbers(n, call[n], where, total)
        groups.setdefault(tuple(call[n].shape[1:] for n in facts), []).append(call)
        total += count(call)
        labelled += count(call) if LABEL in call else 0
    if not groups:
        raise DataError(f"{where}: got no samples, expected at least one")
    if 0 < labelled < total:
        raise DataError(f"{where}: got labels for {labelled:,} of {counted(total, 'sample')}, expected one for each, or none")
    chunks = [{n: np.concatenate([call[n] for call in group]) for n in facts} for group in groups.values()]
    labels = _joined([call[LABEL] for group in groups.values() for call in group], where) if labelled else None
    return data_of_chunks(chunks, model, where, labels)


def _joined(labels: Sequence[Array], where: str) -> Array:
    """The labels of all feeds."""
    shapes = sorted({x.shape[1:] for x in labels})
    if len(shapes) > 1:
        got = f"{list(shapes[0])} and {list(shapes[-1])}"
        raise DataError(f"{where}: got labels of different shapes, such as {got}; expected the same for every sample: pad them")
    return checked_labels(np.concatenate(labels), f"{where}: 'label'")


def counts_samples(facts: Mapping[str, Fact]) -> bool:
    """Whether the first axes of all inputs count samples."""
    try:
        fixed_batch(facts)
        return True
    except DataError:
        return False


def named(call: Any, facts: Mapping[str, Fact], where: str) -> Feeds:
    """The array of each input by name, and the label, if any, as `LABEL`.

    Raises:
        DataError: there is not an array for each input.
    """
    if isinstance(call, Mapping) and list(call) == [""]:
        call = call[""]
    if not isinstance(call, Mapping):
        plain = len(facts) == 1 and not isinstance(call, tuple | str | bytes | None)
        call = {next(iter(facts)): call} if plain else {}
    missing = [n for n in facts if n not in call]
    if missing:
        got = f"with names {sorted(map(str, call))}" if call else "that is not a dict"
        raise DataError(f"{where}: got a sample {got}, expected input name -> array; missing: {', '.join(missing)}")
    label = next((call[k] for k in (LABEL, *LABELS) if k in call and k not in facts), None)
    found = {n: as_array(n, call[n], where) for n in facts}
    return found if label is None else {**found, LABEL: as_array("label", label, where)}


def _as_batch(call: Feeds, facts: Mapping[str, Fact], common: bool, where: str) -> Feeds:
    """The feeds in the types of the inputs and with a sample axis, which is added to a single sample."""
    batch = {}
    for n, fact in facts.items():
        x = as_typed(n, call[n], fact, where)
        single = not common or (fact.shape is not None and x.ndim == len(fact.shape) - 1)
        batch[n] = x[None] if single else x
        if not batch[n].ndim:
            raise DataError(f"{where}: '{n}' is a single number, expected an array whose first axis counts samples")
        alone = not common or _is_stacked(x, fact)
        _check_shape(n, batch[n].shape[1 if alone else 0 :], fact, not alone, where)
    sizes = {n: len(x) for n, x in batch.items()}
    if len({*sizes.values()}) > 1 or 0 in sizes.values():
        listed = ", ".join(f"'{n}' {size}" for n, size in sizes.items())
        raise DataError(f"{where}: the arrays of one feed have different numbers of samples, or none: {listed}")
    label, size = call.get(LABEL), count(batch)
    if label is not None:
        if label.shape[:1] != (size,):
            if size > 1:
                got = f"shape {list(label.shape)} for {size} samples"
                raise DataError(f"{where}: got labels of {got}, expected one per sample, on the first axis")
            label = label[None]
        batch[LABEL] = label
    return batch


def as_typed(name: str, array: Array, fact: Fact, where: str) -> Array:
    """The array in the type of the input, if the conversion preserves meaning (float64 to float32, int32 to int64)."""
    want = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(fact.dtype)) if fact.dtype else array.dtype
    if array.dtype == want:
        return array
    if want.kind == "O" and array.dtype.kind in "US":  # text
        return array.astype(want)
    if (
        want.kind not in "fiub"
        or not np.can_cast(array.dtype, want, "same_kind")
        or (want.kind == "f" and array.dtype.kind != "f")
    ):
        raise DataError(
            f"{where}: '{name}' has type {array.dtype}, the model expects {want}; convert it as in your own code before "
            "inference (scaling included)"
        )
    with np.errstate(over="ignore", invalid="ignore"):  # what becomes infinite is reported with its sample
        typed = array.astype(want)
    if want.kind in "iu" and not np.array_equal(typed, array):
        wrong = np.asarray(array)[typed != array].flat[0]
        raise DataError(f"{where}: '{name}' contains {wrong}, which {want} cannot hold; give numbers that the model can have")
    return typed


def _is_stacked(array: Array, fact: Fact) -> bool:
    return fact.shape is not None and array.ndim == len(fact.shape) + 1


def check_sample(name: str, sample: Array, fact: Fact, where: str) -> None:
    """Check that a sample without the sample axis matches the input.

    Raises:
        DataError: the sample has the wrong shape.
    """
    batched = fact.shape is not None and sample.ndim == len(fact.shape) - 1
    _check_shape(name, (1, *sample.shape) if batched else sample.shape, fact, batched, where)


def _check_shape(name: str, got: tuple[int, ...], fact: Fact, batched: bool, where: str) -> None:
    if fact.shape is None:
        return
    sizes = enumerate(zip(fact.shape, got, strict=False))
    if len(got) != len(fact.shape) or not all(w < 0 or w == n or (batched and k == 0) for k, (w, n) in sizes):
        want = [n if n >= 0 else "any" for n in fact.shape]
        raise DataError(f"{where}: '{name}' has shape {list(got)}, the model expects {want}")
