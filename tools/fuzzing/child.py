# SPDX-License-Identifier: Apache-2.0
"""A function run in a forked process, within limits of time and memory. Linux only: memory is read from /proc."""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECONDS, BYTES, WRITTEN = 30.0, 4 * 2**30, 2**31
"""Limits of a run: time, resident memory with all its processes, size of a written file."""
CRASHED = 70
"""Exit status after an exception that nothing caught."""
PAGE = resource.getpagesize()


@dataclass(frozen=True)
class Ended:
    """How a run ended.

    Attributes:
        status: exit status; -1 if the run was killed, by itself or by a limit.
        killed: why it was killed: the name of a signal, `hang`, `memory`; empty if it was not.
        seconds: wall time.
        out: what it wrote to standard output.
        err: what it wrote to standard error.
    """

    status: int
    killed: str
    seconds: float
    out: str
    err: str


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder that is removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def forked(run: Callable[[], int], folder: Path, talk: Path, seconds: float = SECONDS, memory: int = BYTES) -> Ended:
    """Run a function in a child whose working folder is `folder`; what it prints goes to files in `talk`."""
    talk.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    start = time.monotonic()
    pid = os.fork()
    if not pid:
        _child(run, folder, talk)
    killed, status = "", 0
    try:
        pause = 0.002
        while True:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                break
            if time.monotonic() - start > seconds:
                killed = "hang"
            elif resident(pid) > memory:
                killed = "memory"
            if killed:
                end(pid)
                os.waitpid(pid, 0)
                break
            time.sleep(pause)
            pause = min(0.02, pause * 1.3)
    except BaseException:
        end(pid)
        raise
    end(pid)  # processes of its own that it left behind
    if not killed and os.WIFSIGNALED(status):
        killed = signal.Signals(os.WTERMSIG(status)).name
    said = [(talk / name).read_bytes()[: 2**20].decode("utf-8", "replace") for name in ("out", "err")]
    return Ended(-1 if killed else os.waitstatus_to_exitcode(status), killed, time.monotonic() - start, *said)


def _child(run: Callable[[], int], folder: Path, talk: Path) -> None:
    """What the child does, in a session of its own, without ever returning."""
    status = CRASHED
    try:
        os.setsid()
        _forget()
        for name, number in (("out", 1), ("err", 2)):
            made = os.open(talk / name, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_APPEND)
            os.dup2(made, number)
            os.close(made)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False, buffering=1)  # noqa: SIM115
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (WRITTEN, WRITTEN))
        with (talk / "fault").open("w") as fault:
            faulthandler.enable(fault)
            os.chdir(folder)
            status = run()
            sys.stdout.flush()
            faulthandler.disable()
            atexit._run_exitfuncs()
    except SystemExit as e:
        status = e.code if isinstance(e.code, int) else 0 if e.code is None else 1
    except BaseException:
        traceback.print_exc()
        status = CRASHED
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status & 0xFF)


def _forget() -> None:
    """Leave what the parent wants done at its exit to the parent."""
    finalizers: Any = weakref.finalize
    finalizers._registry.clear()
    finalizers._registered_with_atexit = False
    atexit._clear()


def end(pid: int) -> None:
    """Kill all processes of a child's session."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def resident(pid: int) -> int:
    """Bytes in memory of a process and those that it started."""
    total, waiting = 0, [str(pid)]
    while waiting:
        place = Path("/proc") / waiting.pop()
        with contextlib.suppress(OSError, ValueError, IndexError):
            total += int((place / "statm").read_text().split()[1]) * PAGE
            for task in (place / "task").iterdir():
                waiting += (task / "children").read_text().split()
    return total
