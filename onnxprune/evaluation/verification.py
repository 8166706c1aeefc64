# SPDX-License-Identifier: Apache-2.0
"""Verification of a cut: the pruned model computes what the original computes with the removed channels set to zero."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import ModelProto, TensorProto

from onnxprune.analysis.coupling import Coupled
from onnxprune.errors import VerificationError, first_line
from onnxprune.evaluation.branches import choices, running
from onnxprune.evaluation.reference import reference
from onnxprune.ir.bodies import rename
from onnxprune.ir.facts import without_large_weights
from onnxprune.ir.files import runnable
from onnxprune.ir.graph import FLOATS, Graph
from onnxprune.ir.ranges import numbers_of
from onnxprune.ir.spill import spill_for
from onnxprune.ort import sample, session
from onnxprune.types import Advance, Array, Feeds, Mask, unwatched

# Sums of fewer terms are rounded differently; a wrong cut differs by far more.
TOLERANCE = {np.dtype(np.float16): 3e-2, np.dtype(np.float32): 1e-3, np.dtype(np.float64): 1e-6}
LOOSEST = 8e-2
# Types that are compared node by node: floating-point types, and integers and strings, which must be equal.
COMPARED = FLOATS | {
    getattr(TensorProto, name) for name in "BOOL INT8 INT16 INT32 INT64 UINT8 UINT16 UINT32 UINT64 STRING".split()
}
# Absolute error of float32 kernels around zero (onnxruntime's sigmoid is off by 1e-7).
ABSOLUTE = 2e-6


class Output(NamedTuple):
    """An output as arrays.

    Attributes:
        values: a tensor; or the values of all elements of a sequence or map (class -> probability), in order.
        keys: the keys of all maps, in the order of `values`.
    """

    values: Array
    keys: tuple[Any, ...] = ()


Run = Callable[[Feeds], list[Output]]
"""Computes all outputs of a model."""


@dataclass(frozen=True, slots=True)
class Verification:
    """What was compared, and the largest error.

    Attributes:
        error: largest difference divided by largest value, over all outputs and runs.
        tolerance: the error allowed for the least precise output type.
        inputs: the shapes that were fed, one mapping per run.
        engine: what ran both models: onnxruntime, or onnx.reference if onnxruntime cannot run the original.
        renormalising: number of nodes of the masked original that worked on the kept channels (`reference.py`).
        failures: for each further input, its shapes and why the original does not run on it.
        reached: bodies of If and Loop that were run whatever their conditions said (`branches.py`).
        unreached: bodies that the cut changed and that did not run then, and why.
        flaw: why onnx.checker rejects both the original and the pruned model; empty if it accepts the latter.
    """

    error: float
    tolerance: float
    inputs: tuple[Mapping[str, tuple[int, ...]], ...]
    engine: str
    renormalising: int = 0
    failures: tuple[str, ...] = ()
    reached: tuple[str, ...] = ()
    unreached: tuple[str, ...] = ()
    flaw: str = ""


def verify(
    coupled: Coupled,
    dropped: Mask,
    pruned: ModelProto,
    progress: Advance = unwatched,
    numbers: Mapping[str, Array] | None = None,
    dead: Mask | None = None,
) -> Verification:
    """Check a pruned model and compare it with the masked original on seeded inputs.

    If the cut was allowed to renormalise, nodes of the masked original work on the kept channels (`reference.py`).

    Inputs are standard normal, with one run for each choice of the dynamic sizes and at least two. Some networks amplify
    rounding errors until their outputs carry no information, and some deep cuts leave outputs so small that only rounding
    remains; then every node is compared on its own, given the same inputs as in the masked original, which verifies the
    whole by induction. Branches of an If are compared one after the other (`branches.py`).

    Args:
        numbers: for some inputs, the numbers to draw from; by default, of integers, what the tables allow that they index.
        dead: dropped labels (n_labels,) that are not masked, because they are said to be zero anyway.

    Raises:
        VerificationError: the model is not valid, its interface changed, or its results differ.
    """
    flaw = check_valid(pruned, coupled.graph.model)
    _check_interface(coupled.graph.model, pruned)
    tries = [feeds_for(coupled.graph, case, seed, numbers or {}) for seed, case in enumerate(_cases(coupled.graph))]
    spill = spill_for(coupled.graph.model)  # must outlive `original`, whose weights it stores
    original = reference(coupled, dropped if dead is None else dropped & ~dead, spill)
    found = _equal(coupled, dropped, original, pruned, tries)
    reached: set[str] = set()
    unreached: list[str] = []
    for choice in choices(coupled, dropped):
        progress(0.5)
        names = sorted(prefix.removesuffix("/") for prefix in choice)
        try:
            again = _equal(coupled, dropped, running(original, choice), running(pruned, choice), tries)
        except NoRunError as e:
            unreached.append(f"{', '.join(names)}: {e.reason}")
            continue
        reached.update(names)
        error, tolerance = max(found.error, again.error), max(found.tolerance, again.tolerance)
        found = replace(found, error=error, tolerance=tolerance)
    progress(1)
    mixing = len(coupled.renormalising(dropped))
    ran = tuple(sorted(reached))
    return replace(found, renormalising=mixing, reached=ran, unreached=tuple(unreached), flaw=flaw)


def verify_shortened(
    graph: Graph, muted: ModelProto, shortened: ModelProto, numbers: Mapping[str, Array] | None = None
) -> None:
    """Check that a model without some residual branches computes what it computes with these branches times zero.

    Args:
        graph: the original.
        muted, shortened: as `rewrite.shorten` makes them.
        numbers: as for `verify`.

    Raises:
        VerificationError: the results differ.
    """
    tries = [feeds_for(graph, case, seed, numbers or {}) for seed, case in enumerate(_cases(graph))]
    runs, engine, _ = _runs(muted, tries)
    with runnable(shortened) as source:
        run, _ = runner(source, shortened, engine)
        _compare(runs, run, engine, [v.name for v in muted.graph.output])


def _equal(coupled: Coupled, dropped: Mask, original: ModelProto, pruned: ModelProto, tries: Sequence[Feeds]) -> Verification:
    """Compare two models on the inputs that the first one runs on."""
    runs, engine, failures = _runs(original, tries)
    by_nodes = engine == "onnxruntime" and bool(_comparable(coupled.graph, pruned))
    with runnable(pruned) as b:
        run_b, _ = runner(b, pruned, engine)
        try:
            found, conclusive = _compare(runs, run_b, engine, [v.name for v in original.graph.output])
            by_nodes = by_nodes and not conclusive
        except DifferenceError:
            if not by_nodes:
                raise
    if by_nodes:
        found = _node_by_node(coupled, dropped, original, pruned, [feeds for feeds, _ in runs])
    return replace(found, failures=failures)


def _runs(original: ModelProto, tries: Sequence[Feeds]) -> tuple[list[tuple[Feeds, list[Output]]], str, tuple[str, ...]]:
    """The original's outputs for the feeds that it runs on, the engine, and what is wrong with the other feeds.

    The original's memory is then released.
    """
    found, failures = [], []
    with runnable(original) as source:
        run, engine = runner(source, original)
        for feeds in tries:
            try:
                found.append(_finite_run(run, feeds))
            except Exception as e:  # the model may not accept these sizes; other feeds may work
                shapes = ", ".join(f"{name} {'x'.join(map(str, x.shape)) or 'scalar'}" for name, x in feeds.items())
                failures.append(f"{shapes}: {first_line(e)}")
    if not found:
        raise NoRunError(failures[0])
    return found, engine, tuple(failures)


def _finite_run(run: Run, feeds: Feeds) -> tuple[Feeds, list[Output]]:
    """A model's feeds and outputs; integers become 0 or 1 (as in an attention mask) if otherwise no output is finite."""
    found = run(feeds)
    if any(x.dtype.kind in "iu" for x in feeds.values()) and not any(
        np.isfinite(x).any() for x, _ in found if x.dtype.kind == "f"
    ):
        bits = {name: np.minimum(x, 1) if x.dtype.kind in "iu" else x for name, x in feeds.items()}
        return bits, run(bits)
    return feeds, found


class NoRunError(VerificationError):
    """The original runs on none of the inputs; `reason` is why it fails on the first."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        advice = "set its input sizes with --input-shape"
        super().__init__(f"the original does not run, so the cut cannot be verified: it fails on {reason}; {advice}")


class DifferenceError(VerificationError):
    """The outputs differ by more than rounding explains."""


def _node_by_node(
    coupled: Coupled, dropped: Mask, original: ModelProto, pruned: ModelProto, tries: Sequence[Feeds]
) -> Verification:
    """Compare every tensor of the pruned model, computed from the masked original's values of its inputs."""
    graph, names = coupled.graph, _comparable(coupled.graph, pruned)
    # maps and sequences are compared, but not passed on
    compared = [*names, *(v.name for v in original.graph.output if not v.type.HasField("tensor_type"))]
    given = {name: f"{name} as in the original" for name in names}
    all_of_a, each_of_b = _copy(original), _copy(pruned)
    for node in each_of_b.graph.node:
        made = [*node.output]
        rename(node, given)
        node.output[:] = made
    for model in (all_of_a, each_of_b):
        del model.graph.output[:]
        model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in compared)
    for name in names:
        fact = graph.facts[name].cases[0]
        shape = [None] * len(fact.shape) if fact.shape is not None else None
        each_of_b.graph.input.append(onnx.helper.make_tensor_value_info(given[name], fact.dtype, shape))
    worst, allowed, shapes = 0.0, 0.0, []
    with runnable(all_of_a) as a, runnable(each_of_b) as b:
        # without fusions, so that both compute tensor by tensor
        session_a, session_b = session(a, plain=True), session(b, plain=True)
        wanted = {v.name for v in session_b.get_inputs()}
        for feeds in tries:
            values = dict(zip(compared, session_a.run(None, feeds), strict=True))
            cut_values = {name: _cut_value(coupled, dropped, name, values[name]) for name in names}
            inputs = {**feeds, **{given[n]: v for n, v in cut_values.items()}}
            try:
                found = [as_output(x) for x in session_b.run(None, {n: v for n, v in inputs.items() if n in wanted})]
            except Exception as e:  # such as weights whose sizes differ from the plan
                raise VerificationError(f"the pruned model does not match the plan: {first_line(e)}") from e
            expected = [as_output(x) for x in {**values, **cut_values}.values()]
            for name, (want, _), (got, _) in zip(compared, expected, found, strict=True):
                read = [x for i in graph.producers[name].inputs if (x := cut_values.get(i)) is not None and x.dtype != object]
                # the error of a sum scales with its terms
                error, tolerance = difference(name, want, got, max(map(_largest, read), default=1.0))
                worst, allowed = max(worst, error), max(allowed, tolerance)
                if error > tolerance:
                    at = f"{graph.producers[name]} makes '{name}' differ from the masked original"
                    raise VerificationError(f"{at}: {_describe(got, error, tolerance)}")
            shapes.append({name: tuple(x.shape) for name, x in feeds.items()})
    return Verification(worst, allowed, tuple(shapes), "onnxruntime, node by node")


def _comparable(graph: Graph, pruned: ModelProto) -> list[str]:
    """Tensors that both models compute, that have consumers, and that are not sizes, nor positions of maxima: those count
    through all channels, of which the other model has fewer."""
    made = {o for n in pruned.graph.node for o in n.output}
    facts = {name: f.cases[0] for name, f in graph.facts.items()}
    return [
        o
        for n in graph.nodes
        for k, o in enumerate(n.outputs)
        if not (n.op == "MaxPool" and k == 1)
        and o in graph.read
        and o in made
        and n.inputs
        and facts[o].dtype in COMPARED
        and facts[o].value is None
    ]


def _copy(model: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    return copy


def _cut_value(coupled: Coupled, dropped: Mask, name: str, value: Array) -> Array:
    for axis, labels in enumerate(coupled.flows[name].axes):
        if labels is not None:
            value = np.compress(~dropped[labels], value, axis)
    return value


def _cases(graph: Graph) -> list[int]:
    count = len(next(iter(graph.facts.values())).cases)
    return [0, count - 1]


def check_valid(model: ModelProto, original: ModelProto) -> str:
    """Check a model with onnx.checker and shape inference, and return why they reject it if they reject the original too.

    Such a flaw is the original's own (an operator that only onnxruntime knows, an input without a shape), and that both models
    run with equal results is checked elsewhere.

    Raises:
        VerificationError: they reject the model, but not the original.
    """
    flaw = _flaw(model)
    if flaw and not _flaw(original):
        raise VerificationError(f"onnx.checker rejects the pruned model: {flaw}")
    return flaw


def _flaw(model: ModelProto) -> str:
    """Why onnx.checker or shape inference rejects a model; empty if they accept it."""
    try:
        with runnable(model) as source:
            onnx.checker.check_model(source)
        onnx.shape_inference.infer_shapes(without_large_weights(model))
    except Exception as e:  # checker.ValidationError, shape_inference.InferenceError
        return first_line(e)
    return ""


def _check_interface(original: ModelProto, pruned: ModelProto) -> None:
    for kind in ("input", "output"):
        before = {v.name: v.type.SerializeToString() for v in getattr(original.graph, kind)}
        after = {v.name: v.type.SerializeToString() for v in getattr(pruned.graph, kind)}
        stored = {t.name for t in original.graph.initializer}
        if {n: t for n, t in before.items() if n not in stored} != {n: t for n, t in after.items() if n not in stored}:
            raise VerificationError(f"the {kind}s of the pruned model differ in name, type or shape from the original's")


def _compare(
    runs: Sequence[tuple[Feeds, list[Output]]], run_b: Run, engine: str, names: list[str]
) -> tuple[Verification, bool]:
    """Compare all outputs of all runs; also whether every output was at least once large enough to be conclusive."""
    worst, allowed, compared, shapes = 0.0, 0.0, 0, []
    significant: set[str] = set()
    for feeds, expected in runs:
        shapes.append({name: tuple(x.shape) for name, x in feeds.items()})
        try:
            got = run_b(feeds)
        except Exception as e:
            raise VerificationError(f"the pruned model does not run where the original does: {first_line(e)}") from e
        _check_keys(names, expected, got)
        for name, (p, _), (q, _) in zip(names, expected, got, strict=True):
            error, tolerance = difference(name, p, q)
            compared += not math.isnan(error)
            if p.dtype.kind not in "fV" or _largest(p) > _floor(p.dtype, tolerance):
                significant.add(name)
            worst, allowed = max(worst, error), max(allowed, tolerance)
            if error > tolerance:
                raise DifferenceError(f"output '{name}' differs from the masked original: {_describe(p, error, tolerance)}")
    if not compared:
        raise VerificationError("no output of the masked original has a finite value, so the cut cannot be verified")
    return Verification(worst, allowed, tuple(shapes), engine), significant.issuperset(names)


def _check_keys(names: Iterable[str], expected: Iterable[Output], got: Iterable[Output]) -> None:
    """Check that maps have the same keys. These are attributes of a node: unlike other results, rounding never changes them."""
    for name, p, q in zip(names, expected, got, strict=True):
        if p.keys != q.keys:
            a, b = next((a, b) for a, b in zip_longest(p.keys, q.keys) if a != b)
            raise VerificationError(f"output '{name}' has the key {b!r} where the masked original has {a!r}")


def as_output(output: Any) -> Output:
    """A tensor, sequence or map as arrays."""
    if isinstance(output, dict):
        return Output(np.asarray(list(output.values())), tuple(output))
    if isinstance(output, list):
        parts = [as_output(x) for x in output]
        values = np.concatenate([x.values.ravel() for x in parts] or [np.zeros(0)])
        return Output(values, tuple(key for x in parts for key in x.keys))
    return Output(np.asarray(output))


def _largest(x: Any) -> float:
    """The largest finite magnitude; 0 if there is none."""
    wide = np.abs(np.asarray(x).astype(np.float64))
    return float(wide[np.isfinite(wide)].max(initial=0.0))


def _floor(kind: np.dtype[Any], tolerance: float) -> float:
    return ABSOLUTE / tolerance if kind.itemsize < 8 else 1e-12


def difference(name: str, expected: Any, got: Any, scale: float = 1.0) -> tuple[float, float]:
    """The error of an output, and the error allowed for its type.

    For floating-point types: largest difference divided by largest expected value. For all others (integers, strings): the
    fraction that differs, which must be 0. A small constant in the denominator, in proportion to `scale`, absorbs rounding
    noise around zero. Values that are not finite in the original are not compared; the error is nan if none is finite.
    """
    p, q = np.asarray(expected), np.asarray(got)
    if p.shape != q.shape or p.dtype != q.dtype:
        raise VerificationError(f"output '{name}' is {q.dtype}{q.shape}, the original's is {p.dtype}{p.shape}")
    if p.dtype.kind not in "fV":
        return float((p != q).mean()) if p.size else 0.0, 0.0
    tolerance = TOLERANCE.get(p.dtype, LOOSEST)
    if not p.size:
        return 0.0, tolerance
    a, b = p.astype(np.float64), q.astype(np.float64)
    finite = np.isfinite(a)
    if not finite.any():
        return math.nan, tolerance
    gap = np.abs(a[finite] - b[finite]).max()
    floor = scale * _floor(p.dtype, tolerance) or np.finfo(np.float64).tiny
    return float(np.inf if np.isnan(gap) else gap / (np.abs(a[finite]).max() + floor)), tolerance


def _describe(values: Any, error: float, tolerance: float) -> str:
    """The result of `difference` as text."""
    x = np.asarray(values)
    if x.dtype.kind not in "fV":
        what = "integers" if x.dtype.kind in "iub" else "values"
        return f"{round(error * x.size):,} of {x.size:,} {what} differ, allowed none"
    return f"error {error:.1e}, allowed {tolerance:.0e}"


def feeds_for(graph: Graph, case: int, seed: int, numbers: Mapping[str, Array]) -> Feeds:
    """Seeded inputs with the sizes of one case, drawn from `numbers` where it lists some."""
    rng = np.random.default_rng(seed)
    facts = {name: f.cases[case] for name, f in graph.facts.items()}
    valid = {**numbers_of(graph.inputs, graph.elementary, facts), **numbers}
    shapes = {name: tuple(1 if d < 0 else d for d in facts[name].shape or ()) for name in graph.inputs}
    return {name: sample(rng, facts[name].dtype, shape, valid.get(name)) for name, shape in shapes.items()}


def runner(source: bytes | str, model: ModelProto, engine: str | None = None) -> tuple[Run, str]:
    """A function that computes a model's outputs, and its engine: onnxruntime, or onnx.reference if onnxruntime cannot."""
    failure = ""
    if engine != "onnx.reference":
        try:
            ort_session = session(source, plain=isinstance(source, str))
            return (lambda feeds: [as_output(x) for x in ort_session.run(None, feeds)]), "onnxruntime"
        except Exception as e:  # not implemented in onnxruntime, for example bfloat16 convolutions
            failure = first_line(e)
            if engine == "onnxruntime":
                raise VerificationError(f"onnxruntime does not accept the pruned model: {failure}") from e
    from onnx.reference import ReferenceEvaluator

    try:
        evaluator = ReferenceEvaluator(model)
    except Exception as e:
        raise VerificationError(
            f"neither onnxruntime nor onnx.reference can run the model, so the cut cannot be verified: {failure}"
        ) from e
    return (lambda feeds: [as_output(x) for x in evaluator.run(None, feeds)]), "onnx.reference"
