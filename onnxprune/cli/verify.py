# SPDX-License-Identifier: Apache-2.0
"""`onnxprune verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxprune.cli import options as ask
from onnxprune.cli.progress import console
from onnxprune.ir.files import load
from onnxprune.pipeline.prune import verify_loaded
from onnxprune.report.render.json import to_json
from onnxprune.report.render.table import proof_text
from onnxprune.rewrite.plan import Plan


def verify(
    original: Annotated[Path, typer.Argument(metavar="ORIGINAL.onnx", help="The model before pruning.")],
    pruned: Annotated[Path, typer.Argument(metavar="PRUNED.onnx", help="The model after pruning.")],
    plan: Annotated[Path, typer.Argument(metavar="PLAN.json", help="The plan between the two.")],
    input_shape: ask.InputShape = [],  # noqa: B006
    format: ask.Printed = ask.Format.TABLE,
) -> None:
    """Verify that PRUNED is ORIGINAL with the channels of PLAN removed."""
    ask.check_shapes(input_shape)
    made = Plan.load(plan)
    loaded = load(original)
    proof = verify_loaded(loaded, load(pruned), made, ask.shapes_of(input_shape, loaded))
    if format is ask.Format.JSON:
        print(to_json(proof))
        return
    refitted = "; after the cut, weights were refitted, and nothing else was changed" if made.recovered else ""
    console().print(f"verified: {proof_text(proof)}{refitted}", markup=False)
