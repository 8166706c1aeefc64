# SPDX-License-Identifier: Apache-2.0
"""Samples for the inputs of a model, from arrays in files or in memory."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
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


def read_arrays(path: str | Path, option: str) -> dict[str, Array]:
    """The arrays of an .npz by name, or the array of an .npy under the empty name; pickled objects are rejected."""
    try:
        with Path(path).open("rb") as file:
            found = np.load(file, allow_pickle=False)
            return {"": found} if isinstance(found, np.ndarray) else {k: found[k] for k in found.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as e:
        reason = getattr(e, "strerror", None) or "not an .npz or .npy of plain arrays"
        raise DataError(f"{option} {path}: {reason}; expected an .npz or .npy file") from e


def data_of_arrays(arrays: Mapping[str, Array], model: ModelProto, where: str) -> Data:
    """Samples from one array per input and, optionally, one of labels (`label`, `labels` or `y`).

    Raises:
        DataError: an input has no array, or its array has the wrong shape or type.
    """
    facts, arrays = inputs_of(model), {name: np.asarray(x) for name, x in arrays.items()}
    if list(arrays) == [""]:
        arrays = {next(iter(facts)): arrays[""]}
    missing = [n for n in facts if n not in arrays]
    if missing:
        raise DataError(f"{where}: got arrays {sorted(arrays)}, expected one per input; missing: {', '.join(missing)}")
    labels = next((arrays[k] for k in LABELS if k in arrays and k not in facts), None)
    return data_of_chunks([{n: arrays[n] for n in facts}], model, where, labels)


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
            _check_numbers(n, x, where)
    try:
        fixed = 1 if stacked else fixed_batch(facts)
    except DataError as e:
        raise DataError(f"{where}: {e.message}; add a leading sample axis to every array (numpy.stack)") from None
    try:
        return _whole_batches(Data(tuple(typed), labels, None, stacked), fixed)
    except DataError as e:
        raise DataError(f"{where}: {e.message}") from None


def _check_numbers(name: str, array: Array, where: str) -> None:
    """Reject NaN; infinities are legitimate in masks."""
    if array.dtype.kind == "f" and np.isnan(array).any():
        at = int(np.argwhere(np.isnan(array))[0][0])
        raise DataError(f"{where}: '{name}' contains NaN, first in sample {at}; expected numbers as the model gets them in use")


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
    """
    facts, groups = inputs_of(model), dict[tuple[tuple[int, ...], ...], list[Feeds]]()
    common = counts_samples(facts)
    for call in calls:
        call = _as_batch(_named(call, facts, where), facts, common)
        groups.setdefault(tuple(call[n].shape[1:] for n in facts), []).append(call)
    if not groups:
        raise DataError(f"{where}: got no samples, expected at least one")
    names = [n for n in next(iter(groups.values()))[0] if all(n in call for group in groups.values() for call in group)]
    chunks = [{n: np.concatenate([call[n] for call in group]) for n in names} for group in groups.values()]
    labels = [chunk[n] for chunk in chunks for n in names if n not in facts]
    return data_of_chunks(chunks, model, where, np.concatenate(labels) if labels else None)


def counts_samples(facts: Mapping[str, Fact]) -> bool:
    """Whether the first axes of all inputs count samples."""
    try:
        fixed_batch(facts)
        return True
    except DataError:
        return False


def _named(call: Any, facts: Mapping[str, Fact], where: str) -> Feeds:
    """The array of each input by name, and the label, if any, as `label`."""
    if isinstance(call, Mapping) and list(call) == [""]:
        call = call[""]
    if not isinstance(call, Mapping):
        call = {next(iter(facts)): call} if len(facts) == 1 else {}
    missing = [n for n in facts if n not in call]
    if missing:
        got = f"with names {sorted(map(str, call))}" if call else "that is not a dict"
        raise DataError(f"{where}: got a sample {got}, expected input name -> array; missing: {', '.join(missing)}")
    label = next((call[k] for k in LABELS if k in call and k not in facts), None)
    found = {n: np.asarray(call[n]) for n in facts}
    return found if label is None else {**found, "label": np.asarray(label)}


def _as_batch(call: Feeds, facts: Mapping[str, Fact], common: bool) -> Feeds:
    """The feeds with a sample axis, which is added to a single sample."""
    batch = {}
    for n, fact in facts.items():
        single = not common or (fact.shape is not None and call[n].ndim == len(fact.shape) - 1)
        batch[n] = call[n][None] if single else call[n]
    label, size = call.get("label"), count(batch)
    if label is not None:
        batch["label"] = label if label.shape[:1] == (size,) else label[None]
    return batch


def as_typed(name: str, array: Array, fact: Fact, where: str) -> Array:
    """The array in the type of the input, if the conversion preserves meaning (float64 to float32, int32 to int64)."""
    want = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(fact.dtype)) if fact.dtype else array.dtype
    if array.dtype == want:
        return array
    if (
        want.kind not in "fiub"
        or not np.can_cast(array.dtype, want, "same_kind")
        or (want.kind == "f" and array.dtype.kind != "f")
    ):
        raise DataError(
            f"{where}: '{name}' has type {array.dtype}, the model expects {want}; convert it as in your own code before "
            "inference (scaling included)"
        )
    return array.astype(want)


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
