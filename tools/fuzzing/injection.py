# SPDX-License-Identifier: Apache-2.0
"""Faults before and after the calls that a function makes to the system: errors, and processes that are killed.

Every call of Python to a built-in function of `posix`, `fcntl` or a file counts, whichever code makes it.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

Work = Callable[[], object]
FILE_METHODS = frozenset({"write", "flush", "close", "open", "read", "seek", "truncate"})
PURE = frozenset({"fspath", "strerror", "getpid"})


def _is_call(function: Any) -> bool:
    home = getattr(function, "__module__", None) or type(getattr(function, "__self__", None)).__module__
    if function.__name__ in PURE:
        return False
    return home in ("posix", "fcntl") or (home in ("_io", "io") and function.__name__ in FILE_METHODS)


def calls(work: Work) -> int:
    """The number of points, before and after calls, at which a fault can be injected into some work."""
    return _traced(work, -1, lambda: None)


def with_fault(work: Work, point: int, fault: Callable[[], None]) -> None:
    """Do some work, with a fault at a point."""
    _traced(work, point, fault)


def _traced(work: Work, point: int, fault: Callable[[], None]) -> int:
    count = 0

    def watch(frame: Any, event: str, function: Any) -> None:
        nonlocal count
        if event in ("c_call", "c_return", "c_exception") and _is_call(function):
            if count == point:
                count += 1
                fault()
            count += 1

    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        work()
    finally:
        sys.setprofile(before)
    return count


def disk_error() -> None:
    """What a system call does on a disk that fails."""
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def interrupt() -> None:
    """Ctrl-C."""
    os.kill(os.getpid(), signal.SIGINT)


def killed(work: Work, point: int) -> bool:
    """Do some work in a process of its own, which is killed at a point; whether it came to that."""
    child = os.fork()
    if child == 0:
        try:
            with_fault(work, point, lambda: os.kill(os.getpid(), signal.SIGKILL))
        except BaseException:
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)
