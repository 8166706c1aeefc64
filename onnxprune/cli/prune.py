# SPDX-License-Identifier: Apache-2.0
"""`onnxprune MODEL`, and `apply`, which ends in the same way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from onnxprune.cli import options as ask
from onnxprune.cli.progress import console, progress_bars
from onnxprune.ir.files import check_output, load
from onnxprune.options import CheckOptions, Options, OutputOptions
from onnxprune.pipeline.prune import apply_loaded, look_up, prune_loaded
from onnxprune.pipeline.result import Result
from onnxprune.report.render.json import to_json
from onnxprune.report.render.table import print_report
from onnxprune.rewrite.plan import Plan


def prune(
    model: ask.Model,
    ratio: ask.Ratio = None,
    macs: ask.Macs = None,
    criterion: ask.Criterion = None,
    scores: ask.Scores = None,
    scope: ask.Scope = "global",
    align: ask.Align = "auto",
    include: ask.Include = [],  # noqa: B006
    exclude: ask.Exclude = [],  # noqa: B006
    carrier: ask.Carrier = [],  # noqa: B006
    allow_renormalising: ask.AllowRenormalising = False,
    data: ask.Data = None,
    preprocess: ask.Preprocess = None,
    samples: ask.Samples = None,
    labels: ask.Labels = None,
    metric: ask.Metric = None,
    input_shape: ask.InputShape = [],  # noqa: B006
    seed: ask.Seed = 0,
    recover: ask.Recover = "auto",
    rounds: ask.Rounds = 1,
    time_budget: ask.TimeBudget = None,
    verify: ask.Verify = True,
    bench: ask.Bench = True,
    threads: ask.Threads = 1,
    output: ask.Output = None,
    plan: ask.PlanFile = None,
    format: ask.Printed = ask.Format.TABLE,
    force: ask.Force = False,
) -> None:
    """Remove channels from MODEL (the default command)."""
    options = Options.of(
        ratio=ratio,
        macs=macs,
        criterion=criterion,
        scores=scores,
        scope=scope,
        align=align,
        include=include,
        exclude=exclude,
        carrier=carrier,
        allow_renormalising=allow_renormalising,
        data=data,
        preprocess=preprocess,
        samples=samples,
        labels=labels,
        metric=metric,
        seed=seed,
        recover=recover,
        rounds=rounds,
        time_budget=time_budget,
        verify=verify,
        bench=bench,
        threads=threads,
    )
    ask.check_shapes(input_shape)
    look_up(options)
    out = output or model.with_suffix(".pruned.onnx")
    places = OutputOptions(out, plan or out.with_suffix(".plan.json"), force)
    _check_places(places, model)
    loaded = load(model)
    _check_places(places, model, *loaded.data)
    options = replace(options, data=replace(options.data, input_shape=ask.shapes_of(input_shape, loaded)))
    with progress_bars() as progress:
        result = prune_loaded(loaded, options, progress)
    _deliver(result, places, format)


def apply(
    model: ask.Model,
    plan_file: Annotated[Path, typer.Argument(metavar="PLAN.json", help="A plan that onnxprune wrote.")],
    input_shape: ask.InputShape = [],  # noqa: B006
    verify: ask.Verify = True,
    bench: ask.Bench = True,
    threads: ask.Threads = 1,
    output: ask.Output = None,
    format: ask.Printed = ask.Format.TABLE,
    force: ask.Force = False,
) -> None:
    """Cut MODEL by a plan made earlier (also a retrained copy with the same graph)."""
    checks = CheckOptions(verify, bench, threads)
    ask.check_shapes(input_shape)
    places = OutputOptions(output or model.with_suffix(".pruned.onnx"), None, force)
    _check_places(places, model, plan_file)
    plan = Plan.load(plan_file)
    loaded = load(model)
    _check_places(places, model, plan_file, *loaded.data)
    with progress_bars() as progress:
        result = apply_loaded(loaded, plan, ask.shapes_of(input_shape, loaded), checks, progress)
    _deliver(result, places, format)


def _check_places(places: OutputOptions, *inputs: Path) -> None:
    """Nothing that is read is written to, and all can be written."""
    for place in (places.output, places.plan):
        if place is not None:
            check_output(place, places.force, *inputs)


def _deliver(result: Result, places: OutputOptions, format: ask.Format) -> None:
    """Write the files, print the report, and exit with 1 where a stated limit was missed."""
    result.save(places.output, places.plan)
    report = replace(result.report, output=str(places.output))
    if format is ask.Format.JSON:
        print(to_json(report))
    else:
        print_report(report, console())
    if report.missed:
        raise typer.Exit(1)
