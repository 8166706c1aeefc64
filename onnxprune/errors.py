# SPDX-License-Identifier: Apache-2.0
"""Exceptions. Each message says what, where, what was expected, and what to do.

Messages name options as on the command line (`--time-budget`). In Python they appear as arguments (`time_budget`).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

OPTION = re.compile(r"(?<![\w.-])--(no-)?([a-z][a-z-]*[a-z])(?![\w-]|\.\w|/\w)")
"""An option in a message, but not a part of a path."""


COLOUR = re.compile(r"\x1b\[[0-9;]*m")
"""How a terminal is told to change colours."""


def as_arguments(text: str) -> str:
    """A message with options named as Python arguments.

    >>> as_arguments("--ratio: got 7; use --input-shape, or --no-bench")
    '`ratio`: got 7; use `input_shape`, or `bench=False`'
    >>> as_arguments("/tmp/my--model.onnx: no such file")
    '/tmp/my--model.onnx: no such file'
    """
    return OPTION.sub(lambda m: f"`{m[2].replace('-', '_')}{'=False' if m[1] else ''}`", text)


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """A hint with the closest known name, to precede what was expected; empty if none is close.

    >>> did_you_mean("ratoi", ["ratio", "macs"])
    "did you mean 'ratio'? "
    """
    near = difflib.get_close_matches(wrong, list(known), 1)
    return f"did you mean '{near[0]}'? " if near else ""


def counted(count: int, noun: str) -> str:
    """A number of things.

    >>> counted(1, "sample"), counted(2000, "sample")
    ('1 sample', '2,000 samples')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def first_line(error: BaseException, most: int = 200) -> str:
    """The first line of an exception's text, without colours and control characters; its type if it says nothing.

    >>> first_line(ValueError("no \\x1b[31msuch\\nthing")), first_line(KeyError())
    ('no such', 'KeyError')
    """
    lines = (printable(COLOUR.sub("", line)).strip() for line in str(error).splitlines())
    return next((line for line in lines if line), type(error).__name__)[:most]


def shortened(text: str, most: int) -> str:
    """A text of at most `most` characters, with dots for what is left out at its end.

    >>> shortened("a long reason", 9), shortened("short", 9)
    ('a long...', 'short')
    """
    return text if len(text) <= most else text[: most - 3] + "..."


def printable(text: str) -> str:
    """The text with a space for each character that a terminal would not print."""
    return "".join(c if c.isprintable() else " " for c in text)


class PruneError(Exception):
    """Base of all errors that a user can cause or fix.

    Attributes:
        message: the message, one line, with options named as on the command line.
    """

    def __init__(self, message: str) -> None:
        message = printable(message)
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        """The message, with options named as Python arguments."""
        return as_arguments(self.message)


class ModelError(PruneError):
    """The model file cannot be read, or is not a valid ONNX model."""


class OptionError(PruneError):
    """An option or argument is out of range, unknown, or matches nothing."""


class PlanError(PruneError):
    """A plan cannot be read, or belongs to another model."""


class OutputError(PruneError):
    """The output cannot be written."""


class DataError(PruneError):
    """Inputs given with --data do not fit the model."""


class CutError(PruneError):
    """A node could not be cut to its new sizes.

    Attributes:
        node_index: position of the node in the graph, so that the caller can keep its channels and try again.
    """

    def __init__(self, message: str, node_index: int) -> None:
        super().__init__(message)
        self.node_index = node_index


class VerificationError(PruneError):
    """The pruned model does not compute what the masked original computes."""


class TrainingError(PruneError):
    """A model cannot be trained here: PyTorch is missing, or part of the graph has no counterpart in it."""
