# SPDX-License-Identifier: Apache-2.0
"""What Python sees: `prune`, `analyze`, `apply_plan`, `verify_files`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxprune.analysis.analyse import Analysis, analyse
from onnxprune.analysis.policy import Policy, read_carrier
from onnxprune.data.load import Labels, Source
from onnxprune.evaluation.evaluator import Metric
from onnxprune.evaluation.verification import Verification
from onnxprune.ir.facts import read_graph
from onnxprune.ir.files import load
from onnxprune.options import HOME, CheckOptions, Options, check_names
from onnxprune.pipeline.prune import apply_loaded, look_up, prune_loaded, verify_loaded
from onnxprune.pipeline.result import Result
from onnxprune.rewrite.plan import Plan
from onnxprune.types import Array, Progress, Shapes, silent


def prune(
    model: Any,
    ratio: float | None = None,
    *,
    macs: str | float | None = None,
    criterion: str | None = None,
    scores: str | Path | Mapping[str, Array] | None = None,
    scope: str = "global",
    align: str | int = "auto",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    carrier: str | Sequence[str] = (),
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
        macs: instead of `ratio`, the multiply-accumulates that may remain: "50%", "300M", or a number of them.
        criterion: what makes a channel worth keeping; None: `obs` where there are inputs to recover with, else `ccprune`.
        scores: path of an .npz, or weight name -> one score per channel, instead of the criterion.
        scope: "global" ranks all channels together; "local" takes the same fraction of every group.
        align: widths are multiples of what this processor is fast at ("auto"), of a number, or free ("none").
        include, exclude: patterns of weight names that may, or may not, be cut.
        carrier: what a split of channels carries: "outer", "inner", "auto", or patterns such as "*attn*=outer".
        allow_renormalising: whether means, normalisations and softmax over channels may work on those that are kept.
        data: typical inputs: a path, `module:function`, "synthetic", "random", arrays by input name, or loaded samples.
        preprocess: how images become inputs, as in "size=224x224,mean=0.5,std=0.5".
        samples: how many samples to use at most.
        labels: one per sample, or a file of them.
        metric: function(outputs, labels or inputs) -> number, higher is better; or its name, `module:function`.
        input_shape: input name -> shape, for sizes that the file leaves open.
        seed: of whatever is chosen at random.
        recover: what is done to keep accuracy: "auto", "none", "bias", "reconstruct" or "distill".
        rounds: in how many steps to cut, with a recovery after each.
        time_budget: how long training may take, as "10m" or in seconds.
        verify: whether to compare the result with the original with those channels zeroed.
        bench: whether to time both.
        threads: threads of onnxruntime in the benchmark.
        progress: told what is being done.
        unknown: refused, with the nearest name.

    Raises:
        PruneError: the input or an option is wrong, or the result could not be verified.

    >>> import onnxprune
    >>> result = onnxprune.prune("models/resnet20-fashion-mnist.onnx", ratio=0.5, align="none", recover="none", bench=False)
    >>> f"{result.report.ratio:.0%} of the channels"
    '50% of the channels'
    >>> result.report.macs.kept < 0.5, result.report.verification.error < 1e-5
    (True, True)
    """
    check_names(unknown, HOME)
    options = Options.of(
        ratio=ratio,
        macs=macs,
        criterion=criterion,
        scores=scores,
        scope=scope,
        align=align,
        include=include,
        exclude=exclude,
        carrier=carrier,
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
        verify=verify,
        bench=bench,
        threads=threads,
    )
    look_up(options)
    return prune_loaded(load(model), options, progress).in_memory()


def analyze(
    model: Any, input_shape: Shapes | None = None, carrier: str | Sequence[str] = (), allow_renormalising: bool = False
) -> Analysis:
    """Find the channels of a model that can be removed.

    Args:
        model, input_shape, carrier, allow_renormalising: as for `prune`.

    >>> import onnxprune
    >>> found = onnxprune.analyze("models/resnet20-fashion-mnist.onnx")
    >>> [(g.name, len(g)) for g in found.groups[:2]]
    [('conv.weight', 16), ('layer1.0.conv1.weight', 16)]
    >>> print(found.held[0].pin)
    output 'logits' promises its size to the user
    """
    return analyse(read_graph(load(model).model, input_shape), Policy(read_carrier(carrier), allow_renormalising))


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
    """Cut a model by a plan made earlier, also a retrained copy of the model that the plan was made for.

    Args:
        model, input_shape, verify, bench, threads, progress, unknown: as for `prune`.
        plan: a plan, or the path of one.

    Raises:
        PlanError: the plan does not fit this model.
    """
    check_names(unknown, ("input_shape", "verify", "bench", "threads"))
    checks = CheckOptions(verify, bench, threads)
    plan = plan if isinstance(plan, Plan) else Plan.load(plan)
    return apply_loaded(load(model), plan, input_shape or {}, checks, progress).in_memory()


def verify_files(original: Any, pruned: Any, plan: Plan | str | Path, input_shape: Shapes | None = None) -> Verification:
    """Verify that `pruned` is `original` with the channels of `plan` removed.

    Where the plan says that weights were refitted after the cut, it is the cut that is compared, and `pruned` may differ from
    it in nothing but the values of weights.

    Args:
        original, pruned: as `model` for `prune`.
        plan: a plan, or the path of one.
        input_shape: as for `prune`.

    Raises:
        PlanError: the plan does not fit the original.
        VerificationError: the two compute different things.
    """
    plan = plan if isinstance(plan, Plan) else Plan.load(plan)
    return verify_loaded(load(original), load(pruned), plan, input_shape or {})
