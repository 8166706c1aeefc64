# SPDX-License-Identifier: Apache-2.0
"""Arrays, from files or given, as samples for the inputs of a model."""

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
from onnxprune.errors import DataError
from onnxprune.ir.graph import Fact, free_inputs
from onnxprune.ir.infer import fact_of_type
from onnxprune.types import Array, Feeds

LABELS = ("label", "labels", "y")


def read_arrays(path: str | Path, option: str) -> dict[str, Array]:
    """The arrays of an .npz by name, or of an .npy under the empty name; pickled objects are refused."""
    try:
        with Path(path).open("rb") as file:
            found = np.load(file, allow_pickle=False)
            return {"": found} if isinstance(found, np.ndarray) else {k: found[k] for k in found.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as e:
        reason = getattr(e, "strerror", None) or "not an .npz or .npy of plain arrays"
        raise DataError(f"{option} {path}: {reason}; expected an .npz or .npy file") from e


def data_of_arrays(arrays: Mapping[str, Array], model: ModelProto, where: str) -> Data:
    """Samples from one array for each input, and perhaps one of labels (`label`, `labels` or `y`).

    Raises:
        DataError: an input has no array, or one of another shape or type.
    """
    facts = inputs_of(model)
    if list(arrays) == [""]:
        arrays = {next(iter(facts)): arrays[""]}
    missing = [n for n in facts if n not in arrays]
    if missing:
        raise DataError(f"{where}: has arrays {sorted(arrays)}, expected one for each input: {', '.join(missing)} is missing")
    labels = next((arrays[k] for k in LABELS if k in arrays and k not in facts), None)
    return data_of_chunks([{n: arrays[n] for n in facts}], model, where, labels)


def data_of_chunks(chunks: Sequence[Feeds], model: ModelProto, where: str, labels: Array | None = None) -> Data:
    """Samples from arrays with one sample an entry; what the model does not take is said with the input's name.

    An array may have one axis more than its input: then that axis counts samples, and each is fed alone. Samples that do not
    fill a batch of the size that the file insists on are left out.
    """
    facts = inputs_of(model)
    made = [{n: as_typed(n, chunk[n], facts[n], where) for n in facts} for chunk in chunks]
    stacked = frozenset(n for n, fact in facts.items() if _is_stacked(made[0][n], fact))
    for chunk in made:
        for n, x in chunk.items():
            _check_shape(n, x.shape[1:] if n in stacked else x.shape, facts[n], n not in stacked, where)
    try:
        fixed = 1 if stacked else fixed_batch(facts)
    except DataError as e:
        raise DataError(f"{where}: {e.message}; give every array one axis more, the samples first (numpy.stack)") from None
    try:
        return _whole_batches(Data(tuple(made), labels, None, stacked), fixed)
    except DataError as e:
        raise DataError(f"{where}: {e.message}") from None


def _whole_batches(data: Data, fixed: int | None) -> Data:
    """The data with a fixed batch size, less the samples that fill no batch."""
    counts = [count(chunk) for chunk in data.chunks]
    kept = [n - n % (fixed or 1) for n in counts]
    if not any(kept):
        raise DataError(f"got {len(data)} samples, expected {fixed} of one shape at least, the model's batch size")
    if kept == counts:
        return replace(data, fixed=fixed)
    mask = np.concatenate([np.arange(n) < k for n, k in zip(counts, kept, strict=True)])
    note = f"{len(data) - sum(kept)} of {len(data):,} samples are left out, for the model takes {fixed} at a time"
    return replace(data.where(mask), fixed=fixed, notes=(*data.notes, note))


def inputs_of(model: ModelProto) -> dict[str, Fact]:
    """Type and shape of each input that a caller must feed, as the file states them; sizes left open are -1."""
    return {v.name: fact_of_type(v.type) for v in free_inputs(model)}


def fixed_batch(facts: Mapping[str, Fact]) -> int | None:
    """The batch size that the file insists on, None where it takes any.

    Raises:
        DataError: the first axes of the inputs do not count the same thing.
    """
    sizes = {name: fact.shape[0] if fact.shape else 0 for name, fact in facts.items() if fact.shape is not None}
    stated = set(sizes.values()) - {-1}
    if len(stated) > 1 or 0 in stated or (stated - {1} and -1 in sizes.values()):
        told = ", ".join(f"'{n}' {'any' if size < 0 else size or 'none'}" for n, size in sizes.items())
        raise DataError(f"the first axes of the inputs ({told}) do not all count samples")
    return next(iter(stated), None)


def data_of_calls(calls: Iterable[Feeds], model: ModelProto, where: str) -> Data:
    """Samples from feeds as the model takes them, one sample (with or without the axis that counts them) or one batch each.

    Where the inputs have no common axis for samples, every feed is one sample. Labels may be among the feeds, as `label`.
    """
    facts, groups = inputs_of(model), dict[tuple[tuple[int, ...], ...], list[Feeds]]()
    common = counts_samples(facts)
    for call in calls:
        call = _as_batch(_named(call, facts, where), facts, common)
        groups.setdefault(tuple(call[n].shape[1:] for n in facts), []).append(call)
    if not groups:
        raise DataError(f"{where}: there are no samples")
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
    """The feeds by name: of every input, and the label, if any, as `label`."""
    if isinstance(call, Mapping) and list(call) == [""]:
        call = call[""]
    if not isinstance(call, Mapping):
        call = {next(iter(facts)): call} if len(facts) == 1 else {}
    missing = [n for n in facts if n not in call]
    if missing:
        got = f"names {sorted(map(str, call))}" if call else "something that is no dict"
        raise DataError(f"{where}: a sample has {got}, expected input name -> array; {', '.join(missing)} is missing")
    label = next((call[k] for k in LABELS if k in call and k not in facts), None)
    found = {n: np.asarray(call[n]) for n in facts}
    return found if label is None else {**found, "label": np.asarray(label)}


def _as_batch(call: Feeds, facts: Mapping[str, Fact], common: bool) -> Feeds:
    """The feeds with an axis for samples, which they lack where they are one sample."""
    made = {}
    for n, fact in facts.items():
        lacks = not common or (fact.shape is not None and call[n].ndim == len(fact.shape) - 1)
        made[n] = call[n][None] if lacks else call[n]
    label, size = call.get("label"), count(made)
    if label is not None:
        made["label"] = label if label.shape[:1] == (size,) else label[None]
    return made


def as_typed(name: str, array: Array, fact: Fact, where: str) -> Array:
    """The array in the type of the input, where that changes no meaning (float64 to float32, int32 to int64)."""
    want = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(fact.dtype)) if fact.dtype else array.dtype
    if array.dtype == want:
        return array
    if (
        want.kind not in "fiub"
        or not np.can_cast(array.dtype, want, "same_kind")
        or (want.kind == "f" and array.dtype.kind != "f")
    ):
        raise DataError(
            f"{where}: '{name}' has type {array.dtype}, the model expects {want}; convert it as your own code does before "
            "inference (scaling included)"
        )
    return array.astype(want)


def _is_stacked(array: Array, fact: Fact) -> bool:
    return fact.shape is not None and array.ndim == len(fact.shape) + 1


def _check_shape(name: str, got: tuple[int, ...], fact: Fact, batched: bool, where: str) -> None:
    if fact.shape is None:
        return
    sizes = enumerate(zip(fact.shape, got, strict=False))
    if len(got) != len(fact.shape) or not all(w < 0 or w == n or (batched and k == 0) for k, (w, n) in sizes):
        want = [n if n >= 0 else "any" for n in fact.shape]
        raise DataError(f"{where}: '{name}' has shape {list(got)}, the model expects {want}")
