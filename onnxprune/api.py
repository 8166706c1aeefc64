# SPDX-License-Identifier: Apache-2.0
"""The Python interface: `prune`, `unify`, `analyze`, `sensitivity`, `search`, `profile`, `apply_plan`, `verify_files`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxprune.analysis.analyse import Analysis, analyse
from onnxprune.analysis.policy import Policy, read_carrier
from onnxprune.cost.profile import Profile
from onnxprune.data.load import Labels, Source
from onnxprune.evaluation.evaluator import Metric
from onnxprune.evaluation.verification import Verification
from onnxprune.ir.facts import read_graph
from onnxprune.options import CheckOptions, Options, check_input_shape, check_names
from onnxprune.pipeline.apply import apply_loaded, verify_loaded
from onnxprune.pipeline.prune import prune_loaded, unify_loaded
from onnxprune.pipeline.refusal import opened, refusing
from onnxprune.pipeline.resolve import resolved
from onnxprune.pipeline.result import Result
from onnxprune.rewrite.plan import Plan
from onnxprune.types import Array, Progress, Shapes, silent

if TYPE_CHECKING:
    from onnxprune.pipeline.search import SearchResult
    from onnxprune.report.sensitivity import Sensitivity


def prune(
    model: Any,
    ratio: float | None = None,
    *,
    macs: str | float | None = None,
    params: str | float | None = None,
    size: str | float | None = None,
    memory: str | float | None = None,
    latency: str | float | None = None,
    max_loss: str | float | None = None,
    criterion: str | None = None,
    scores: str | Path | Mapping[str, Array] | None = None,
    scope: str = "global",
    widths: str = "order",
    normalise: str | None = None,
    layer_ratios: str | Path | Mapping[str, Any] | None = None,
    align: str | int = "auto",
    profile: str | Path | Profile | None = None,
    other_machine: bool = False,
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    carrier: str | Sequence[str] = (),
    depth: bool = False,
    allow_renormalising: bool = False,
    data: Source | None = None,
    preprocess: str | None = None,
    samples: int | None = None,
    labels: Labels | None = None,
    metric: str | Metric | None = None,
    input_shape: Shapes | None = None,
    seed: int = 0,
    recover: str = "auto",
    rounds: int = 1,
    time_budget: str | float | None = None,
    work: str | Path | Mapping[str, int] | None = None,
    unify: str | int | None = None,
    share: float | None = None,
    zero: float = 0.0,
    all_layers: bool = False,
    runtime: str | None = None,
    verify: bool = True,
    bench: bool = True,
    threads: int = 1,
    progress: Progress = silent,
    **unknown: Any,
) -> Result:
    """Remove channels from a trained model.

    Args:
        model: a path, an `onnx.ModelProto` or an `onnx_graphsurgeon.Graph`; it is not changed.
        ratio: fraction of prunable channels to remove, 0 <= ratio < 1.
        macs, params, size, memory: instead of `ratio`, what may remain of the multiply-accumulates, the parameters, the bytes
            of the files, and the bytes of weights and activations needed at a time: "50%", "300M", "2MB", or a number. All that
            are given must hold.
        latency: the time of one run that may remain, measured here: "50%" or "12ms".
        max_loss: the most that may be lost on held-out samples, such as "1%": points of accuracy, a share of the metric, or,
            without labels, of the original's answers. Alone, the deepest cut that holds it is searched for.
        criterion: how channels are ranked; None: `obs` if there are inputs to recover with, else `ccprune`.
        scores: path of an .npz, or weight name -> one score per channel, instead of the criterion.
        scope: "global" ranks all channels together; "local" removes the same fraction of every group; "isomorphic" the same of
            all groups of one structure.
        widths: how widths within targets are chosen: in the "order" of scores, or all at once, by a "knapsack".
        normalise: how scores of layers are made comparable: "mean", "max", "standard" or "none".
        layer_ratios: a TOML file, or pattern of weight names -> fraction to remove, or {"keep_at_least": 0.2,
            "keep_at_most": 0.8}.
        align: round widths to what is fast on this processor ("auto"), to multiples of a number, or not at all ("none").
        profile: what `profile` returned, or a file of `onnxprune profile`, measured where the model will run: what is fast
            there is what "auto" means. None: what is known of this processor, or with `latency`, the profile of this machine,
            which is measured the first time.
        other_machine: whether `latency` may be measured here although the profile is of another machine.
        include, exclude: glob patterns (one, or several) of the names of weights that may, or must not, be cut.
        carrier: which factor of a split axis is cut: "outer", "inner", "auto", or patterns such as "*attn*=outer".
        depth: whether whole residual branches may go, too; needs a target and `data`.
        allow_renormalising: whether means, normalisations and softmax over channels may work on the kept channels.
        data: typical inputs: a path, `module:function`, "synthetic", "random", arrays by input name, or loaded samples.
        preprocess: how images are converted to inputs, as in "size=224x224,mean=0.5,std=0.5".
        samples: maximum number of samples.
        labels: one per sample, or a file of labels.
        metric: function(outputs, labels or inputs) -> number, higher is better; or its name, `module:function`.
        input_shape: input name -> shape, for dimensions that are dynamic in the file.
        seed: seed for all random choices.
        recover: how to recover accuracy: "auto", "none", "bias", "reconstruct" or "distill".
        rounds: number of steps in which to cut, with a recovery after each.
        time_budget: time for all work on samples, as "10m" or in seconds; by default a minute, for "distill" ten.
        work: path of a plan, or its record of work, to repeat what time decided in an earlier run.
        unify: size of blocks whose weights get one magnitude afterwards (see `unify`); None: none do.
        share, zero, all_layers, runtime: as for `unify`.
        verify: whether to compare the result with the original in which the removed channels are zeroed.
        bench: whether to time both models.
        threads: number of onnxruntime threads in the benchmark.
        progress: called with the name of a stage and the fraction done, 0 to 1.
        unknown: rejected, with the nearest option name.

    Raises:
        PruneError: the input or an option is wrong, or the result could not be verified.

    >>> import onnxprune
    >>> result = onnxprune.prune("models/resnet20-fashion-mnist.onnx", ratio=0.5, align="none", recover="none", bench=False)
    >>> f"{result.report.ratio:.0%} of the channels"
    '50% of the channels'
    >>> result.report.macs.kept < 0.5, result.report.verification.error < 1e-5
    (True, True)
    """
    check_names(unknown, _options(prune))
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
        input_shape=input_shape or {},
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
    options = resolved(options)
    return prune_loaded(opened(model), options, progress).in_memory()


def profile(threads: int = 1, progress: Progress = silent) -> Profile:
    """Measure the widths at which onnxruntime is fast on this machine, in up to a minute, and remember that for `latency`.

    Args:
        threads: number of onnxruntime threads.
        progress: called with the name of a stage and the fraction done, 0 to 1.

    Returns:
        What layers take over their width, and the multiples of channels that follow; for `prune`, or for a file (`to_json`).

    Raises:
        OptionError: the number of threads is less than 1.
    """
    from onnxprune.pipeline.profile import kept, measured  # on demand, for a quick start

    return kept(measured(CheckOptions(threads=threads).threads, progress=progress))


def sensitivity(
    model: Any,
    data: Source,
    *,
    ratios: Sequence[float] = (0.25, 0.5, 0.75),
    criterion: str | None = None,
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    preprocess: str | None = None,
    samples: int | None = None,
    labels: Labels | None = None,
    metric: str | Metric | None = None,
    input_shape: Shapes | None = None,
    seed: int = 0,
    jobs: int | None = None,
    progress: Progress = silent,
) -> Sensitivity:
    """Cut each group of channels alone to several widths, and measure what the outputs lose. Nothing is recovered.

    Args:
        model: a path, an `onnx.ModelProto` or an `onnx_graphsurgeon.Graph`; it is not changed.
        data: typical inputs, as for `prune`; labels are not needed.
        ratios: fractions of the channels of a group to remove.
        jobs: number of cuts that are judged at a time, each on one core; None: one per core.
        progress: called with the name of a stage and the fraction done, 0 to 1.

    The other arguments are those of `prune`.

    Raises:
        PruneError: the input or an option is wrong.
    """
    from onnxprune.pipeline.sensitivity import sensitivity_loaded  # on demand, for a quick start

    options = Options.of(
        ratio=0.0,
        criterion=criterion,
        include=include,
        exclude=exclude,
        data=data,
        preprocess=preprocess,
        samples=samples,
        labels=labels,
        metric=metric,
        input_shape=input_shape or {},
        seed=seed,
        recover="none",
    )
    return sensitivity_loaded(opened(model), resolved(options), ratios, jobs, progress=progress)


def search(
    model: Any,
    data: Source,
    *,
    macs: str | float | None = None,
    params: str | float | None = None,
    size: str | float | None = None,
    memory: str | float | None = None,
    latency: str | float | None = None,
    trials: int | None = None,
    time_budget: str | float | None = None,
    best: int = 3,
    storage: str | Path | None = None,
    study: str | None = None,
    criterion: str | None = None,
    scope: str | None = None,
    normalise: str | None = None,
    layer_ratios: str | Path | Mapping[str, Any] | None = None,
    align: str | int = "auto",
    profile: str | Path | Profile | None = None,
    other_machine: bool = False,
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    carrier: str | Sequence[str] = (),
    depth: bool = False,
    allow_renormalising: bool = False,
    preprocess: str | None = None,
    samples: int | None = None,
    labels: Labels | None = None,
    metric: str | Metric | None = None,
    input_shape: Shapes | None = None,
    seed: int = 0,
    recover: str = "auto",
    verify: bool = True,
    bench: bool = True,
    threads: int = 1,
    progress: Progress = silent,
    **unknown: Any,
) -> SearchResult:
    """Look for the most faithful cut within targets: over criteria, scopes, scales of scores, floors, widths and depth.

    The first trial is what `prune` does with the same targets. The best trials are recovered, and measured on samples that
    nothing was chosen by. Needs the extra `search`.

    Args:
        model: a path, an `onnx.ModelProto` or an `onnx_graphsurgeon.Graph`; it is not changed.
        data: typical inputs, as for `prune`, at least three batches; labels are not needed.
        macs, params, size, memory, latency: what may remain, at least one; all that are given must hold.
        trials: number of cuts to try, those of earlier calls and other processes included; None: 100, or with `time_budget` as
            many as there is time for.
        time_budget: time for trials and for the recovery of the best, as "10m" or in seconds.
        best: how many cuts of the front are recovered and measured, beside the default.
        storage: where trials are kept, so that a later call goes on and other processes may help: a file, or a URL such as
            "postgresql://user@host/database"; None: nowhere.
        study: the name of this search in the storage; None: that of the model's file.
        criterion, scope, normalise: as for `prune`; None: all that make sense are tried.
        layer_ratios: as for `prune`; every trial holds them, whatever it changes.
        depth: whether trials also differ in how many whole residual branches are gone.
        unknown: rejected, with the nearest option name.

    The other arguments are those of `prune`.

    Raises:
        PruneError: the input or an option is wrong, the storage is not there, or the study was made for something else.

    >>> import onnxprune
    >>> data = "models/resnet20-fashion-mnist.npz"
    >>> options = {"samples": 60, "recover": "none", "bench": False, "criterion": "l1"}
    >>> found = onnxprune.search("models/resnet20-fashion-mnist.onnx", data, macs="50%", trials=4, best=1, **options)
    >>> found.report.trials, found.report.missed, found.best.report.macs.kept <= 0.5
    (4, False, True)
    """
    check_names(unknown, _options(search))
    from onnxprune.pipeline.search import SearchOptions, check_search, search_loaded  # on demand, for a quick start

    targets = {"macs": macs, "params": params, "size": size, "memory": memory, "latency": latency}
    options = Options.of(
        **targets,
        ratio=None if any(value is not None for value in targets.values()) else 0.0,
        criterion=criterion,
        scope=scope or "global",
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
        input_shape=input_shape or {},
        seed=seed,
        recover=recover,
        verify=verify,
        bench=bench,
        threads=threads,
    )
    check_search(options)
    kept = None if storage is None else str(storage)
    how = SearchOptions.of(time_budget, storage=kept, study=study, trials=trials, best=best, scope=scope)
    return search_loaded(opened(model), resolved(options), how, progress).in_memory()


def unify(
    model: Any,
    block: str | int = 16,
    *,
    share: float | None = None,
    zero: float = 0.0,
    scope: str = "global",
    exclude: str | Sequence[str] = (),
    all_layers: bool = False,
    runtime: str | None = None,
    data: Source | None = None,
    preprocess: str | None = None,
    samples: int | None = None,
    labels: Labels | None = None,
    metric: str | Metric | None = None,
    input_shape: Shapes | None = None,
    seed: int = 0,
    recover: str = "auto",
    time_budget: str | float = "5m",
    work: str | Path | Mapping[str, int] | None = None,
    bench: bool = True,
    threads: int = 1,
    progress: Progress = silent,
    **unknown: Any,
) -> Result:
    """Give the weights of small blocks one magnitude, so that the file gets much smaller; shapes do not change.

    Args:
        model, data, preprocess, samples, labels, metric, input_shape, seed, work, bench, threads, progress, unknown: as for
            `prune`.
        block: size of a block: 16 (inputs), "4x4" (outputs x inputs) or "1x8x3x3" (with the kernel).
        share: share of all blocks that get one magnitude; None: all that `zero` leaves. The rest is only rounded
            to float16.
        zero: share of all blocks that are set to zero first.
        scope: whether these are shares of all blocks together ("global"), or of those of each weight ("local").
        exclude: glob patterns (one, or several) of the names of weights that stay as they are.
        all_layers: whether first and last layers are unified too.
        runtime: the oldest onnxruntime that must load the file, as "1.24"; None: 1.20.
        recover: how weights make up for what blocks lose: "auto", "none", "reconstruct" or "distill".
        time_budget: time for all work on samples, as "10m" or in seconds.

    Raises:
        PruneError: the input or an option is wrong, or the result could not be verified.

    >>> import onnxprune
    >>> result = onnxprune.unify("models/resnet20-fashion-mnist.onnx", 16, recover="none", bench=False)
    >>> f"{result.report.bytes.kept:.0%} of the file"
    '31% of the file'
    """
    check_names(unknown, _options(unify))
    options = Options.of(
        ratio=0.0,
        criterion="ccprune",
        unify=block,
        share=share,
        zero=zero,
        block_scope=scope,
        leave=exclude,
        all_layers=all_layers,
        runtime=runtime,
        data=data,
        preprocess=preprocess,
        samples=samples,
        labels=labels,
        metric=metric,
        input_shape=input_shape or {},
        seed=seed,
        recover=recover,
        time_budget=time_budget,
        work=work,
        bench=bench,
        threads=threads,
    )
    return unify_loaded(opened(model), resolved(options), progress).in_memory()


def _options(function: Callable[..., Any]) -> list[str]:
    """The options among the arguments of `prune` or `unify`."""
    return [name for name in signature(function).parameters if name not in ("model", "progress", "unknown")]


def analyze(
    model: Any,
    input_shape: Shapes | None = None,
    carrier: str | Sequence[str] = (),
    allow_renormalising: bool = False,
    **unknown: Any,
) -> Analysis:
    """Find the channels of a model that can be removed.

    Args:
        model, input_shape, carrier, allow_renormalising, unknown: as for `prune`.

    Raises:
        PruneError: the model or an option is wrong.

    >>> import onnxprune
    >>> found = onnxprune.analyze("models/resnet20-fashion-mnist.onnx")
    >>> [(g.name, len(g)) for g in found.groups[:2]]
    [('conv.weight', 16), ('layer1.0.conv1.weight', 16)]
    >>> print(found.pinned[0].pin)
    output 'logits' is a model output, so its size is fixed
    """
    check_names(unknown, ("input_shape", "carrier", "allow_renormalising"))
    shapes = check_input_shape(input_shape or {})
    loaded, policy = opened(model), Policy(read_carrier(carrier), allow_renormalising)
    with refusing(loaded, shapes):
        return analyse(read_graph(loaded.model, shapes), policy)


def apply_plan(
    model: Any,
    plan: Plan | str | Path,
    *,
    input_shape: Shapes | None = None,
    verify: bool = True,
    bench: bool = True,
    threads: int = 1,
    progress: Progress = silent,
    **unknown: Any,
) -> Result:
    """Cut a model according to an existing plan; it may be a retrained copy of the model that the plan was made for.

    Args:
        model, input_shape, verify, bench, threads, progress, unknown: as for `prune`.
        plan: a plan, or the path of one.

    Raises:
        PlanError: the plan does not fit this model.
    """
    check_names(unknown, ("input_shape", "verify", "bench", "threads"))
    shapes = check_input_shape(input_shape or {})
    checks = CheckOptions(verify, bench, threads)
    return apply_loaded(opened(model), Plan.of(plan), shapes, checks, progress).in_memory()


def verify_files(original: Any, pruned: Any, plan: Plan | str | Path, input_shape: Shapes | None = None) -> Verification:
    """Verify that `pruned` is `original` without the channels that `plan` removes.

    If the plan states that weights were refitted after the cut, the cut itself is compared, and `pruned` may differ from it
    only in values of floating-point weights and added biases.

    Args:
        original, pruned: as `model` for `prune`.
        plan: a plan, or the path of one.
        input_shape: as for `prune`.

    Raises:
        PlanError: the plan does not fit the original.
        VerificationError: the two do not compute the same outputs.
    """
    shapes = check_input_shape(input_shape or {})
    return verify_loaded(opened(original), opened(pruned, folds=False), Plan.of(plan), shapes)
