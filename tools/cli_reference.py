#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Prints docs/cli.md from the program's help; a test compares the page with it.

usage: python tools/cli_reference.py > docs/cli.md
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import typer.main

from onnxprune.cli.app import app

HEAD = """# Command line

Printed by `python tools/cli_reference.py` from the program's help. The options of the default command are the keywords of
[`onnxprune.prune`](python.md), in the same groups; those of output files are arguments of `Result.save` there.

Exit status: 0 success; 1 a requested limit was missed (files are written) or verification failed (nothing is written); 2
invalid command or input, with one line on stderr that names the problem and the remedy; 130 stopped by Ctrl-C
([others](pipelines.md)). Results go to
stdout, progress and messages to stderr. Files are written completely or not at all, and the input is never changed.
"""


def plain(text: str) -> str:
    """Help without terminal markup, on one line."""
    return " ".join(re.sub(r"\\\[", "[", re.sub(r"\[/?(?:bold)?\]", "", text)).split())


def cell(text: str) -> str:
    """Text escaped for a Markdown table."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def names(option: Any) -> str:
    """The spellings of an option, with its metavar."""
    written = "`, `".join([*option.opts, *option.secondary_opts])
    metavar = "" if option.is_flag else f" {option.metavar}"
    return f"`{written}{metavar}`"


def default(option: Any) -> str:
    """The default of an option; empty if the help states it or there is none."""
    hidden = not option.show_default or option.default in (None, [], ()) or (option.is_flag and not option.secondary_opts)
    if hidden:
        return ""
    value = option.opts[0] if option.is_flag else getattr(option.default, "value", option.default)
    return f" Default: `{value}`."


def panels(command: Any) -> dict[str, list[Any]]:
    """The options of a command by panel, in the order of the help."""
    found: dict[str, list[Any]] = {}
    for option in command.params:
        if option.param_type_name == "option":
            found.setdefault(option.rich_help_panel or "Options", []).append(option)
    return found


def section(name: str, command: Any) -> Iterator[str]:
    """One command."""
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    call = " ".join(["onnxprune", name, *(a.metavar or a.name.upper() for a in arguments), "[OPTIONS]"])
    yield f"## {name}\n\n    {call}\n\n{plain(command.help)}\n"
    for argument in arguments:
        yield f"- `{argument.metavar or argument.name.upper()}`: {plain(argument.help or '')}"
    for panel, options in panels(command).items():
        yield f"\n| {panel.lower()} | |\n|---|---|"
        yield from (f"| {cell(names(o))} | {cell(plain(o.help or '') + default(o))} |" for o in options)
    yield ""


def page() -> str:
    """The whole page."""
    group: Any = typer.main.get_command(app)
    lines = [HEAD, *(line for name, command in group.commands.items() for line in section(name, command))]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    print(page(), end="")
