# SPDX-License-Identifier: Apache-2.0
"""User-defined functions, given on the command line as `module:function`."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from onnxprune.data.arrays import data_of_calls, inputs_of, named
from onnxprune.data.samples import Data
from onnxprune.errors import DataError, PruneError, printable
from onnxprune.ir.graph import Fact

NAME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")

OURS = (str(Path(__file__).parents[1]), contextlib.__file__, importlib.__file__)
"""Files and folders whose lines say nothing about the user's code."""


def is_entry(text: str) -> bool:
    """Whether a text has the form `module:function` and is not an existing path."""
    try:
        return bool(NAME.fullmatch(text)) and not Path(text).exists()
    except OSError:  # it is too long for a path
        return True


def function_named(text: str, option: str) -> Callable[..., Any]:
    """The function `module:function`; the working directory is searched first.

    Raises:
        DataError: the module cannot be imported, or has no such function.
    """
    if not NAME.fullmatch(text):
        raise DataError(f"{option}: got '{text}', expected module:function, such as mine:feeds for feeds in mine.py")
    module, _, name = text.partition(":")
    if "" not in sys.path:  # permanently: the function may import more when it runs
        sys.path.insert(0, "")
    with one_line(f"{option}: importing '{module}'"):
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part, None)
    if not callable(found):
        raise DataError(f"{option}: '{module}' has no function '{name}'")
    return found  # type: ignore[no-any-return]


def data_of_entry(text: str, model: ModelProto, most: int, path: str | None = None) -> Data:
    """Samples that a function yields: input name -> array, each a single sample or a batch, optionally with a `label`.

    Args:
        text: `module:function`. It is called without arguments, or with the path of the model if a parameter is required.
        model: the model to feed.
        most: number of samples after which no more are requested.
        path: path of the model.

    Raises:
        DataError: the function fails, or yields no samples, or samples that do not match the model.
    """
    feeds = function_named(text, "--data")
    return data_of_calls(_called(feeds, text, inputs_of(model), most, path), model, f"--data {text}")


def _called(feeds: Callable[..., Any], text: str, facts: Mapping[str, Fact], most: int, path: str | None) -> Iterator[Any]:
    """What the function yields, until there are enough samples."""
    total, end = 0, object()
    with one_line(f"--data {text}"):
        made = feeds(*_arguments(feeds, path))
        _check_yields(made, text)
        iterator = iter(made)
    while total < most:
        with one_line(f"--data {text}, at sample {total} (counted from 0)"):
            call = next(iterator, end)
            if call is end:
                return
            # copies: functions may fill the same array again and again
            call = {name: np.array(x) for name, x in named(call, facts, f"--data {text}").items()}
        yield call
        total += _size(call, facts)


def _check_yields(made: Any, text: str) -> None:
    """Reject what a function returns that is meant otherwise than as a series of samples."""
    if inspect.iscoroutine(made):
        made.close()  # else a warning follows
    asynchronous = inspect.iscoroutine(made) or inspect.isasyncgen(made)
    kinds = {"None": made is None, "a dict": isinstance(made, Mapping), "text": isinstance(made, str | bytes)}
    kinds["what only await understands"] = asynchronous
    if got := next((kind for kind, holds in kinds.items() if holds), None):
        advice = "expected it to yield a dict input name -> array for each sample or batch (or to return a list of them)"
        raise DataError(f"--data {text}: the function returned {got}, {advice}")


def _arguments(feeds: Callable[..., Any], path: str | None) -> list[str]:
    parameters = inspect.signature(feeds).parameters.values()
    return [path or ""] if any(p.default is p.empty and p.kind <= p.POSITIONAL_OR_KEYWORD for p in parameters) else []


def _size(call: Any, facts: Mapping[str, Fact]) -> int:
    """Number of samples in a yielded value; 1 if it has no sample axis."""
    name, fact = next(iter(facts.items()))
    shape = np.shape(call[name]) if isinstance(call, Mapping) and name in call else ()
    return max(1, shape[0]) if fact.shape is not None and 0 < len(fact.shape) == len(shape) else 1


_theirs: dict[Path, Path] = {}
"""The working folder of the program -> the one that the user's code chose instead."""


@contextmanager
def at_home() -> Iterator[None]:
    """Run the user's code in the working folder that it chose last; that of the program, where outputs go, stays the same."""
    ours = _working_folder()
    if ours in _theirs:
        with suppress(OSError):
            os.chdir(_theirs[ours])
    try:
        yield
    finally:
        here = _working_folder()
        _theirs.clear()
        if ours and here != ours:
            os.chdir(ours)
            _theirs.update({ours: here} if here else {})


def _working_folder() -> Path | None:
    """The working folder; None if it was removed."""
    with suppress(OSError):
        return Path.cwd()
    return None


@contextmanager
def one_line(what: str) -> Iterator[None]:
    """Report any exception of the user's code in one line, with its location; also if it calls `sys.exit`.

    Ctrl-C remains an interrupt, and an error that is already one line remains as it is.
    """
    try:
        with at_home():
            yield
    except (PruneError, KeyboardInterrupt):
        raise
    except BaseException as e:
        raise DataError(f"{what}: {raised(e)}") from e


def raised(e: BaseException) -> str:
    """An exception of the user's code as a text, with its location."""
    frames = [f for f in traceback.extract_tb(e.__traceback__) if not f.filename.startswith((*OURS, "<"))]
    at = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    try:
        text = " ".join(str(e).split())[:200]
    except Exception:  # its text is the user's code, too
        text = ""
    return f"{type(e).__name__}: {text}{at}"


def name_of(metric: Callable[..., Any] | None) -> str:
    """What a metric is called in reports: the name of the function, or of what it was made from; top-1 if there is none."""
    if metric is None:
        return "top-1"
    inner = getattr(metric, "func", metric)  # of functools.partial
    return printable(str(getattr(inner, "__name__", None) or type(inner).__name__))
