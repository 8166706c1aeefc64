# SPDX-License-Identifier: Apache-2.0
"""`onnxprune MODEL`, and `onnxprune apply`, which shares its last steps."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from onnxprune.cli import options as ask
from onnxprune.cli import signals, written
from onnxprune.cli.progress import print_all, progress_bars
from onnxprune.ir.packing import named_after
from onnxprune.ir.placing import data_beside, write_texts
from onnxprune.ir.saving import Saved
from onnxprune.options import CheckOptions, Options, OutputOptions
from onnxprune.pipeline.apply import apply_loaded
from onnxprune.pipeline.prune import prune_loaded
from onnxprune.pipeline.refusal import opened
from onnxprune.pipeline.result import Result
from onnxprune.report.layers import layer_changes
from onnxprune.report.render.json import to_json
from onnxprune.report.render.svg import cut_to_svg
from onnxprune.report.render.table import report_parts
from onnxprune.report.values import Report
from onnxprune.rewrite.plan import Plan

ENDING = ".pruned.onnx"


def prune(
    model: ask.Model,
    ratio: ask.Ratio = None,
    macs: ask.Macs = None,
    params: ask.Params = None,
    size: ask.Size = None,
    memory: ask.Memory = None,
    latency: ask.LatencyTarget = None,
    max_loss: ask.MaxLoss = None,
    criterion: ask.Criterion = None,
    scores: ask.Scores = None,
    scope: ask.Scope = "global",
    widths: ask.Widths = "order",
    normalise: ask.Normalise = None,
    layer_ratios: ask.LayerRatios = None,
    align: ask.Align = "auto",
    profile: ask.Profile = None,
    other_machine: ask.OtherMachine = False,
    include: ask.Include = [],  # noqa: B006
    exclude: ask.Exclude = [],  # noqa: B006
    carrier: ask.Carrier = [],  # noqa: B006
    depth: ask.Depth = False,
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
    work: ask.Work = None,
    unify: ask.Unify = None,
    share: ask.Share = None,
    zero: ask.Zero = 0.0,
    all_layers: ask.AllLayers = False,
    runtime: ask.Runtime = None,
    verify: ask.Verify = True,
    bench: ask.Bench = True,
    threads: ask.Threads = 1,
    output: ask.Output = None,
    pack: ask.Pack = None,
    plan: ask.PlanFile = None,
    picture: ask.Picture = None,
    format: ask.Printed = ask.Format.TABLE,
    force: ask.Force = False,
    strict: ask.Strict = False,
    dry_run: ask.DryRun = False,
) -> None:
    """Remove channels from MODEL (the default command)."""
    options = Options.of(
        ratio=ratio,
        macs=macs,
        params=params,
        size=size,
        memory=memory,
        latency=latency,
        max_loss=max_loss,
        criterion=criterion,
        scores=scores,
        scope=scope,
        widths=widths,
        normalise=normalise,
        layer_ratios=layer_ratios,
        align=align,
        profile=profile,
        other_machine=other_machine,
        include=include,
        exclude=exclude,
        carrier=carrier,
        depth=depth,
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
        work=work,
        unify=unify,
        share=share,
        zero=zero,
        all_layers=all_layers,
        runtime=runtime,
        verify=verify,
        bench=bench,
        threads=threads,
    )
    ask.check_shapes(input_shape)
    out = ask.output_of(output, model, ENDING, pack)
    places = OutputOptions(out, plan or named_after(out, ".plan.json"), picture, force, strict, dry_run)
    inputs = [model, *files(scores, layer_ratios, profile, data, labels, work)]
    ask.check_places(places, *inputs)
    ask.tell_left(places)
    options = ask.looked_up(options)
    loaded = opened(model)
    ask.check_places_for(places, loaded, *inputs)
    options = replace(options, data=replace(options.data, input_shape=ask.shapes_of(input_shape, loaded)))
    with progress_bars() as progress:
        result = prune_loaded(loaded, options, progress)
    if places.strict and result.report.missed:
        show(result.report, format)
    drawn = {}
    if picture:
        drawn[picture] = cut_to_svg(result.report, layer_changes(loaded.model, result.model, result.report.inputs))
    show(saved(result, places, drawn), format)


def apply(
    model: ask.Model,
    plan_file: Annotated[Path, typer.Argument(metavar="PLAN.json", help="A plan written by onnxprune.")],
    input_shape: ask.InputShape = [],  # noqa: B006
    verify: ask.Verify = True,
    bench: ask.Bench = True,
    threads: ask.Threads = 1,
    output: ask.Output = None,
    pack: ask.Pack = None,
    format: ask.Printed = ask.Format.TABLE,
    force: ask.Force = False,
) -> None:
    """Cut MODEL according to an existing plan; MODEL may be a retrained copy with the same graph."""
    checks = CheckOptions(verify, bench, threads)
    ask.check_shapes(input_shape)
    places = OutputOptions(ask.output_of(output, model, ENDING, pack), force=force)
    ask.check_places(places, model, plan_file)
    ask.tell_left(places)
    plan = Plan.load(plan_file)
    loaded = opened(model)
    ask.check_places_for(places, loaded, model, plan_file)
    with progress_bars() as progress:
        result = apply_loaded(loaded, plan, ask.shapes_of(input_shape, loaded), checks, progress)
    show(saved(result, places), format)


def files(*named: str | Path | None) -> list[Path]:
    """Those of the named inputs that are files."""
    return [Path(name) for name in named if name is not None and os.path.isfile(name)]  # noqa: PTH113 - False if too long


def saved(result: Result, places: OutputOptions, pictures: Mapping[Path, str] | None = None) -> Report:
    """Write the files, and name them in the report."""
    signals.check()
    if places.dry_run:
        return _without_model(result, places, pictures or {})
    found = result.save(places.output, places.plan, places.force, pictures)
    written.wrote(places.output, found.data, places.plan, *(pictures or {}))
    report = replace(result.report, output=str(places.output), plan=str(places.plan or ""))
    return replace(report, notes=(*report.notes, *_moved(found, places.output)))


def _without_model(result: Result, places: OutputOptions, pictures: Mapping[Path, str]) -> Report:
    """Write all files but the model."""
    texts = {**({places.plan: result.plan.to_json()} if places.plan else {}), **pictures}
    write_texts(texts, places.force)
    written.wrote(*texts)
    return replace(result.report, plan=str(places.plan or ""))


def _moved(found: Saved, output: Path) -> Iterator[str]:
    """Notes on where weights are, if not where they usually are, and which are gone."""
    if found.data and found.data != data_beside(output):
        yield f"the weights are in {found.data}, because {data_beside(output).name} exists"
    if found.removed:
        yield f"the weights of the model that was replaced were removed: {', '.join(map(str, found.removed))}"


def show(report: Report, format: ask.Format) -> None:
    """Print the report, and exit with 1 if a stated limit was missed."""
    if format is ask.Format.JSON:
        print(to_json(report))
    else:
        print_all(report_parts(report))
    if report.missed:
        written = "the files were written" if report.plan else "nothing was written (--strict)"
        print(f"onnxprune: a requested limit was missed; {written}, and the report says why", file=sys.stderr)
        raise typer.Exit(1)
