# SPDX-License-Identifier: Apache-2.0
"""`onnxprune explain`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.text import Text

from onnxprune.analysis.analyse import analyse
from onnxprune.analysis.explain import about
from onnxprune.analysis.explain import explain as stories_of
from onnxprune.analysis.policy import Policy, read_carrier
from onnxprune.cli import options as ask
from onnxprune.cli.progress import print_all
from onnxprune.errors import OptionError
from onnxprune.ir.facts import read_graph
from onnxprune.pipeline.refusal import opened, refusing
from onnxprune.report.render.json import to_json
from onnxprune.report.render.text import sentences


def explain(
    model: ask.Model,
    tensor: Annotated[str, typer.Argument(metavar="TENSOR", help="The name of a weight, another tensor or a node.")],
    carrier: ask.Carrier = [],  # noqa: B006
    allow_renormalising: ask.AllowRenormalising = False,
    input_shape: ask.InputShape = [],  # noqa: B006
    format: ask.Printed = ask.Format.TABLE,
) -> None:
    """Show what the channels of TENSOR are tied to, and the chain of ties that pins them."""
    policy = Policy(read_carrier(carrier), allow_renormalising)
    ask.check_shapes(input_shape)
    loaded = opened(model)
    if tensor in loaded.replaced:
        result = loaded.replaced[tensor]
        raise OptionError(f"'{tensor}' only serves to compute '{result}', which is cut in its place; explain that")
    shapes = ask.shapes_of(input_shape, loaded)
    with refusing(loaded, shapes):
        coupled = analyse(read_graph(loaded.model, shapes), policy).coupled
    stories = stories_of(coupled, tensor)
    if format is ask.Format.JSON:
        print(to_json({"tensor": tensor, "axes": [asdict(s) for s in stories]}, "explanation"))
        return
    print_all(Text(line) for line in (about(coupled, tensor), *(f"  {sentences(story)}" for story in stories)))
