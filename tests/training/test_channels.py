# SPDX-License-Identifier: Apache-2.0
"""The channels of a module: what a cut of its export removes together, under the names that the module has."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from onnxprune.errors import OptionError, TrainingError
from onnxprune.training.channels import ChannelGroup, channel_groups
from onnxprune.training.export import difference
from onnxprune.training.names import named_tensors
from tests.cases.modules import MODULES
from tests.cases.modules.case import settled
from tests.cases.modules.planning import planned, run
from tests.cases.modules.sparse import Residual, X, residual
from tests.cases.running import runner

IMAGE = X[:2]


def described(groups: tuple[ChannelGroup, ...]) -> dict[str, dict[str, set[str]]]:
    """Group -> role -> "name axis"."""
    found: dict[str, dict[str, set[str]]] = {}
    for group in groups:
        roles = found.setdefault(group.name, {})
        for s in group.slices:
            roles.setdefault(s.role, set()).add(f"{s.name} {s.axis}")
    return found


def statistics(*norms: str) -> set[str]:
    return {f"{norm}.{name} 0" for norm in norms for name in ("bias", "running_mean", "running_var")}


RESIDUAL = {
    "conv.weight": {
        "filter": {"conv.weight 0", "conv2.weight 0"},
        "reader": {"conv1.weight 1", "fc.weight 1"},
        "scale": {"bn.weight 0", "bn2.weight 0"},
        "other": {"conv2.bias 0", *statistics("bn", "bn2")},
    },
    "conv1.weight": {
        "filter": {"conv1.weight 0"},
        "reader": {"conv2.weight 1"},
        "scale": {"bn1.weight 0"},
        "other": {"conv1.bias 0", *statistics("bn1")},
    },
}


@pytest.mark.parametrize("fresh", [True, False])
def test_each_group_names_all_that_its_channels_own(fresh: bool) -> None:
    """Equal ones and zeros of fresh normalisations stay apart."""
    module = residual() if fresh else settled(residual())
    groups = channel_groups(module, IMAGE)
    assert described(groups) == RESIDUAL
    assert [len(g) for g in groups] == [8, 6]
    assert all(torch.equal(s.atoms, torch.arange(g.size)) for g in groups for s in g.slices)


def test_constants_that_are_not_the_modules_are_left_out() -> None:
    assert described(channel_groups(settled(Residual(factor=torch.linspace(1, 2, 8)[:, None, None])), IMAGE)) == RESIDUAL


def test_wrappers_are_looked_through_and_the_module_is_not_changed() -> None:
    module = residual().train()
    before = {name: t.clone() for name, t in named_tensors(module).items()}
    compiled = torch.compile(module, backend="eager")
    assert isinstance(compiled, nn.Module)
    for wrapped in (nn.DataParallel(module), compiled):
        assert described(channel_groups(wrapped, IMAGE)) == RESIDUAL
    assert module.training
    assert module.bn.training
    assert all(torch.equal(t, before[name]) for name, t in named_tensors(module).items())


CONVOLUTIONAL = (
    "resnet",
    "resnext",
    "padded shortcut",
    "dense",
    "unscaled",
    "mobilenet",
    "squeeze-excite",
    "shufflenet",
    "unet",
)
OTHERS = ("tied weights", "group norm", "recurrent", "bag of words", "vit, packed", "vit, packed, whole heads", "gpt")


@pytest.mark.parametrize("name", [*CONVOLUTIONAL, *OTHERS])
def test_a_cut_of_the_export_removes_whole_channels(name: str) -> None:
    """What the plan removes of every tensor is what a set of channels owns; set to zero, they leave what the cut computes."""
    case = MODULES[name]
    result = planned(name, "half")
    policy, module = result.plan.policy, case.make()
    carrier = [f"{pattern}={word}" for pattern, word in policy.carrier]
    groups = channel_groups(module, case.inputs, carrier=carrier, allow_renormalising=policy.allow_renormalising)
    removed = dict[tuple[str, int], set[int]]()
    for group in groups:
        gone = set[int]()
        for s in group.slices:
            kept = set(result.plan.kept.get(s.name, {}).get(s.axis, range(len(s.atoms))))
            gone = gone or {int(a) for p, a in enumerate(s.atoms) if a >= 0 and p not in kept}
            mine = {p for p, a in enumerate(s.atoms.tolist()) if a in gone}
            assert mine == {p for p, a in enumerate(s.atoms.tolist()) if a >= 0} - kept, (group.name, s.name)
            removed.setdefault((s.name, s.axis), set()).update(mine)
    assert sum(map(len, removed.values())) >= case.removed
    tensors = named_tensors(module)
    for key, axes in result.plan.kept.items():
        for axis, positions in axes.items() if key in tensors else ():
            assert removed[key, axis] == set(range(tensors[key].shape[axis])) - set(positions)
    if not policy.allow_renormalising:
        outputs = run(zeroed(module, removed), case.inputs)
        feeds = {i.name: x.numpy() for i, x in zip(result.model.graph.input, case.inputs, strict=True)}
        expected = runner(result.model)(feeds)
        assert all(difference(y.numpy(), e) <= 1e-4 for y, e in zip(outputs, expected, strict=True))


def zeroed(module: nn.Module, positions: dict[tuple[str, int], set[int]]) -> nn.Module:
    """A copy with these positions of parameters set to zero."""
    found = copy.deepcopy(module)
    tensors = named_tensors(found)
    for (name, axis), gone in positions.items():
        if isinstance(tensors[name], nn.Parameter):
            tensors[name].data.index_fill_(axis, torch.tensor(sorted(gone), dtype=torch.long), 0)
    return found


def test_the_carrier_says_what_a_channel_of_attention_is() -> None:
    case = MODULES["vit, packed"]
    sizes = {
        w: [g.size for g in channel_groups(case.make(), case.inputs, carrier=w) if "qkv" in g.name] for w in ("outer", "inner")
    }
    assert sizes["outer"] != sizes["inner"]


def test_blocks_that_keep_equal_numbers_are_passed_on() -> None:
    case = MODULES["resnext"]
    assert any(g.blocks for g in channel_groups(case.make(), case.inputs))


def test_nothing_to_remove_is_an_error() -> None:
    with pytest.raises(TrainingError, match=r"Linear: found no channels that can be removed; output 'y' is a model output"):
        channel_groups(nn.Linear(4, 3), torch.zeros(2, 4))
    with pytest.raises(OptionError, match="carrier"):
        channel_groups(residual(), IMAGE, carrier="middle")
