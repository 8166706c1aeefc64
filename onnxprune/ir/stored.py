# SPDX-License-Identifier: Apache-2.0
"""Checks that stored tensors can be read, before any of them is."""

from __future__ import annotations

from pathlib import Path

from onnx import ModelProto, TensorProto
from onnx.external_data_helper import ExternalDataInfo

from onnxprune.errors import ModelError, first_line, printable
from onnxprune.ir.graph import captured
from onnxprune.ir.tensors import FileRange, array_of, length_of, nbytes, range_of

MOST_AXES = 64
"""Of an array of numpy."""
SHOWN = 3
"""How many names a warning lists."""


def without_unreadable(model: ModelProto, path: Path | None = None) -> tuple[ModelProto, tuple[str, ...]]:
    """The model without initializers that nothing reads and that cannot be read, and a warning about them.

    Runtimes drop what nothing reads before they look at it. A model from which something goes is copied.

    Args:
        path: the file of the model, if it comes from one.
    """
    used = _used(model)
    gone = {k: t.name for k, t in enumerate(model.graph.initializer) if t.name not in used and not _is_readable(t, path)}
    if not gone:
        return model, ()
    copy = ModelProto()
    copy.CopyFrom(model)
    for k in sorted(gone, reverse=True):
        del copy.graph.initializer[k]
    listed = ", ".join(printable(f"'{name}'") for name in [*gone.values()][:SHOWN])
    more = f" and {len(gone) - SHOWN} more" if len(gone) > SHOWN else ""
    return copy, (f"weights that no node reads, and that cannot be read, are left out: {listed}{more}",)


def _used(model: ModelProto) -> set[str]:
    """Names of tensors that something reads, or that are inputs."""
    graph = model.graph
    by_nodes = {name for node in graph.node for name in (*node.input, *captured(node))}
    return by_nodes.union(v.name for v in (*graph.input, *graph.output))


def _is_readable(tensor: TensorProto, path: Path | None) -> bool:
    try:
        if path is not None and (place := range_in(path, tensor)) and place.file != str(path.resolve()):
            check_external(path, tensor)
        else:
            check_weight(tensor, "")
    except ModelError:
        return False
    return True


def range_in(path: Path, tensor: TensorProto) -> FileRange | None:
    """Where a tensor is stored, if not in the model.

    Raises:
        ModelError: that is not said properly.
    """
    try:
        place = range_of(tensor)
        if place is not None and "\0" in place.file:
            raise ValueError("its location holds a zero byte")
        if place is not None and min(place.offset, place.length) < 0:
            raise ValueError(f"its offset is {place.offset}, and its length {place.length}")
    except ValueError as e:
        raise ModelError(f"{path}: weight '{tensor.name}' is not stored properly: {first_line(e)}; export it again") from e
    return place


def check_external(path: Path, tensor: TensorProto) -> None:
    """Check that external data lies inside the model's folder, exists, and is long enough.

    Raises:
        ModelError: it does not.
    """
    info = ExternalDataInfo(tensor)
    folder = path.parent.resolve()
    file = folder / info.location
    where = f"{path}: weight '{tensor.name}' is stored in '{info.location}'"
    if not info.location or not file.resolve().is_relative_to(folder):
        raise ModelError(f"{where}, outside the model's folder; move it into that folder and export the model again")
    if not file.exists():
        raise ModelError(f"{where}, which is missing; copy it next to the model")
    if not file.is_file():
        raise ModelError(f"{where}, which is not a regular file; copy the weights next to the model")
    start, size = info.offset or 0, file.stat().st_size
    need = max(info.length if info.length is not None else size - start, nbytes(tensor))
    if start + need > size:
        raise ModelError(f"{where}, which is truncated: got {size} bytes, expected at least {start + need}; copy it again")


def check_weight(tensor: TensorProto, name: str) -> None:
    """Check that a weight of a model is there, with the length that it states.

    Args:
        name: how messages refer to the model.

    Raises:
        ModelError: it is not.
    """
    weight, place = f"{name}: weight '{tensor.name}'", range_of(tensor)
    if place is not None and not Path(place.file).is_absolute():
        raise ModelError(f"{weight} is stored in '{place.file}'; load the weights too, or give the file's path")
    if len(tensor.dims) > MOST_AXES:
        raise ModelError(f"{weight} has {len(tensor.dims)} axes, expected at most {MOST_AXES}; export the model again")
    got, need = length_of(tensor), nbytes(tensor)
    if (place or tensor.HasField("raw_data")) and need and got != need:
        raise ModelError(f"{weight} has {got} bytes, expected {need}; export the model again")
    if place is None and not tensor.HasField("raw_data"):  # in a field of its type, of which not every count fits
        try:
            array_of(tensor)
        except (ValueError, TypeError, KeyError) as e:
            raise ModelError(f"{weight} cannot be read: {first_line(e)}; export the model again") from e
