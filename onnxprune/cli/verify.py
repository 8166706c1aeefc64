# SPDX-License-Identifier: Apache-2.0
"""`onnxprune verify`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from onnxprune.cli import options as ask
from onnxprune.cli.progress import print_all
from onnxprune.pipeline.apply import verify_loaded
from onnxprune.pipeline.refusal import opened
from onnxprune.report.render.json import to_json
from onnxprune.report.render.table import verification_text
from onnxprune.rewrite.plan import Plan


def verify(
    original: Annotated[Path, typer.Argument(metavar="ORIGINAL.onnx", help="The model before pruning.")],
    pruned: Annotated[Path, typer.Argument(metavar="PRUNED.onnx", help="The model after pruning.")],
    plan: Annotated[Path, typer.Argument(metavar="PLAN.json", help="The plan of the pruning.")],
    input_shape: ask.InputShape = [],  # noqa: B006
    format: ask.Printed = ask.Format.TABLE,
) -> None:
    """Verify that PRUNED is ORIGINAL without the channels that PLAN removes, its weights in the blocks that PLAN names."""
    ask.check_shapes(input_shape)
    loaded_plan = Plan.load(plan)
    loaded = opened(original)
    verification = verify_loaded(loaded, opened(pruned, folds=False), loaded_plan, ask.shapes_of(input_shape, loaded))
    if format is ask.Format.JSON:
        print(
            to_json(
                {**asdict(verification), "unified": sorted(loaded_plan.blocks), "refitted": loaded_plan.recovered},
                "verification",
            )
        )
        return
    print_all([Text(f"verified: {_told(verification_text(verification, bool(loaded_plan.constant)), loaded_plan)}")])


def _told(verified: str, plan: Plan) -> str:
    """What was verified; of a recovered or unified model, only the cut itself equals the masked original."""
    steps = ["unified in blocks"] if plan.blocks else []
    steps += [f"refitted ({plan.recovered})"] if plan.recovered else []
    if not steps:
        return verified
    blocks = "every block has one magnitude or is zero, as the plan says; " if plan.blocks else ""
    if plan.blocks and not plan.recovered:
        blocks += "magnitudes and all other weights are those of the original; "
        cut = f"before its weights were unified in blocks, PRUNED was {verified}" if plan.kept else "no channel was removed"
        return f"{blocks}{cut}"
    now = "it now differs only in values of floating-point weights and added biases, whose effect is not judged here"
    was = f"PRUNED was {verified}" if plan.kept else "PRUNED was equal to the original"
    return f"{blocks}before its weights were {' and '.join(steps)}, {was}; {now}"
