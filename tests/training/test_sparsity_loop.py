# SPDX-License-Identifier: Apache-2.0
"""Regularisers in a training loop: wrapped models, mixed precision, cuts, logs, plots, weight decay, and wrong input."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import onnxprune
from onnxprune.errors import OptionError, OutputError, PruneError, TrainingError
from onnxprune.training.channels import ChannelGroup
from onnxprune.training.export import exported
from onnxprune.training.plans import apply_plan
from onnxprune.training.sparsity import (
    L1,
    Centripetal,
    Gates,
    GroupLasso,
    GrowingPenalty,
    Regularizer,
    SoftPruning,
    Unification,
    parameter_groups,
    ramp,
)
from tests.cases.modules.sparse import X, groups_of, parameters, residual, sgd, train

METHODS: dict[str, Callable[[tuple[ChannelGroup, ...]], Regularizer]] = {
    "L1": lambda g: L1(groups=g),
    "L1, by layer": lambda g: L1(),
    "L1, proximal": lambda g: L1(proximal=True),
    "GroupLasso": GroupLasso,
    "GrowingPenalty": lambda g: GrowingPenalty(g, 0.4),
    "SoftPruning": lambda g: SoftPruning(g, 0.4, every=2),
    "Gates": Gates,
    "Centripetal": lambda g: Centripetal(g, 0.4),
    "Unification": lambda g: Unification("4x4", 0.5, 0.25, update_every=3),
    "Unification, fixed": lambda g: Unification("4x4", 0.5, 0.25, update_every=2, end=3),
    "both": lambda g: L1() + GroupLasso(g),
}
WITHOUT_GROUPS = ("L1, by layer", "L1, proximal", "Unification", "Unification, fixed")
every_method = pytest.mark.parametrize("name", METHODS)


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@every_method
def test_a_training_that_was_stopped_continues_as_if_it_was_not(name: str, tmp_path: Path) -> None:
    whole, model = residual(), residual()
    expected, first = METHODS[name](groups_of(whole)), METHODS[name](groups_of(model))
    expected.log_every = first.log_every = 2
    train(whole, expected, sgd(whole), 7)

    optimizer = sgd(model)
    train(model, first, optimizer, 4)
    torch.save([model.state_dict(), optimizer.state_dict(), first.state_dict()], tmp_path / "stopped.pt")
    stored = torch.load(tmp_path / "stopped.pt", weights_only=True)
    again = residual(seed=1)
    optimizer, sparsity = sgd(again), METHODS[name](groups_of(again))
    sparsity.log_every = 2
    again.load_state_dict(stored[0])
    optimizer.load_state_dict(stored[1])
    sparsity.load_state_dict(stored[2])
    train(again, sparsity, optimizer, 3)
    for key, tensor in parameters(whole).items():
        assert torch.equal(tensor, again.get_parameter(key)), key
    assert [r.step for r in sparsity.history] == [1, 2, 4, 6]
    assert [r.sparse for r in sparsity.history] == [r.sparse for r in expected.history]


def test_a_state_of_another_method_or_of_other_channels_is_refused() -> None:
    groups = groups_of(residual())
    state = Gates(groups).state_dict()
    with pytest.raises(TrainingError, match="the state is that of another method: got Gates, expected GroupLasso"):
        GroupLasso(groups).load_state_dict(state)
    with pytest.raises(TrainingError, match=r"the state is that of other groups: got .*conv1"):
        Gates(groups[:1]).load_state_dict(state)


@every_method
def test_a_wrapped_model_is_trained_like_the_model_itself(name: str, one_process: None) -> None:
    plain, model = residual(), residual()
    sparsity, again = METHODS[name](groups_of(plain)), METHODS[name](groups_of(plain))
    train(plain, sparsity, sgd(plain), 4)
    wrapped = DistributedDataParallel(torch.compile(model, backend="eager"))
    train(wrapped, again, sgd(wrapped), 4)
    for key, value in parameters(plain).items():
        torch.testing.assert_close(parameters(model)[key], value, msg=key)


def test_a_submodule_that_is_compiled_later_is_found() -> None:
    model = residual()
    sparsity = GroupLasso(groups_of(model))
    before = sparsity(model).item()
    model.conv1 = torch.compile(model.conv1, backend="eager")  # type: ignore[assignment]
    assert sparsity(model).item() == before


@every_method
def test_penalties_are_in_single_precision_under_autocast_and_for_half_weights(name: str) -> None:
    model = residual()
    sparsity = METHODS[name](groups_of(model))
    expected = sparsity(model)
    with torch.autocast("cpu", torch.bfloat16):
        found = sparsity(model)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    half = sparsity(model.bfloat16())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, expected, rtol=1e-2, atol=1e-6)


@every_method
def test_training_goes_on_after_a_cut_with_the_new_groups(name: str) -> None:
    model = residual()
    sparsity, optimizer = METHODS[name](groups_of(model)), sgd(model)
    train(model, sparsity, optimizer, 3)
    plan = onnxprune.prune(exported(model, X), ratio=0.4, align="none", recover="none", bench=False).plan
    apply_plan(model, plan, optimizer, example_inputs=X)
    if name not in WITHOUT_GROUPS:
        with pytest.raises(
            TrainingError, match=r"owns '.*' with \d positions on axis \d, but its shape is .*; if .* call regroup"
        ):
            train(model, sparsity, optimizer, 1)
    sparsity.regroup(groups_of(model))
    before = parameters(model)
    train(model, sparsity, optimizer, 3)
    assert not torch.equal(parameters(model)["conv1.weight"], before["conv1.weight"])
    assert sparsity.steps >= 6


def test_a_sum_adds_penalties_and_takes_all_steps() -> None:
    model, groups = residual(), groups_of(residual())
    parts = L1(log_every=3), GroupLasso(groups, log_every=2), SoftPruning(groups, 0.5, every=1)
    both = parts[0] + (parts[1] + parts[2])
    assert both(model).item() == pytest.approx(sum(p(model).item() for p in parts), rel=1e-6)
    train(model, both, sgd(model), 4)
    assert [p.steps for p in (*parts, both)] == [4] * 4
    assert int((model.conv1.weight == 0).flatten(1).all(1).sum()) == 3
    assert [r.step for r in both.history] == [1, 2, 4]
    assert both.history[0].scores.keys() == {f"{n}.weight" for n in ("conv", "conv1", "conv2", "bn", "bn1", "bn2")}
    with pytest.raises(OptionError, match="cannot be added to itself"):
        both + parts[0]


def test_history_holds_scores_and_how_sparse_each_group_is() -> None:
    model = residual()
    sparsity = SoftPruning(groups_of(model), 0.5, every=2, log_every=2)
    train(model, sparsity, sgd(model), 5)
    assert [r.step for r in sparsity.history] == [1, 2, 4]
    last = sparsity.history[-1]
    assert {name: s.shape for name, s in last.scores.items()} == {"conv.weight": (8,), "conv1.weight": (6,)}
    assert last.sparse == {"conv.weight": 0.5, "conv1.weight": 0.5}
    assert (sparsity.history[0].share, last.share) == (0.0, 0.5)
    with pytest.raises(AttributeError):
        last.step = 3  # type: ignore[misc]


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_plot_is_a_picture(suffix: str, tmp_path: Path) -> None:
    model = residual()
    sparsity = SoftPruning(groups_of(model), 0.5, every=2, log_every=2)
    with pytest.raises(TrainingError, match="nothing to plot yet"):
        sparsity.plot(tmp_path / f"scores.{suffix}")
    train(model, sparsity, sgd(model), 4)
    path = sparsity.plot(tmp_path / f"scores.{suffix}")
    start = path.read_bytes()[:6]
    assert start.startswith(b"\x89PNG" if suffix == "png" else b"<?xml")


def test_a_plot_that_cannot_be_written_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, sparsity = residual(), L1()
    train(model, sparsity, sgd(model), 1)
    with pytest.raises(OutputError, match="no such folder"):
        sparsity.plot(tmp_path / "missing" / "scores.png")
    with pytest.raises(OutputError, match="cannot write the plot"):
        sparsity.plot(tmp_path / "scores.xyz")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(OutputError, match="needs matplotlib, which is not installed: pip install matplotlib"):
        sparsity.plot(tmp_path / "scores.png")


@pytest.mark.parametrize("make", [lambda g: L1(), Gates, lambda g: GroupLasso(g) + L1()])
def test_weight_decay_on_tensors_that_l1_acts_on_is_warned_about_once(make: Any) -> None:
    model = residual()
    sparsity = make(groups_of(model))
    with pytest.warns(UserWarning, match=r"acts on '\w+.weight' and \d more tensors, and so does weight decay") as found:
        train(model, sparsity, sgd(model, decay=1e-4), 3)
    assert len(found) == 1
    assert found[0].filename.endswith("sparse.py"), "the user's line is not named"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(model, make(groups_of(model)), torch.optim.SGD(parameter_groups(model, 1e-4, sparsity), 0.1), 2)
        train(model, GroupLasso(groups_of(model)), sgd(model, decay=1e-4), 1)
        train(model, L1(0.0, 0.0), sgd(model, decay=1e-4), 1)


def test_parameter_groups_hold_each_parameter_once() -> None:
    model = residual()
    model.fc.bias.requires_grad_(False)
    decayed, free = parameter_groups(nn.DataParallel(model), 0.1)
    names = {id(p): n for n, p in model.named_parameters()}
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    assert {names[id(p)] for p in free["params"]} == {f"{n}.weight" for n in ("conv", "conv1", "conv2", "bn", "bn1", "bn2")}
    biases = {f"{n}.bias" for n in ("conv1", "conv2", "bn", "bn1", "bn2")}
    assert {names[id(p)] for p in decayed["params"]} == {"fc.weight", *biases}
    [only] = parameter_groups(model, 0.1, L1(0.0, 0.0))
    assert len(only["params"]) == len(names) - 1


def no_norms() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))


GROUPS = groups_of(residual())
WRONG: dict[str, tuple[type[PruneError], Callable[[], object], str]] = {
    "negative": (OptionError, lambda: L1(-1.0), r"L1 weights: got -1.0, expected a finite number of at least 0"),
    "nan": (OptionError, lambda: L1(scales=float("nan")), r"L1 scales: got nan, expected a finite number"),
    "text": (OptionError, lambda: GroupLasso(GROUPS, "1"), r"GroupLasso strength: got '1', expected"),  # type: ignore[arg-type]
    "bool": (OptionError, lambda: Gates(GROUPS, True), r"Gates strength: got True, expected"),
    "later": (OptionError, lambda: L1(lambda step: -1.0)(residual()), r"L1 weights: got -1.0 at step 0, expected"),
    "ramp": (OptionError, lambda: ramp(0.0, 1.0, steps=0), r"ramp steps: got 0, expected a whole number of at least 1"),
    "ratio": (OptionError, lambda: SoftPruning(GROUPS, 1.0), r"SoftPruning ratio: got 1.0, expected the share"),
    "every": (OptionError, lambda: SoftPruning(GROUPS, 0.5, every=0), r"SoftPruning every: got 0, expected a whole"),
    "growth": (OptionError, lambda: GrowingPenalty(GROUPS, 0.5, growth=0), r"GrowingPenalty growth: got 0, expected"),
    "log": (OptionError, lambda: L1(log_every=0.5), r"L1 log_every: got 0.5, expected"),  # type: ignore[arg-type]
    "decay": (OptionError, lambda: parameter_groups(residual(), -1), r"weight_decay: got -1, expected"),
    "no groups": (OptionError, lambda: GroupLasso(()), r"GroupLasso groups: got none, expected those of channel_groups"),
    "not groups": (OptionError, lambda: Gates([1]), r"Gates groups: got int, expected"),  # type: ignore[list-item]
    "unknown group": (TrainingError, lambda: GroupLasso(GROUPS)(no_norms()), r"group 'conv.weight' owns 'conv.weight', which"),
    "nothing to act on": (TrainingError, lambda: L1()(no_norms()), r"L1: Sequential has neither convolutions nor BatchNorm"),
    "frozen": (TrainingError, lambda: Gates(GROUPS)(residual().requires_grad_(False)), r"Gates: nothing .* can be trained"),
    "frozen decay": (TrainingError, lambda: parameter_groups(nn.Identity(), 0.1), r"Identity: has no parameters"),
    "step first": (TrainingError, lambda: L1().step(), r"L1: call it before step\(\): loss = loss \+ sparsity\(model\)"),
    "no optimizer": (TrainingError, lambda: stepped(Gates(GROUPS)), r"Gates: reads the learning rate in step\(\)"),
}


def stepped(sparsity: Regularizer) -> None:
    sparsity(residual())
    sparsity.step()


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_an_error_of_one_line(name: str) -> None:
    kind, act, says = WRONG[name]
    with pytest.raises(kind, match=says) as found:
        act()
    assert "\n" not in str(found.value)


def test_scores_are_those_by_which_a_cut_ranks() -> None:
    """A chain, where each channel has one filter and one scale: the criterion `ccprune`."""
    model = residual()
    model.get_parameter("bn1.weight").data.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(0))
    sparsity = L1(groups=groups_of(model))
    sparsity(model)
    sparsity.step()
    scores = sparsity.history[0].scores["conv1.weight"]
    kept = onnxprune.prune(exported(model, X), ratio=0.5, align="none", scope="local", recover="none", bench=False).plan.kept
    assert set(kept["conv1.weight"][0]) == set(np.argsort(-scores)[:3].tolist())
