# SPDX-License-Identifier: Apache-2.0
"""Arguments and options of the commands, each defined once; `--help` shows them in the groups of `onnxprune.options`."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from onnxprune.errors import OptionError
from onnxprune.ir.files import Loaded, check_is_file
from onnxprune.ir.graph import free_inputs
from onnxprune.ir.packing import named_after, names_packed, packed_name
from onnxprune.ir.placing import check_folder, check_output, check_outputs, data_beside, tidied
from onnxprune.options import Options, OutputOptions
from onnxprune.pipeline.resolve import resolved
from onnxprune.pipeline.result import check_plan_is_free
from onnxprune.recovery import METHODS
from onnxprune.selection.criteria import NAMES
from onnxprune.selection.criteria.names import CALIBRATED

SELECTION, DATA, RECOVERY, BLOCKS, CHECKS, OUTPUT = "Selection", "Data", "Recovery", "Blocks", "Checks", "Output"


class Format(str, Enum):
    """How results are printed."""

    TABLE = "table"
    JSON = "json"


class Packing(str, Enum):
    """How models are packed."""

    ZST = "zst"


def _option(panel: str, *names: str, **settings: Any) -> Any:
    return typer.Option(*names, rich_help_panel=panel, **settings)


Model = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL.onnx", help="The trained model, plain or packed (.onnx.zst). It is never changed.", show_default=False
    ),
]

# selection
Ratio = Annotated[
    float | None,
    _option(
        SELECTION, "--ratio", "-r", metavar="R", help="Fraction of prunable channels to REMOVE, 0 <= R < 1.", show_default=False
    ),
]
Macs = Annotated[
    str | None,
    _option(
        SELECTION,
        "--macs",
        metavar="V",
        help="Instead of --ratio: the multiply-accumulates (MACs) that may REMAIN, such as 50% or 300M. Of several targets, "
        "all must hold; if they cannot, the nearest model is written and the exit status is 1.",
        show_default=False,
    ),
]
Params = Annotated[
    str | None,
    _option(
        SELECTION,
        "--params",
        metavar="V",
        help="The parameters that may REMAIN, such as 50% or 5M.",
        show_default=False,
    ),
]
Size = Annotated[
    str | None,
    _option(
        SELECTION,
        "--size",
        metavar="V",
        help="The bytes that all written files together may take, such as 50%, 2MB or 2MiB.",
        show_default=False,
    ),
]
Memory = Annotated[
    str | None,
    _option(
        SELECTION,
        "--memory",
        metavar="V",
        help="The bytes of weights and activations that may be needed at a time, such as 50% or 20MB; computed, at the sizes "
        "of --data.",
        show_default=False,
    ),
]
LatencyTarget = Annotated[
    str | None,
    _option(
        SELECTION,
        "--latency",
        metavar="V",
        help="The time of one run that may REMAIN, such as 50% or 12ms, measured in onnxruntime on this machine, with "
        "--threads: cuts of the model are timed, which takes up to a minute or two beside the time budget.",
        show_default=False,
    ),
]
MaxLoss = Annotated[
    str | None,
    _option(
        SELECTION,
        "--max-loss",
        metavar="V",
        help="The most that may be lost on held-out samples of --data, such as 1%: points of accuracy, a share of the "
        "--metric, or, without labels, of the original's answers. Alone: the deepest cut that holds it is searched for. "
        "Beside --ratio or targets: a limit.",
        show_default=False,
    ),
]
Criterion = Annotated[
    str | None,
    _option(
        SELECTION,
        "--criterion",
        metavar="NAME",
        help=f"How channels are ranked: {', '.join(NAMES)}. Criteria that use activations "
        f"({', '.join(CALIBRATED)}) run on --data, or on synthetic inputs. Default: obs with --data, else ccprune.",
        show_default=False,
    ),
]
Scores = Annotated[
    Path | None,
    _option(
        SELECTION,
        "--scores",
        metavar="FILE.npz",
        help="Precomputed scores, instead of a criterion: weight name -> one score per output channel, higher = keep.",
        show_default=False,
    ),
]
Scope = Annotated[
    str,
    _option(
        SELECTION,
        "--scope",
        metavar="global|isomorphic|local",
        help="global: rank all channels together. local: remove the same fraction of every group. isomorphic: the same "
        "fraction of all groups of one structure, which are ranked together.",
    ),
]
Widths = Annotated[
    str,
    _option(
        SELECTION,
        "--widths",
        metavar="order|knapsack",
        help="How widths within targets are chosen: in the order of the scores of channels, or all at once, so that the groups "
        "lose least in sum for what they cost together (with --scope global; up to half a minute).",
    ),
]
Normalise = Annotated[
    str | None,
    _option(
        SELECTION,
        "--normalise",
        metavar="mean|max|standard|none",
        help="How scores of different groups are made comparable: divided by their mean or largest value, standard scores, or "
        "not at all. Default: as the criterion is meant.",
        show_default=False,
    ),
]
LayerRatios = Annotated[
    Path | None,
    _option(
        SELECTION,
        "--layer-ratios",
        metavar="FILE.toml",
        help="Ratios of single layers, by patterns of the names of weights that produce channels: '\"head.*\" = 0' leaves a "
        "head as it is, '\"layer4.*\" = 0.3' removes 30 %, '\"*\" = {keep_at_least = 0.25}' is a floor. Of several patterns "
        "that match, the first counts.",
        show_default=False,
    ),
]
Align = Annotated[
    str,
    _option(
        SELECTION,
        "--align",
        metavar="auto|N|none",
        help="Round widths to what is fast on this processor, or by --profile or --latency as measured (auto), to multiples of "
        "N, or not at all (none).",
    ),
]
Profile = Annotated[
    Path | None,
    _option(
        SELECTION,
        "--profile",
        metavar="FILE",
        help="What --align auto means on the machine where the model will run: a file of 'onnxprune profile' from there. "
        "Default: what is known of this processor; with --latency, the measured profile of this machine, which takes up to a "
        "minute the first time.",
        show_default=False,
    ),
]
OtherMachine = Annotated[
    bool,
    _option(
        SELECTION,
        "--other-machine",
        help="Let --profile be of another machine than the one on which --latency is measured.",
    ),
]
Include = Annotated[
    list[str],
    _option(SELECTION, "--include", metavar="GLOB", help="Cut only weights whose names match GLOB.", show_default=False),
]
Exclude = Annotated[
    list[str],
    _option(SELECTION, "--exclude", metavar="GLOB", help="Never cut weights whose names match GLOB.", show_default=False),
]
Carrier = Annotated[
    list[str],
    _option(
        SELECTION,
        "--carrier",
        metavar="[GLOB=]auto|outer|inner",
        help="Which factor of a split axis is cut. outer: whole attention heads, or whole groups of a grouped convolution. "
        "inner: the size of every head, or the members of every group. auto: whichever leaves more choice. "
        "With a pattern, only for weights whose names match: '*attn*=outer'.",
        show_default=False,
    ),
]
Depth = Annotated[
    bool,
    _option(
        SELECTION,
        "--depth",
        help="Whole residual branches may go, too, where the model then does better on held-out samples. Needs a target and "
        "--data; several cuts are tried.",
    ),
]
AllowRenormalising = Annotated[
    bool,
    _option(
        SELECTION,
        "--allow-renormalising",
        help="Let means, normalisations and softmax over channels work on the kept channels only. More can be cut and the "
        "graph is faster, but the result no longer equals the original with the removed channels zeroed.",
    ),
]

# data
Data = Annotated[
    str | None,
    _option(
        DATA,
        "--data",
        metavar="SOURCE",
        help="Typical inputs, for recovery and for measuring accuracy. An .npz or .npy file (one array per input, first axis = "
        "samples, optionally 'label'); a folder of images (see --preprocess; subfolders are classes if the number fits); a "
        "function, as module:function, that yields dicts input name -> array; [bold]synthetic[/]: generated to match the "
        "BatchNorm statistics stored in the model, if you have no data; random: noise, for smoke tests.",
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
        "Omitted keys follow from the model's input; the report shows what was used.",
        show_default=False,
    ),
]
Samples = Annotated[
    int | None,
    _option(
        DATA,
        "--samples",
        metavar="N",
        help="Maximum number of samples, chosen by --seed. Default: all of a file, 1024 images, or 256 generated ones.",
        show_default=False,
    ),
]
Labels = Annotated[
    Path | None,
    _option(
        DATA,
        "--labels",
        metavar="FILE",
        help="The label of each sample, in a separate file: .npy, .npz, or .csv with one label per line (file name, label for "
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
        help="How good the outputs are, if top-1 accuracy is not the right measure: function(outputs, labels or inputs) -> "
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
        help="The shape of an input that has dynamic dimensions.",
        show_default=False,
    ),
]
Seed = Annotated[int, _option(DATA, "--seed", metavar="N", help="Seed for all random choices.")]

# recovery
Recover = Annotated[
    str,
    _option(
        RECOVERY,
        "--recover",
        metavar="|".join(METHODS),
        help="How to recover accuracy after the cut. none: kept weights do not change. bias: the mean contribution of removed "
        "channels is added to biases. reconstruct: layer by layer, the kept weights are fitted to what the original "
        "network computes (seconds to minutes; on synthetic inputs without --data). distill: the network is then "
        "trained to follow the original (needs --data and the extra \\[torch]). auto: try what the inputs allow, compare on "
        "held-out inputs and keep the best, which is never worse than none.",
    ),
]
Rounds = Annotated[
    int,
    _option(RECOVERY, "--rounds", metavar="N", help="Cut in N rounds: cut a little, recover, and score the channels again."),
]
TimeBudget = Annotated[
    str | None,
    _option(
        RECOVERY,
        "--time-budget",
        metavar="TIME",
        help="Time for all work on samples: making inputs, scoring, rounds, recovery. Such as 90s, 10m or 1h; more time gives "
        "more samples, rounds and attempts. Default: 60s, 10m for --recover distill, and 5m for unify.",
        show_default=False,
    ),
]
Work = Annotated[
    Path | None,
    _option(
        RECOVERY,
        "--work",
        metavar="PLAN.json",
        help="Repeat what time decided in the run that wrote this plan: the numbers of samples, rounds and steps.",
        show_default=False,
    ),
]

# blocks
Unify = Annotated[
    str | None,
    _option(
        BLOCKS,
        "--unify",
        metavar="SIZE",
        help="Afterwards, give the weights of blocks of this size one magnitude, so that the file gets much smaller: 16 "
        "inputs, 4x4 outputs x inputs, or 1x8x3x3 with the kernel. 'onnxprune unify' does that alone.",
        show_default=False,
    ),
]
Share = Annotated[
    float | None,
    _option(
        BLOCKS,
        "--share",
        metavar="S",
        help="Share of all blocks that get one magnitude; others are only rounded to float16. Default: all that --zero leaves.",
        show_default=False,
    ),
]
Zero = Annotated[float, _option(BLOCKS, "--zero", metavar="Z", help="Share of all blocks that are set to zero first.")]
AllLayers = Annotated[
    bool, _option(BLOCKS, "--all-layers", help="Also unify the first and the last layers, which stay as they are otherwise.")
]
Runtime = Annotated[
    str | None,
    _option(
        BLOCKS,
        "--runtime",
        metavar="VERSION",
        help="The oldest onnxruntime that must load the file: from 1.24 on its codes take 4 bits, from 1.32 on 2 bits. "
        "Default: 8 bits, which load from 1.20 on.",
        show_default=False,
    ),
]
UNIFYING = ("auto", "reconstruct", "distill", "none")
Refit = Annotated[
    str,
    _option(
        RECOVERY,
        "--recover",
        metavar="|".join(UNIFYING),
        help="How weights make up for what blocks lose. none: blocks alone. reconstruct: layer by layer, in closed form. "
        "distill: the network is then trained to follow the original, its blocks held (needs the extra \\[torch]). "
        "auto: try what the inputs allow, compare on held-out inputs and keep the best.",
    ),
]

# checks
Verify = Annotated[
    bool,
    _option(CHECKS, "--verify/--no-verify", help="Compare the result with the original with the removed channels zeroed."),
]
Bench = Annotated[bool, _option(CHECKS, "--bench/--no-bench", help="Time both models in onnxruntime.")]
Threads = Annotated[int, _option(CHECKS, "--threads", metavar="N", help="Number of onnxruntime threads in the benchmark.")]
Seconds = Annotated[float, _option(CHECKS, "--seconds", metavar="S", help="Measure for at most about S seconds.")]

# output
Output = Annotated[
    Path | None,
    _option(
        OUTPUT,
        "--output",
        "-o",
        metavar="OUT.onnx",
        help="File for the result. Default: MODEL.pruned.onnx; of unify, MODEL.unified.onnx.",
        show_default=False,
    ),
]
Pack = Annotated[
    Packing | None,
    _option(
        OUTPUT,
        "--pack",
        metavar="zst",
        help="Write one file packed with Zstandard, for shipping: OUT.onnx.zst. The same as -o with a name that ends in .zst. "
        "Slow for large models. Every command reads it; onnxruntime needs it expanded (zstd -d).",
        show_default=False,
    ),
]
PlanFile = Annotated[
    Path | None,
    _option(OUTPUT, "--plan", metavar="FILE", help="File for the plan. Default: next to the output.", show_default=False),
]
Picture = Annotated[
    Path | None,
    _option(OUTPUT, "--picture", metavar="FILE.svg", help="Also draw the result, with one bar per layer.", show_default=False),
]
Printed = Annotated[
    Format,
    _option(OUTPUT, "--format", metavar="table|json", help="table: for people; json: only the report, on stdout."),
]
Force = Annotated[bool, _option(OUTPUT, "--force", help="Overwrite existing output files.")]
DryRun = Annotated[
    bool, _option(OUTPUT, "--dry-run", help="Do everything but write the model: only the report, the plan and the picture.")
]
Strict = Annotated[bool, _option(OUTPUT, "--strict", help="If a target or the ratio is missed, write nothing.")]


def output_of(output: Path | None, model: Path, ending: str, pack: Packing | None) -> Path:
    """The file of the result: beside the original and with this ending, if the user names none; a packed one ends in `.zst`.

    Raises:
        ModelError: the user names none, and there is no original.
        OutputError: it is a folder, or its folder is missing or cannot be written to.
    """
    if output is None:
        check_is_file(model)
        output = named_after(model, ending)
    check_folder(output)
    return packed_name(output) if pack else output


def check_places(places: OutputOptions, *inputs: Path) -> None:
    """Check early that all outputs can be written and that no input would be overwritten.

    Raises:
        OptionError: a path is one of the inputs, or exists and may not be replaced, or a plan there belongs to another model.
        OutputError: it is not a regular file, or its folder is missing or cannot be written to.
    """
    check_outputs(places.places, places.force, *inputs)
    check_plan_is_free(places)


def tell_left(places: OutputOptions) -> None:
    """Say what killed runs left beside the outputs that cannot be removed."""
    for line in tidied(places.places):
        print(f"onnxprune: note: {line}", file=sys.stderr)


def check_places_for(places: OutputOptions, loaded: Loaded, *inputs: Path) -> None:
    """The same once the model is loaded: now its other files are known, and whether the result needs such a file.

    Raises:
        OptionError, OutputError: as `check_places`.
    """
    check_places(places, *inputs, *loaded.data)
    if loaded.external and not names_packed(places.output):
        check_output(data_beside(places.output), places.force, *inputs, *loaded.data)


def looked_up(options: Options) -> Options:
    """The options with the files, functions and packages that they name (`resolved`).

    What a user's module prints meanwhile goes to stderr: standard output is for the report.
    """
    with contextlib.redirect_stdout(sys.stderr):
        return resolved(options)


SHAPE = re.compile(r"(?:(?P<name>.*):)?(?P<sizes>[0-9]{1,9}(?:[x,][0-9]{1,9})*)", re.IGNORECASE | re.DOTALL)


def check_shapes(texts: Sequence[str]) -> None:
    """Reject texts that are not shapes; no model is needed.

    Raises:
        OptionError: a text is not a shape.
    """
    for text in texts:
        match = SHAPE.fullmatch(text)
        if not match or not all(int(s) for s in re.split("[xX,]", match["sizes"])):
            raise OptionError(f"--input-shape: got '{text}', expected sizes such as 1x3x224x224, or NAME:1x3x224x224")


def shapes_of(texts: Sequence[str], loaded: Loaded) -> dict[str, tuple[int, ...]]:
    """Read `image:1x3x224x224`, or `1x3x224x224` for the first input.

    Raises:
        OptionError: a text is not a shape, or names an input that the model does not have.
    """
    check_shapes(texts)
    names = [v.name for v in free_inputs(loaded.model)]
    found = {}
    for text in texts:
        match = SHAPE.fullmatch(text)
        assert match is not None
        name = names[0] if match["name"] is None and names else match["name"]
        if name not in names:
            raise OptionError(f"--input-shape: got '{text}', expected NAME:1x3x224x224, with NAME one of {', '.join(names)}")
        found[name] = tuple(int(s) for s in re.split("[xX,]", match["sizes"]))
    return found
