# SPDX-License-Identifier: Apache-2.0
"""Signals that end the program: Ctrl-C, SIGTERM and SIGHUP all raise, so that what was begun is tidied up.

An exception that a signal raises inside compiled code (numpy's generators, destructors) can get lost there. So what arrived
is remembered too, and looked for whenever progress is reported, and before anything is written. While modules load, nothing
is raised until later.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import Any

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
_arrived: list[int] = []


class Stopped(KeyboardInterrupt):
    """A signal asked the program to end."""


def install() -> None:
    """Raise `Stopped` when one of the signals arrives; one that is ignored (as by nohup) stays so."""
    for number in (getattr(signal, name) for name in NAMES if hasattr(signal, name)):
        if signal.getsignal(number) not in (None, signal.SIG_IGN):
            signal.signal(number, _stop)
    sys.unraisablehook = _unraisable


def _stop(number: int, frame: FrameType | None) -> None:
    _arrived.append(number)
    if not _loads(frame):
        raise Stopped


def _loads(frame: FrameType | None) -> bool:
    """Whether a module is being loaded: compiled ones can crash if that is broken off."""
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None


def _unraisable(lost: Any, shown: Any = sys.unraisablehook) -> None:
    """An exception that cannot be raised where it occurs; one of ours is not lost, so it is not printed."""
    if not isinstance(lost.exc_value, KeyboardInterrupt):
        shown(lost)


def arrived() -> bool:
    """Whether a signal has arrived."""
    return bool(_arrived)


def check() -> None:
    """Raise `Stopped` if a signal has arrived."""
    if _arrived:
        raise Stopped


def status() -> int:
    """The exit status of a program that was ended by the signal that arrived, by default Ctrl-C."""
    return 128 + (_arrived[0] if _arrived else int(signal.SIGINT))


def sentence() -> str:
    """What happened, for a message."""
    name = signal.Signals(status() - 128).name
    return "interrupted" if name == "SIGINT" else f"ended by {name}"
