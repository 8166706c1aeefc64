# SPDX-License-Identifier: Apache-2.0
"""Models written as ONNX text, and the law that every cut of them must obey."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnx.parser
import onnx.shape_inference
import onnxruntime
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, TensorProto
from onnx.reference import ReferenceEvaluator

from onnxprune.analysis.couple import couple
from onnxprune.analysis.coupling import Coupled
from onnxprune.analysis.groups import Group, find_groups
from onnxprune.analysis.policy import Policy
from onnxprune.evaluation.verification import verify
from onnxprune.ir.facts import read_graph
from onnxprune.rewrite.cut import cut
from onnxprune.rewrite.plan import plan_of
from onnxprune.selection.sizing import Sizing
from onnxprune.selection.units import units_of
from onnxprune.selection.widths import widths_for
from onnxprune.types import Mask, Vector

Array = NDArray[Any]
DOMAINS = ("com.microsoft", "custom", "local")
# written down here once more, on purpose: what multiplies or adds its weights, or passes them on
ZEROABLE = frozenset(
    (
        "Conv ConvTranspose Gemm MatMul BatchNormalization InstanceNormalization Add Sub Sum Mul PRelu Einsum Transpose Cast "
        "Identity Unsqueeze Squeeze Reshape LayerNormalization GroupNormalization LSTM GRU RNN DequantizeLinear FusedConv "
        "FusedMatMul MatMulNBits"
    ).split()
)

# operators that read stored integers as numbers: where the integers stand, and their zero point
INTEGER_WEIGHTS = {"DequantizeLinear": (0, 2), "ConvInteger": (1, 3), "MatMulInteger": (1, 3), "QLinearConv": (3, 5)}
INTEGER_WEIGHTS |= {"QLinearMatMul": (3, 5), "QGemm": (3, 5), "MatMulIntegerToFloat": (1, 5), "DynamicQuantizeMatMul": (1, 3)}


class Cut(NamedTuple):
    """What `cut_some` did."""

    atoms: int
    dropped: int
    pruned: ModelProto
    coupled: Coupled
    renormalises: bool
    by_hand: bool


def model(text: str, opset: int = 17, weights_seed: int = 0, functions: str = "") -> ModelProto:
    """A model from the text of its graph.

    Inputs whose name starts with `w` become initializers with seeded values of about unit gain, positive for `wvar*`.
    """
    ir = 10 if opset <= 23 else 11
    imports = ", ".join([f'"" : {opset}', *(f'"{d}" : 1' for d in DOMAINS if d in text + functions)])
    made = onnx.parser.parse_model(f"<ir_version: {ir}, opset_import: [{imports}]>\n{text}\n{functions}")
    fill(made.graph, weights_seed)
    state_outputs(made)
    return made


def state_outputs(model: ModelProto) -> None:
    """Give outputs of unknown shape the inferred one, or the rank that a run of the model shows."""
    inferred = {v.name: v for v in onnx.shape_inference.infer_shapes(model, data_prop=True).graph.output}
    for v in model.graph.output:
        kind = v.type.tensor_type
        if not kind.HasField("shape") and inferred[v.name].type.tensor_type.HasField("shape"):
            v.CopyFrom(inferred[v.name])
        elif not kind.HasField("shape"):
            values = runner(model)(random_feeds(model, np.random.default_rng(0), 2))
            ranks = {o.name: np.ndim(x) for o, x in zip(model.graph.output, values, strict=True)}
            v.CopyFrom(onnx.helper.make_tensor_value_info(v.name, kind.elem_type, [None] * ranks[v.name]))


def fill(graph: GraphProto, seed: int) -> None:
    """Turn inputs whose name starts with `w` into initializers."""
    rng = np.random.default_rng(seed)
    for value in [v for v in graph.input if v.name.startswith("w")]:
        kind = value.type.tensor_type
        shape = [d.dim_value for d in kind.shape.dim]
        array = np.asarray(rng.standard_normal(shape)) / np.sqrt(float(np.prod(shape[1:])))
        if value.name.startswith("wvar"):
            array = np.abs(array) + 0.5
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        if dtype.kind in "iu":
            array = rng.integers(max(-90, np.iinfo(dtype).min), 90, shape)
        graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array).astype(dtype), value.name))
        graph.input.remove(value)


def choose(coupled: Coupled, groups: Sequence[Group], rng: np.random.Generator, fraction: float) -> NDArray[np.bool_]:
    """Labels (n_labels,) to drop: random atoms, as many of each block of a group, at least one left in every group and on every
    axis of every tensor."""
    gone = np.zeros(len(coupled.roots), bool)
    for group in groups:
        drop = rng.random(len(group)) < fraction
        drop[rng.integers(len(group))] = False
        gone[group.roots[drop]] = True
        for rows in group.blocks:
            drop_evenly(gone, group.roots[rows], rng, rng.binomial(rows.shape[1], fraction))
    if not gone.any():
        for group in groups:
            gone[group.roots[1:2]] = True
            for rows in group.blocks:
                drop_evenly(gone, group.roots[rows], rng, 1)
    for roots in coupled.spans():
        if gone[roots].all():
            gone[rng.choice(roots)] = False
    for group in groups:
        for rows in group.blocks:
            even_out(gone, group.roots[rows], rng)
    return gone[coupled.roots]


def drop_evenly(gone: NDArray[np.bool_], blocks: NDArray[np.int64], rng: np.random.Generator, count: int) -> None:
    """Drop `count` random classes of every row, and keep the others, at least one."""
    gone[blocks] = False
    for row in blocks:
        gone[rng.permutation(row)[: min(count, len(row) - 1)]] = True


def even_out(gone: NDArray[np.bool_], blocks: NDArray[np.int64], rng: np.random.Generator) -> None:
    """Bring classes back until as many go of every row as of the one that loses fewest."""
    fewest = int(gone[blocks].sum(1).min())
    for row in blocks:
        lost = rng.permutation(row[gone[row]])
        gone[lost[fewest:]] = False


def cut_some(
    model: ModelProto, seed: int, fraction: float = 0.4, names: Sequence[str] | None = None, policy: Policy | None = None
) -> Cut:
    """Drop random atoms and check the law, once by the program's own proof and once without its help.

    Args:
        model: the model to cut.
        seed: chooses the atoms.
        fraction: how many of them go.
        names: only atoms that own a slice of one of these weights.
        policy: what is wished of the analysis.
    """
    before = model.SerializeToString()
    coupled = couple(read_graph(model), policy=policy)
    groups = [g for g in find_groups(coupled) if names is None or any(w in names for w, _ in g.members)]
    dropped = choose(coupled, groups, np.random.default_rng(seed), fraction)
    pruned = cut(coupled, dropped)
    assert model.SerializeToString() == before, "the original was changed"
    verify(coupled, dropped, pruned)
    plan = json.loads(plan_of(coupled, dropped, "", {}).to_json())
    renormalises = bool(coupled.renormalising(dropped))
    by_hand = renormalises and check_by_hand(model, pruned, plan["kept"], seed)
    if not renormalises:
        check_law(model, pruned, plan["kept"], seed)
    gone = len(np.unique(coupled.roots[dropped]))
    return Cut(sum(len(g) for g in groups), gone, pruned, coupled, renormalises, by_hand)


def stored(model: ModelProto) -> dict[str, TensorProto]:
    """Initializers and Constant nodes by name; changes of the tensors change the model."""
    found = {t.name: t for t in model.graph.initializer}
    for node in model.graph.node:
        for a in node.attribute:
            if node.op_type == "Constant" and a.name == "value":
                found[node.output[0]] = a.t
    return found


def check_law(
    original: ModelProto, pruned: ModelProto, kept: Mapping[str, Mapping[str, Sequence[int]]], seed: int = 0, slack: float = 1
) -> None:
    """Masked original == pruned, from the plan alone: nothing here knows how the pruner thinks.

    Rounding differs more in deep networks: `slack` times the usual difference is allowed. Some networks multiply it (a
    normalisation of what is all but constant); then the measure is what one rounding of every weight does to the original.
    """
    reference = ModelProto()
    reference.CopyFrom(original)
    tensors, small = stored(reference), stored(pruned)
    for name, axes in kept.items():
        tensor = tensors[name]
        array = onnx.numpy_helper.to_array(tensor)
        mask, expected = np.ones(array.shape, bool), array
        for axis, positions in axes.items():
            expected = np.take(expected, positions, int(axis))
            gone = np.setdiff1d(np.arange(array.shape[int(axis)]), positions)
            mask[(slice(None),) * int(axis) + (gone,)] = False
        if name in small:
            np.testing.assert_array_equal(onnx.numpy_helper.to_array(small[name]), expected, f"kept values of {name}")
        users = [(n.op_type, k) for n in original.graph.node for k, used in enumerate(n.input) if used == name]
        if array.dtype.kind not in "iu" and all(op in ZEROABLE and (op, k) != ("BatchNormalization", 4) for op, k in users):
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.where(mask, array, 0).astype(array.dtype), tensor.name))
        elif all(op in INTEGER_WEIGHTS and k == INTEGER_WEIGHTS[op][0] for op, k in users):
            user = next(n for n in original.graph.node if name in n.input)
            place = INTEGER_WEIGHTS[user.op_type][1]
            point = onnx.numpy_helper.to_array(tensors[user.input[place]]) if len(user.input) > place else np.zeros(1)
            if point.size == 1 or not point.any():
                masked = np.where(mask, array, point.ravel()[0]).astype(array.dtype)
                tensor.CopyFrom(onnx.numpy_helper.from_array(masked, tensor.name))
    a, b = runner(reference), runner(pruned)
    for trial in range(2):
        feeds = random_feeds(original, np.random.default_rng([seed, trial]), 2 + trial)
        before, after = a(feeds), b(feeds)
        try:
            compare_all(original, before, after, slack)
        except AssertionError:
            moved = runner(rounded(reference, seed))(feeds)
            noise = [min(ROUNDINGS * distance(p, q), MOST * distance(p, 0)) for p, q in zip(before, moved, strict=True)]
            compare_all(original, before, after, slack, noise)


ROUNDINGS, MOST = 10, 0.1
"""A cut may move what is left by so many times what one rounding of every weight moves; by so much of the output at most."""


def rounded(model: ModelProto, seed: int) -> ModelProto:
    """The model with the last bit of every weight changed at random: what rounding alone makes of it."""
    rng, moved = np.random.default_rng(seed), ModelProto()
    moved.CopyFrom(model)
    for tensor in stored(moved).values():
        array = onnx.numpy_helper.to_array(tensor)
        if array.dtype.kind == "f" and array.size > 1:
            nudged = np.nextafter(array, array + rng.choice([-1, 1], array.shape).astype(array.dtype))
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.where(array, nudged, array), tensor.name))
    return moved


def distance(p: Any, q: Any) -> float:
    """Between the finite numbers of two outputs."""
    p, q = (np.asarray(x).astype(np.float64) for x in np.broadcast_arrays(p, q))
    both = np.isfinite(p) & np.isfinite(q)
    return float(np.abs(p - q)[both].max(initial=0.0))


def compare_all(
    original: ModelProto, expected: Sequence[Any], found: Sequence[Any], slack: float = 1, noise: Sequence[float] | None = None
) -> None:
    for k, (v, p, q) in enumerate(zip(original.graph.output, expected, found, strict=True)):
        compare(v.name, np.asarray(p), np.asarray(q), slack, noise[k] if noise else 0.0)


def check_by_hand(original: ModelProto, pruned: ModelProto, kept: Mapping[str, Mapping[str, Sequence[int]]], seed: int) -> bool:
    """The original with smaller weights and nothing else changed == pruned; False where its nodes store sizes, so that it does
    not run."""
    smaller = ModelProto()
    smaller.CopyFrom(original)
    del smaller.graph.value_info[:]
    tensors = stored(smaller)
    for name, axes in kept.items():
        array = onnx.numpy_helper.to_array(tensors[name])
        for axis, positions in axes.items():
            array = np.take(array, positions, int(axis))
        tensors[name].CopyFrom(onnx.numpy_helper.from_array(array, tensors[name].name))
    feeds = random_feeds(original, np.random.default_rng(seed), 2)
    try:
        expected = runner(smaller)(feeds)
    except Exception:  # onnxruntime's and onnx.reference's own
        return False
    for v, p, q in zip(original.graph.output, expected, runner(pruned)(feeds), strict=True):
        compare(v.name, np.asarray(p), np.asarray(q))
    return True


def compare(name: str, p: Array, q: Array, slack: float = 1, noise: float = 0.0) -> None:
    assert (p.shape, p.dtype) == (q.shape, q.dtype), f"{name}: {p.dtype}{p.shape} became {q.dtype}{q.shape}"
    if p.dtype.kind in "iub":
        np.testing.assert_array_equal(p, q, name)
        return
    tolerance = {"float64": 1e-9, "float32": 1e-4, "float16": 3e-2}.get(p.dtype.name, 8e-2)
    wide_p, wide_q = p.astype(np.float64), q.astype(np.float64)
    finite = np.isfinite(wide_p)
    assert finite.mean() > 0.5, f"{name}: the sample makes no finite numbers"
    gap = np.abs(wide_p - wide_q)[finite].max()
    assert gap <= slack * tolerance * (np.abs(wide_p[finite]).max() + 1e-3) + noise, f"{name}: differs by {gap:.2e}"


def runner(model: ModelProto) -> Callable[[dict[str, Array]], list[Any]]:
    """onnxruntime without optimisation; onnx.reference where it declines."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # not implemented there
        evaluator = ReferenceEvaluator(model)
        return lambda feeds: list(evaluator.run(None, feeds))
    return lambda feeds: list(session.run(None, feeds))


def random_feeds(model: ModelProto, rng: np.random.Generator, open_size: int) -> dict[str, Array]:
    """Inputs; `open_size` for dynamic sizes, eight times it for those that are not the first."""
    known, feeds = {t.name for t in model.graph.initializer}, {}
    for v in model.graph.input:
        if v.name not in known:
            kind = v.type.tensor_type
            shape = [d.dim_value or (open_size if k == 0 else 8 * open_size) for k, d in enumerate(kind.shape.dim)]
            dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
            if dtype.kind == "b":
                feeds[v.name] = np.asarray(rng.random(shape) < 0.5)
            else:
                values = rng.integers(0, 4, shape) if dtype.kind in "iu" else rng.standard_normal(shape)
                feeds[v.name] = np.asarray(values).astype(dtype)
    return feeds


def pins(coupled: Coupled) -> str:
    """All reasons for which channels are kept, one a line."""
    return "\n".join(dict.fromkeys(str(pin) for _, pin in coupled.pins))


def free_atoms(model: ModelProto) -> int:
    """How many atoms may be removed."""
    return sum(len(g) for g in find_groups(couple(read_graph(model))))


def select(groups: list[Group], scores: list[Vector], ratio: float, sizing: Sizing) -> list[Mask]:
    """Which atoms of each group are kept (n_atoms,)."""
    units = [units_of(g, s) for g, s in zip(groups, scores, strict=True)]
    return [u.best(n) for u, n in zip(units, widths_for(groups, units, ratio, sizing), strict=True)]
