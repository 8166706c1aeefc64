# SPDX-License-Identifier: Apache-2.0
"""Models as files, with the texts that belong to them.

Whatever happens on the way, the model in its place loads with its own weights: it is moved last, and refers to weights in a
file whose name no other model there uses.
"""

from __future__ import annotations

import hashlib
import mmap
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto

from onnxprune.errors import OptionError, OutputError
from onnxprune.ir.files import digest_of, is_ours
from onnxprune.ir.packing import names_packed, pack
from onnxprune.ir.placing import data_beside, explained, written_whole
from onnxprune.ir.protobuf import INLINE_LIMIT, write, write_external
from onnxprune.ir.scratch import scratch
from onnxprune.ir.tensors import LARGE_FILE, bytes_of, size_of, take_all

ATTEMPTS = 20
"""How many names for the weights are tried, if other processes write to the same place."""
DIGITS = 16
"""Of the digest in the name of a file of weights."""


@dataclass(frozen=True)
class Saved:
    """What was written.

    Attributes:
        sha256: digest of the model's file, or of what it expands to if it is packed.
        data: the file of its weights, if it has one.
        removed: files of weights of the model that was replaced, which are gone.
    """

    sha256: str
    data: Path | None = None
    removed: tuple[Path, ...] = ()


def save(
    model: ModelProto,
    path: Path,
    others: Sequence[Path] = (),
    texts: Callable[[str], Mapping[Path, str]] = lambda digest: {},
    external: bool = False,
    force: bool = True,
    keep: Collection[Path] = (),
) -> Saved:
    """Write a model and the texts that belong to it, all or none; a name that ends in `.zst` packs it, with all its weights.

    Args:
        others: files of texts that belong to it.
        texts: given the digest of the model's file, the text of each of these.
        external: whether weights are stored in a file beside it, as in the input; always done from 2 GiB on. That file is
            `NAME.onnx.data`, or with a digest in its name if there is one already.
        force: whether existing files are replaced.
        keep: files that are not removed, although the model that is replaced stores its weights there.

    Raises:
        OutputError: they cannot be written, or a model from 2 GiB on is to be packed.
        OptionError: a file exists, and `force` is False.
    """
    size = size_of(model)
    packs = names_packed(path)
    if packs and size >= INLINE_LIMIT:
        most = f"{size:,} bytes, expected fewer than {INLINE_LIMIT:,}"
        raise OutputError(
            f"{path}: the model is too large to be packed: {most}; choose a name that ends in .onnx, without --pack"
        )
    beside = not packs and (external or size >= INLINE_LIMIT)
    for _ in range(ATTEMPTS - 1):
        try:
            return _save(model, path, others, texts, beside, force, keep)
        except OptionError:  # another process took the name of the weights meanwhile
            if not (beside and force):
                raise
    return _save(model, path, others, texts, beside, force, keep)


def _save(
    model: ModelProto,
    path: Path,
    others: Sequence[Path],
    texts: Callable[[str], Mapping[Path, str]],
    beside: bool,
    force: bool,
    keep: Collection[Path],
) -> Saved:
    """The same, with the first free name for the weights."""
    packs = names_packed(path)
    with explained(path):
        data = _name_of_data(model, path) if beside and force else data_beside(path)
        kept = {p.resolve() for p in ((data, *keep) if beside else keep)}
        old = [p for p in sorted(_data_of(path)) if p.resolve() not in kept] if force else []
    with written_whole(data, *others, path, force=force, fresh=[data]) as (draft_data, *drafts, draft):
        if beside:
            write_external(model, draft, draft_data, data.name)
        else:
            digest = _write_packed(model, draft) if packs else _write_inline(model, draft)
        digest = digest_of(draft) if beside else digest
        found = texts(digest)
        for place, text_draft in zip(others, drafts, strict=True):
            text_draft.write_text(found[place], encoding="utf-8")
    return Saved(digest, data if beside else None, tuple(p for p in old if _removed(p)))


def _write_inline(model: ModelProto, path: Path) -> str:
    """Write a model of less than 2 GiB with all its weights into one file; its digest."""
    if size_of(model) >= LARGE_FILE:
        write(model, path)
    else:
        take_all(model)
        path.write_bytes(model.SerializeToString())
    return digest_of(path)


def _write_packed(model: ModelProto, path: Path) -> str:
    """Write a model of less than 2 GiB as a packed file, by way of a temporary one; the digest of the latter."""
    with scratch() as folder:
        plain = folder / "model.onnx"
        digest = _write_inline(model, plain)
        pack(plain, path)
    return digest


def _name_of_data(model: ModelProto, path: Path) -> Path:
    """A free name for the weights of a model."""
    place, count = data_beside(path), 0
    while place.exists():
        found = hashlib.sha256(str(count).encode())
        for tensor in model.graph.initializer:
            for data in bytes_of(tensor):
                found.update(data)
        place, count = path.with_name(f"{path.name}.{found.hexdigest()[:DIGITS]}.data"), count + 1
    return place


def _removed(path: Path) -> bool:
    try:
        path.unlink()
    except OSError:
        return False
    return True


def _data_of(path: Path) -> set[Path]:
    """The files of weights, of names that `save` gives, of a model in a place that this program wrote, if only it uses them."""
    if not path.is_file() or not is_ours(path):
        return set()
    digested = re.compile(re.escape(path.name) + rf"\.[0-9a-f]{{{DIGITS}}}\.data")
    beside = [p for p in path.parent.iterdir() if p == data_beside(path) or digested.fullmatch(p.name)]
    return {p for p in beside if p.is_file() and not p.is_symlink() and not _used_elsewhere(p, path)}


def _used_elsewhere(data: Path, model: Path) -> bool:
    """Whether another model in the folder may store weights in this file: a copy of the one that is replaced, for example."""
    name = data.name.encode()
    others = (p for p in data.parent.glob("*.onnx") if p != model and p.is_file() and p.stat().st_size)
    for other in others:
        with other.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if content.find(name) >= 0:
                return True
    return False
