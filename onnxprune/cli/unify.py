# SPDX-License-Identifier: Apache-2.0
"""`onnxprune unify`."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from onnxprune.cli import options as ask
from onnxprune.cli.progress import progress_bars
from onnxprune.cli.prune import files, saved, show
from onnxprune.ir.packing import named_after
from onnxprune.options import Options, OutputOptions
from onnxprune.pipeline.prune import unify_loaded
from onnxprune.pipeline.refusal import opened

ENDING = ".unified.onnx"
BUDGET = "5m"
"""Time for all work on samples, if it is not given."""

Scope = Annotated[
    str,
    typer.Option(
        "--scope",
        metavar="global|local",
        rich_help_panel=ask.BLOCKS,
        help="--share and --zero are shares of all blocks together (global), or of those of each weight (local).",
    ),
]
Exclude = Annotated[
    list[str],
    typer.Option(
        "--exclude",
        metavar="GLOB",
        rich_help_panel=ask.BLOCKS,
        help="Leave weights as they are whose names match GLOB.",
        show_default=False,
    ),
]


def unify(
    model: ask.Model,
    block: Annotated[
        str,
        typer.Option(
            "--block",
            metavar="SIZE",
            rich_help_panel=ask.BLOCKS,
            help="Size of a block: 16 inputs, 4x4 outputs x inputs, or 1x8x3x3 with the kernel. Where a layer has fewer "
            "inputs, positions of the kernel fill a block of which only the inputs are given.",
        ),
    ] = "16",
    share: ask.Share = None,
    zero: ask.Zero = 0.0,
    scope: Scope = "global",
    exclude: Exclude = [],  # noqa: B006
    all_layers: ask.AllLayers = False,
    runtime: ask.Runtime = None,
    data: ask.Data = None,
    preprocess: ask.Preprocess = None,
    samples: ask.Samples = None,
    labels: ask.Labels = None,
    metric: ask.Metric = None,
    input_shape: ask.InputShape = [],  # noqa: B006
    seed: ask.Seed = 0,
    recover: ask.Refit = "auto",
    time_budget: ask.TimeBudget = None,
    work: ask.Work = None,
    bench: ask.Bench = True,
    threads: ask.Threads = 1,
    output: ask.Output = None,
    pack: ask.Pack = None,
    plan: ask.PlanFile = None,
    format: ask.Printed = ask.Format.TABLE,
    force: ask.Force = False,
) -> None:
    """Give the weights of small blocks in MODEL one magnitude, so that the file gets much smaller; shapes do not change."""
    options = Options.of(
        ratio=0.0,
        criterion="ccprune",
        unify=block,
        share=share,
        zero=zero,
        block_scope=scope,
        leave=tuple(exclude),
        all_layers=all_layers,
        runtime=runtime,
        data=data,
        preprocess=preprocess,
        samples=samples,
        labels=labels,
        metric=metric,
        seed=seed,
        recover=recover,
        time_budget=BUDGET if time_budget is None else time_budget,
        work=work,
        bench=bench,
        threads=threads,
    )
    ask.check_shapes(input_shape)
    out = ask.output_of(output, model, ENDING, pack)
    places = OutputOptions(out, plan or named_after(out, ".plan.json"), None, force)
    inputs = [model, *files(data, labels, work)]
    ask.check_places(places, *inputs)
    ask.tell_left(places)
    options = ask.looked_up(options)
    loaded = opened(model)
    ask.check_places_for(places, loaded, *inputs)
    options = replace(options, data=replace(options.data, input_shape=ask.shapes_of(input_shape, loaded)))
    with progress_bars() as progress:
        result = unify_loaded(loaded, options, progress)
    show(saved(result, places), format)
