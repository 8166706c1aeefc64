# SPDX-License-Identifier: Apache-2.0
"""The command-line program: every failure is one line on stderr and an exit status."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from onnxprune.cli import signals, written
from onnxprune.cli.bench import bench
from onnxprune.cli.explain import explain
from onnxprune.cli.inspect import inspect
from onnxprune.cli.profile import profile
from onnxprune.cli.prune import apply, prune
from onnxprune.cli.search import search
from onnxprune.cli.sensitivity import sensitivity
from onnxprune.cli.streams import drop_output, give_streams
from onnxprune.cli.unify import unify
from onnxprune.cli.verify import verify
from onnxprune.errors import OptionError, PruneError, VerificationError, did_you_mean, printable
from onnxprune.ir.scratch import swept, temporary_folder
from onnxprune.version import __version__

# newer releases of typer bundle click and older ones import it; the base class is at the same position in both
USAGE_ERROR: Any = typer.BadParameter.__mro__[2]
INTERRUPTED = 130
LONGEST = 160
"""Characters of a word in a message, most often a path or a name, that is shown whole."""


class PruneIsDefault(TyperGroup):
    """`onnxprune MODEL --ratio R` means `onnxprune prune MODEL --ratio R`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Treat the first argument as a model if it does not name a command, and does not look like a misspelt one."""
        if args and self.get_command(ctx, args[0]) is None:
            hint = did_you_mean(args[0], self.list_commands(ctx))
            if hint and not Path(args[0]).exists():
                raise OptionError(f"'{args[0]}' is neither a command nor a file; {hint.strip()}")
            args = ["prune", *args]
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Options before the model also belong to `prune`, except those of the program itself."""
        own = {name for parameter in self.get_params(ctx) for name in parameter.opts}
        if args and args[0].startswith("-") and args[0] not in own:
            args = ["prune", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=PruneIsDefault,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
)
COMMANDS = {
    command.__name__: command
    for command in (prune, apply, unify, inspect, explain, profile, sensitivity, search, verify, bench)
}
for command in COMMANDS.values():
    app.command()(command)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"onnxprune {__version__}")
        raise typer.Exit


USAGE = (
    "Make a trained ONNX network smaller and faster: remove channels, verify the result, measure it.\n\n"
    "Typical usage: [bold]onnxprune MODEL.onnx --ratio 0.5[/]. This writes MODEL.pruned.onnx and its plan, and reports what "
    "was asked, what was reached and what held it back. [bold]onnxprune prune --help[/] lists all options."
)


@app.callback(help=USAGE)
def program(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """The options of the program itself."""


def run(arguments: Sequence[str] | None = None) -> int:
    """The exit status of a command line.

    0 done; 1 a stated limit was missed; 2 wrong command or input; 128 and the number of the signal that ended it: 130 Ctrl-C.
    """
    give_streams()
    written.forget()
    for line in swept(temporary_folder()):
        print(f"onnxprune: note: {line}", file=sys.stderr)
    try:
        status = _result(list(arguments) if arguments is not None else None)
        sys.stdout.flush()
    except BrokenPipeError:
        drop_output()
        return 141
    except OSError as e:
        drop_output()
        return _fail(f"standard output: {e.strerror}; {written.sentence()}", 2)
    return status


def _result(arguments: list[str] | None) -> int:
    """The exit status of a command, with one line on stderr if it fails."""
    try:
        try:
            status = app(arguments, standalone_mode=False)
        except Exception as e:
            if signals.arrived() and not isinstance(e, BrokenPipeError):
                raise KeyboardInterrupt from e  # a library has made an error of its own of it
            raise
        if status == INTERRUPTED:  # newer releases of typer turn Ctrl-C into a status, older ones let it through
            raise KeyboardInterrupt
        signals.check()  # one that arrived and was lost
        return status if isinstance(status, int) else 0
    except VerificationError as e:
        return _fail(f"verification failed: {e.message}", 1)
    except PruneError as e:
        return _fail(e.message, 2)
    except (typer.Abort, KeyboardInterrupt):
        return _fail(f"{signals.sentence()}; {written.sentence()}", signals.status())
    except USAGE_ERROR as e:
        text = e.format_message()  # empty if help was shown because there were no arguments
        command = getattr(getattr(e, "ctx", None), "info_name", None)
        page = f"onnxprune {command} --help" if command in COMMANDS else "onnxprune --help"
        return _fail(f"{text.rstrip('.')}; see '{page}'", 2) if text else 2
    except BrokenPipeError:
        raise
    except SystemExit as e:
        if isinstance(e.__context__, BrokenPipeError):  # what click makes of it
            raise BrokenPipeError from e
        raise
    except OSError as e:
        return _fail(f"{e.filename or 'standard output'}: {e.strerror}; {written.sentence()}", 2)
    except MemoryError:
        return _fail(f"out of memory; use a machine with more memory or a smaller --input-shape; {written.sentence()}", 2)
    except Exception as e:  # a bug in this program
        if os.environ.get("ONNXPRUNE_TRACEBACK"):
            raise
        why = f"{type(e).__name__}: {' '.join(printable(str(e)).split())}"[:300]
        return _fail(f"internal error, {written.sentence()}: {why}; please report it (ONNXPRUNE_TRACEBACK=1 for details)", 2)


def _fail(message: str, status: int) -> int:
    words = (word if len(word) <= LONGEST else f"{word[:40]}...{word[-40:]}" for word in message.split())
    with contextlib.suppress(OSError):  # nobody can be told, but the status says it
        print("onnxprune: " + printable(" ".join(words)), file=sys.stderr)
    return status
