# SPDX-License-Identifier: Apache-2.0
"""`onnxprune search`."""

from __future__ import annotations

import sys
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
from onnxprune.ir.packing import named_after
from onnxprune.ir.placing import check_distinct, check_outputs, write_text
from onnxprune.options import SCOPES, Options, check_picture
from onnxprune.pipeline.refusal import opened
from onnxprune.report.render.search import draw, search_parts

ENDING = ".searched.onnx"
INTERRUPTED = 130
SEARCH = "Search"

Scope = Annotated[
    str | None,
    typer.Option(
        "--scope",
        metavar="|".join(SCOPES),
        rich_help_panel=ask.SELECTION,
        help="As of prune. Default: all are tried, as are criteria and ways to normalise that are not given.",
        show_default=False,
    ),
]
Depth = Annotated[
    bool,
    typer.Option(
        "--depth",
        rich_help_panel=ask.SELECTION,
        help="Also try cuts without some whole residual branches, each with the widths that then meet the targets.",
    ),
]
Trials = Annotated[
    int | None,
    typer.Option(
        "--trials",
        metavar="N",
        rich_help_panel=SEARCH,
        help="Number of cuts to try, those of earlier runs and other processes included. Default: 100, or with --time-budget "
        "as many as there is time for.",
        show_default=False,
    ),
]
Budget = Annotated[
    str | None,
    typer.Option(
        "--time-budget",
        metavar="TIME",
        rich_help_panel=SEARCH,
        help="Time for trials and for the recovery of the best, such as 10m or 1h. Default: any for trials, and 60s for each "
        "recovery (10m for --recover distill).",
        show_default=False,
    ),
]
Best = Annotated[
    int,
    typer.Option(
        "--best",
        metavar="N",
        rich_help_panel=SEARCH,
        help="How many cuts of the front are recovered, measured and written, the most faithful among them.",
    ),
]
Storage = Annotated[
    str | None,
    typer.Option(
        "--storage",
        metavar="FILE|URL",
        rich_help_panel=SEARCH,
        help="Where trials are kept: a file, or a database such as postgresql://user@host/database, with which the same "
        "command may run on several machines. Default: OUT.search.journal.",
        show_default=False,
    ),
]
StudyName = Annotated[
    str | None,
    typer.Option(
        "--study",
        metavar="NAME",
        rich_help_panel=SEARCH,
        help="The name of this search in the storage. Default: the model's.",
        show_default=False,
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="OUT.onnx",
        rich_help_panel=ask.OUTPUT,
        help="File for the most faithful model within the targets; others of the front are OUT.2.onnx, ..., and the result is "
        "OUT.search.json. Default: MODEL.searched.onnx.",
        show_default=False,
    ),
]
Picture = Annotated[
    Path | None,
    typer.Option(
        "--picture",
        metavar="FILE.svg",
        rich_help_panel=ask.OUTPUT,
        help="Also draw what is lost over what remains.",
        show_default=False,
    ),
]


def search(
    model: ask.Model,
    data: ask.Data = None,
    macs: ask.Macs = None,
    params: ask.Params = None,
    size: ask.Size = None,
    memory: ask.Memory = None,
    latency: ask.LatencyTarget = None,
    criterion: ask.Criterion = None,
    scope: Scope = None,
    normalise: ask.Normalise = None,
    layer_ratios: ask.LayerRatios = None,
    align: ask.Align = "auto",
    profile: ask.Profile = None,
    other_machine: ask.OtherMachine = False,
    include: ask.Include = [],  # noqa: B006
    exclude: ask.Exclude = [],  # noqa: B006
    carrier: ask.Carrier = [],  # noqa: B006
    depth: Depth = False,
    allow_renormalising: ask.AllowRenormalising = False,
    preprocess: ask.Preprocess = None,
    samples: ask.Samples = None,
    labels: ask.Labels = None,
    metric: ask.Metric = None,
    input_shape: ask.InputShape = [],  # noqa: B006
    seed: ask.Seed = 0,
    recover: ask.Recover = "auto",
    trials: Trials = None,
    time_budget: Budget = None,
    best: Best = 3,
    storage: Storage = None,
    study: StudyName = None,
    verify: ask.Verify = True,
    bench: ask.Bench = True,
    threads: ask.Threads = 1,
    output: Output = None,
    picture: Picture = None,
    format: ask.Printed = ask.Format.TABLE,
    force: ask.Force = False,
    strict: ask.Strict = False,
) -> None:
    """Look for the most faithful cut of MODEL within the targets. It may be stopped; the same command goes on."""
    from onnxprune.pipeline.search import SearchOptions, check_search, numbered, plan_beside, search_loaded

    targets = {"macs": macs, "params": params, "size": size, "memory": memory, "latency": latency}
    options = Options.of(
        **targets,
        ratio=None if any(v is not None for v in targets.values()) else 0.0,
        criterion=criterion,
        scope=scope or "global",
        normalise=normalise,
        layer_ratios=layer_ratios,
        align=align,
        profile=profile,
        other_machine=other_machine,
        include=tuple(include),
        exclude=tuple(exclude),
        carrier=tuple(carrier),
        depth=depth,
        allow_renormalising=allow_renormalising,
        data=data,
        preprocess=preprocess,
        samples=samples,
        labels=labels,
        metric=metric,
        seed=seed,
        recover=recover,
        verify=verify,
        bench=bench,
        threads=threads,
    )
    check_search(options)
    ask.check_shapes(input_shape)
    check_picture(picture)
    place = ask.output_of(output, model, ENDING, None)
    if not place.name.removesuffix(".zst").endswith(".onnx"):
        raise OptionError(f"--output: got '{place}', expected a file name that ends in .onnx")
    result, kept = (
        named_after(place, ".search.json"),
        str(named_after(place, ".search.journal")) if storage is None else storage,
    )
    how = SearchOptions.of(time_budget, storage=kept, study=study, trials=trials, best=best, scope=scope)
    inputs = [model, *files(layer_ratios, profile, data, labels)]
    models = [numbered(place, n + 1) for n in range(how.best + 1)]
    numbers = {f"model {n}": path for n, path in enumerate(models, 1)}
    plans = {f"plan of {what}": plan_beside(path) for what, path in numbers.items()}
    journal = None if "://" in kept else Path(kept)  # it goes on, so it may exist, but it is none of the other files
    check_distinct({"report": result, "picture": picture, "storage": journal, **numbers, **plans})
    check_outputs({"report": result, "picture": picture, **numbers, **plans}, force, *inputs)
    if picture is not None:
        new_figure(1, 1)  # whether it can be drawn shows before the work
    options = ask.looked_up(options)
    loaded = opened(model)
    options = replace(options, data=replace(options.data, input_shape=ask.shapes_of(input_shape, loaded)))
    try:
        with progress_bars() as progress:
            found = search_loaded(loaded, options, how, progress)
    except KeyboardInterrupt:
        print(f"onnxprune: the trials are kept in {kept}; the same command goes on with them", file=sys.stderr)
        raise
    report = found.report if strict and found.report.missed else found.save(place, force)
    if report.best.output:
        wrote(*(Path(path) for p in report.points for path in (p.output, p.plan) if path))
        write_text(result, report.to_json(), force)
        wrote(result)
        if picture is not None:
            draw(report, picture)
            wrote(picture)
    if format is ask.Format.JSON:
        print(report.to_json())
    else:
        print_all(search_parts(report))
        written = [p.output for p in report.points if p.output]
        print(f"wrote {', '.join([*written, *map(str, filter(None, (result, picture)))])}" if written else "wrote nothing")
    if report.missed:
        what = "the files were written" if report.best.output else "nothing was written (--strict)"
        print(f"onnxprune: a requested limit was missed; {what}", file=sys.stderr)
        raise typer.Exit(1)
