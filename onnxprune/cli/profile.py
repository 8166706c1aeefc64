# SPDX-License-Identifier: Apache-2.0
"""`onnxprune profile`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxprune.cli import options as ask
from onnxprune.cli.progress import print_all, progress_bars
from onnxprune.cli.written import wrote
from onnxprune.figures import new_figure
from onnxprune.ir.placing import check_outputs, write_text
from onnxprune.options import CheckOptions, check_picture
from onnxprune.pipeline.profile import kept, measured, remembered
from onnxprune.report.render.profile import draw, profile_parts

Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        rich_help_panel=ask.OUTPUT,
        help="Also write the profile to this file, for 'onnxprune MODEL --profile FILE' on any machine.",
        show_default=False,
    ),
]


def profile(
    threads: ask.Threads = 1,
    output: Output = None,
    picture: ask.Picture = None,
    format: ask.Printed = ask.Format.TABLE,
    force: ask.Force = False,
) -> None:
    """Measure the widths at which onnxruntime is fast on this machine, in up to a minute, and remember them."""
    CheckOptions(threads=threads)
    check_picture(picture)
    check_outputs({"profile": output, "picture": picture}, force)
    if picture is not None:
        new_figure(1, 1)  # whether it can be drawn shows before the work
    with progress_bars() as progress:
        found = kept(measured(threads, progress=progress))
    if output is not None:
        write_text(output, found.to_json(), force)
        wrote(output)
    if picture is not None:
        draw(found, picture)
        wrote(picture)
    if format is ask.Format.JSON:
        print(found.to_json(), end="")
        return
    print_all(profile_parts(found))
    places = [p for p in (output, picture, remembered(found.machine)) if p is not None and p.is_file()]
    print(f"wrote {', '.join(map(str, places))}")
