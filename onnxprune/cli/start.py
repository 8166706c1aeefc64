# SPDX-License-Identifier: Apache-2.0
"""Where the program starts: signals first, then the modules, which take a moment to load."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence

from onnxprune.cli import signals
from onnxprune.cli.streams import drop_output, give_streams


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line and exit."""
    give_streams()
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # those of libraries are not for users
    try:
        signals.install()
        from onnxprune.cli.app import run  # not before signals are handled

        signals.check()
        status = run(arguments)
    except KeyboardInterrupt:
        print(f"onnxprune: {signals.sentence()}; nothing was written", file=sys.stderr)
        status = signals.status()
    _leave(status)


def _leave(status: int) -> None:
    """Exit, without an error about standard output that nobody reads any more."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        drop_output()
    sys.exit(status)
