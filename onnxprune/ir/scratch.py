# SPDX-License-Identifier: Apache-2.0
"""Folders for what is not a result yet: each is locked while its process lives, and removed by a later one if it was killed.

Names are `onnxprune-PID-TOKEN` in the system's temporary folder and `.onnxprune-PID-TOKEN` beside files that are written.
The latter hold drafts that are moved to their places one after the other (`saving.py`); if their process was killed between
two moves, those that it made are undone.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import stat
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

TEMPORARY, BESIDE = "onnxprune-", ".onnxprune-"
NAME = re.compile(r"\.?onnxprune-(\d+)-\w{8}")
HOUR = 3600.0
ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""Signals that end a program."""
PATIENCE = 10.0
"""Seconds to wait for another process that moves files into the same folder, which takes milliseconds."""
DRAFTS, NEW, OLD = "drafts", "new", "old"
"""Folders in one beside outputs: drafts, what identifies each draft that is about to be moved, and the files they replace."""


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Hold back the signals that end a program; they arrive afterwards.

    (Blocking them in this thread is not enough: the system gives them to another one, and Python handles them here.)
    """
    if threading.current_thread() is not threading.main_thread():  # where Python handles none
        yield
        return
    arrived: list[int] = []
    before = {number: signal.getsignal(number) for number in ENDING}
    handled = {number: how for number, how in before.items() if how not in (None, signal.SIG_IGN)}
    try:
        for number in handled:
            signal.signal(number, lambda number, frame: arrived.append(number))
        yield
    finally:
        for number, how in handled.items():
            signal.signal(number, how)
        for number in arrived:
            signal.raise_signal(number)


class Scratch:
    """An empty folder that lives as long as this object."""

    def __init__(self, parent: Path | None = None) -> None:
        """Args: parent: where the folder is made; by default, in the system's temporary folder."""
        prefix = TEMPORARY if parent is None else BESIDE
        with undisturbed():
            self.path = Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-", dir=parent))
            self.close = weakref.finalize(self, _remove, self.path, _lock(self.path), os.getpid())


def _remove(folder: Path, lock: int | None, process: int) -> None:
    with undisturbed():
        if os.getpid() == process:  # a forked child does not remove what its parent uses
            with contextlib.suppress(OSError):  # which rmtree does not always ignore
                shutil.rmtree(folder, ignore_errors=True)
        _unlock(lock)


@contextlib.contextmanager
def scratch(parent: Path | None = None) -> Iterator[Path]:
    """An empty folder that is removed afterwards; beside other files of `parent`, or in the system's temporary folder."""
    made = Scratch(parent)
    try:
        yield made.path
    finally:
        made.close()


def temporary_folder() -> Path:
    """The system's temporary folder."""
    return Path(tempfile.gettempdir())


def swept(parent: Path) -> tuple[str, ...]:
    """Remove what killed processes of this user left in a folder.

    A folder is removed if its process is gone from this machine, or if it is older than an hour, and in both cases only if
    nobody has it locked: another machine may use the same disk.

    Returns:
        One line for each that could not be locked or removed.
    """
    try:
        with os.scandir(parent) as entries:
            found = [(Path(e.path), int(match[1])) for e in entries if (match := NAME.fullmatch(e.name)) and _is_ours(e)]
    except OSError:
        return ()
    return tuple(line for path, process in found if _is_left(path, process) and (line := _swept(path)))


def _is_ours(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder (not a link to one) of this user."""
    try:
        found = entry.stat(follow_symlinks=False)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and (not hasattr(os, "getuid") or found.st_uid == os.getuid())


def _is_left(path: Path, process: int) -> bool:
    try:
        return not _runs(process) or time.time() - path.stat().st_mtime > HOUR
    except OSError:  # removed meanwhile
        return False


def _runs(process: int) -> bool:
    """Whether there is a process of this number; where that cannot be told, yes."""
    if sys.platform == "win32":
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def _swept(path: Path) -> str:
    """Remove a folder that nobody has locked; otherwise, or if something remains, what to do."""
    try:
        lock = _lock(path)
    except BlockingIOError:
        lock = None
    if lock is None:
        return f"{path}: may be in use by another machine, or this disk has no locks; remove it if no onnxprune is running"
    with contextlib.suppress(OSError):  # whatever remains is reported
        if path.name.startswith(BESIDE):
            put_back(path)
        shutil.rmtree(path, ignore_errors=True)
    _unlock(lock)
    return f"{path}: left by an earlier run, and cannot be removed; remove it" if path.exists() else ""


def identity(path: Path) -> str:
    """What a file keeps when it is moved, as text; empty if there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return ""
    return f"{found.st_dev} {found.st_ino} {found.st_mtime_ns}"


def put_back(folder: Path, whole: bool = False) -> None:
    """Undo moves of drafts out of a folder.

    Args:
        whole: even if all were made.

    Raises:
        OSError: one of them cannot be undone.
    """
    meant = {p.name: p.read_text(encoding="ascii") for p in (folder / NEW).iterdir()} if (folder / NEW).is_dir() else {}
    made = [name for name, text in meant.items() if text and identity(folder.parent / name) == text]
    if len(made) == len(meant) and not whole:
        return
    for name in made:
        old = folder / OLD / name
        if old.exists():
            old.replace(folder.parent / name)
        else:
            (folder.parent / name).unlink()


def _lock(folder: Path) -> int | None:
    """A descriptor that holds the lock of a folder, released when it is closed; None if this disk has no locks.

    Raises:
        BlockingIOError: somebody else holds it.
    """
    if sys.platform == "win32":
        return None
    import fcntl

    descriptor = None
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        _unlock(descriptor)
        if isinstance(e, BlockingIOError):
            raise
        return None
    return descriptor


def _unlock(descriptor: int | None) -> None:
    if descriptor is not None:
        with contextlib.suppress(OSError):
            os.close(descriptor)


@contextlib.contextmanager
def locked(*folders: Path) -> Iterator[None]:
    """Keep other processes that do the same away from these folders, as long as no disk refuses and nobody takes too long."""
    descriptors: list[int] = []
    try:
        for folder in sorted({f.resolve() for f in folders}):
            descriptors += _waited_for(folder)
        yield
    finally:
        for descriptor in descriptors:
            _unlock(descriptor)


def _waited_for(folder: Path) -> list[int]:
    """The lock of a folder, if it can be had."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            found = _lock(folder)
        except BlockingIOError:
            time.sleep(0.005)
        else:
            return [] if found is None else [found]
    return []
