# SPDX-License-Identifier: Apache-2.0
"""User-defined functions, given on the command line as `module:function`."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from onnxprune.data.arrays import data_of_calls, inputs_of
from onnxprune.data.samples import Data
from onnxprune.errors import DataError
from onnxprune.ir.graph import Fact

NAME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")

OURS = (__file__, contextlib.__file__, importlib.__file__)


def is_entry(text: str) -> bool:
    """Whether a text has the form `module:function` and is not an existing path."""
    return bool(NAME.fullmatch(text)) and not Path(text).exists()


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
    total = 0
    with one_line(f"--data {text}"):
        iterator = iter(feeds(*_arguments(feeds, path)))
    while total < most:
        with one_line(f"--data {text}, at sample {total + 1}"):
            call = next(iterator, None)
        if call is None:
            return
        yield call
        total += _size(call, facts)


def _arguments(feeds: Callable[..., Any], path: str | None) -> list[str]:
    parameters = inspect.signature(feeds).parameters.values()
    return [path or ""] if any(p.default is p.empty and p.kind <= p.POSITIONAL_OR_KEYWORD for p in parameters) else []


def _size(call: Any, facts: Mapping[str, Fact]) -> int:
    """Number of samples in a yielded value; 1 if it has no sample axis."""
    name, fact = next(iter(facts.items()))
    shape = np.shape(call[name]) if isinstance(call, Mapping) and name in call else ()
    return max(1, shape[0]) if fact.shape is not None and 0 < len(fact.shape) == len(shape) else 1


@contextmanager
def one_line(what: str) -> Iterator[None]:
    """Report any exception of the user's code in one line, with its location; also if it calls `sys.exit`."""
    try:
        yield
    except (Exception, SystemExit) as e:
        frames = [f for f in traceback.extract_tb(e.__traceback__) if f.filename not in OURS and f.filename[0] != "<"]
        at = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
        raise DataError(f"{what}: {type(e).__name__}: {' '.join(str(e).split())[:200]}{at}") from e
