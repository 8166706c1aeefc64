# SPDX-License-Identifier: Apache-2.0
"""Output files: checked early, and written all or none.

Files are written to a folder beside their places (`scratch.py`) and then moved there, in the order given. After an error or
a signal on the way, what was there is put back; if the process is killed between two moves, the next run does that.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path

from google.protobuf.message import EncodeError

from onnxprune.errors import OptionError, OutputError, first_line
from onnxprune.ir.scratch import DRAFTS, NEW, OLD, identity, locked, put_back, scratch, swept, undisturbed

SPECIAL = {
    stat.S_ISCHR: "a device", stat.S_ISBLK: "a device", stat.S_ISFIFO: "a named pipe", stat.S_ISSOCK: "a socket",
}  # fmt: skip
LONGEST_NAME, LONGEST_PATH = 220, 4000
"""Bytes of the name and of the path of an output; systems allow 255 and 4,096, and files beside it have longer names."""
placed: list[Path] = []
"""Files that this process has put in their places: a signal may arrive before anybody else knows."""
SHOWN = 40
"""Characters of a name that is too long that a message shows."""


def check_output(path: Path, force: bool, *inputs: Path) -> None:
    """Check early that an output file can and may be written.

    Raises:
        OptionError: the path is one of the inputs, or exists and `force` is not set.
        OutputError: it is not a regular file, or its folder is missing or cannot be written to.
    """
    with explained(path):
        for place, source in product((path, data_beside(path)), inputs):
            if place.exists() and source.exists() and place.samefile(source):
                raise OptionError(f"{place}: is the input itself, which is never overwritten; choose another name")
    check_folder(path)
    if path.exists() and not force:
        raise already_there(path)


def check_outputs(places: Mapping[str, Path | None], force: bool, *inputs: Path) -> None:
    """Check early that all files of a command can and may be written, and that they are different ones.

    What a killed run left in their folders is removed first: its half of a set of files must not count as existing.

    Args:
        places: what each file is for -> its path; None: not written.

    Raises:
        OptionError, OutputError: as `check_output`, or a path is given twice.
    """
    check_distinct(places)
    tidied(places)
    for place in places.values():
        if place is not None:
            check_output(place, force, *inputs)


def tidied(places: Mapping[str, Path | None]) -> tuple[str, ...]:
    """Remove what killed runs left in the folders of some files; a line for each thing that remains."""
    parents = dict.fromkeys(path.parent for path in places.values() if path is not None)
    return tuple(line for parent in parents for line in swept(parent))


def check_distinct(places: Mapping[str, Path | None]) -> None:
    """Reject a path that is given for two files, however it is spelt.

    Raises:
        OptionError: it is.
        OutputError: a path cannot be that of a file.
    """
    given = {what: path for what, path in places.items() if path is not None}
    for path in given.values():
        check_name(path)
    for (a, path), (b, other) in combinations(given.items(), 2):
        if _where(path) == _where(other):
            raise OptionError(f"{path}: is given for both the {a} and the {b}; choose two different files")


def _where(path: Path) -> Path:
    with explained(path):
        return path.parent.resolve() / path.name


def already_there(path: Path) -> OptionError:
    """The error that a file exists."""
    return OptionError(f"{path}: already exists; use --force to replace it, or choose another name")


def check_name(path: Path) -> None:
    """Check early that a file can have a name: weights and drafts beside it have longer ones.

    Raises:
        OutputError: it is too long, or contains a zero character.
    """
    if "\0" in str(path):
        raise OutputError(f"{path}: got a zero character in the name of an output; choose another one")
    size, whole = (len(os.fsencode(part)) for part in (path.name, path.absolute()))
    for got, most, what in ((size, LONGEST_NAME, "name"), (whole, LONGEST_PATH, "path")):
        if got > most:
            long = f"got a {what} of {got:,} bytes for an output, expected at most {most:,}"
            raise OutputError(f"{path.name[:SHOWN]}...: {long}; choose a shorter one")


def check_folder(path: Path) -> None:
    """Check early that a file can be written to its folder.

    Raises:
        OutputError: the path is a folder, a link or a device, or its folder is missing or cannot be written to.
    """
    check_name(path)
    folder = path.parent
    with explained(path):
        if path.is_dir():
            raise OutputError(f"{path}: is a folder; name a file in it")
        if not folder.is_dir():
            raise OutputError(f"{folder}: no such folder; create it first, or choose another place for {path.name}")
        if not os.access(folder, os.W_OK):
            raise OutputError(f"{folder}: cannot be written to; choose another place for {path.name}")
        _check_kind(path)


def _check_kind(path: Path) -> None:
    """Check that a path is free or a regular file: only such a file is replaced."""
    if str(path) == "-":
        raise OutputError("-: results are several files, which are not written to standard output; name a file")
    if path.is_symlink():
        raise OutputError(f"{path}: is a symbolic link to {path.readlink()}; name the file itself, or remove the link")
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    kind = next((name for test, name in SPECIAL.items() if test(mode)), "")
    if kind:
        raise OutputError(f"{path}: is {kind}, which is never replaced; name a regular file")


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Raise OutputError with the reason if the system refuses something."""
    try:
        yield
    except (OSError, EncodeError) as e:
        reason = getattr(e, "strerror", None) or first_line(e)
        raise OutputError(f"{path}: cannot be written: {reason}; nothing was changed") from e


@contextlib.contextmanager
def written_whole(*paths: Path, force: bool = True, fresh: Collection[Path] = ()) -> Iterator[list[Path]]:
    """Paths of drafts, of the same names as `paths`, to write to; at the end all drafts are moved into place, or none is.

    Args:
        paths: the files, in the order in which they are moved. Drafts that do not exist then are left out.
        force: whether existing files are replaced, which only regular ones are.
        fresh: those that must not exist even so.

    Raises:
        OutputError: writing failed (a full disk, no permission); no drafts are left behind.
        OptionError: a file exists, perhaps since a moment ago, and may not be replaced.
    """
    parents = list(dict.fromkeys(p.parent for p in paths))
    with explained(paths[0]), contextlib.ExitStack() as stack:
        for parent in parents:
            swept(parent)
        folders = {parent: stack.enter_context(scratch(parent)) for parent in parents}
        for folder in folders.values():
            (folder / DRAFTS).mkdir()
        drafts = [folders[p.parent] / DRAFTS / p.name for p in paths]
        yield drafts
        moves = [
            _Move(draft, path, force and path not in fresh) for draft, path in zip(drafts, paths, strict=True) if draft.exists()
        ]
        with undisturbed(), locked(*parents):
            _make(moves)
            placed.extend(move.place for move in moves)


@dataclass(frozen=True)
class _Move:
    """A draft that takes its place; `replaces`: also that of a file."""

    draft: Path
    place: Path
    replaces: bool

    @property
    def folder(self) -> Path:
        """The folder for drafts and what belongs to them."""
        return self.draft.parent.parent

    @property
    def old(self) -> Path:
        """Where the file that is replaced is kept until all moves are made."""
        return self.folder / OLD / self.place.name

    def prepare(self) -> None:
        """Keep what the draft replaces, take over its mode and owner, and note what identifies the draft."""
        _check_kind(self.place)
        with self.draft.open("rb+") as file:
            os.fsync(file.fileno())  # a full disk is noticed now
        if self.place.exists():
            if not self.replaces:
                raise already_there(self.place)
            self._keep()
        new = self.folder / NEW / self.place.name
        new.parent.mkdir(exist_ok=True)
        new.write_text(identity(self.draft), encoding="ascii")

    def _keep(self) -> None:
        found = self.place.stat()
        self.draft.chmod(stat.S_IMODE(found.st_mode))
        if sys.platform != "win32":
            with contextlib.suppress(PermissionError):
                os.chown(self.draft, found.st_uid, found.st_gid)
        self.old.parent.mkdir(exist_ok=True)
        try:
            os.link(self.place, self.old)
        except OSError:  # a disk without hard links
            shutil.copy2(self.place, self.old)

    def make(self) -> None:
        """Take the place; one that was free when that was checked must still be free."""
        if self.old.exists():
            self.draft.replace(self.place)
            return
        try:
            os.link(self.draft, self.place)
        except FileExistsError as e:
            raise already_there(self.place) from e
        except OSError:  # a disk without hard links
            if self.place.exists():
                raise
            self.draft.replace(self.place)
        else:
            self.draft.unlink()  # runtimes refuse weights in a file that has two names


def _make(moves: Sequence[_Move]) -> None:
    """Make all moves or none."""
    for move in moves:
        move.prepare()
    try:
        for move in moves:
            move.make()
    except BaseException as e:
        for folder in dict.fromkeys(move.folder for move in moves):
            try:
                put_back(folder, whole=True)
            except OSError as again:
                what = f"{moves[-1].place}: cannot be written ({first_line(e)}), and what was there cannot be put back"
                raise OutputError(f"{what}: {again.strerror}") from e
        raise


def write_text(path: Path, text: str, force: bool = True) -> None:
    """Write a text file whole or not at all.

    Raises:
        OutputError: it cannot be written.
        OptionError: it exists, and `force` is False.
    """
    write_texts({path: text}, force)


def write_texts(texts: Mapping[Path, str], force: bool = True) -> None:
    """Write text files, all or none.

    Args:
        texts: path -> content.

    Raises:
        OutputError: they cannot be written.
        OptionError: one exists, and `force` is False.
    """
    with written_whole(*texts, force=force) as drafts:
        for draft, text in zip(drafts, texts.values(), strict=True):
            draft.write_text(text, encoding="utf-8")


def data_beside(path: Path) -> Path:
    """The file for weights that are not stored in the model file itself."""
    return path.parent / f"{path.name}.data"  # also of a path without a name, which is refused elsewhere
