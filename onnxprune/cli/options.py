# SPDX-License-Identifier: Apache-2.0
"""Arguments and options of the commands, each defined once; `--help` shows them in the groups of `onnxprune.options`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from onnxprune.errors import OptionError
from onnxprune.ir.files import Loaded
from onnxprune.ir.graph import free_inputs
from onnxprune.recovery import METHODS
from onnxprune.selection.criteria import NAMES
from onnxprune.selection.criteria.names import CALIBRATED

SELECTION, DATA, RECOVERY, CHECKS, OUTPUT = "Selection", "Data", "Recovery", "Checks", "Output"


class Format(str, Enum):
    """How results are printed."""

    TABLE = "table"
    JSON = "json"


def _option(panel: str, *names: str, **settings: Any) -> Any:
    return typer.Option(*names, rich_help_panel=panel, **settings)


Model = Annotated[
    Path, typer.Argument(metavar="MODEL.onnx", help="The trained model. It is never changed.", show_default=False)
]

# selection
Ratio = Annotated[
    float | None,
    _option(SELECTION, "--ratio", "-r", help="Fraction of prunable channels to REMOVE, 0 <= R < 1.", show_default=False),
]
Macs = Annotated[
    str | None,
    _option(
        SELECTION,
        "--macs",
        metavar="V",
        help="Instead of --ratio: the multiply-accumulates that may REMAIN, such as 50% or 300M.",
        show_default=False,
    ),
]
Criterion = Annotated[
    str | None,
    _option(
        SELECTION,
        "--criterion",
        metavar="NAME",
        help=f"What makes a channel worth keeping: {', '.join(NAMES)}. Those that look at activations "
        f"({', '.join(CALIBRATED)}) need --data. [default: obs with --data, else ccprune]",
        show_default=False,
    ),
]
Scores = Annotated[
    Path | None,
    _option(
        SELECTION,
        "--scores",
        metavar="FILE.npz",
        help="Scores made elsewhere, instead of a criterion: weight name -> one score per output channel, higher = keep.",
        show_default=False,
    ),
]
Scope = Annotated[
    str,
    _option(
        SELECTION,
        "--scope",
        metavar="global|local",
        help="global: rank all channels together. local: the same fraction of every group.",
    ),
]
Align = Annotated[
    str,
    _option(
        SELECTION,
        "--align",
        metavar="auto|N|none",
        help="Widths in multiples of: what this processor is fast at (auto), a number, or free (none).",
    ),
]
Include = Annotated[
    list[str], _option(SELECTION, "--include", metavar="GLOB", help="Only cut weights with such names.", show_default=False)
]
Exclude = Annotated[
    list[str], _option(SELECTION, "--exclude", metavar="GLOB", help="Never cut weights with such names.", show_default=False)
]
Carrier = Annotated[
    list[str],
    _option(
        SELECTION,
        "--carrier",
        metavar="[GLOB=]auto|outer|inner",
        help="How channels that are split in two are cut. In attention, outer: whole heads; inner: the size of every head. "
        "In grouped convolutions, whole groups or members of every group. auto: what leaves most choice. "
        "With a pattern, for weights of such names: '*attn*=outer'.",
        show_default=False,
    ),
]
AllowRenormalising = Annotated[
    bool,
    _option(
        SELECTION,
        "--allow-renormalising",
        help="Let means, normalisations and softmax over channels work on the channels that are kept. More can be cut and the "
        "graph is faster, but the result is not the original with those channels zeroed.",
    ),
]

# data
Data = Annotated[
    str | None,
    _option(
        DATA,
        "--data",
        metavar="SOURCE",
        help="Typical inputs, to keep and to measure accuracy with. An .npz or .npy (one array per input, first axis = "
        "samples, perhaps 'label'); a folder of images (see --preprocess; subfolders are classes where there are as many); a "
        "Python function that yields dicts input -> array; [bold]synthetic[/]: made up so that they fit the BatchNorm "
        "statistics that the model carries, where there are no data; random: noise, for smoke tests.",
        show_default=False,
    ),
]
Preprocess = Annotated[
    str | None,
    _option(
        DATA,
        "--preprocess",
        metavar="KEY=VALUE,...",
        help="How images become inputs: size=224x224, mean=0.485:0.456:0.406, std=0.229:0.224:0.225 (of pixels divided by "
        "scale=255), order=rgb|bgr|grey, layout=nchw|nhwc, resize=crop|stretch|letterbox|height|none, crop=0.875, pad=114. "
        "What is left out follows from the model's input; the report says what was used.",
        show_default=False,
    ),
]
Samples = Annotated[
    int | None,
    _option(
        DATA,
        "--samples",
        metavar="N",
        help="How many samples to use at most, chosen by --seed. [default: all of a file; 1024 images; 256 made up]",
        show_default=False,
    ),
]
Labels = Annotated[
    Path | None,
    _option(
        DATA,
        "--labels",
        metavar="FILE",
        help="What is right for each sample, in a file of its own: .npy, .npz, or .csv with one per line (file name, label for "
        "a folder of images).",
        show_default=False,
    ),
]
Metric = Annotated[
    str | None,
    _option(
        DATA,
        "--metric",
        metavar="module:function",
        help="What a good result is, where that is not the share of right classes: function(outputs, labels or inputs) -> "
        "number, higher is better.",
        show_default=False,
    ),
]
InputShape = Annotated[
    list[str],
    _option(
        DATA,
        "--input-shape",
        metavar="[NAME:]1x3x224x224",
        help="Sizes of an input that the file leaves open.",
        show_default=False,
    ),
]
Seed = Annotated[int, _option(DATA, "--seed", metavar="N", help="Seed of whatever is chosen at random.")]

# recovery
Recover = Annotated[
    str,
    _option(
        RECOVERY,
        "--recover",
        metavar="|".join(METHODS),
        help="What is done to keep accuracy after the cut. none: no kept weight changes. bias: what removed channels gave on "
        "average goes into biases. reconstruct: layer by layer, the weights that are kept are fitted to what the original "
        "network computes (seconds to minutes; without --data on synthetic inputs). distill: after that, the network is "
        "trained to follow the original (needs --data and the extra \\[torch]). auto: what the given inputs allow, judged on "
        "held-out inputs; the best is kept, never worse than none.",
    ),
]
Rounds = Annotated[int, _option(RECOVERY, "--rounds", metavar="N", help="Cut in N steps: cut a little, recover, score again.")]
TimeBudget = Annotated[
    str | None,
    _option(
        RECOVERY,
        "--time-budget",
        metavar="TIME",
        help="How long training may take: 90s, 10m, 1h. With it, auto distils too. [default: 10m for distill]",
        show_default=False,
    ),
]

# checks
Verify = Annotated[
    bool,
    _option(CHECKS, "--verify/--no-verify", help="Compare the result with the original with those channels zeroed."),
]
Bench = Annotated[bool, _option(CHECKS, "--bench/--no-bench", help="Time both models in onnxruntime.")]
Threads = Annotated[int, _option(CHECKS, "--threads", metavar="N", help="Threads of onnxruntime in the benchmark.")]
Seconds = Annotated[float, _option(CHECKS, "--seconds", metavar="S", help="About how long to measure.")]

# output
Output = Annotated[
    Path | None,
    _option(
        OUTPUT,
        "--output",
        "-o",
        metavar="OUT.onnx",
        help="Where the result goes. [default: MODEL.pruned.onnx]",
        show_default=False,
    ),
]
PlanFile = Annotated[
    Path | None,
    _option(OUTPUT, "--plan", metavar="FILE", help="Where the plan goes. [default: beside the output]", show_default=False),
]
Picture = Annotated[
    Path | None,
    _option(OUTPUT, "--picture", metavar="FILE.svg", help="Also draw it: a bar for each layer.", show_default=False),
]
Printed = Annotated[Format, _option(OUTPUT, "--format", help="table for people; json: the report and nothing else on stdout.")]
Force = Annotated[bool, _option(OUTPUT, "--force", help="Replace an output that exists.")]

SHAPE = re.compile(r"(?:(?P<name>.*):)?(?P<sizes>[0-9]+(?:[x,][0-9]+)*)", re.IGNORECASE | re.DOTALL)


def check_shapes(texts: Sequence[str]) -> None:
    """Refuse what is no shape, whatever the model.

    Raises:
        OptionError: a text is none.
    """
    for text in texts:
        read = SHAPE.fullmatch(text)
        if not read or not all(int(s) for s in re.split("[xX,]", read["sizes"])):
            raise OptionError(f"--input-shape: got '{text}', expected sizes such as 1x3x224x224, or NAME:1x3x224x224")


def shapes_of(texts: Sequence[str], loaded: Loaded) -> dict[str, tuple[int, ...]]:
    """`image:1x3x224x224` or, for a model with one input, `1x3x224x224`.

    Raises:
        OptionError: a text is no shape, or does not say which of several inputs it is for.
    """
    check_shapes(texts)
    names = [v.name for v in free_inputs(loaded.model)]
    found = {}
    for text in texts:
        read = SHAPE.fullmatch(text)
        assert read is not None
        name = names[0] if read["name"] is None and names else read["name"]
        if name not in names:
            raise OptionError(f"--input-shape: got '{text}', expected NAME:1x3x224x224 with a name of {', '.join(names)}")
        found[name] = tuple(int(s) for s in re.split("[xX,]", read["sizes"]))
    return found
