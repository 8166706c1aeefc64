# SPDX-License-Identifier: Apache-2.0
"""The law that every cut must obey: it computes what the original computes with the dropped channels zeroed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, TensorProto

from onnxprune.analysis.couple import couple
from onnxprune.analysis.coupling import Coupled
from onnxprune.analysis.groups import find_groups
from onnxprune.analysis.policy import Policy
from onnxprune.errors import CutError
from onnxprune.evaluation.verification import verify
from onnxprune.ir.facts import read_graph
from onnxprune.rewrite.cut import cut
from onnxprune.rewrite.plan import plan_of
from tests.cases.choosing import choose
from tests.cases.comparing import compare, compare_all, distance, rounded
from tests.cases.operators.sample import Sample
from tests.cases.running import Array, random_feeds, runner
from tests.cases.text import stored, users

# repeated here on purpose: operators that multiply or add their weights, or pass them on
ZEROABLE = frozenset(
    (
        "Conv ConvTranspose Gemm MatMul BatchNormalization InstanceNormalization Add Sub Sum Mul PRelu Einsum Transpose Cast "
        "Identity Unsqueeze Squeeze Reshape LayerNormalization GroupNormalization LSTM GRU RNN DequantizeLinear FusedConv "
        "FusedMatMul MatMulNBits"
    ).split()
)

# operators that read stored integers as numbers -> the inputs for the integers and for their zero point
INTEGER_WEIGHTS = {"DequantizeLinear": (0, 2), "ConvInteger": (1, 3), "MatMulInteger": (1, 3), "QLinearConv": (3, 5)}
INTEGER_WEIGHTS |= {"QLinearMatMul": (3, 5), "QGemm": (3, 5), "MatMulIntegerToFloat": (1, 5), "DynamicQuantizeMatMul": (1, 3)}


Kept = Mapping[str, Mapping[str, Sequence[int]]]
"""Kept positions of each axis of each weight, as a plan writes them."""

Tensors = Mapping[str, TensorProto]
Users = Sequence[tuple[NodeProto, int]]
"""Consumers of a tensor, each with the index of the input."""


class Cut(NamedTuple):
    """What `cut_some` did."""

    atoms: int
    dropped: int
    pruned: ModelProto
    coupled: Coupled
    renormalises: bool
    by_hand: bool


def cut_some(
    model: ModelProto, seed: int, fraction: float = 0.4, names: Sequence[str] | None = None, policy: Policy | None = None
) -> Cut:
    """Drop random atoms and check the law, once by the program's own verification and once independently of it.

    Args:
        model: the model to cut.
        seed: chooses the atoms.
        fraction: the fraction of them to drop.
        names: only atoms that own a slice of one of these weights.
        policy: the policy of the analysis.
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
    dropped_atoms = len(np.unique(coupled.roots[dropped]))
    return Cut(sum(len(g) for g in groups), dropped_atoms, pruned, coupled, renormalises, by_hand)


def check_law(original: ModelProto, pruned: ModelProto, kept: Kept, seed: int = 0, slack: float = 1) -> None:
    """Check that the masked original equals the pruned model, using only the plan and nothing of the pruner.

    Rounding differs more in deep networks: `slack` times the usual difference is allowed. Some networks amplify it (such as a
    normalisation of nearly constant values); then the effect of one rounding of every weight on the original is the measure.
    """
    check_kept_values(original, pruned, kept)
    reference = ModelProto()
    reference.CopyFrom(original)
    tensors = stored(reference)
    for name, axes in kept.items():
        mask_weight(tensors, name, axes, users(original, name))
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


def check_kept_values(original: ModelProto, pruned: ModelProto, kept: Kept) -> None:
    """Check that the kept part of every weight has its original values."""
    large, small = stored(original), stored(pruned)
    for name in kept.keys() & small.keys():
        expected = onnx.numpy_helper.to_array(large[name])
        for axis, positions in kept[name].items():
            expected = np.take(expected, positions, int(axis))
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(small[name]), expected, f"kept values of {name}")


def mask_weight(tensors: Tensors, name: str, axes: Mapping[str, Sequence[int]], readers: Users) -> None:
    """Set the dropped positions of a weight to zero, if all its consumers multiply or add it, or pass it on."""
    array = onnx.numpy_helper.to_array(tensors[name])
    mask = np.ones(array.shape, bool)
    for axis, positions in axes.items():
        dropped = np.setdiff1d(np.arange(array.shape[int(axis)]), positions)
        mask[(slice(None),) * int(axis) + (dropped,)] = False
    zero = zero_of(array, readers, tensors)
    if zero is not None:
        masked = np.where(mask, array, np.asarray(zero).astype(array.dtype))
        tensors[name].CopyFrom(onnx.numpy_helper.from_array(masked, tensors[name].name))


def zero_of(array: Array, readers: Users, tensors: Tensors) -> Any:
    """The value that represents zero in a weight: the zero point of integers; None if the weight is not masked."""
    if array.dtype.kind not in "iu" and all(
        n.op_type in ZEROABLE and (n.op_type, k) != ("BatchNormalization", 4) for n, k in readers
    ):
        return 0
    if not all(n.op_type in INTEGER_WEIGHTS and k == INTEGER_WEIGHTS[n.op_type][0] for n, k in readers):
        return None
    user, place = readers[0][0], INTEGER_WEIGHTS[readers[0][0].op_type][1]
    point = onnx.numpy_helper.to_array(tensors[user.input[place]]) if len(user.input) > place else np.zeros(1)
    return point.ravel()[0] if point.size == 1 or not point.any() else None


ROUNDINGS, MOST = 10, 0.1
"""A cut may change an output by ROUNDINGS times the effect of one rounding of every weight, at most by MOST of the output."""


def check_by_hand(original: ModelProto, pruned: ModelProto, kept: Kept, seed: int) -> bool:
    """Check that the original with only its weights cut equals the pruned model; False if it does not run because nodes store
    sizes."""
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


def pins(coupled: Coupled) -> str:
    """All reasons why channels are kept, one per line."""
    return "\n".join(dict.fromkeys(str(pin) for _, pin in coupled.pins))


def free_atoms(model: ModelProto) -> int:
    """The number of atoms that may be dropped."""
    return sum(len(g) for g in find_groups(couple(read_graph(model))))


SEEDS = 3


def obeys_the_law(sample: Sample) -> None:
    """Cut a sample in several ways, and compare the results with what the sample states.

    With releases older than those that it needs, something must fail: the statement is true.
    """
    if not sample.here:
        with pytest.raises(Exception):  # noqa: B017 - of onnx, of onnxruntime or of ours
            _as_stated(sample)
        return
    _as_stated(sample)


def _as_stated(sample: Sample) -> None:
    made = sample.model()
    if sample.refused:
        with pytest.raises(CutError, match=sample.refused):
            cut_some(made, 0)
        return
    results = [cut_some(made, seed, (0.3, 0.5, 0.8)[seed % 3]) for seed in range(SEEDS)]
    found = results[0]
    reasons = pins(found.coupled)
    assert found.atoms >= sample.free, f"{found.atoms} atoms are free; pins:\n{reasons}"
    assert found.atoms <= sample.most or sample.most < 0, f"{found.atoms} atoms are free"
    assert sample.pinned in reasons, reasons
    if sample.free > 1:
        assert all(r.dropped > 0 for r in results)
        assert any(numbers(r.pruned, made) < numbers(made, made) for r in results)


def numbers(pruned: ModelProto, original: ModelProto) -> int:
    """The number of elements of those weights that the original also has."""
    names = stored(original)
    return sum(math.prod(t.dims) for name, t in stored(pruned).items() if name in names)
