# SPDX-License-Identifier: Apache-2.0
"""The stage that unifies weights: which blocks, fitted by which method, carried how; it follows a cut, or stands alone."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from onnx import ModelProto, TensorProto, numpy_helper

from onnxprune.analysis.coupling import Coupled
from onnxprune.calibration.linear import linear_of
from onnxprune.compression.blocks import FREE, SHARED, ZERO, Blocks
from onnxprune.compression.carrier import HALF, KINDS, Codes, as_restored, carried, fusible, restored, unified_names
from onnxprune.compression.choice import Losses, Shares, chosen
from onnxprune.compression.division import Division
from onnxprune.compression.eligible import NUMBERS, eligible, linear_weights
from onnxprune.compression.layout import read_directly
from onnxprune.compression.opset import converted
from onnxprune.cost import benchmark
from onnxprune.cost.footprint import FileSize, file_size_model
from onnxprune.errors import ModelError, OptionError, PlanError, VerificationError, counted, first_line
from onnxprune.evaluation.evaluator import Evaluator
from onnxprune.evaluation.structure import check_contract, only_weights
from onnxprune.evaluation.verification import as_output
from onnxprune.ir.facts import read_graph
from onnxprune.ir.files import runnable
from onnxprune.ir.graph import Graph, Weight, opsets, read_weights
from onnxprune.ir.packing import packed_size
from onnxprune.ir.tensors import nbytes, size_of, slabs
from onnxprune.options import CheckOptions, UnificationOptions
from onnxprune.ort import session
from onnxprune.pipeline.goal import Goal
from onnxprune.recovery.editor import Editor
from onnxprune.recovery.methods import Recovery, Task, recover
from onnxprune.recovery.unification import losses_of, projected, ways_to_unify
from onnxprune.report.values import BlockRow, CarrierRow, Change, UnificationRow
from onnxprune.rewrite.plan import BlockMask, Plan
from onnxprune.types import Array, Feeds, Progress

TOLERANCE, OPTIMISED = 1e-5, 1e-2
"""Largest relative difference between the written file and one that stores the same weights as numbers: without graph
optimisation, and with it (the kernels of fused products round their inputs to 8 bits)."""
NEAR = 1e-3
"""Largest relative difference between weights that were rounded alike, but computed on different machines."""
MUCH = 0.1
"""If more than this share of the outputs is lost, the report says how to lose less."""
JUDGING = 64
"""Samples that show which blocks matter."""
SLOWER = 1.02
"""A fused product is kept if the model takes at most this share of the time that it takes without."""


@dataclass(frozen=True)
class InBlocks:
    """A model with unified weights.

    Attributes:
        model: as it is written.
        numbers: the same with its weights stored as numbers.
        divisions: what was done to each weight.
        recovery: what was tried, and how it performed.
        row: what the report says about it.
        notes: sentences for the report.
    """

    model: ModelProto = field(repr=False)
    numbers: ModelProto = field(repr=False)
    divisions: Mapping[str, Division] = field(repr=False)
    recovery: Recovery
    row: UnificationRow
    notes: tuple[str, ...] = ()

    @property
    def masks(self) -> dict[str, BlockMask]:
        """What the plan says about the blocks."""
        return {name: BlockMask.of(d.blocks.runs, d.actions.tolist()) for name, d in self.divisions.items()}


def check_blocks(model: ModelProto, asked: UnificationOptions, name: str) -> None:
    """Reject blocks that do not fit this model, before any sample is generated or read.

    Raises:
        OptionError: the block is larger than any axis, or of another rank than any kernel, a pattern matches nothing, or the
            shares are less than a block.
        ModelError: no weight can be divided, some are unified already, or one is not finite.
    """
    if names := unified_names(model):
        raise ModelError(f"{name}: has already unified weights, such as '{names[0]}'; unify the original instead")
    graph, block = read_graph(read_directly(model)), asked.block()
    sizes = linear_weights(graph)
    if not sizes:
        what = "weight of a convolution or matrix product that is stored as floating-point numbers"
        bodies = any(linear_of(node, graph.weights) for node in graph.nodes if node.body)
        more = " outside the bodies of If, Loop and Scan, which are not unified" if bodies else ", so nothing can be unified"
        raise ModelError(f"{name}: has no {what}{more}")
    block.check([(graph.weights[linear.weight].shape, linear.axes) for linear in sizes])
    _check_patterns(asked.leave, [graph.origin(linear.weight) for linear in sizes])
    found = eligible(graph, block, asked.leave, asked.all_layers)
    if not found and asked.leave and eligible(graph, block, (), asked.all_layers):
        raise OptionError(f"--exclude: {' '.join(asked.leave)} leaves no weight of this model to unify")
    if not found:
        hint = "" if asked.all_layers else "; first and last layers stay as they are without --all-layers"
        raise ModelError(f"{name}: has no weight that can be divided into blocks of {block}{hint}")
    _check_shares(asked.shares(), [blocks.count for blocks in found.values()])
    for weight in found:
        if not all(np.isfinite(part).all() for _, part in slabs(graph.weights[weight].tensor)):
            raise ModelError(f"{name}: weight '{weight}' contains NaN or infinity, so its blocks have no magnitude")


def _check_patterns(patterns: Sequence[str], names: Sequence[str]) -> None:
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            some = ", ".join(names[:3])
            raise OptionError(f"--exclude: '{pattern}' matches no weight of a convolution or matrix product, such as {some}")


def _check_shares(shares: Shares, counts: Sequence[int]) -> None:
    """Reject shares that are less than a block of so many in each weight."""
    together, total = shares.zero + shares.shared, sum(counts)
    if not any(sum(shares.of(count)) for count in (counts if shares.scope == "local" else [total])):
        where = " in every weight" if shares.scope == "local" else ""
        raise OptionError(f"--share and --zero: got {together:g} together, less than one of {counted(total, 'block')}{where}")


def in_blocks(
    task: Task,
    asked: UnificationOptions,
    method: str,
    judge: Evaluator | None,
    feeds: Sequence[Feeds],
    checks: CheckOptions,
    progress: Progress,
) -> InBlocks:
    """Unify the weights of a cut and recovered model.

    Args:
        task: `pruned` is the model to unify; it is fitted to the original.
        method: a name in `recovery.unification.WAYS`.
        judge: judges on held-out samples; None: there are none.
        feeds: seeded inputs, to compare the file with its weights and to measure it.
    """
    task = replace(task, pruned=read_directly(task.pruned))
    divisions = divide(task, asked)
    start = replace(task, pruned=projected(task.pruned, divisions))
    recovery = recover(start, method, judge, progress, ways_to_unify(task.pruned, divisions))
    check_contract(task.pruned, recovery.model, only_weights(recovery.added))
    check_divisions(recovery.model, divisions)
    model, row, notes = stored(recovery.model, divisions, asked, feeds, checks, progress)
    row = replace(row, left=tuple(n for n in _every_weight(task.pruned) if n not in divisions), method=recovery.method)
    notes = (*notes, *_larger(row), *_advice(recovery, asked))
    return InBlocks(model, recovery.model, divisions, recovery, row, notes)


def _larger(row: UnificationRow) -> list[str]:
    sizes = f"{row.bytes.after / row.bytes.before:.0%} of the size"
    larger = row.bytes.after >= row.bytes.before
    return [f"the file got larger ({sizes}): its weights are too small for what a carrier takes"] if larger else []


def _advice(recovery: Recovery, asked: UnificationOptions) -> list[str]:
    """What to do if everything was unified and much is lost: a few blocks of small layers often lose most of it."""
    chosen, shares = recovery.chosen, asked.shares()
    if chosen is None or chosen.lost <= MUCH or chosen.ruined or shares.shared + shares.zero < 1:
        return []
    lost = f"{chosen.lost:.0%} of what the outputs tell about the inputs is lost"
    return [f"{lost}: --share 0.9 leaves the blocks free that lose most, and keeps much more of it in a file as large"]


def divide(task: Task, asked: UnificationOptions) -> dict[str, Division]:
    """What is done to each block of each weight."""
    graph = read_graph(task.pruned)
    if task.fit is None:
        return divided_by(graph, asked)
    few = replace(task, fit=task.fit.take(JUDGING, task.seed))
    return divided_by(graph, asked, partial(losses_of, batches=few.batches(), seed=task.seed))


def divided_by(
    graph: Graph, asked: UnificationOptions, losses: Callable[[Graph, Mapping[str, Blocks]], Mapping[str, Losses]] | None = None
) -> dict[str, Division]:
    """What is done to each block of each weight, by what blocks lose; None: by the changes of the weights alone."""
    shares = asked.shares()
    blocks = eligible(graph, asked.block(), asked.leave, asked.all_layers)
    if shares.everything:
        return {name: Division(b, np.full(b.count, SHARED)) for name, b in blocks.items()}
    levels = {name: levels_of(graph.weights[name], asked.codes()) for name in blocks}
    _check_shares(shares, [b.count for b in blocks.values()])
    found = losses(graph, blocks) if losses else {n: Losses.of(b, graph.weights[n].array) for n, b in blocks.items()}
    actions = chosen(found, shares)
    return {name: Division(b, actions[name], levels[name]) for name, b in blocks.items() if (actions[name] != FREE).any()}


def sized(goal: Goal, measured: Callable[[ModelProto], float], asked: UnificationOptions) -> Goal:
    """The goal whose target for the size of the files is one for the model after all steps, which is `measured`."""
    later = partial(file_size_in_blocks, asked=asked) if asked.on else None
    budgets = (replace(b, later=later, measured=measured) if b.target == "size" else b for b in goal.budgets)
    return replace(goal, budgets=tuple(budgets))


def size_in_blocks(model: ModelProto, asked: UnificationOptions) -> float:
    """The size of the file of a cut model once its weights are unified, whatever they are fitted to."""
    model = read_directly(model)
    divisions = divided_by(read_graph(model), asked)
    newer = converted(projected(model, divisions), asked.codes().opset)
    return float(size_of(carried(newer, divisions, asked.codes()) if newer else carried(model, divisions, KINDS[0])))


def file_size_in_blocks(coupled: Coupled, asked: UnificationOptions) -> FileSize:
    """The size of the files of cuts whose weights are unified afterwards, as far as shapes tell."""
    model, codes, shares = read_directly(coupled.graph.model), asked.codes(), asked.shares()
    newer = converted(model, codes.opset)
    model, codes = (newer, codes) if newer is not None else (model, KINDS[0])
    weights = read_weights(model)
    blocks = eligible(read_graph(model), asked.block(), asked.leave, asked.all_layers)
    magnitudes = {name: HALF * b.count / math.prod(b.shape) for name, b in blocks.items()}
    # what carriers add besides does not depend on values
    editor = Editor(ones := ModelProto.FromString(model.SerializeToString()))
    for name in blocks:
        editor.put(name, np.ones_like(weights[name].array))
    file = carried(ones, {name: Division(b, np.full(b.count, SHARED)) for name, b in blocks.items()}, codes)
    all_in_codes = {name: codes.bytes(0.0) + each for name, each in magnitudes.items()}
    kept = sum(nbytes(weights[name].tensor) - all_in_codes[name] * math.prod(b.shape) for name, b in blocks.items())
    free = max(0.0, 1 - shares.shared - shares.zero)
    makers = coupled.graph.producers
    sources = {name: makers[name].inputs[0] if name in makers else name for name in blocks}
    stored = {sources[name]: codes.bytes(free) + each for name, each in magnitudes.items()}
    return file_size_model(coupled, stored, size_of(file) - size_of(coupled.graph.model) + kept)


def levels_of(weight: Weight, codes: Codes) -> int:
    """The largest code of a free block. float16 would round multiples of a step, and takes no more space."""
    return 0 if weight.tensor.data_type == TensorProto.FLOAT16 else codes.levels


def check_divisions(model: ModelProto, divisions: Mapping[str, Division]) -> None:
    """Check that all weights have the blocks that are claimed.

    Raises:
        VerificationError: a block that should share a magnitude has several, one that should be zero is not, or the weights of
            a free block are not multiples of a step.
    """
    values = read_weights(model)
    for name, division in divisions.items():
        if wrong := division.wrong(values[name].array):
            what = "with several magnitudes, with values between its steps, or not zero as claimed"
            raise VerificationError(f"'{name}' has {counted(wrong, 'block')} {what}")


@dataclass(frozen=True)
class Written:
    """A model as it is written.

    Attributes:
        model: the model.
        errors: how far it is from its weights as numbers, without graph optimisation and with it.
        fused: the weights that it carries for fused products.
    """

    model: ModelProto = field(repr=False)
    errors: tuple[float, float]
    fused: tuple[str, ...] = ()


def stored(
    model: ModelProto,
    divisions: Mapping[str, Division],
    asked: UnificationOptions,
    feeds: Sequence[Feeds],
    checks: CheckOptions,
    progress: Progress,
) -> tuple[ModelProto, UnificationRow, tuple[str, ...]]:
    """The model with its weights as codes and magnitudes, in the smallest codes that the asked runtime loads.

    Raises:
        VerificationError: it does not compute what the weights say.
    """
    codes, notes = asked.codes(), list[str]()
    try:
        written = _in_codes(model, divisions, codes, feeds)
    except VerificationError as e:
        if codes is KINDS[0]:
            raise
        notes.append(f"codes are {KINDS[0].name}: {codes.name} codes need opset {codes.opset}, and {e.message}")
        codes = KINDS[0]
        written = _in_codes(model, divisions, codes, feeds)
    if checks.bench and (names := fusible(written.model, divisions, codes)):
        written, told = _fastest(written, tuple(names), model, divisions, codes, feeds, checks, progress)
        notes.append(told)
    carrier = CarrierRow(codes.name, ".".join(map(str, codes.runtime)), *written.errors, len(feeds), len(written.fused))
    return written.model, _row(model, written.model, divisions, str(asked.block()), carrier), tuple(notes)


def _in_codes(
    model: ModelProto, divisions: Mapping[str, Division], codes: Codes, feeds: Sequence[Feeds], fused: tuple[str, ...] = ()
) -> Written:
    """The model with its weights in these codes.

    Raises:
        VerificationError: onnx cannot convert it to the opset of the codes, or it does not compute what the weights say.
    """
    newer = converted(model, codes.opset)
    if newer is None:
        raise VerificationError("onnx cannot convert this model")
    written = carried(newer, divisions, codes, fused)
    try:
        errors = (_difference(model, written, feeds, True), _difference(model, written, feeds, False))
    except Exception as e:  # onnxruntime raises many types
        raise VerificationError(f"onnxruntime does not run the result: {first_line(e)}") from e
    if errors[0] > TOLERANCE or errors[1] > OPTIMISED:
        found = f"{errors[0]:.1e} without graph optimisation and {errors[1]:.1e} with it"
        raise VerificationError(f"the file differs from its weights by {found} (allowed: {TOLERANCE:.0e} and {OPTIMISED:.0e})")
    return Written(written, errors, fused)


def _fastest(
    plain: Written,
    names: tuple[str, ...],
    model: ModelProto,
    divisions: Mapping[str, Division],
    codes: Codes,
    feeds: Sequence[Feeds],
    checks: CheckOptions,
    progress: Progress,
) -> tuple[Written, str]:
    """The model with fused products if it is not slower, else without; and a note."""
    what = f"{counted(len(names), 'matrix product')} computed from {codes.name} codes"
    try:
        other = _in_codes(model, divisions, codes, feeds, names)
    except VerificationError as e:
        return plain, f"{what}: not kept, {e.message}"
    models, advance = (plain.model, other.model), lambda done: progress("carriers", done)
    timing = benchmark.benchmark(models, feeds[0], checks.threads, progress=advance)
    told = f"{what}: {1 / timing.speedup[1]:.2f} of the time"
    if timing.speedup[1] * SLOWER < 1:
        return plain, f"{told}, not kept"
    return other, f"{told}, kept; outputs differ by up to {other.errors[1]:.1e}"


def _difference(a: ModelProto, b: ModelProto, feeds: Sequence[Feeds], plain: bool) -> float:
    """The largest relative difference of any output."""
    with runnable(a) as first, runnable(b) as second:
        sessions = [session(source, plain=plain) for source in (first, second)]
    worst = 0.0
    for fed in feeds:
        for x, y in zip(*(s.run(None, dict(fed)) for s in sessions), strict=True):
            worst = max(worst, relative_difference(as_output(x).values, as_output(y).values))
    return worst


def relative_difference(x: Array, y: Array) -> float:
    """The largest difference relative to the largest value; of integers and texts, 0 if they are equal."""
    if x.dtype.kind != "f" or not x.size:
        return 0.0 if np.array_equal(x, y) else math.inf
    x, y = x.astype(np.float64), y.astype(np.float64)
    if not np.array_equal(np.isnan(x), np.isnan(y)):
        return math.inf
    finite = np.isfinite(x)
    largest = float(np.abs(x[finite]).max(initial=0.0))
    return float(np.abs(x - y)[finite].max(initial=0.0)) / max(largest, 1e-12)


def _row(
    model: ModelProto, written: ModelProto, divisions: Mapping[str, Division], block: str, carrier: CarrierRow
) -> UnificationRow:
    before = {t.name for t in model.graph.initializer}
    new = [numpy_helper.to_array(t).tobytes() for t in written.graph.initializer if t.name not in before]
    weights = sum(math.prod(d.blocks.shape) for d in divisions.values())
    return UnificationRow(
        block=block,
        weights=tuple(_block_row(name, d) for name, d in divisions.items()),
        bytes=Change(size_of(model), size_of(written)),
        packed=packed_size(written.SerializeToString()),
        bits=8 * packed_size(b"".join(new)) / weights,
        carrier=carrier,
    )


def _block_row(name: str, division: Division) -> BlockRow:
    actions, blocks = division.actions, division.blocks
    counts = (int((actions == kind).sum()) for kind in (SHARED, ZERO, FREE))
    return BlockRow(name, blocks.shape, blocks.runs, *counts)


def _every_weight(model: ModelProto) -> list[str]:
    """Weights that linear nodes read, each once."""
    return list(dict.fromkeys(linear.weight for linear in linear_weights(read_graph(model))))


def divisions_of(plan: Plan, model: ModelProto) -> dict[str, Division]:
    """The blocks of a plan, for the weights of a cut model.

    Raises:
        PlanError: they do not fit.
    """
    weights, found, codes = read_weights(model), dict[str, Division](), _asked(plan).codes()
    for name, mask in plan.blocks.items():
        shape = weights[name].shape if name in weights and weights[name].tensor.data_type in NUMBERS else None
        if shape is None or len(shape) != len(mask.runs) or any(r > n for r, n in zip(mask.runs, shape, strict=True)):
            got = f"a weight of {list(shape)}" if shape is not None else "no such floating-point weight"
            raise PlanError(f"the plan divides '{name}' into blocks of {list(mask.runs)}, but the cut model has {got}")
        blocks = Blocks(shape, mask.runs)
        if mask.count != blocks.count:
            raise PlanError(f"the plan lists {mask.count} blocks of '{name}', which has {blocks.count}")
        found[name] = Division(blocks, np.array(mask.decoded()), levels_of(weights[name], codes))
    return found


def _asked(plan: Plan) -> UnificationOptions:
    """The options that a plan with blocks was made with, as far as they matter for writing them."""
    given = {k: v for k, v in plan.made_by.items() if k in ("unify", "share", "zero", "runtime")}
    try:
        if given.get("unify") is None:
            raise OptionError("the size of a block is missing ('unify')")
        return UnificationOptions(**given)
    except OptionError as e:
        raise PlanError(f"the plan has blocks, but what made it ('made_by') cannot be read: {e.message}") from e


def as_planned(
    coupled: Coupled, pruned: ModelProto, plan: Plan, feeds: Sequence[Feeds], checks: CheckOptions, progress: Progress
) -> InBlocks:
    """A cut model with the blocks of a plan, whose magnitudes are those of its own weights.

    Raises:
        PlanError: the blocks do not fit the model.
    """
    asked = _asked(plan)
    pruned = read_directly(pruned)
    divisions = divisions_of(plan, pruned)
    numbers = projected(pruned, divisions)
    model, row, notes = stored(numbers, divisions, asked, feeds, checks, progress)
    row = replace(row, left=tuple(n for n in _every_weight(pruned) if n not in divisions))
    recovery = Recovery(numbers, frozenset(), "none", None, ())
    return InBlocks(model, numbers, divisions, recovery, row, notes)


def check_unfitted(expected: ModelProto, found: ModelProto, plan: Plan) -> None:
    """Check that a model whose weights were only unified has the magnitudes and the other weights of the cut model.

    Args:
        expected, found: both as `check_carried` returns them.

    Raises:
        VerificationError: a weight differs by more than rounding.
    """
    wanted, weights = read_weights(projected(expected, divisions_of(plan, expected))), read_weights(found)
    for name, w in wanted.items():
        if name in weights and w.tensor.data_type in NUMBERS and not _is_near(weights[name].array, w.array):
            why = "and the plan says that nothing was fitted"
            raise VerificationError(f"'{name}' has other values than in the original, {why}")


def _is_near(a: Array, b: Array) -> bool:
    return a.shape == b.shape and np.allclose(a, b, rtol=NEAR, atol=NEAR * float(np.abs(b).max(initial=0.0)), equal_nan=True)


def check_carried(expected: ModelProto, written: ModelProto, plan: Plan) -> tuple[ModelProto, ModelProto]:
    """The cut model and the written one in the same operators: in the opset of the latter, its weights as numbers.

    Raises:
        PlanError: the plan does not fit the cut model.
        VerificationError: the written model does not have the blocks of the plan.
    """
    expected = read_directly(expected)
    divisions = divisions_of(plan, expected)
    found, names = restored(written)
    if missing := sorted(divisions.keys() - names):
        raise VerificationError(f"weight '{missing[0]}' is not stored in blocks, as the plan says; unify it again")
    check_divisions(found, divisions)
    newer = converted(expected, opsets(written)[""])
    if newer is None:
        raise VerificationError(f"the cut model could not be converted to opset {opsets(written)['']}, which the file has")
    plain = as_restored(newer, divisions)
    plain.ir_version = found.ir_version
    return plain, found
