# SPDX-License-Identifier: Apache-2.0
"""Models from files, onnx and onnx-graphsurgeon, checked; `saving.py` writes them."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from io import BufferedReader
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto, TensorProto
from onnx.external_data_helper import load_external_data_for_model

from onnxprune.errors import ModelError, first_line
from onnxprune.ir.graph import captured, opsets
from onnxprune.ir.graphsurgeon import from_graphsurgeon, is_graphsurgeon
from onnxprune.ir.packing import expanded, is_packed
from onnxprune.ir.prepare import prepared
from onnxprune.ir.protobuf import read, write_external
from onnxprune.ir.scratch import scratch
from onnxprune.ir.spill import SPILLED
from onnxprune.ir.stored import check_external, check_weight, range_in, without_unreadable
from onnxprune.ir.tensors import CHUNK, LARGE_FILE, LARGE_TENSOR, FileRange, leave, nbytes, range_of, size_of
from onnxprune.version import __version__

OLDEST_OPSET, OLDEST_IR = 9, 3
VERSION_KEY, PLAN_KEY = "onnxprune.version", "onnxprune.plan_sha256"
"""Keys in the metadata of models that this program writes: its version, and the digest of the plan."""
Stamp = tuple[int, int, int, int]
"""Device, number, bytes and time of change of a file: if they are the same, so is its content."""


def stamp_of(path: Path) -> Stamp | None:
    """The stamp of a file; None if it is not there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


@dataclass(frozen=True)
class Loaded:
    """A model in memory.

    Attributes:
        model: the model. Large weights may be left in their file (`tensors.py`); `Weight.array` reads them from there.
        name: how messages refer to the model: the path, or a stand-in.
        sha256: digest of the file, or of what a packed file expands to, so that a plan fits both; empty if the model does not
            come from a file.
        data: other files that store weights of the model.
        size: bytes of the file (of a packed one, expanded) and its external data, or of the given model; None: of a graph.
        given: what it was read from: the path, or what was given in memory.
        derived: names of weights that the file does not store: from functions, or computed from other weights.
        warnings: what was wrong with the file, and what was done about it.
        replaced: tensor of the file that is gone -> the weight that was computed from it.
        stamps: what tells whether the files that were read, that of the model first, are still the same; by absolute path.
    """

    model: ModelProto = field(repr=False)
    name: str
    sha256: str = ""
    data: tuple[Path, ...] = ()
    size: int | None = None
    given: Any = field(default=None, repr=False, compare=False)
    derived: frozenset[str] = frozenset()
    warnings: tuple[str, ...] = ()
    replaced: Mapping[str, str] = field(default_factory=dict, repr=False)
    stamps: Mapping[Path, Stamp] = field(default_factory=dict, repr=False)

    def check_unchanged(self) -> None:
        """Check that the files still have the content that was read: a plan belongs to it, and large weights are read late.

        Raises:
            ModelError: a file was changed, replaced or removed.
        """
        for k, (path, stamp) in enumerate(self.stamps.items()):
            if stamp_of(path) == stamp or (not k and self._reads_alike(path)):
                continue
            what = "was changed or replaced" if path.exists() else "was removed"
            raise ModelError(f"{path}: {what} while the program was working on it; run it again, nothing was written")

    def _reads_alike(self, path: Path) -> bool:
        """Whether a file that only seems to be new has the same content, and all that was read from it is in memory."""
        left = any(place.file == str(path.resolve()) for t in self.model.graph.initializer if (place := range_of(t)))
        try:
            with path.open("rb") as file:
                return not left and _read(path, file)[1] == self.sha256
        except (OSError, ModelError):
            return False

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that the model was read from."""
        return (Path(self.name), *self.data) if self.sha256 else ()

    @property
    def external(self) -> bool:
        """Whether weights are stored in other files."""
        return bool(self.data)


def load(source: Any, folds: bool = True, check: Callable[[ModelProto], None] = lambda model: None) -> Loaded:
    """Read a model from a path, an `onnx.ModelProto`, or an onnx-graphsurgeon graph; the file may be packed (`packing.py`).

    Args:
        folds: whether weights that the graph computes from others are stored; not in a file that was cut already.
        check: called with the model as it was read, before any part of it is run.

    Raises:
        ModelError: the model cannot be read, or is not an ONNX model that this program supports.
    """
    if isinstance(source, ModelProto):
        model, odd = without_unreadable(source)
        loaded = Loaded(model, "the given model", size=size_of(source), given=source, warnings=odd)
    elif is_graphsurgeon(source):
        model, odd = without_unreadable(from_graphsurgeon(source))
        loaded = Loaded(model, "the given graph", given=model, warnings=odd)
    elif isinstance(source, str | os.PathLike):
        loaded = _load_file(Path(source))
    else:
        raise ModelError(f"the model: got {source!r}, expected a path, an onnx.ModelProto or an onnx-graphsurgeon graph")
    _check_versions(loaded)
    for tensor in loaded.model.graph.initializer:
        check_weight(tensor, loaded.name)
    check(loaded.model)
    try:
        found = prepared(loaded.model, folds)
    except ModelError as e:
        raise ModelError(f"{loaded.name}: {e.message}") from e
    warnings = (*loaded.warnings, *found.warnings)
    ready = replace(loaded, model=found.model, derived=found.derived, warnings=warnings, replaced=found.replaced)
    _check_names(ready)
    return ready


def _load_file(path: Path) -> Loaded:
    check_is_file(path)
    stamps = {path.absolute(): stamp_of(path)}  # before it is read
    with _reading(path), path.open("rb") as file:
        size, digest, model = _read(path, file)
    model, odd = without_unreadable(model, path)
    places = _take_external(path, model, stamps)
    known = {place: stamp for place, stamp in stamps.items() if stamp is not None}
    size += sum(p.stat().st_size for p in places)
    return Loaded(model, str(path), digest, tuple(places), size, path, warnings=odd, stamps=known)


def content_of(path: Path) -> Path | bytes:
    """A model's file, or the bytes that it expands to if it is packed."""
    with path.open("rb") as file:
        return expanded(path, file) if is_packed(path, file) else path


def digest_of(path: Path) -> str:
    """The SHA-256 of a model's file, or of what it expands to if it is packed."""
    content, found = content_of(path), hashlib.sha256()
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    with content.open("rb") as file:
        while data := file.read(CHUNK):
            found.update(data)
    return found.hexdigest()


def _read(path: Path, file: BufferedReader) -> tuple[int, str, ModelProto]:
    """The bytes of the model in a file, their SHA-256, and the model."""
    size, data = path.stat().st_size, None
    if not size:
        raise ModelError(f"{path}: the file is empty; expected an ONNX model")
    if is_packed(path, file):
        data = expanded(path, file)
        size = len(data)
    try:
        if data is None and size >= LARGE_FILE:
            return size, *read(path, file)
        return size, *_parsed(file.read() if data is None else data)
    except DecodeError as e:
        why = f"not an ONNX model, or a damaged one ({size} bytes{'' if data is None else ', expanded,'} do not parse)"
        raise ModelError(f"{path}: {why}; export it again") from e


def _parsed(data: bytes) -> tuple[str, ModelProto]:
    """The SHA-256 of a serialized model, and the model."""
    return hashlib.sha256(data).hexdigest(), ModelProto.FromString(data)


def _take_external(path: Path, model: ModelProto, stamps: dict[Path, Stamp | None]) -> set[Path]:
    """Load weights stored in other files, or leave them there if they are large; return those files, and add their stamps."""
    places = [(t, place) for t in model.graph.initializer if (place := range_in(path, t))]
    inner = [(t, place) for t in _inner_tensors(model) if (place := range_in(path, t))]
    unread = [(t, place) for t, place in places if place.file == str(path.resolve())]
    others = [(t, place) for t, place in places if place.file != str(path.resolve())]
    for tensor, _ in (*others, *inner):
        check_external(path, tensor)
    files = {(path.parent / place.file).resolve() for _, place in (*others, *inner)}
    stamps.update({file: stamp_of(file) for file in files})
    if sum(file.stat().st_size for file in files) >= LARGE_FILE:
        for t, place in others:
            length = place.length or nbytes(t)
            if length >= LARGE_TENSOR:
                unread.append((t, FileRange(str((path.parent / place.file).resolve()), place.offset, length)))
    for t, _ in unread:
        t.ClearField("data_location")  # so that onnx does not read it now
    try:
        load_external_data_for_model(model, str(path.parent))
    except Exception as e:  # onnx raises its own ValidationError, ValueError or OSError here
        advice = "; copy that file, which has two names" if "hard link" in str(e) else ""
        raise ModelError(f"{path}: its external data cannot be read: {first_line(e)}{advice}") from e
    for t, place in unread:
        leave(t, place)
    return files


def mark(model: ModelProto, plan: str = "0" * 64) -> None:
    """State in the model's metadata, in place, which version of this program wrote it, and by which plan.

    Args:
        plan: the digest of the plan; before there is one, as many zeros, so that sizes of files are known early.
    """
    own = {VERSION_KEY: __version__, PLAN_KEY: plan}
    others = [p for p in model.metadata_props if p.key not in own]
    del model.metadata_props[:]
    model.metadata_props.extend(others)
    for key, value in own.items():
        model.metadata_props.add(key=key, value=value)


def marked(loaded: Loaded) -> Loaded:
    """The same model, marked before there is a plan; a model that was given in memory is not changed."""
    model = loaded.model
    if not loaded.sha256:
        model = ModelProto()
        model.CopyFrom(loaded.model)
    mark(model)
    return replace(loaded, model=model)


def plan_of_model(model: ModelProto) -> str:
    """The digest of the plan by which a model was made; empty if it does not say."""
    return next((p.value for p in model.metadata_props if p.key == PLAN_KEY), "")


def is_ours(path: Path) -> bool:
    """Whether a file is a model that this program wrote."""
    try:
        with path.open("rb") as file:
            model = _read(path, file)[2]
    except (OSError, ModelError, DecodeError):
        return False
    return any(p.key == VERSION_KEY for p in model.metadata_props)


def check_is_file(path: Path) -> None:
    """Check early that the model is there.

    Raises:
        ModelError: there is no such file, it is a folder, or the path cannot be read.
    """
    with _reading(path):
        if path.is_dir():
            raise ModelError(f"{path}: is a folder; name the .onnx file in it")
        if not path.exists():
            raise ModelError(f"{path}: no such file; check the path")
        if not path.is_file():
            raise ModelError(f"{path}: is not a regular file; name a file")


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Raise ModelError with the reason if a file cannot be read."""
    try:
        yield
    except OSError as e:
        raise ModelError(f"{path}: cannot be read: {e.strerror}") from e


def _inner_tensors(model: ModelProto) -> Iterator[TensorProto]:
    """The tensors of a model that are not initializers of its graph: in attributes, bodies, functions, sparse ones."""
    graphs = [model.graph]
    nodes = [*model.graph.node, *(node for f in model.functions for node in f.node)]
    while graphs or nodes:
        for graph in graphs:
            nodes.extend(graph.node if graph is not model.graph else ())
            yield from (part for t in graph.sparse_initializer for part in (t.values, t.indices))
            yield from () if graph is model.graph else graph.initializer
        attributes = [a for node in nodes for a in node.attribute]
        yield from (t for a in attributes for t in (a.t, *a.tensors, a.sparse_tensor.values, a.sparse_tensor.indices))
        graphs, nodes = [g for a in attributes for g in (a.g, *a.graphs) if g.ByteSize()], []


def _check_versions(loaded: Loaded) -> None:
    """Check that a model is one, of supported versions."""
    model, name = loaded.model, loaded.name
    if not model.graph.node or not model.opset_import:
        raise ModelError(f"{name}: not an ONNX model (it has no nodes or no opset); expected a file written by an exporter")
    if not model.graph.output:
        raise ModelError(f"{name}: has no outputs, so that it computes nothing; export it again")
    if not OLDEST_IR <= model.ir_version <= onnx.IR_VERSION:
        raise ModelError(
            f"{name}: IR version {model.ir_version}, expected {OLDEST_IR} to {onnx.IR_VERSION}; update onnx or export again"
        )
    newest, opset = onnx.defs.onnx_opset_version(), opsets(model).get("")
    if opset is None:
        raise ModelError(f"{name}: states no version of ONNX's own operators (opset); export it again")
    if not OLDEST_OPSET <= opset <= newest:
        advice = "convert it with onnx.version_converter" if opset < OLDEST_OPSET else "update onnx"
        raise ModelError(f"{name}: opset {opset}, expected {OLDEST_OPSET} to {newest}; {advice}")


def _check_names(loaded: Loaded) -> None:
    """Check that every name is defined."""
    model, name = loaded.model, loaded.name
    texts = (text for node in model.graph.node for text in (node.op_type, node.domain, *node.input, *node.output))
    graph = model.graph
    others = [t.name for t in graph.initializer] + [v.name for v in graph.input] + [v.name for v in graph.output]
    if odd := next((text for text in (*texts, *others) if not isinstance(text, str)), None):
        raise ModelError(f"{name}: the name {odd!r} is not text in UTF-8; export the model again")
    if any(not v.name for v in graph.input):
        raise ModelError(f"{name}: has an input without a name; export the model again")
    known = {v.name for v in model.graph.input} | {t.name for t in model.graph.initializer} | {""}
    fed = {v.name for v in model.graph.input}
    known |= {t.values.name for t in model.graph.sparse_initializer}
    for node in model.graph.node:
        for used in (*node.input, *captured(node)):
            if used not in known:
                at = f"{name}: node '{node.name or node.op_type}' reads '{used}'"
                raise ModelError(f"{at}, which no node produces; export the model again")
        if twice := fed.intersection(node.output):
            at = f"{name}: node '{node.name or node.op_type}' makes '{min(twice)}'"
            raise ModelError(f"{at}, which is an input of the model, too; export the model again")
        known.update(node.output)
    for v in model.graph.output:
        if v.name not in known:
            raise ModelError(f"{name}: output '{v.name}' is not produced by any node; export the model again")


@contextlib.contextmanager
def runnable(model: ModelProto) -> Iterator[bytes | str]:
    """A model that onnxruntime can open: the serialized model, or for a large one a path in a temporary folder."""
    places = [place for t in model.graph.initializer if (place := range_of(t))]
    if not places and size_of(model) < LARGE_FILE:
        yield model.SerializeToString()
        return
    with scratch() as new:
        # in the folder of spilled weights, there is no need to copy them
        folder = next((Path(p.file).parent for p in places if Path(p.file).name == SPILLED), new)
        path = folder / f"{new.name}.onnx"
        data = path.with_suffix(".data")
        try:
            write_external(model, path, data, data.name)
            yield str(path)
        finally:
            path.unlink(missing_ok=True)
            data.unlink(missing_ok=True)
