# SPDX-License-Identifier: Apache-2.0
"""The border to files, onnx and onnx-graphsurgeon: what comes in is checked, what goes out appears whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx import ModelProto, TensorProto
from onnx.external_data_helper import ExternalDataInfo, load_external_data_for_model, uses_external_data

from onnxprune.errors import ModelError, OptionError, OutputError
from onnxprune.graph import captured, opsets
from onnxprune.normal import normal_form

OLDEST_OPSET, OLDEST_IR = 9, 3
INLINE_LIMIT = 2**31 - 2**20
"""Protobuf cannot hold 2 GiB or more in one message; larger models keep their weights in a file of their own."""
BITS: dict[int, int] = {
    TensorProto.FLOAT: 32, TensorProto.DOUBLE: 64, TensorProto.FLOAT16: 16, TensorProto.BFLOAT16: 16, TensorProto.INT64: 64,
    TensorProto.INT32: 32, TensorProto.INT8: 8, TensorProto.UINT8: 8, TensorProto.BOOL: 8,
    TensorProto.INT4: 4, TensorProto.UINT4: 4,
}  # fmt: skip


@dataclass(frozen=True)
class Loaded:
    """A model in memory.

    Attributes:
        model: the model, with all weights.
        name: how messages call it: the path, or a stand-in.
        sha256: digest of the file; empty for a model that came from no file.
        external: whether the file keeps weights in other files.
        size: bytes of the file and its external data; None for a model that came from no file.
    """

    model: ModelProto = field(repr=False)
    name: str
    sha256: str = ""
    external: bool = False
    size: int | None = None


def load(source: Any) -> Loaded:
    """Read a model from a path, an `onnx.ModelProto`, or an onnx-graphsurgeon graph.

    Raises:
        ModelError: it cannot be read, or is not an ONNX model that this program supports.
    """
    if isinstance(source, ModelProto):
        loaded = Loaded(source, "the given model")
    elif type(source).__module__.startswith("onnx_graphsurgeon"):
        import onnx_graphsurgeon as gs

        loaded = Loaded(gs.export_onnx(source), "the given graph")
    else:
        loaded = _load_file(Path(source))
    _check(loaded)
    return replace(loaded, model=normal_form(loaded.model))


def to_graphsurgeon(model: ModelProto) -> Any:
    """The model as an `onnx_graphsurgeon.Graph`, to edit further. (graphsurgeon drops metadata_props and the model version.)"""
    import onnx_graphsurgeon as gs

    return gs.import_onnx(model)


def _load_file(path: Path) -> Loaded:
    data = read_bytes(path)
    if not data:
        raise ModelError(f"{path}: the file is empty; expected an ONNX model")
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as e:
        raise ModelError(
            f"{path}: not an ONNX model, or a damaged one ({len(data)} bytes do not parse); export it again"
        ) from e
    digest, size = hashlib.sha256(data).hexdigest(), len(data)
    del data
    external = [t for t in model.graph.initializer if uses_external_data(t)]
    places = {ExternalDataInfo(t).location for t in external}
    for tensor in external:
        _check_external(path, tensor)
    try:
        load_external_data_for_model(model, str(path.parent))
    except Exception as e:  # onnx raises its own ValidationError, ValueError or OSError here
        raise ModelError(f"{path}: its external data cannot be read: {_first_line(e)}") from e
    size += sum((path.parent / place).stat().st_size for place in places)
    return Loaded(model, str(path), digest, bool(external), size)


def read_bytes(path: Path) -> bytes:
    """The content of a file; ModelError says why there is none."""
    try:
        if path.is_dir():
            raise ModelError(f"{path}: is a folder; name the .onnx file in it")
        return path.read_bytes()
    except FileNotFoundError as e:
        raise ModelError(f"{path}: no such file; check the path") from e
    except OSError as e:
        raise ModelError(f"{path}: cannot be read: {e.strerror}") from e


def _check_external(path: Path, tensor: TensorProto) -> None:
    """External data lies inside the model's folder, exists, and is long enough."""
    info = ExternalDataInfo(tensor)
    folder = path.parent.resolve()
    file = folder / info.location
    where = f"{path}: weight '{tensor.name}' lies in '{info.location}'"
    if not info.location or not file.resolve().is_relative_to(folder):
        raise ModelError(f"{where}, outside the model's folder; move the data beside the model and export it again")
    if not file.is_file():
        raise ModelError(f"{where}, which is missing; copy it beside the model")
    start, size = info.offset or 0, file.stat().st_size
    length = info.length if info.length is not None else size - start
    bits = BITS.get(int(tensor.data_type))
    need = max(length, -(-_count(tensor) * bits // 8)) if bits else length
    if start + need > size:
        raise ModelError(f"{where}, which is cut short: got {size} bytes, expected at least {start + need}; copy it again")


def _count(tensor: TensorProto) -> int:
    count = 1
    for d in tensor.dims:
        count *= d
    return count


def _check(loaded: Loaded) -> None:
    """The versions are supported, names are in order, and weights are as long as they say."""
    model, name = loaded.model, loaded.name
    if not model.graph.node or not model.opset_import:
        raise ModelError(
            f"{name}: not an ONNX model (it has no nodes or names no opset); expected a file written by an exporter"
        )
    if not OLDEST_IR <= model.ir_version <= onnx.IR_VERSION:
        raise ModelError(
            f"{name}: IR version {model.ir_version}, expected {OLDEST_IR} to {onnx.IR_VERSION}; update onnx or export again"
        )
    newest, opset = onnx.defs.onnx_opset_version(), opsets(model).get("", OLDEST_OPSET)
    if not OLDEST_OPSET <= opset <= newest:
        advice = "convert it with onnx.version_converter" if opset < OLDEST_OPSET else "update onnx"
        raise ModelError(f"{name}: opset {opset}, expected {OLDEST_OPSET} to {newest}; {advice}")
    known = {v.name for v in model.graph.input} | {t.name for t in model.graph.initializer} | {""}
    known |= {t.values.name for t in model.graph.sparse_initializer}
    for node in model.graph.node:
        for used in (*node.input, *captured(node)):
            if used not in known:
                raise ModelError(
                    f"{name}: node '{node.name or node.op_type}' reads '{used}', which nothing before it makes; export again"
                )
        known.update(node.output)
    for v in model.graph.output:
        if v.name not in known:
            raise ModelError(f"{name}: output '{v.name}' is made by no node; export the model again")
    for t in model.graph.initializer:
        bits = BITS.get(int(t.data_type))
        if bits and t.HasField("raw_data") and len(t.raw_data) != -(-_count(t) * bits // 8):
            need = -(-_count(t) * bits // 8)
            raise ModelError(f"{name}: weight '{t.name}' has {len(t.raw_data)} bytes, expected {need}; export the model again")


def check_output(path: Path, force: bool, *inputs: Path) -> None:
    """Refuse early what could not be written, or should not.

    Raises:
        OptionError: the path is one of the inputs, or exists and `force` is not given.
        OutputError: its folder is missing or cannot be written to.
    """
    for source in inputs:
        if path.exists() and source.exists() and path.samefile(source):
            raise OptionError(f"{path}: is the input itself, which is never overwritten; choose another name with -o")
    if path.is_dir():
        raise OutputError(f"{path}: is a folder; name a file in it with -o")
    if path.exists() and not force:
        raise OptionError(f"{path}: exists already; use --force to replace it, or choose another name")
    folder = path.parent
    if not folder.is_dir():
        raise OutputError(f"{folder}: no such folder; make it first, or choose another place with -o")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"{folder}: cannot be written to; choose another place with -o")


@contextlib.contextmanager
def written_whole(*paths: Path) -> Iterator[list[Path]]:
    """Places beside `paths` to write to; all are moved into place at the end, or none is.

    Raises:
        OutputError: writing failed (a full disk, no permission); nothing is left behind.
    """
    drafts = [p.with_name(f".{p.name}.{os.getpid()}.part") for p in paths]
    try:
        yield drafts
        for draft, path in zip(drafts, paths, strict=True):
            if draft.exists():
                mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else None
                if mode is not None:
                    draft.chmod(mode)
        for draft, path in zip(drafts, paths, strict=True):
            if draft.exists():
                draft.replace(path)
    except (OSError, EncodeError) as e:
        raise OutputError(
            f"{paths[0]}: cannot be written: {getattr(e, 'strerror', None) or _first_line(e)}; nothing was changed"
        ) from e
    finally:
        for draft in drafts:
            draft.unlink(missing_ok=True)


def save(model: ModelProto, path: Path, text_files: dict[Path, str], external: bool = False) -> None:
    """Write the model and some text files, all or none.

    Args:
        external: keep weights in a file beside it (`NAME.onnx.data`), as the input did; always done from 2 GiB on.
    """
    external = external or model.ByteSize() >= INLINE_LIMIT
    data = path.with_name(path.name + ".data")
    with written_whole(path, data, *text_files) as (draft, draft_data, *drafts):
        if external:
            write_external(model, draft, draft_data, data.name)
        else:
            with draft.open("wb") as file:
                file.write(model.SerializeToString())
        for place, text in zip(drafts, text_files.values(), strict=True):
            place.write_text(text, encoding="utf-8")


def write_external(model: ModelProto, path: Path, data: Path, location: str) -> None:
    """Write the model to `path` and the bytes of its initializers to `data`, which the model calls `location`."""
    from onnxprune.facts import skeleton

    copy = skeleton(model)
    copy.graph.node.extend(model.graph.node)
    with data.open("wb") as file:
        for t in model.graph.initializer:
            new = copy.graph.initializer.add(name=t.name, data_type=t.data_type, dims=t.dims, doc_string=t.doc_string)
            if not t.HasField("raw_data") or len(t.raw_data) < 1024:
                new.CopyFrom(t)
                continue
            file.write(b"\0" * (-file.tell() % 64))
            new.data_location = TensorProto.EXTERNAL
            for key, value in (("location", location), ("offset", file.tell()), ("length", len(t.raw_data))):
                new.external_data.add(key=key, value=str(value))
            file.write(t.raw_data)
    path.write_bytes(copy.SerializeToString())


@contextlib.contextmanager
def runnable(model: ModelProto) -> Iterator[bytes | str]:
    """What onnxruntime can open: the serialized model, or from 2 GiB on a path in a temporary folder."""
    if model.ByteSize() < INLINE_LIMIT:
        yield model.SerializeToString()
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write_external(model, path, path.with_suffix(".data"), "model.data")
        yield str(path)


def _first_line(e: BaseException) -> str:
    return (str(e).splitlines() or [type(e).__name__])[0][:200]
