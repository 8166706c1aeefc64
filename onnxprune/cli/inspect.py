# SPDX-License-Identifier: Apache-2.0
"""`onnxprune inspect`."""

from __future__ import annotations

from rich.text import Text

from onnxprune.analysis.analyse import analyse
from onnxprune.analysis.policy import Policy, read_carrier
from onnxprune.cli import options as ask
from onnxprune.cli.progress import has_blocks, print_all, progress_bars
from onnxprune.cli.written import wrote
from onnxprune.compression.carrier import unified_names
from onnxprune.errors import counted
from onnxprune.ir.facts import read_graph
from onnxprune.ir.placing import check_output, write_text
from onnxprune.options import check_picture
from onnxprune.pipeline.refusal import opened, refusing
from onnxprune.report.inspection import inspect as look_at
from onnxprune.report.render.inspection import inspection_parts
from onnxprune.report.render.json import to_json
from onnxprune.report.render.svg import inspection_to_svg


def inspect(
    model: ask.Model,
    carrier: ask.Carrier = [],  # noqa: B006
    allow_renormalising: ask.AllowRenormalising = False,
    input_shape: ask.InputShape = [],  # noqa: B006
    picture: ask.Picture = None,
    format: ask.Printed = ask.Format.TABLE,
    force: ask.Force = False,
) -> None:
    """Show the groups of channels, what cannot be cut and why, and the share of the MACs that each accounts for."""
    policy = Policy(read_carrier(carrier), allow_renormalising)
    ask.check_shapes(input_shape)
    check_picture(picture)
    if picture is not None:
        check_output(picture, force, model)
    loaded = opened(model)
    if picture is not None:
        check_output(picture, force, model, *loaded.data)
    shapes = ask.shapes_of(input_shape, loaded)
    with refusing(loaded, shapes), progress_bars() as progress:
        progress("analyse", 0)
        analysis = analyse(read_graph(loaded.model, shapes), policy)
        found = look_at(analysis, str(model))
    if picture is not None:
        write_text(picture, inspection_to_svg(found), force)
        wrote(picture)
    if format is ask.Format.JSON:
        print(to_json(found, "inspection"))
    else:
        print_all(inspection_parts(found, has_blocks()))
        if names := unified_names(loaded.model):
            first = f"{counted(len(names), 'weight')} in blocks of one magnitude, such as {names[0]}"
            print_all([Text(f"note: {first}, cannot be cut; inspect the original")])
