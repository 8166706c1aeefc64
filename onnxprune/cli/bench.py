# SPDX-License-Identifier: Apache-2.0
"""`onnxprune bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxprune.cli import options as ask
from onnxprune.cli.progress import print_all, progress_bars
from onnxprune.cost.benchmark import benchmark, random_feeds
from onnxprune.cost.size import cost
from onnxprune.errors import ModelError, OptionError
from onnxprune.ir.files import Loaded
from onnxprune.ir.graph import free_inputs
from onnxprune.options import CheckOptions
from onnxprune.pipeline.refusal import opened, refusing
from onnxprune.report.render.json import benchmark_values, to_json
from onnxprune.report.render.table import benchmark_parts


def _check_inputs(first: Loaded, other: Loaded) -> None:
    mine, theirs = ([v.name for v in free_inputs(m.model)] for m in (first, other))
    if sorted(mine) != sorted(theirs):
        got = f"has the inputs {', '.join(theirs)}, but {first.name} has {', '.join(mine)}"
        raise ModelError(f"{other.name}: {got}; compare models with the same inputs")


def bench(
    models: Annotated[
        list[Path],
        typer.Argument(metavar="A.onnx [B.onnx ...]", help="Models with the same inputs; the first is the baseline."),
    ],
    input_shape: ask.InputShape = [],  # noqa: B006
    threads: ask.Threads = 1,
    seconds: ask.Seconds = 4.0,
    format: ask.Printed = ask.Format.TABLE,
) -> None:
    """Time models alternately (A B A B ...) in onnxruntime on the CPU."""
    CheckOptions(threads=threads)
    ask.check_shapes(input_shape)
    if not 0 < seconds < float("inf"):
        raise OptionError(f"--seconds: got {seconds:g}, expected more than 0")
    loaded = [opened(m) for m in models]
    first = loaded[0]
    for other in loaded[1:]:
        _check_inputs(first, other)
    shapes = ask.shapes_of(input_shape, first)
    with refusing(first, shapes), progress_bars() as progress:
        inputs = cost(first.model, shapes, first.size).inputs
        feeds = random_feeds(first.model, inputs)
        advance = lambda done: progress("benchmark", done)  # noqa: E731
        result = benchmark([m.model for m in loaded], feeds, threads, seconds, advance)
    names = [m.name for m in loaded]
    if format is ask.Format.JSON:
        print(to_json(benchmark_values(result, names), "benchmark"))
    else:
        print_all(benchmark_parts(result, names))
