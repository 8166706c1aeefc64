# SPDX-License-Identifier: Apache-2.0
"""Unification in a training: the steps of ADMM, what is fixed at the end and stays so, and the same blocks as in the file."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from onnxprune.compression.blocks import FREE, SHARED, ZERO, BlockShape
from onnxprune.compression.carrier import carried
from onnxprune.compression.division import Division
from onnxprune.compression.eligible import eligible
from onnxprune.errors import OptionError, PruneError, TrainingError
from onnxprune.ir.facts import read_graph
from onnxprune.ir.graph import read_weights
from onnxprune.training.export import difference, exported, run_exported
from onnxprune.training.sparsity import L1, Unification
from onnxprune.training.sparsity.linears import divisible
from onnxprune.types import Array
from tests.cases.modules import MODULES
from tests.cases.modules.sparse import X, Y, groups_of, outputs, parameters, residual, sgd, train


def one_layer() -> nn.Linear:
    """A linear layer with eight inputs and four outputs: eight blocks of four."""
    torch.manual_seed(0)
    return nn.Linear(8, 4)


def magnitudes(w: Array, division: Division) -> list[set[float]]:
    """The distinct absolute values in each block."""
    numbers = division.blocks.numbers
    return [set(np.abs(w[numbers == k]).tolist()) for k in range(division.blocks.count)]


def check_blocks(w: Array, division: Division) -> None:
    """A block has one magnitude, or is zero, or is free."""
    for found, action in zip(magnitudes(w, division), division.actions, strict=True):
        assert action == FREE or (len(found) == 1 if action == SHARED else found == {0.0})


def projection(w: Array, shared: int, zero: int) -> Array:
    """In blocks of four inputs, the zeros first; as the paper has it, in plain numpy."""
    blocks = w.reshape(-1, 4).copy()
    mean = np.abs(blocks).mean(1, keepdims=True)
    near = np.where(blocks < 0, -mean, mean)
    gone = np.argsort((blocks**2).sum(1))[:zero]
    left = [k for k in np.argsort(((blocks - near) ** 2).sum(1)) if k not in gone][:shared]
    blocks[gone], blocks[left] = 0, near[left]
    return blocks.reshape(w.shape)


@pytest.mark.parametrize(("share", "zero"), [(1.0, 0.0), (0.5, 0.25), (0.0, 0.5), (None, 0.25)])
def test_steps_are_those_of_admm(share: float | None, zero: float) -> None:
    model, rate, rho, drift = one_layer(), 0.1, 0.5, np.linspace(-1, 1, 32, dtype=np.float32).reshape(4, 8)
    sparsity = Unification(4, share, zero, rho=rho, update_every=3, start=2, all_layers=True)
    optimizer, shared = torch.optim.SGD([model.weight], rate), 8 - round(8 * zero) if share is None else round(8 * share)
    w = model.weight.detach().double().numpy().copy()
    for step in range(12):
        optimizer.zero_grad()
        loss = (model.weight * torch.from_numpy(drift)).sum() + sparsity(model)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        sparsity.step(optimizer)

        if step == 2:
            z, u = projection(w, shared, round(8 * zero)), np.zeros_like(w)
        pull = rho * (w - z + u) if step >= 2 else 0
        w = w - rate * (drift + pull)
        if step >= 2 and (step + 1 - 2) % 3 == 0:
            z = projection(w + u, shared, round(8 * zero))
            u = u + w - z
        np.testing.assert_allclose(model.weight.detach(), w, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scope", ["global", "local"])
def test_the_right_share_of_blocks_has_one_magnitude_or_is_zero(scope: str) -> None:
    model = residual()
    sparsity = Unification("4x4", 0.5, 0.25, scope=scope, update_every=2, all_layers=True)
    train(model, sparsity, sgd(model), 5)
    sparsity.finish(model)
    assert sparsity.divisions.keys() == {"conv.weight", "conv1.weight", "conv2.weight", "fc.weight"}
    actions = [d.actions for d in sparsity.divisions.values()]
    for found in actions if scope == "local" else [np.concatenate(actions)]:
        counts = [int((found == kind).sum()) for kind in (SHARED, ZERO)]
        assert counts == [round(0.5 * len(found)), round(0.25 * len(found))]
    for name, division in sparsity.divisions.items():
        check_blocks(model.get_parameter(name).detach().numpy(), division)


def test_finish_is_the_projection_of_the_weights_and_nothing_else_changes() -> None:
    model = one_layer()
    before, sparsity = parameters(model), Unification(4, 0.5, 0.25, all_layers=True)
    sparsity.finish(model)
    np.testing.assert_allclose(model.weight.detach(), projection(before["weight"].numpy(), 4, 2), rtol=1e-6)
    assert torch.equal(model.bias, before["bias"])
    assert sparsity.finished


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), 1e-2)


@pytest.mark.parametrize("make", [sgd, lambda m: sgd(m, decay=1e-2), adam], ids=["momentum", "decay", "adam"])
@pytest.mark.parametrize("trained", [True, False])
def test_blocks_stay_while_the_rest_is_trained(make: Callable[[nn.Module], torch.optim.Optimizer], trained: bool) -> None:
    model = residual()
    optimizer, sparsity = make(model), Unification("8", 0.5, 0.25, update_every=5, magnitudes=trained)
    train(model, sparsity, optimizer, 10)
    sparsity.finish(model)
    before, decided = parameters(model), dict(sparsity.divisions)
    train(model, sparsity, optimizer, 10)
    assert sparsity(model).item() == 0
    for name, division in sparsity.divisions.items():
        assert np.array_equal(division.actions, decided[name].actions)
        old, new = before[name].numpy(), model.get_parameter(name).detach().numpy()
        check_blocks(new, division)
        action = division.actions[division.blocks.numbers]
        assert (np.sign(new) * np.sign(old) >= 0)[action == SHARED].all(), "a sign has changed"
        assert (new != old)[action == FREE].all()
        assert (new != old)[action == SHARED].any() == trained
    assert not torch.equal(model.fc.weight, before["fc.weight"])


def test_a_magnitude_moves_by_the_mean_of_what_its_weights_would() -> None:
    model = one_layer()
    sparsity = Unification(4, all_layers=True)
    sparsity.finish(model)
    before, signs = parameters(model)["weight"], model.weight.detach().sign()
    gradient = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    sparsity(model)
    model.weight.data -= 0.01 * gradient
    sparsity.step()
    mean = (signs * gradient).reshape(8, 4).mean(1, keepdim=True).expand(8, 4).reshape(4, 8)
    torch.testing.assert_close(model.weight.detach(), before - 0.01 * signs * mean)
    model.weight.data = -signs  # all weights would cross zero
    sparsity.step()
    assert not model.weight.any()
    model.weight.data = 2 * signs
    sparsity.step()
    assert torch.equal(model.weight, 2 * signs), "the signs are forgotten"


def test_a_block_that_ends_before_its_size_is_held_by_the_mean_of_its_own_weights() -> None:
    torch.manual_seed(0)
    model = nn.Linear(7, 3)
    sparsity = Unification("2x4", all_layers=True)
    sparsity.finish(model)
    before = parameters(model)["weight"]
    sparsity(model)
    sparsity.step()
    torch.testing.assert_close(model.weight.detach(), before)
    check_blocks(model.weight.detach().numpy(), sparsity.divisions["weight"])


SAME = ("resnet", "resnext", "mobilenet", "shufflenet", "super-resolution", "autoencoder", "video", "audio", "siamese")


@pytest.mark.parametrize("name", SAME)
@pytest.mark.parametrize(("block", "all_layers"), [("16", True), ("4x6", False)])
def test_blocks_are_those_of_the_exported_file(name: str, block: str, all_layers: bool) -> None:
    case = MODULES[name]
    module, shape = case.make(), BlockShape.parse(block)
    mine = divisible(module, shape, (), all_layers, "Unification")
    graph = read_graph(exported(module, case.inputs))
    theirs = eligible(graph, shape, (), all_layers)
    assert mine
    assert {n: (b.shape, b.runs) for n, b in mine.items()} == {n: (b.shape, b.runs) for n, b in theirs.items()}


def test_the_exported_weights_can_be_stored_as_they_are() -> None:
    """They are blocks of exactly one magnitude, and codes times magnitudes compute the same."""
    case = MODULES["mobilenet"]
    module, sparsity = case.make(), Unification("16", 0.7, 0.2, update_every=2)
    optimizer = torch.optim.SGD(module.parameters(), 0.01, 0.9)
    for step in range(8):
        if step == 4:
            sparsity.finish(module)
        optimizer.zero_grad()
        loss = module(*case.inputs).square().mean() + sparsity(module)
        loss.backward()
        optimizer.step()
        sparsity.step(optimizer)
    model = exported(module.eval(), case.inputs)
    weights = read_weights(model)
    assert {"Conv", "Gemm"} <= {n.op_type for n in model.graph.node}
    for name, division in sparsity.divisions.items():
        check_blocks(weights[name].array, division)
    [plain], [stored] = (run_exported(m, case.inputs) for m in (model, carried(model, sparsity.divisions)))
    assert difference(stored.numpy(), plain.numpy()) < 1e-5


@pytest.mark.parametrize("finished", [False, True])
def test_a_training_that_was_stopped_continues_as_if_it_was_not(finished: bool) -> None:
    def made() -> Unification:
        return Unification("4x4", 0.5, 0.25, update_every=3, log_every=2)

    def half(model: nn.Module, sparsity: Unification, optimizer: torch.optim.Optimizer) -> None:
        train(model, sparsity, optimizer, 4)
        if finished:
            sparsity.finish(model)
            train(model, sparsity, optimizer, 2)

    whole, model, again = residual(), residual(), residual(seed=1)
    expected, first, sparsity = made(), made(), made()
    optimizer, stopped, other = sgd(whole), sgd(model), sgd(again)
    half(whole, expected, optimizer)
    train(whole, expected, optimizer, 5)
    half(model, first, stopped)
    for part, state in ((again, model.state_dict()), (other, stopped.state_dict()), (sparsity, first.state_dict())):
        part.load_state_dict(state)
    assert sparsity.finished == finished
    train(again, sparsity, other, 5)
    for name, value in parameters(whole).items():
        assert torch.equal(value, again.get_parameter(name)), name
    for name, division in expected.divisions.items():
        assert np.array_equal(division.actions, sparsity.divisions[name].actions)
    assert [r.share for r in sparsity.history] == [r.share for r in expected.history]
    with pytest.raises(TrainingError, match="the state is that of blocks of 4x4, expected 8"):
        Unification("8").load_state_dict(first.state_dict())


def test_it_adds_to_other_methods() -> None:
    model, unification = residual(), Unification("8", rho=0.5, update_every=2)
    both = L1(0.1, 0.1, proximal=True) + unification
    optimizer = sgd(model)
    assert both(model).item() == pytest.approx(unification(model).item())
    train(model, both, optimizer, 4)
    unification.finish(model)
    train(model, both, optimizer, 4)
    for name, division in unification.divisions.items():
        check_blocks(model.get_parameter(name).detach().numpy(), division)
    assert {"conv1.weight", "blocks of conv1.weight"} <= both.history[-1].scores.keys()


def test_the_log_tells_how_far_weights_are_from_their_blocks() -> None:
    model = residual()
    sparsity = Unification("4", rho=3.0, update_every=10, log_every=5, all_layers=True)
    with pytest.raises(TrainingError, match="Unification: call it before distance"):
        _ = sparsity.distance
    train(model, sparsity, sgd(model), 100)
    scores = sparsity.history[-1].scores["blocks of fc.weight"]
    distance, before = sparsity.distance, parameters(model)
    w = before["fc.weight"].double().numpy()
    apart = np.linalg.norm(w - projection(w.reshape(6, 4), 6, 0).reshape(w.shape)) / np.linalg.norm(w)
    assert np.sqrt(np.square(scores).mean()) == pytest.approx(apart, rel=1e-4)
    start = sparsity.history[0].scores["blocks of fc.weight"]
    assert np.square(scores).mean() < 0.25 * np.square(start).mean()
    sparsity.finish(model)
    moved, whole = (
        torch.cat([x.flatten() for x in xs]).norm().item()
        for xs in zip(*((model.get_parameter(n) - before[n], before[n]) for n in sparsity.divisions), strict=True)
    )
    assert distance == pytest.approx(moved / whole, rel=1e-4)
    assert sparsity.distance < 1e-6


def test_the_last_projection_costs_less_after_training_for_it() -> None:
    lost = []
    for rho in (0.0, 0.3):
        model = residual(norm=False)
        optimizer, sparsity = sgd(model, 0.05), Unification("4x8", rho=rho, update_every=10, all_layers=True)
        train(model, sparsity, optimizer, 300)
        before = F.cross_entropy(outputs(model), Y).item()
        sparsity.finish(model)
        lost.append(F.cross_entropy(outputs(model), Y).item() - before)
    assert lost[1] < 0.5 * lost[0]


class Tied(nn.Module):
    """An embedding that is also the last layer's weight, beside weights that are frozen or computed."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 8)
        self.frozen, self.normed = nn.Linear(8, 8), nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
        self.own, self.back = nn.Linear(8, 8), nn.Linear(8, 10, bias=False)
        self.frozen.requires_grad_(False)
        self.back.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        """Scores of tokens (n, t, 10)."""
        found: Tensor = self.back(self.own(self.normed(self.frozen(self.embed(x)))))
        return found


def test_weights_that_are_frozen_computed_or_shared_are_left_alone() -> None:
    model = Tied()
    before = parameters(model)
    sparsity = Unification(4, all_layers=True)
    sparsity.finish(model)
    assert sparsity.divisions.keys() == {"own.weight"}
    assert {n for n, p in parameters(model).items() if not torch.equal(p, before[n])} == {"own.weight"}


def test_packed_weights_of_attention_are_divided() -> None:
    attention = nn.MultiheadAttention(8, 2), nn.MultiheadAttention(8, 2, kdim=4, vdim=4)
    found = divisible(nn.ModuleList(attention), BlockShape.parse("4"), (), True, "Unification")
    stored = {"0.in_proj_weight", "0.out_proj.weight", "1.out_proj.weight"}
    assert found.keys() == stored | {f"1.{part}_proj_weight" for part in "qkv"}


def test_a_weight_that_is_no_number_is_not_left_out_of_the_penalty() -> None:
    model = residual()
    sparsity = Unification("8", 0.5, update_every=1)
    sparsity(model)
    with torch.no_grad():
        model.conv1.weight[3] = float("nan")
    assert sparsity(model).isnan()
    sparsity.step()
    assert sparsity(model).isnan()


def test_half_weights_have_one_magnitude_too() -> None:
    model = residual().bfloat16()
    sparsity = Unification("8")
    sparsity.finish(model)
    sparsity(model)
    sparsity.step()
    for name, division in sparsity.divisions.items():
        check_blocks(model.get_parameter(name).detach().float().numpy(), division)


def finished_twice() -> None:
    model, sparsity = residual(), Unification("8")
    sparsity.finish(model)
    sparsity.finish(model)


def cut() -> None:
    model, sparsity = residual(), Unification("8")
    sparsity(model)
    model.conv1 = nn.Conv2d(8, 5, 3)
    sparsity(model)


WRONG: dict[str, tuple[type[PruneError], Callable[[], object], str]] = {
    "block of 0": (OptionError, lambda: Unification(0), r"block size: got '0', expected sizes such as 16"),
    "block of 1": (OptionError, lambda: Unification(1), r"block size: got '1', expected more than one weight"),
    "no block": (OptionError, lambda: Unification(None), r"block size: got 'None', expected sizes"),  # type: ignore[arg-type]
    "share": (OptionError, lambda: Unification(16, 1.5), r"share`: got 1.5, expected a share of all blocks, between 0 and 1"),
    "share in words": (OptionError, lambda: Unification(16, "all"), r"share: got 'all'"),  # type: ignore[arg-type]
    "zero": (OptionError, lambda: Unification(16, zero=-0.1), r"zero`: got -0.1, expected a share"),
    "nan": (OptionError, lambda: Unification(16, zero=float("nan")), r"zero`: got nan, expected a share"),
    "too much": (OptionError, lambda: Unification(16, 0.7, 0.4), r"share` and `zero`: got 1.1 together"),
    "nothing": (OptionError, lambda: Unification(16, 0.0), r"share` and `zero`: got 0 together, expected more than 0"),
    "scope": (OptionError, lambda: Unification(16, scope="here"), r"scope`: got 'here', expected global or local"),
    "rho": (OptionError, lambda: Unification(16, rho=-1), r"Unification rho: got -1, expected a finite number of at least 0"),
    "every": (OptionError, lambda: Unification(16, update_every=0), r"Unification update_every: got 0, expected a whole"),
    "start": (OptionError, lambda: Unification(16, start=-1), r"Unification start: got -1, expected a whole number"),
    "wrong rank": (TrainingError, lambda: Unification("1x8x3")(residual()), r"Residual has no .* blocks of 1x8x3; the first"),
    "too large": (
        OptionError,
        lambda: Unification("64x4")(residual()),
        r"Unification block: got 64x4, larger than every weight; the largest is 'conv1.weight', 6 x 8 x 3 x 3",
    ),
    "no layers": (TrainingError, lambda: Unification(4)(nn.BatchNorm2d(4)), r"BatchNorm2d has no trained weight"),
    "ends only": (TrainingError, lambda: Unification(4)(one_layer()), r"the first and the last stay, unless all_layers=True"),
    "frozen": (TrainingError, lambda: Unification(4)(residual().requires_grad_(False)), r"Residual has no trained weight"),
    "exclude": (OptionError, lambda: Unification(4, exclude="head*")(residual()), r"exclude: 'head\*' matches no weight"),
    "all excluded": (TrainingError, lambda: Unification(4, exclude="*")(residual()), r"Residual has no trained weight"),
    "finished twice": (TrainingError, finished_twice, r"Unification: the blocks are fixed already; call finish\(\) once"),
    "cut": (TrainingError, cut, r"'conv1.weight' has the shape \[5, 8, 3, 3\], expected .* call regroup\(groups\)"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_an_error_of_one_line(name: str) -> None:
    kind, act, says = WRONG[name]
    with pytest.raises(kind, match=says) as found:
        act()
    assert "\n" not in str(found.value)


def test_exclude_takes_names_and_patterns() -> None:
    for exclude in ("conv1.*", ["conv1.weight"]):
        sparsity = Unification("8", exclude=exclude)
        sparsity(residual())
        assert sparsity.divisions.keys() == {"conv2.weight"}


def test_after_a_cut_blocks_are_chosen_anew() -> None:
    model, sparsity = residual(), Unification("8")
    sparsity.finish(model)
    model.conv1, model.conv2 = nn.Conv2d(8, 5, 3), nn.Conv2d(5, 8, 3)
    sparsity.regroup(groups_of(residual()))
    assert not sparsity.finished
    assert sparsity(model).item() > 0
    assert X.requires_grad is False
