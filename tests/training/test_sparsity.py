# SPDX-License-Identifier: Apache-2.0
"""Regularisers: what each does to the weights in a step, and that channels which go are gone from the outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import onnxprune
from onnxprune.errors import TrainingError
from onnxprune.training.channels import ChannelGroup, channel_groups
from onnxprune.training.export import difference, exported, run_exported
from onnxprune.training.names import named_tensors
from onnxprune.training.sparsity import (
    L1,
    Centripetal,
    Gates,
    GroupLasso,
    GrowingPenalty,
    Regularizer,
    SoftPruning,
    constant,
    ramp,
)
from onnxprune.training.sparsity.clusters import ward
from tests.cases.modules import MODULES
from tests.cases.modules.case import settled
from tests.cases.modules.planning import run
from tests.cases.modules.sparse import X, groups_of, outputs, parameters, residual, sgd, train

METHODS: Mapping[str, Callable[[tuple[ChannelGroup, ...]], Regularizer]] = {
    "L1": lambda g: L1(5e-3, 5e-2, groups=g),
    "L1, proximal": lambda g: L1(5e-3, 5e-2, proximal=True, groups=g),
    "GroupLasso": lambda g: GroupLasso(g, 5e-3),
    "GrowingPenalty": lambda g: GrowingPenalty(g, 0.4, growth=0.05, every=1),
    "SoftPruning": lambda g: SoftPruning(g, 0.4, every=5),
    "Gates": lambda g: Gates(g, 5e-2),
    "Centripetal": lambda g: Centripetal(g, 0.4, 0.1),
}


def low(model: nn.Module, groups: tuple[ChannelGroup, ...]) -> float:
    """The smaller half of the channels' scores, relative to all."""
    log = L1(groups=groups)
    log(model)
    log.step()
    scores = [np.sort(s) for s in log.history[0].scores.values()]
    return float(sum(s[: len(s) // 2].sum() for s in scores) / sum(s.sum() for s in scores))


@pytest.mark.parametrize("name", [n for n in METHODS if n != "Centripetal"])
def test_channels_of_low_score_get_smaller_than_without(name: str) -> None:
    plain, sparse = residual(), residual()
    groups = groups_of(plain)
    train(plain, None, sgd(plain), 60)
    train(sparse, METHODS[name](groups), sgd(sparse), 60)
    assert low(sparse, groups) < 0.7 * low(plain, groups)


def test_l1_is_the_sum_of_both_terms() -> None:
    model = residual()
    penalty = L1(0.5, 0.25)(model)
    found = parameters(model)
    expected = 0.5 * sum(float(w.abs().sum()) for w in found.values() if w.ndim == 4)
    expected += 0.25 * sum(float(found[f"{name}.weight"].abs().sum()) for name in ("bn", "bn1", "bn2"))
    assert penalty.item() == pytest.approx(expected, rel=1e-5)
    penalty.backward()  # type: ignore[no-untyped-call]
    moved = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert moved.keys() == {f"{name}.weight" for name in ("conv", "conv1", "conv2", "bn", "bn1", "bn2")}
    torch.testing.assert_close(moved["conv.weight"], 0.5 * found["conv.weight"].sign())


def test_a_frozen_tensor_is_left_alone() -> None:
    model = residual()
    for p in (*model.conv.parameters(), *model.bn.parameters()):
        p.requires_grad_(False)
    before = parameters(model)
    for make in METHODS.values():
        train(model, make(groups_of(model)), sgd(model), 6)
    after = parameters(model)
    assert all(torch.equal(after[n], before[n]) for n in before if n.startswith(("conv.", "bn.")))
    assert not torch.equal(after["conv1.weight"], before["conv1.weight"])


@pytest.mark.parametrize(("momentum", "reach"), [(0.0, 1.0), (0.75, 4.0)])
def test_a_proximal_step_shrinks_by_strength_times_rate_to_exact_zeros(momentum: float, reach: float) -> None:
    model = residual()
    before, sparsity = parameters(model), L1(0.2, 0.0, proximal=True)
    assert sparsity(model).item() == 0
    sparsity.step(sgd(model, 0.1, momentum))
    by = 0.2 * 0.1 * reach
    for name, w in parameters(model).items():
        expected = (
            before[name].sign() * (before[name].abs() - by).clamp(min=0) if "conv" in name and w.ndim == 4 else before[name]
        )
        torch.testing.assert_close(w, expected)
    assert 0 < int((model.conv.weight == 0).sum()) < model.conv.weight.numel()
    with pytest.raises(TrainingError, match=r"L1: reads the learning rate in step\(\): pass the optimizer"):
        sparsity.step()
    with pytest.raises(TrainingError, match="has none of the tensors that it acts on"):
        sparsity.step(sgd(residual()))


def test_strengths_follow_their_schedules() -> None:
    model, sparsity = residual(), L1(ramp(0.0, 1.0, steps=2), constant(0.0))
    found = []
    for _ in range(4):
        found.append(sparsity(model).item())
        sparsity.step()
    full = sum(float(w.abs().sum()) for n, w in parameters(model).items() if "conv" in n and w.ndim == 4)
    assert found == pytest.approx([0, full / 2, full, full], rel=1e-5)


def test_a_channel_that_is_no_number_is_not_left_out_of_the_penalty() -> None:
    model = residual()
    sparsity = GroupLasso(groups_of(model))
    with torch.no_grad():
        model.conv.weight[3] = float("nan")
    assert sparsity(model).isnan()


def test_group_lasso_is_the_sum_of_the_norms_of_all_that_channels_own() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    groups, first, last = channel_groups(model, torch.zeros(2, 4)), model[0], model[2]
    assert isinstance(first, nn.Linear) and isinstance(last, nn.Linear)
    sparsity = GroupLasso(groups, 0.5)
    owned = torch.cat([first.weight, first.bias[:, None], last.weight.T], 1)
    assert sparsity(model).item() == pytest.approx(0.5 * 8**0.5 * owned.norm(dim=1).sum().item(), rel=1e-5)
    with torch.no_grad():
        for tensor, index in ((first.weight, (2,)), (first.bias, (2,)), (last.weight, (slice(None), 2))):
            tensor[index] = 0
    sparsity(model).backward()  # type: ignore[no-untyped-call]
    assert all(bool(p.grad.isfinite().all()) for p in (first.weight, first.bias, last.weight) if p.grad is not None)
    with torch.no_grad():
        for tensor in (first.weight, first.bias, last.weight):
            tensor.zero_()
    assert sparsity(model).item() == 0


def test_the_growing_penalty_acts_on_the_channels_that_will_go() -> None:
    model = residual()
    sparsity = GrowingPenalty(groups_of(model), 3 / 14, start=2, growth=0.5, every=2, ceiling=1.2)
    model.get_parameter("bn1.weight").data[1:4] = 1e-3
    found = []
    for _ in range(8):
        found.append(sparsity(model).item())
        sparsity.step()
    w = parameters(model)
    owned = [w["conv1.weight"][1:4], w["conv1.bias"][1:4], w["bn1.weight"][1:4], w["conv2.weight"][:, 1:4]]
    once = 0.5 * sum(x.square().sum().item() for x in owned)
    assert found == pytest.approx([once * k for k in (0, 0, 0.5, 0.5, 1.0, 1.0, 1.2, 1.2)], rel=1e-4)


def zeros(model: nn.Module, name: str) -> set[int]:
    """The positions on the first axis of a parameter at which all is zero."""
    values = model.get_parameter(name).detach()
    return set((values.reshape(len(values), -1) == 0).all(1).nonzero().flatten().tolist())


def test_soft_pruning_sets_whole_channels_to_zero_and_they_come_back() -> None:
    model = residual()
    optimizer, sparsity = sgd(model), SoftPruning(groups_of(model), 0.5, every=4)
    train(model, sparsity, optimizer, 4)
    for count, *names in ((3, "conv1", "bn1"), (4, "conv", "bn", "conv2", "bn2")):
        gone = [zeros(model, f"{name}.weight") for name in names]
        assert len(gone[0]) == count
        assert all(g == gone[0] == zeros(model, f"{name}.bias") for g, name in zip(gone, names, strict=True) if name != "conv")
    result = onnxprune.prune(exported(model, X), ratio=0.0, align="none", recover="none", bench=False)
    assert (result.report.removed, result.report.dead) == (0, 7)
    assert difference(run_exported(result.model, [X])[0].numpy(), outputs(model).numpy()) < 1e-5
    train(model, sparsity, optimizer, 1)
    assert not zeros(model, "conv1.weight") | zeros(model, "conv2.weight") | zeros(model, "bn1.weight")


def test_centripetal_steps_give_every_member_the_mean_update_and_shrink_what_is_left() -> None:
    plain, model = residual(), residual()
    sparsity = Centripetal(groups_of(model), 0.5, 0.2)
    start = parameters(model)
    for net, method in ((plain, None), (model, sparsity)):
        train(net, method, sgd(net, 0.1, 0.0), 1)
    found, free = parameters(model), parameters(plain)
    clusters = sparsity.clusters["conv1.weight"]
    assert len(set(clusters.tolist())) == 3
    for name in ("conv1.weight", "bn1.weight", "bn1.bias", "conv1.bias"):
        for k in range(3):
            mine = clusters == k
            torch.testing.assert_close(found[name][mine].mean(0), free[name][mine].mean(0))
            apart = (start[name] - start[name][mine].mean(0))[mine] * (1 - 0.2 * 0.1)
            torch.testing.assert_close(found[name][mine] - found[name][mine].mean(0), apart, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(found["fc.weight"], free["fc.weight"])


def test_identical_channels_merge_without_loss_on_a_residual_stream() -> None:
    """And any cut removes those that are zero then, without loss."""
    model = residual()
    sparsity = Centripetal(groups_of(model), 0.5, 1.0, log_every=150)
    train(model, sparsity, sgd(model, 0.05), 150)
    assert [round(14 * r.share) for r in sparsity.history] == [0, 7]
    before = outputs(model)
    merged = sparsity.merge(nn.DataParallel(model), X)
    assert (merged.merged, merged.refused) == ({"conv.weight": 4, "conv1.weight": 3}, {})
    assert difference(outputs(model).numpy(), before.numpy()) == pytest.approx(merged.moved, abs=1e-6)
    assert merged.moved < 1e-5
    result = onnxprune.prune(exported(model, X), ratio=0.0, align="none", recover="none", bench=False)
    assert (result.report.removed, result.report.dead) == (0, 7)
    assert difference(run_exported(result.model, [X])[0].numpy(), before.numpy()) < 1e-5


def equalise(model: nn.Module, group: ChannelGroup, clusters: Tensor) -> None:
    """Give all channels of a cluster the mean of what makes them."""
    tensors = named_tensors(model)
    for s in group.slices:
        if s.role != "reader":
            rows = tensors[s.name].detach().movedim(s.axis, 0)
            for k in range(int(clusters.max()) + 1):
                places = torch.stack([(s.atoms == c).nonzero().flatten() for c in (clusters == k).nonzero().flatten()])
                rows[places] = rows[places].mean(0)


REFUSED = {
    "vit, packed": {"patch_embed.weight", "blocks.0.attn.qkv.weight", "blocks.1.attn.qkv.weight"},
    "mixer": {"patch.weight"},
}


@pytest.mark.parametrize("name", ["resnet", "resnext", "mobilenet", "dense", "unet", "tied weights", *REFUSED])
def test_merging_equal_channels_changes_no_output_or_is_refused(name: str) -> None:
    """Products of queries and keys, and LayerNorm, combine channels otherwise than weights do."""
    case = MODULES[name]
    module = case.make()
    groups = channel_groups(module, case.inputs, allow_renormalising=bool(case.renormalises))
    sparsity = Centripetal(groups, 0.5)
    sparsity(module)
    for group in groups:
        if group.name in sparsity.clusters:
            equalise(module, group, sparsity.clusters[group.name])
    before = run(module, case.inputs)
    merged = sparsity.merge(module, case.inputs)
    assert sum(merged.merged.values()) >= 8
    assert merged.refused.keys() >= REFUSED.get(name, set())
    for y, expected in zip(run(module, case.inputs), before, strict=True):
        assert difference(y.numpy(), expected.numpy()) <= 1e-4
    zero = {n for g in groups if g.name in merged.merged for n in [g.name] if zeros(module, n)}
    assert zero == merged.merged.keys()


def test_clusters_are_those_that_add_least_to_the_distances() -> None:
    points = torch.randn(14, 3, generator=torch.Generator().manual_seed(0))
    found = [[k] for k in range(14)]
    while len(found) > 5:
        costs = {}
        for a, b in combinations(range(len(found)), 2):
            x, y = points[found[a]], points[found[b]]
            costs[a, b] = len(x) * len(y) / (len(x) + len(y)) * (x.mean(0) - y.mean(0)).square().sum().item()
        a, b = min(costs, key=lambda pair: costs[pair])
        found[a] += found.pop(b)
    clusters = ward(points, 5).tolist()
    assert {frozenset(k for k in range(14) if clusters[k] == c) for c in clusters} == {frozenset(f) for f in found}


def test_gates_shrink_scale_and_shift_alike_until_both_are_zero() -> None:
    model = settled(residual())
    before, groups = parameters(model), groups_of(model)
    sparsity = Gates(groups, 1.0)
    sparsity(model)
    sparsity.step(sgd(model, 0.5, 0.0))
    after = parameters(model)
    owned = torch.stack([before["bn1.weight"], before["bn1.bias"], before["conv1.bias"]])
    gates = owned.norm(dim=0) / owned.square().sum(0).mean().sqrt()
    factor = (1 - 0.5 / gates).clamp(min=0)
    for name in ("bn1.weight", "bn1.bias"):
        torch.testing.assert_close(after[name], before[name] * factor)
    assert torch.equal(after["conv1.weight"], before["conv1.weight"])
    for _ in range(4):
        sparsity.step(sgd(model, 0.5, 0.0))
    assert not any(bool(parameters(model)[n].any()) for n in ("bn.weight", "bn2.bias", "bn1.weight"))


def test_gates_act_on_filters_where_there_is_no_normalisation() -> None:
    model = residual(norm=False)
    before, sparsity = parameters(model), Gates(groups_of(model), 1.0)
    sparsity(model)
    sparsity.step(sgd(model, 0.1, 0.0))
    after = parameters(model)
    factor = after["conv1.bias"] / before["conv1.bias"]
    torch.testing.assert_close(after["conv1.weight"], before["conv1.weight"] * factor[:, None, None, None])
    assert bool((factor < 1).all()) and torch.equal(after["fc.weight"], before["fc.weight"])
