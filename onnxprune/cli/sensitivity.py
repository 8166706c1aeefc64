# SPDX-License-Identifier: Apache-2.0
"""`onnxprune sensitivity`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from onnxprune.cli import options as ask
from onnxprune.cli.progress import print_all, progress_bars
from onnxprune.cli.prune import files
from onnxprune.cli.written import wrote
from onnxprune.errors import OptionError
from onnxprune.figures import new_figure
from onnxprune.ir.files import check_is_file
from onnxprune.ir.placing import check_distinct, check_folder, check_output, check_outputs, write_text
from onnxprune.options import Options, check_picture
from onnxprune.pipeline.refusal import opened
from onnxprune.pipeline.sensitivity import RATIOS, check_ratios, sensitivity_loaded
from onnxprune.report.render.sensitivity import draw, sensitivity_parts
from onnxprune.report.sensitivity import Sensitivity
from onnxprune.selection.budget import fraction

ENDING = ".sensitivity.json"
USUAL = ",".join(f"{r:g}" for r in RATIOS)

Ratios = Annotated[
    str,
    typer.Option(
        "--ratios",
        metavar="R,R,...",
        rich_help_panel=ask.SELECTION,
        help="Fractions of the channels of a group to remove.",
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        metavar="N",
        rich_help_panel=ask.CHECKS,
        help="Cuts judged at a time. Default: one per core.",
        show_default=False,
    ),
]
MaxLoss = Annotated[
    str | None,
    typer.Option(
        "--max-loss",
        metavar="V",
        rich_help_panel=ask.OUTPUT,
        help="What a group alone may lose, such as 1%, in the file of --layer-ratios.",
        show_default=False,
    ),
]
LayerRatios = Annotated[
    Path | None,
    typer.Option(
        "--layer-ratios",
        metavar="FILE.toml",
        rich_help_panel=ask.OUTPUT,
        help="Write floors for 'onnxprune MODEL --layer-ratios FILE.toml': no group is cut deeper than it may be alone.",
        show_default=False,
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="OUT.json",
        rich_help_panel=ask.OUTPUT,
        help="File for the result; a .csv of the same name is written beside it. If it holds a part of the same run, only what "
        "is missing is done. Default: MODEL.sensitivity.json.",
        show_default=False,
    ),
]


def sensitivity(
    model: ask.Model,
    data: ask.Data = None,
    ratios: Ratios = USUAL,
    criterion: ask.Criterion = None,
    include: ask.Include = [],  # noqa: B006
    exclude: ask.Exclude = [],  # noqa: B006
    preprocess: ask.Preprocess = None,
    samples: ask.Samples = None,
    labels: ask.Labels = None,
    metric: ask.Metric = None,
    input_shape: ask.InputShape = [],  # noqa: B006
    seed: ask.Seed = 0,
    jobs: Jobs = None,
    output: Output = None,
    picture: ask.Picture = None,
    max_loss: MaxLoss = None,
    layer_ratios: LayerRatios = None,
    format: ask.Printed = ask.Format.TABLE,
    force: ask.Force = False,
) -> None:
    """Cut each group of channels of MODEL alone, and show how far the outputs move: what each layer is worth."""
    wanted = _ratios(ratios)
    options = Options.of(
        ratio=0.0,
        criterion=criterion,
        include=tuple(include),
        exclude=tuple(exclude),
        data=data,
        preprocess=preprocess,
        samples=samples,
        labels=labels,
        metric=metric,
        seed=seed,
        recover="none",
    )
    if not options.data.given:
        raise OptionError("sensitivity: requires --data, typical inputs; labels are not needed")
    if (layer_ratios is None) != (max_loss is None):
        raise OptionError(
            "--layer-ratios, --max-loss: got one of them, expected both: the file, and what a group may lose in it"
        )
    most = 0.0 if max_loss is None else fraction(max_loss, "--max-loss")
    if jobs is not None and jobs < 1:
        raise OptionError(f"--jobs: got {jobs}, expected at least 1")
    ask.check_shapes(input_shape)
    check_picture(picture)
    if output is None:
        check_is_file(model)
    place = output or model.with_name(model.name.removesuffix(".zst").removesuffix(".onnx") + ENDING)
    check_folder(place)
    table = place.with_suffix(".csv")
    if table == place:
        raise OptionError(f"--output: got '{place}', expected another name for the JSON: the table is written to this one")
    options = ask.looked_up(options)
    loaded = opened(model)
    inputs = [model, *loaded.data, *files(data, labels)]
    known = Sensitivity.read(place) if place.is_file() and not force else None
    others = {"table": table, "picture": picture, "ratios": layer_ratios}
    check_distinct({"report": place, **others})
    check_output(place, True, *inputs)
    check_outputs(others, force or known is not None, *inputs)
    if picture is not None:
        new_figure(1, 1)  # whether it can be drawn shows before the work
    options = replace(options, data=replace(options.data, input_shape=ask.shapes_of(input_shape, loaded)))
    with progress_bars() as progress:
        found = sensitivity_loaded(
            loaded, options, wanted, jobs, known, lambda part: write_text(place, part.to_json()), progress
        )
    wrote(place)
    write_text(table, found.to_csv())
    wrote(table)
    if layer_ratios is not None:
        write_text(layer_ratios, found.to_toml(most))
        wrote(layer_ratios)
    if picture is not None:
        draw(found, picture)
        wrote(picture)
    if format is ask.Format.JSON:
        print(found.to_json())
        return
    print_all(sensitivity_parts(found))
    print(f"wrote {', '.join(str(p) for p in (place, table, picture, layer_ratios) if p is not None)}")


def _ratios(text: str) -> tuple[float, ...]:
    try:
        return check_ratios([float(part) for part in text.split(",")])
    except ValueError as e:
        raise OptionError(f"--ratios: got '{text}', expected fractions to remove, as 0.25,0.5,0.75") from e
