# SPDX-License-Identifier: Apache-2.0
"""Proof of a cut: the pruned model computes what the original computes with the removed channels set to zero."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto

from onnxprune.analysis.coupling import Coupled
from onnxprune.errors import VerificationError
from onnxprune.evaluation.reference import reference
from onnxprune.ir.facts import without_large_weights
from onnxprune.ir.files import runnable
from onnxprune.ir.graph import FLOATS, Graph
from onnxprune.ir.spill import spill_for
from onnxprune.ort import sample, session
from onnxprune.types import Advance, Array, Feeds, Mask, unwatched

# Rounding differs where sums have fewer terms; a wrong cut differs by far more.
TOLERANCE = {np.dtype(np.float16): 3e-2, np.dtype(np.float32): 1e-3, np.dtype(np.float64): 1e-6}
LOOSEST = 8e-2
# What float32 kernels themselves leave undecided around zero (onnxruntime's sigmoid errs by 1e-7 absolute).
ABSOLUTE = 2e-6


@dataclass(frozen=True, slots=True)
class Verification:
    """What was compared, and how far apart it was.

    Attributes:
        error: largest difference over largest value, over all outputs and inputs tried.
        tolerance: what is allowed, for the least precise output type.
        inputs: the shapes that were fed, one mapping a run.
        engine: what computed both: onnxruntime, or onnx.reference where onnxruntime cannot run the original.
        renormalising: how many nodes of the compared original worked on what is left (`reference.py`).
    """

    error: float
    tolerance: float
    inputs: tuple[Mapping[str, tuple[int, ...]], ...]
    engine: str
    renormalising: int = 0


def verify(coupled: Coupled, dropped: Mask, pruned: ModelProto, progress: Advance = unwatched) -> Verification:
    """Check a pruned model and compare it on seeded inputs with the masked original.

    Where the cut was allowed to renormalise, nodes of that original work on the channels that are left (`reference.py`).

    Inputs are standard normal, one run for each choice of the dynamic sizes and two at least. Some networks multiply
    rounding errors until nothing can be told from their outputs, or a deep cut leaves outputs so faint that they are
    nothing but rounding; then every node is compared by itself, given the same inputs as in the masked original, which
    proves the whole by induction.

    Raises:
        VerificationError: the model is not valid, its interface changed, or its results differ.
    """
    check_valid(pruned, {n.op_type for n in coupled.graph.model.graph.node})
    _check_interface(coupled.graph.model, pruned)
    tries = [feeds_for(coupled.graph, case, seed) for seed, case in enumerate(_cases(coupled.graph))]
    spill = spill_for(coupled.graph.model)  # must live until the end: weights of `original` lie in it
    original = reference(coupled, dropped, spill)
    runs, engine = _runs(original, tries)
    progress(0.5)
    by_nodes = engine == "onnxruntime" and bool(_comparable(coupled.graph, pruned))
    with runnable(pruned) as b:
        run_b, _ = runner(b, pruned, engine)
        try:
            proof, telling = _compare(runs, run_b, engine, [v.name for v in original.graph.output])
            by_nodes = by_nodes and not telling
        except DifferenceError:
            if not by_nodes:
                raise
    if by_nodes:
        proof = _node_by_node(coupled, dropped, original, pruned, [feeds for feeds, _ in runs])
    progress(1)
    return replace(proof, renormalising=len(coupled.renormalising(dropped)))


def _runs(original: ModelProto, tries: Sequence[Feeds]) -> tuple[list[tuple[Feeds, list[Any]]], str]:
    """What the original makes of those tries that it runs on, and what computed it. It leaves memory then."""
    found, failures = [], []
    with runnable(original) as source:
        run, engine = runner(source, original)
        for feeds in tries:
            try:
                found.append(_telling(run, feeds))
            except Exception as e:  # the sizes may not suit this model; another try may
                failures.append(str(e).splitlines()[0][:200])
    if not found:
        raise VerificationError(
            f"the original does not run, so nothing can be proven: {failures[0]}; give its sizes with --input-shape"
        )
    return found, engine


def _telling(run: Callable[[Feeds], list[Any]], feeds: Feeds) -> tuple[Feeds, list[Any]]:
    """What a model makes of its inputs; integers are zeros and ones (as in an attention mask) where others leave no number."""
    found = run(feeds)
    if any(x.dtype.kind in "iu" for x in feeds.values()) and not any(
        np.isfinite(x).any() for x in found if x.dtype.kind == "f"
    ):
        bits = {name: np.minimum(x, 1) if x.dtype.kind in "iu" else x for name, x in feeds.items()}
        return bits, run(bits)
    return feeds, found


class DifferenceError(VerificationError):
    """The outputs are further apart than rounding explains."""


def _node_by_node(
    coupled: Coupled, dropped: Mask, original: ModelProto, pruned: ModelProto, tries: Sequence[Feeds]
) -> Verification:
    """Compare every tensor of the pruned model, computed from what the masked original computed just before it."""
    graph, names = coupled.graph, _comparable(coupled.graph, pruned)
    given = {name: f"{name} as in the original" for name in names}
    all_of_a, each_of_b = _copy(original), _copy(pruned)
    for node in each_of_b.graph.node:
        for k, name in enumerate(node.input):
            node.input[k] = given.get(name, name)
    for model in (all_of_a, each_of_b):
        del model.graph.output[:]
        model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
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
            values = dict(zip(names, session_a.run(None, feeds), strict=True))
            cut_values = {name: _cut_value(coupled, dropped, name, v) for name, v in values.items()}
            inputs = {**feeds, **{given[n]: v for n, v in cut_values.items()}}
            try:
                found = session_b.run(None, {n: v for n, v in inputs.items() if n in wanted})
            except Exception as e:  # its weights have other sizes than the plan says
                raise VerificationError(f"the pruned model is not what the plan says: {str(e).splitlines()[0][:200]}") from e
            for name, got in zip(names, found, strict=True):
                read = [cut_values[i] for i in graph.producers[name].inputs if i in cut_values]
                # sums of small numbers leave small errors
                error, tolerance = difference(name, cut_values[name], got, max(map(_loudest, read), default=1.0))
                worst, allowed = max(worst, error), max(allowed, tolerance)
                if error > tolerance:
                    at = f"{graph.producers[name]} makes '{name}' differ from the masked original"
                    raise VerificationError(f"{at}: error {error:.1e}, allowed {tolerance:.0e}")
            shapes.append({name: tuple(x.shape) for name, x in feeds.items()})
    return Verification(worst, allowed, tuple(shapes), "onnxruntime, node by node")


def _comparable(graph: Graph, pruned: ModelProto) -> list[str]:
    """Tensors that both models compute, that somebody reads (of others no channel is accounted for), and that are no sizes."""
    made = {o for n in pruned.graph.node for o in n.output}
    facts = {name: f.cases[0] for name, f in graph.facts.items()}
    return [
        o
        for n in graph.nodes
        for o in n.outputs
        if o in graph.read and o in made and n.inputs and facts[o].dtype in FLOATS and facts[o].value is None
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


def check_valid(model: ModelProto, given: Iterable[str] = ()) -> None:
    """onnx.checker and shape inference accept the model; VerificationError says what they do not like.

    Args:
        given: operators of the original, which may be onnxruntime's own.
    """
    try:
        with runnable(model) as source:
            onnx.checker.check_model(source)
        onnx.shape_inference.infer_shapes(without_large_weights(model))
    except Exception as e:  # checker.ValidationError, shape_inference.InferenceError
        if any(f"No Op registered for {op} " in str(e) for op in given):
            return
        raise VerificationError(f"onnx.checker rejects the pruned model: {str(e).splitlines()[0][:200]}") from e


def _check_interface(original: ModelProto, pruned: ModelProto) -> None:
    for kind in ("input", "output"):
        before = {v.name: v.type.SerializeToString() for v in getattr(original.graph, kind)}
        after = {v.name: v.type.SerializeToString() for v in getattr(pruned.graph, kind)}
        stored = {t.name for t in original.graph.initializer}
        if {n: t for n, t in before.items() if n not in stored} != {n: t for n, t in after.items() if n not in stored}:
            raise VerificationError(f"the {kind}s of the pruned model differ in name, type or shape from the original's")


def _compare(
    runs: Sequence[tuple[Feeds, list[Any]]], run_b: Callable[[Feeds], list[Any]], engine: str, names: list[str]
) -> tuple[Verification, bool]:
    """Compare all outputs on all tries; also whether every output was ever loud enough to tell right from wrong."""
    worst, allowed, compared, shapes = 0.0, 0.0, 0, []
    loud: set[str] = set()
    for feeds, expected in runs:
        shapes.append({name: tuple(x.shape) for name, x in feeds.items()})
        try:
            got = run_b(feeds)
        except Exception as e:
            raise VerificationError(
                f"the pruned model does not run where the original does: {str(e).splitlines()[0][:200]}"
            ) from e
        for name, p, q in zip(names, expected, got, strict=True):
            error, tolerance = difference(name, p, q)
            compared += not math.isnan(error)
            if np.asarray(p).dtype.kind not in "fV" or _loudest(p) > _floor(np.asarray(p).dtype, tolerance):
                loud.add(name)
            worst, allowed = max(worst, error), max(allowed, tolerance)
            if error > tolerance:
                raise DifferenceError(
                    f"output '{name}' differs from the masked original: error {error:.1e}, allowed {tolerance:.0e}"
                )
    if not compared:
        raise VerificationError("no output of the masked original is a finite number, so nothing can be proven")
    return Verification(worst, allowed, tuple(shapes), engine), loud.issuperset(names)


def as_array(output: Any) -> Array:
    """An output as one array: the numbers of a sequence or a map (a class -> its probability) one after the other."""
    if isinstance(output, dict):
        return np.asarray(list(output.values()))
    if isinstance(output, list):
        return np.concatenate([as_array(x).ravel() for x in output] or [np.zeros(0)])
    return np.asarray(output)


def _loudest(x: Any) -> float:
    """The largest finite magnitude; 0 if there is none."""
    wide = np.abs(np.asarray(x).astype(np.float64))
    return float(wide[np.isfinite(wide)].max(initial=0.0))


def _floor(kind: np.dtype[Any], tolerance: float) -> float:
    return ABSOLUTE / tolerance if kind.itemsize < 8 else 1e-12


def difference(name: str, expected: Any, got: Any, scale: float = 1.0) -> tuple[float, float]:
    """Largest difference over largest expected value, and what is allowed for the type.

    A small constant in the denominator, in proportion to `scale`, forgives rounding noise around zero. Where the original
    is not finite nothing is compared; nan if it is finite nowhere.
    """
    p, q = np.asarray(expected), np.asarray(got)
    if p.shape != q.shape or p.dtype != q.dtype:
        raise VerificationError(f"output '{name}' is {q.dtype}{q.shape}, the original's is {p.dtype}{p.shape}")
    tolerance = TOLERANCE.get(p.dtype, LOOSEST if p.dtype.kind not in "iub" else 0.0)
    if p.dtype.kind in "iub":
        return float((p != q).mean()) if p.size else 0.0, 0.05 if p.size > 100 else 0.0
    if p.dtype.kind not in "fV" or not p.size:
        return 0.0, tolerance
    a, b = p.astype(np.float64), q.astype(np.float64)
    finite = np.isfinite(a)
    if not finite.any():
        return math.nan, tolerance
    gap = np.abs(a - b)[finite].max()
    floor = scale * _floor(p.dtype, tolerance) or np.finfo(np.float64).tiny
    return float(np.inf if np.isnan(gap) else gap / (np.abs(a[finite]).max() + floor)), tolerance


def feeds_for(graph: Graph, case: int, seed: int) -> Feeds:
    """Seeded inputs of the sizes of one case."""
    rng = np.random.default_rng(seed)
    facts = {name: graph.facts[name].cases[case] for name in graph.inputs}
    return {name: sample(rng, f.dtype, tuple(1 if d < 0 else d for d in f.shape or ())) for name, f in facts.items()}


def runner(source: bytes | str, model: ModelProto, engine: str | None = None) -> tuple[Callable[[Feeds], list[Any]], str]:
    """A function that computes a model's outputs: onnxruntime, or onnx.reference where onnxruntime declines the model."""
    failure = ""
    if engine != "onnx.reference":
        try:
            ort_session = session(source, plain=isinstance(source, str))
            return (lambda feeds: [as_array(x) for x in ort_session.run(None, feeds)]), "onnxruntime"
        except Exception as e:  # not implemented in onnxruntime, for example bfloat16 convolutions
            failure = str(e).splitlines()[0][:200]
            if engine == "onnxruntime":
                raise VerificationError(f"onnxruntime does not accept the pruned model: {failure}") from e
    from onnx.reference import ReferenceEvaluator

    try:
        evaluator = ReferenceEvaluator(model)
    except Exception as e:
        raise VerificationError(
            f"neither onnxruntime nor onnx.reference runs the model, so nothing can be proven: {failure}"
        ) from e
    return (lambda feeds: [as_array(x) for x in evaluator.run(None, feeds)]), "onnx.reference"
