# SPDX-License-Identifier: Apache-2.0
"""The command line: options in, report out. No numerics here."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from typer.core import TyperGroup

from onnxprune import api
from onnxprune.analysis.policy import Policy, read_carrier
from onnxprune.errors import OptionError, PruneError, VerificationError
from onnxprune.ir.files import check_output, load, write_text
from onnxprune.options import Options
from onnxprune.recovery import METHODS
from onnxprune.rewrite.plan import Plan
from onnxprune.selection.criteria import NAMES
from onnxprune.selection.criteria.names import CALIBRATED
from onnxprune.types import Progress

# typer carries a copy of click in newer releases and imports click in older ones; the base class is the same place in both
USAGE_ERROR: Any = typer.BadParameter.__mro__[2]
INTERRUPTED = 130


class PruneIsDefault(TyperGroup):
    """`onnxprune MODEL --ratio R` means `onnxprune prune MODEL --ratio R`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Take the first argument for a model where it names no command."""
        if args and self.get_command(ctx, args[0]) is None:
            args = ["prune", *args]
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Options before the model belong to `prune` too."""
        if (
            args
            and args[0].startswith("-")
            and args[0] not in ("--help", "--version", "--install-completion", "--show-completion")
        ):
            args = ["prune", *args]
        return super().parse_args(ctx, args)


class Format(str, Enum):
    """How results are printed."""

    TABLE = "table"
    JSON = "json"


app = typer.Typer(
    cls=PruneIsDefault,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Make a trained ONNX network smaller and faster: remove channels, prove the result equal, measure it.\n\n"
    "The usual call is [bold]onnxprune MODEL.onnx --ratio 0.5[/]. It writes MODEL.pruned.onnx and its plan, "
    "and reports what was asked, what was reached and what held it back.",
    rich_markup_mode="rich",
)

ModelArgument = Annotated[
    Path, typer.Argument(metavar="MODEL.onnx", help="The trained model. It is never changed.", show_default=False)
]
FormatOption = Annotated[
    Format, typer.Option("--format", help="table for people; json: the report and nothing else on stdout.")
]
ShapeOption = Annotated[
    list[str], typer.Option("--input-shape", metavar="[NAME:]1x3x224x224", help="Sizes of an input that the file leaves open.")
]
CarrierOption = Annotated[
    list[str],
    typer.Option(
        "--carrier",
        metavar="[GLOB=]auto|outer|inner",
        help="What channels that are split in two are cut by. In attention, outer: whole heads; inner: the size of every head. "
        "In grouped convolutions, whole groups or members of every group. auto: what leaves most choice. "
        "With a pattern, for weights of such names: '*attn*=outer'.",
    ),
]
RenormaliseOption = Annotated[
    bool,
    typer.Option(
        "--allow-renormalising",
        help="Let means, normalisations and softmax over channels work on the channels that are left. More can be cut and the "
        "graph is faster, but the result is not the original with those channels zeroed.",
    ),
]
OutOption = Annotated[
    Path | None, typer.Option("--output", "-o", help="Where the result goes. [default: MODEL.pruned.onnx]", show_default=False)
]
PlanOption = Annotated[
    Path | None, typer.Option("--plan", help="Where the plan goes. [default: beside the output]", show_default=False)
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace an output that exists.")]
VerifyOption = Annotated[
    bool, typer.Option("--verify/--no-verify", help="Prove the result equal to the original with those channels zeroed.")
]
BenchOption = Annotated[bool, typer.Option("--bench/--no-bench", help="Time both models in onnxruntime.")]
ThreadsOption = Annotated[int, typer.Option("--threads", help="Threads of onnxruntime in the benchmark.")]

DataOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="SOURCE",
        help="Typical inputs, to keep and to measure accuracy with. An .npz or .npy (one array an input, first axis = samples, "
        "perhaps 'label'); a folder of images (see --preprocess; subfolders are classes where there are as many); a Python "
        "function that yields dicts input -> array; [bold]synthetic[/]: made up so that they fit the BatchNorm statistics "
        "that the model carries, where there are no data; random: noise, for smoke tests.",
        show_default=False,
    ),
]
PreprocessOption = Annotated[
    str | None,
    typer.Option(
        "--preprocess",
        metavar="KEY=VALUE,...",
        help="How images become inputs: size=224x224, mean=0.485:0.456:0.406, std=0.229:0.224:0.225 (of pixels divided by "
        "scale=255), order=rgb|bgr|grey, layout=nchw|nhwc, resize=crop|stretch|letterbox|height|none, crop=0.875, pad=114. "
        "What is left out follows from the model's input; the report says what was used.",
        show_default=False,
    ),
]
SamplesOption = Annotated[
    int | None,
    typer.Option(
        "--samples",
        metavar="N",
        help="How many samples to use at most, chosen by --seed. [default: all of a file; 1024 images; 256 made up]",
        show_default=False,
    ),
]
LabelsOption = Annotated[
    Path | None,
    typer.Option(
        "--labels",
        help="What is right for each sample, in a file of its own: .npy, .npz, or .csv with one a line (file name, label for "
        "a folder of images).",
        show_default=False,
    ),
]
MetricOption = Annotated[
    str | None,
    typer.Option(
        "--metric",
        metavar="module:function",
        help="What a good result is, where that is not the share of right classes: function(outputs, labels or inputs) -> "
        "number, higher is better.",
        show_default=False,
    ),
]


CriterionOption = Annotated[
    str | None,
    typer.Option(
        "--criterion",
        help=f"What makes a channel worth keeping: {', '.join(NAMES)}. Those that look at activations "
        f"({', '.join(CALIBRATED)}) need --data. [default: obs with --data, else ccprune]",
        show_default=False,
    ),
]
RecoverOption = Annotated[
    str,
    typer.Option(
        "--recover",
        metavar="|".join(METHODS),
        help="What is done to keep accuracy after the cut. none: no kept weight changes. bias: what removed channels gave on "
        "average goes into biases. reconstruct: layer by layer, the weights that are left are fitted to what the original "
        "network computes (seconds to minutes; without --data on synthetic inputs). distill: after that, the network is "
        "trained to follow the original (needs --data and the extra \\[torch]). auto: what the given inputs allow, judged on "
        "held-out inputs; the best is kept, never worse than none.",
    ),
]
RoundsOption = Annotated[int, typer.Option("--rounds", metavar="N", help="Cut in N steps: cut a little, recover, score again.")]
BudgetOption = Annotated[
    str | None,
    typer.Option(
        "--time-budget",
        metavar="TIME",
        help="How long training may take: 90s, 10m, 1h. With it, auto distils too. [default: 10m for distill]",
        show_default=False,
    ),
]


@app.command()
def prune(
    model: ModelArgument,
    ratio: Annotated[
        float | None,
        typer.Option("--ratio", "-r", help="Fraction of prunable channels to REMOVE, 0 <= R < 1.", show_default=False),
    ] = None,
    macs: Annotated[
        str | None,
        typer.Option(
            "--macs",
            metavar="V",
            help="Instead of --ratio: the multiply-accumulates that may REMAIN, such as 50% or 300M.",
            show_default=False,
        ),
    ] = None,
    output: OutOption = None,
    criterion: CriterionOption = None,
    scores: Annotated[
        Path | None, typer.Option("--scores", help="Scores made elsewhere: .npz, weight name -> one score a channel.")
    ] = None,
    scope: Annotated[
        str, typer.Option("--scope", help="global: rank all channels together. local: the same fraction of every group.")
    ] = "global",
    align: Annotated[
        str, typer.Option("--align", help="Widths in multiples of: auto (what this processor is fast at), a number, none.")
    ] = "auto",
    include: Annotated[list[str], typer.Option("--include", metavar="GLOB", help="Only cut weights with such names.")] = [],  # noqa: B006
    exclude: Annotated[list[str], typer.Option("--exclude", metavar="GLOB", help="Never cut weights with such names.")] = [],  # noqa: B006
    data: DataOption = None,
    preprocess: PreprocessOption = None,
    samples: SamplesOption = None,
    labels: LabelsOption = None,
    metric: MetricOption = None,
    input_shape: ShapeOption = [],  # noqa: B006
    carrier: CarrierOption = [],  # noqa: B006
    allow_renormalising: RenormaliseOption = False,
    recover: RecoverOption = "auto",
    rounds: RoundsOption = 1,
    time_budget: BudgetOption = None,
    plan: PlanOption = None,
    verify: VerifyOption = True,
    bench: BenchOption = True,
    threads: ThreadsOption = 1,
    seed: Annotated[int, typer.Option("--seed", help="Seed of whatever is chosen at random.")] = 0,
    format: FormatOption = Format.TABLE,
    force: ForceOption = False,
) -> None:
    """Remove channels from MODEL (the default command)."""
    wish = Options(
        ratio=ratio,
        criterion=criterion,
        scope=scope,
        align=align,
        scores=scores,
        include=include,
        exclude=exclude,
        data=data,
        recover=recover,
        verify=verify,
        bench=bench,
        threads=threads,
        seed=seed,
        macs=macs,
        carrier=carrier,
        allow_renormalising=allow_renormalising,
        preprocess=preprocess,
        samples=samples,
        labels=labels,
        metric=metric,
        rounds=rounds,
        time_budget=time_budget,
    )
    loaded = load(model)
    wish = replace(wish, input_shape=_shapes(input_shape, loaded))
    out, plan_path = _places((model, *loaded.data), output, plan, force)
    with _progress() as progress:
        result = api.prune_loaded(loaded, wish, progress)
    _deliver(result, out, plan_path, format)


@app.command("apply")
def apply_command(
    model: ModelArgument,
    plan_file: Annotated[Path, typer.Argument(metavar="PLAN.json", help="A plan that onnxprune wrote.")],
    output: OutOption = None,
    input_shape: ShapeOption = [],  # noqa: B006
    verify: VerifyOption = True,
    bench: BenchOption = True,
    threads: ThreadsOption = 1,
    format: FormatOption = Format.TABLE,
    force: ForceOption = False,
) -> None:
    """Cut MODEL by a plan made earlier (also a retrained copy with the same graph)."""
    plan = Plan.load(plan_file)
    loaded = load(model)
    out = output or model.with_suffix(".pruned.onnx")
    check_output(out, force, model, plan_file, *loaded.data)
    with _progress() as progress:
        options: dict[str, Any] = {
            "verify": verify,
            "bench": bench,
            "threads": threads,
            "input_shape": _shapes(input_shape, loaded),
        }
        result = api.apply_plan(model, plan, progress, **options)
    _deliver(result, out, None, format)


@app.command()
def inspect(
    model: ModelArgument,
    input_shape: ShapeOption = [],  # noqa: B006
    carrier: CarrierOption = [],  # noqa: B006
    allow_renormalising: RenormaliseOption = False,
    picture: Annotated[
        Path | None, typer.Option("--picture", metavar="FILE.svg", help="Also draw it: a bar for each layer.")
    ] = None,
    format: FormatOption = Format.TABLE,
) -> None:
    """Show groups of channels, what cannot be cut and who holds it, and how many of the MACs hang on each."""
    from onnxprune.report.inspection import inspect as look

    if picture is not None and picture.suffix.lower() != ".svg":
        raise OptionError(f"--picture: got '{picture}', expected a file name that ends in .svg")
    loaded = load(model)
    with _progress() as progress:
        progress("analyse", 0)
        policy = Policy(read_carrier(carrier), allow_renormalising)
        found = look(api.analyze(loaded.model, _shapes(input_shape, loaded), policy), str(model))
    if picture is not None:
        from onnxprune.report.render.svg import to_svg

        write_text(picture, to_svg(found))
    if format is Format.JSON:
        from onnxprune.report.render.json import to_json

        print(to_json(found))
        return
    from onnxprune.report.render.table import print_inspection

    print_inspection(found, _console())


@app.command()
def explain(
    model: ModelArgument,
    tensor: Annotated[str, typer.Argument(help="A weight, any other tensor, or a node.")],
    input_shape: ShapeOption = [],  # noqa: B006
    carrier: CarrierOption = [],  # noqa: B006
    allow_renormalising: RenormaliseOption = False,
    format: FormatOption = Format.TABLE,
) -> None:
    """Show what ties the channels of TENSOR to others, and the chain that leads to what pins them."""
    from onnxprune.analysis.explain import about
    from onnxprune.analysis.explain import explain as tell

    loaded = load(model)
    policy = Policy(read_carrier(carrier), allow_renormalising)
    coupled = api.analyze(loaded.model, _shapes(input_shape, loaded), policy).coupled
    stories = tell(coupled, tensor)
    if format is Format.JSON:
        from onnxprune.report.render.json import to_json

        print(to_json({"tensor": tensor, "axes": [_plain(s) for s in stories]}))
        return
    from onnxprune.report.render.text import sentences

    console = _console()
    console.print(about(coupled, tensor), markup=False)
    for s in stories:
        console.print("  " + sentences(s), markup=False)


@app.command()
def verify(
    original: Annotated[Path, typer.Argument(help="The model before pruning.")],
    pruned: Annotated[Path, typer.Argument(help="The model after pruning.")],
    plan: Annotated[Path, typer.Argument(metavar="PLAN.json", help="The plan between the two.")],
    input_shape: ShapeOption = [],  # noqa: B006
    format: FormatOption = Format.TABLE,
) -> None:
    """Prove that PRUNED is ORIGINAL with the channels of PLAN removed."""
    loaded = load(original)
    proof = api.verify_files(original, pruned, plan, _shapes(input_shape, loaded))
    if format is Format.JSON:
        from onnxprune.report.render.json import to_json

        print(to_json(proof))
        return
    from onnxprune.report.render.table import proof_text

    refitted = "; after the cut, weights were refitted, and nothing else was changed" if Plan.load(plan).recovered else ""
    _console().print(f"proven: {proof_text(proof)}{refitted}", markup=False)


@app.command()
def bench(
    models: Annotated[
        list[Path],
        typer.Argument(metavar="A.onnx [B.onnx ...]", help="Models with the same inputs; the first is the yardstick."),
    ],
    input_shape: ShapeOption = [],  # noqa: B006
    threads: ThreadsOption = 1,
    seconds: Annotated[float, typer.Option("--seconds", help="About how long to measure.")] = 4.0,
    format: FormatOption = Format.TABLE,
) -> None:
    """Time models in turn (A B A B ...) in onnxruntime on the CPU."""
    from onnxprune.cost import benchmark

    if seconds <= 0 or threads < 1:
        raise OptionError(f"--seconds and --threads: got {seconds:g} and {threads}, expected more than 0 and at least 1")
    loaded = [load(m) for m in models]
    first = loaded[0]
    inputs = benchmark.cost(first.model, _shapes(input_shape, first)).inputs
    with _progress() as progress:
        feeds = benchmark.random_feeds(first.model, inputs)
        result = benchmark.benchmark(
            [m.model for m in loaded], feeds, threads, seconds, lambda done: progress("benchmark", done)
        )
    names = [m.name for m in loaded]
    if format is Format.JSON:
        from onnxprune.report.render.json import benchmark_values, to_json

        print(to_json(benchmark_values(result, names)))
        return
    from onnxprune.report.render.table import print_benchmark

    print_benchmark(result, names, _console())


def _plain(value: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(value)


def _places(inputs: Sequence[Path], output: Path | None, plan: Path | None, force: bool) -> tuple[Path, Path]:
    out = output or inputs[0].with_suffix(".pruned.onnx")
    plan_path = plan or out.with_suffix(".plan.json")
    if out == plan_path:
        raise OptionError(f"{out}: is named for both the model and the plan; choose two names")
    check_output(out, force, *inputs)
    check_output(plan_path, force, *inputs)
    return out, plan_path


def _deliver(result: api.Result, out: Path, plan: Path | None, format: Format) -> None:
    """Write the files, print the report, and exit with 1 where a stated limit was missed."""
    result.save(out, plan)
    report = replace(result.report, output=str(out))
    if format is Format.JSON:
        from onnxprune.report.render.json import to_json

        print(to_json(report))
    else:
        from onnxprune.report.render.table import print_report

        print_report(report, _console())
    if report.missed:
        raise typer.Exit(1)


def _shapes(texts: Sequence[str], loaded: Any) -> dict[str, tuple[int, ...]]:
    """`image:1x3x224x224` or, for a model with one input, `1x3x224x224`."""
    from onnxprune.ir.graph import free_inputs

    names = [v.name for v in free_inputs(loaded.model)]
    found = {}
    for text in texts:
        name, colon, dims = text.rpartition(":")
        name = name if colon else names[0]
        sizes = dims.lower().replace(",", "x").split("x")
        if name not in names or not all(s.isdigit() and int(s) > 0 for s in sizes):
            raise OptionError(f"--input-shape: got '{text}', expected NAME:1x3x224x224 with a name of {', '.join(names)}")
        found[name] = tuple(int(s) for s in sizes)
    return found


def _console() -> Console:
    """Standard output; wide where it is no terminal, so that nothing is cut off."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 160, soft_wrap=False)


class _progress:  # noqa: N801 - used as a function
    """A progress bar on stderr where that is a terminal; silent elsewhere."""

    def __enter__(self) -> Progress:
        console = Console(stderr=True)
        times = (TimeElapsedColumn(), TimeRemainingColumn())
        columns = (SpinnerColumn(), TextColumn("{task.description:<10}"), BarColumn(), *times)
        self._bar = Bars(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._bar.start()
        self._tasks: dict[str, Any] = {}
        return self._show

    def _show(self, stage: str, done: float) -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self._bar.add_task(stage, total=1.0)
        self._bar.update(self._tasks[stage], completed=done)

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; every failure is one line on stderr and an exit status."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """The exit status of a command line: 0 done, 1 a stated limit was missed, 2 wrong command or input, 130 Ctrl-C."""
    try:
        status = app(list(arguments) if arguments is not None else None, standalone_mode=False)
        if status == INTERRUPTED:  # newer releases of typer turn Ctrl-C into a status, older ones let it through
            raise KeyboardInterrupt
        return status if isinstance(status, int) else 0
    except VerificationError as e:
        return _fail(f"verification failed, nothing was written: {e}", 1)
    except PruneError as e:
        return _fail(str(e), 2)
    except (typer.Abort, KeyboardInterrupt):
        return _fail("stopped; nothing was written", INTERRUPTED)
    except USAGE_ERROR as e:
        return _fail(e.format_message() + " ('onnxprune --help' lists all options)", 2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except MemoryError:
        return _fail("out of memory; use a machine with more, or a smaller --input-shape", 2)
    except Exception as e:  # a mistake of this program; nothing has been written
        if os.environ.get("ONNXPRUNE_TRACEBACK"):
            raise
        why = f"{type(e).__name__}: {' '.join(str(e).split())[:300]}"
        return _fail(f"internal error, nothing was written: {why}; please report it (ONNXPRUNE_TRACEBACK=1 shows where)", 2)


def _fail(message: str, status: int) -> int:
    print("onnxprune: " + " ".join(message.split()), file=sys.stderr)
    return status


if __name__ == "__main__":
    main()
