# SPDX-License-Identifier: Apache-2.0
"""Pruned modules as files: what is loaded is what was saved, or the error says why not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import onnxprune
from onnxprune.errors import OutputError, PlanError, TrainingError
from onnxprune.training.compact import load_compact, save_compact
from onnxprune.training.export import exported
from onnxprune.training.names import named_tensors
from onnxprune.training.plans import apply_plan
from tests.cases.modules import MODULES
from tests.cases.modules.planning import VARIANTS, cut, planned, run, state, train, unchanged

TWICE = ["resnet", "vit, packed", "shuffled groups", "tied weights"]


def cut_module(name: str) -> nn.Module:
    case = MODULES[name]
    return apply_plan(case.make(), planned(name).plan, example_inputs=case.inputs)


def check_same(found: nn.Module, expected: nn.Module, name: str) -> None:
    """All tensors and outputs are equal to the last bit, and the sizes that layers store."""
    tensors, others = named_tensors(found), named_tensors(expected)
    assert tensors.keys() == others.keys()
    assert all(torch.equal(t, others[n]) for n, t in tensors.items())
    inputs = MODULES[name].inputs
    assert all(torch.equal(a, b) for a, b in zip(run(found, inputs), run(expected, inputs), strict=True))
    assert str(found) == str(expected)


@pytest.mark.parametrize("name", MODULES)
def test_a_loaded_module_equals_the_saved_one_also_after_training(name: str, tmp_path: Path) -> None:
    case, plan, module = MODULES[name], planned(name).plan, cut_module(name)
    for file in ("cut.pt", "trained.pt"):
        save_compact(module, plan, tmp_path / file)
        fresh = case.make(seed=1)
        assert load_compact(fresh, tmp_path / file) is fresh
        check_same(fresh, module, name)
        train(module, torch.optim.SGD(module.parameters(), 0.01), case.inputs)


@pytest.mark.parametrize("name", TWICE)
def test_a_module_that_was_cut_twice_is_loaded_with_both_plans_as_one(name: str, tmp_path: Path) -> None:
    case, first = MODULES[name], planned(name, "local").plan
    module = apply_plan(case.make(), first, example_inputs=case.inputs)
    options = {"allow_renormalising": bool(case.renormalises), **VARIANTS["local"]}
    later = cut(exported(module, case.inputs), case, **options).plan
    apply_plan(module, later, example_inputs=case.inputs)
    save_compact(module, first.then(later), tmp_path / "twice.pt")
    check_same(load_compact(case.make(seed=1), tmp_path / "twice.pt"), module, name)


def test_a_loaded_module_can_be_trained_and_exported(tmp_path: Path) -> None:
    case, module = MODULES["resnet"], cut_module("resnet")
    save_compact(module, planned("resnet").plan, tmp_path / "a.pt")
    loaded = load_compact(case.make(seed=1), tmp_path / "a.pt")
    train(loaded, torch.optim.SGD(loaded.parameters(), 0.01), case.inputs)
    assert exported(loaded, case.inputs).graph.node


def test_the_plan_may_be_a_file(tmp_path: Path) -> None:
    planned("plain").plan.save(tmp_path / "a.plan.json")
    save_compact(module := cut_module("plain"), tmp_path / "a.plan.json", tmp_path / "a.pt")
    check_same(load_compact(MODULES["plain"].make(seed=1), tmp_path / "a.pt"), module, "plain")


def test_another_class_is_refused_and_stays_as_it_was(tmp_path: Path) -> None:
    save_compact(cut_module("plain"), planned("plain").plan, tmp_path / "a.pt")
    for name in ("resnet", "sequential", "functional"):
        other = MODULES[name].make()
        before = state(other)
        with pytest.raises(PlanError, match=r"a\.pt: holds a pruned Plain.*original class") as e:
            load_compact(other, tmp_path / "a.pt")
        assert "\n" not in str(e.value)
        unchanged(other, before)


def test_a_module_of_other_sizes_is_refused_and_stays_as_it_was(tmp_path: Path) -> None:
    save_compact(cut_module("plain"), planned("plain").plan, tmp_path / "a.pt")
    already = cut_module("plain")
    wider = MODULES["plain"].make()
    wider.fc = nn.Linear(16, 6)  # the plan fits, the weights do not
    for module in (already, wider):
        before = state(module)
        with pytest.raises(PlanError, match=r"a\.pt: holds a pruned Plain"):
            load_compact(module, tmp_path / "a.pt")
        unchanged(module, before)


def test_a_plan_that_did_not_make_the_module_is_not_saved(tmp_path: Path) -> None:
    for module, plan in ((MODULES["plain"].make(), planned("plain").plan), (cut_module("plain"), planned("resnet").plan)):
        with pytest.raises(PlanError, match="after apply_plan"):
            save_compact(module, plan, tmp_path / "a.pt")
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="nowhere"):
        save_compact(cut_module("plain"), planned("plain").plan, tmp_path / "nowhere" / "a.pt")


def test_a_file_that_is_missing_or_not_of_this_kind_is_an_error_that_names_it(tmp_path: Path) -> None:
    save_compact(cut_module("plain"), planned("plain").plan, whole := tmp_path / "a.pt")
    (tmp_path / "short.pt").write_bytes(whole.read_bytes()[:1000])
    (tmp_path / "empty.pt").touch()
    (tmp_path / "text.pt").write_text("{}")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "state.pt")
    torch.save(nn.Linear(1, 1), tmp_path / "pickled.pt")
    says = {"none.pt": "no such file", "state.pt": "save_compact", "pickled.pt": "save_compact"}
    for file in ("none.pt", "short.pt", "empty.pt", "text.pt", "state.pt", "pickled.pt"):
        module = MODULES["plain"].make()
        before = state(module)
        with pytest.raises(TrainingError, match=says.get(file, "cannot be read")) as e:
            load_compact(module, tmp_path / file)
        assert file in str(e.value)
        assert "\n" not in str(e.value)
        unchanged(module, before)


class Attention(nn.Module):
    """Heads that only `forward` knows, and the scale of PyTorch's attention."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(16, 16) for _ in range(4))
        self.last = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (2, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        found: Tensor = self.last((x + self.out(y)).mean(1))
        return found


def test_attention_without_sizes_of_its_own_keeps_its_scale_also_when_loaded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, x = Attention().eval(), torch.randn(2, 5, 16)
    model = exported(module, x)
    result = onnxprune.prune(model, 0.5, recover="none", bench=False, align="none", scope="local", allow_renormalising=True)
    assert 0 in result.plan.kept["q.weight"]
    apply_plan(module, result.plan, example_inputs=x)
    save_compact(module, result.plan, tmp_path / "cut.pt")
    assert torch.equal(load_compact(Attention(), tmp_path / "cut.pt").eval()(x), module(x))
