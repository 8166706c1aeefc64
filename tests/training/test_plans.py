# SPDX-License-Identifier: Apache-2.0
"""A plan applied to a module: weights and outputs of the cut file, in place, with the optimizer; or an error, and no change."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import ModelProto, numpy_helper
from torch import Tensor, nn

import onnxprune
from onnxprune.errors import PlanError, PruneError
from onnxprune.rewrite.plan import Plan
from onnxprune.training.export import difference, exported
from onnxprune.training.names import named_tensors
from onnxprune.training.plans import apply_plan
from tests.cases.modules import HARD, MODULES, REFUSED, Case
from tests.cases.modules.planning import VARIANTS, cut, original, planned, run, state, train, unchanged
from tests.cases.running import runner

TOLERANCE = 1e-4
RENORMALISING = [name for name, case in MODULES.items() if case.renormalises]
every_module = pytest.mark.parametrize("name", MODULES)
every_cut = pytest.mark.parametrize("variant", VARIANTS)


def weights(model: ModelProto) -> dict[str, Any]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def check_equal(module: nn.Module, case: Case, result: onnxprune.Result) -> None:
    """The module has the weights of the cut file, to the last bit, and computes its outputs."""
    found, expected = weights(exported(module, case.inputs)), weights(result.model)
    names = named_tensors(module).keys() & expected.keys()
    assert names >= named_tensors(module).keys() & result.plan.kept.keys()
    for name in names:
        np.testing.assert_array_equal(found[name], expected[name], name, strict=True)
    feeds = {i.name: x.numpy() for i, x in zip(result.model.graph.input, case.inputs, strict=True)}
    for y, wanted in zip(run(module, case.inputs), runner(result.model)(feeds), strict=True):
        assert difference(y.numpy(), np.asarray(wanted)) <= TOLERANCE


@every_cut
@every_module
def test_the_cut_module_has_the_weights_and_the_outputs_of_the_cut_file(name: str, variant: str) -> None:
    case, result = MODULES[name], planned(name, variant)
    assert result.report.removed >= (case.removed if variant == "half" else 1)
    module = case.make()
    assert apply_plan(module, result.plan, example_inputs=case.inputs) is module
    check_equal(module, case, result)


@pytest.mark.parametrize("name", RENORMALISING)
def test_a_cut_that_needs_nodes_that_a_module_cannot_have_is_refused(name: str) -> None:
    case = MODULES[name]
    module = case.make()
    before, result = state(module), cut(original(name), case)
    with pytest.raises(PlanError, match="allow_renormalising") as e:
        apply_plan(module, result.plan, example_inputs=case.inputs)
    assert any(layer in str(e.value) for layer in case.renormalises)
    unchanged(module, before)


def test_a_plan_whose_channels_others_make_up_for_is_refused() -> None:
    module = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 4, 1)).eval()
    with torch.no_grad():
        module[0].get_parameter("weight")[:2], module[0].get_parameter("bias")[:2] = 0, 1
    x = torch.ones(1, 3, 4, 4)
    before, result = state(module), onnxprune.prune(exported(module, [x]), 0.0, recover="bias", align="none", bench=False)
    assert result.report.constant == 2
    with pytest.raises(PlanError, match=r"always the same, such as some of '0\.weight'.*make a plan with `recover` none"):
        apply_plan(module, result.plan, example_inputs=x)
    unchanged(module, before)


@pytest.mark.parametrize("name", ["resnet", "mobilenet", "group norm", "shuffled groups", "tied weights", "vit, packed", "gpt"])
def test_a_cut_module_can_be_cut_again(name: str) -> None:
    case = MODULES[name]
    module = case.make()
    for _ in range(2):
        result = cut(exported(module, case.inputs), case, allow_renormalising=bool(case.renormalises), **VARIANTS["local"])
        assert result.report.removed
        apply_plan(module, result.plan, example_inputs=case.inputs)
        check_equal(module, case, result)


OPTIMIZERS: dict[str, Any] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.01, 0.9, weight_decay=1e-4),
    "adam": lambda p: torch.optim.Adam(p, 1e-3, amsgrad=True),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
@every_module
def test_the_state_of_the_optimizer_is_sliced_with_its_parameters(name: str, kind: str) -> None:
    case, plan = MODULES[name], planned(name).plan
    module = case.make()
    optimizer = OPTIMIZERS[kind](module.parameters())
    train(module, optimizer, case.inputs)
    before = {n: (p, p.detach().clone(), copy.deepcopy(optimizer.state.get(p, {}))) for n, p in module.named_parameters()}
    apply_plan(module, plan, optimizer)
    assert [id(p) for g in optimizer.param_groups for p in g["params"]] == [id(p) for p in module.parameters()]
    for n, p in module.named_parameters():
        old, value, moments = before[n]
        assert p is old
        assert p.grad is None or p.grad.shape == p.shape
        kept = plan.kept.get(n, {})
        assert torch.equal(p, taken(value, kept))
        assert optimizer.state.get(p, {}).keys() == moments.keys()
        for key, moment in moments.items():
            found = optimizer.state[p][key]
            assert torch.equal(found, taken(moment, kept)) if key != "step" and moment is not None else found == moment
    values = [p.detach().clone() for p in module.parameters()]
    train(module, optimizer, case.inputs, 1)
    assert not all(torch.equal(a, b) for a, b in zip(values, module.parameters(), strict=True))
    assert all(torch.isfinite(p).all() for p in module.parameters())


def test_training_goes_on_while_the_loss_of_the_step_before_is_alive() -> None:
    case = MODULES["resnet"]
    module = case.make()
    optimizer = OPTIMIZERS["sgd"](module.parameters())
    alive = train(module, optimizer, case.inputs)  # its graph holds the sizes of the gradients
    apply_plan(module, planned("resnet").plan, optimizer, example_inputs=case.inputs)
    assert [id(p) for g in optimizer.param_groups for p in g["params"]] == [id(p) for p in module.parameters()]
    first = train(module, optimizer, case.inputs, 1)
    assert train(module, optimizer, case.inputs, 5) < first
    assert alive.requires_grad


@pytest.mark.parametrize("kind", [torch.optim.Adafactor, torch.optim.LBFGS])
def test_an_optimizer_whose_state_cannot_be_sliced_is_refused(kind: Any) -> None:
    case = MODULES["plain"]
    module = case.make()
    optimizer = kind(module.parameters())
    optimizer.step(lambda: run_backward(module, case))
    before = state(module)
    with pytest.raises(PruneError, match=kind.__name__):
        apply_plan(module, planned("plain").plan, optimizer, example_inputs=case.inputs)
    unchanged(module, before)


def run_backward(module: nn.Module, case: Case) -> Tensor:
    module.zero_grad()
    loss: Tensor = module(*case.inputs).square().mean()
    loss.backward()  # type: ignore[no-untyped-call]
    return loss


def taken(tensor: Tensor, kept: Mapping[int, tuple[int, ...]]) -> Tensor:
    for axis, positions in kept.items():
        tensor = tensor.index_select(axis, torch.tensor(positions))
    return tensor


@pytest.mark.parametrize("name", HARD)
def test_the_line_of_forward_that_cannot_follow_is_named(name: str) -> None:
    check_refused(HARD[name], HARD[name].fault)


@pytest.mark.parametrize("name", REFUSED)
def test_a_module_that_would_compute_something_else_is_refused(name: str) -> None:
    check_refused(REFUSED[name], REFUSED[name].fault)


def check_refused(case: Case, says: str) -> None:
    module = case.make()
    result = cut(exported(module, case.inputs), case)
    assert result.report.removed >= case.removed
    before = state(module)
    with pytest.raises(PlanError) as e:
        apply_plan(module, result.plan, example_inputs=case.inputs)
    assert says in str(e.value)
    assert "\n" not in str(e.value)
    unchanged(module, before)


def changed(plan: Plan, name: str, axis: int, positions: tuple[int, ...]) -> Plan:
    return Plan(plan.model_sha256, {**plan.kept, name: {axis: positions}}, plan.made_by, plan.policy)


@pytest.mark.parametrize(
    ("weight", "axis", "positions", "says"),
    [
        ("conv2.weight", 0, (0, 16), "position 16 on axis 0 of 'conv2.weight', which has only 16"),
        ("conv2.weight", 4, (0, 1), r"axis 4 of 'conv2.weight'"),
        ("conv2.wieght", 0, (0, 1), r"'conv2.wieght'.*did you mean 'conv2.weight'"),
        ("bn1.num_batches_tracked", 0, (0,), r"'bn1.num_batches_tracked'"),
        ("conv1.weight", 0, tuple(range(11)), r"Plain cannot follow the cut"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(weight: str, axis: int, positions: tuple[int, ...], says: str) -> None:
    case, plan = MODULES["plain"], planned("plain").plan
    module = case.make()
    before = state(module)
    with pytest.raises(PlanError, match=says):
        apply_plan(module, changed(plan, weight, axis, positions), example_inputs=case.inputs)
    unchanged(module, before)


def test_a_plan_of_another_model_is_refused() -> None:
    module = MODULES["plain"].make()
    optimizer = OPTIMIZERS["adam"](module.parameters())
    train(module, optimizer, MODULES["plain"].inputs)
    before = state(module)
    moments = copy.deepcopy(optimizer.state_dict())
    for plan in (planned("resnet").plan, planned("sequential").plan):
        with pytest.raises(PlanError, match=r"another model|nor any other name"):
            apply_plan(module, plan, optimizer)
    unchanged(module, before)
    assert str(optimizer.state_dict()) == str(moments)


def test_the_optimizer_is_as_before_if_the_module_cannot_follow() -> None:
    case = HARD["assert"]
    module = case.make()
    optimizer = OPTIMIZERS["adam"](module.parameters())
    train(module, optimizer, case.inputs)
    before, moments = state(module), copy.deepcopy(optimizer.state_dict())
    grads = [p.grad for p in module.parameters()]
    with pytest.raises(PlanError):
        apply_plan(module, cut(exported(module, case.inputs), case).plan, optimizer, example_inputs=case.inputs)
    unchanged(module, before)
    assert str(optimizer.state_dict()) == str(moments)
    assert all(a is p.grad for a, p in zip(grads, module.parameters(), strict=True))


def test_a_plan_is_read_from_its_file(tmp_path: Path) -> None:
    case, result = MODULES["plain"], planned("plain")
    result.plan.save(tmp_path / "a.plan.json")
    check_equal(apply_plan(case.make(), tmp_path / "a.plan.json"), case, result)


def test_the_mode_the_memory_format_and_frozen_parameters_stay() -> None:
    case, result = MODULES["resnet"], planned("resnet")
    module = case.make().to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    for p in module.get_submodule("stem").parameters():
        p.requires_grad = False
    frozen = {n for n, p in module.named_parameters() if not p.requires_grad}
    apply_plan(module, result.plan, example_inputs=case.inputs)
    assert all(m.training for m in module.modules())
    assert {n for n, p in module.named_parameters() if not p.requires_grad} == frozen
    assert module.get_parameter("body.1.conv1.weight").is_contiguous(memory_format=torch.channels_last)
    assert not any(n.endswith("num_batches_tracked") and t for n, t in module.named_buffers())
    check_equal(module.eval(), case, result)


def test_a_copy_of_a_cut_module_computes_the_same() -> None:
    for name in ("tied weights", "vit, packed"):
        case = MODULES[name]
        module = apply_plan(case.make(), planned(name).plan, example_inputs=case.inputs)
        for a, b in zip(run(copy.deepcopy(module), case.inputs), run(module, case.inputs), strict=True):
            assert torch.equal(a, b)


def test_a_wrapped_module_is_cut_inside() -> None:
    case, result = MODULES["plain"], planned("plain")
    module = case.make()
    assert apply_plan(wrapped := nn.DataParallel(module), result.plan, example_inputs=case.inputs) is wrapped
    check_equal(module, case, result)


def test_shared_parameters_stay_shared() -> None:
    case = MODULES["tied weights"]
    module = apply_plan(case.make(), planned("tied weights").plan, example_inputs=case.inputs)
    assert module.get_parameter("out.weight") is module.get_parameter("embedding.weight")


def test_a_cut_module_can_be_pickled(tmp_path: Path) -> None:
    case, module = MODULES["vit, packed"], MODULES["vit, packed"].make()
    apply_plan(module, planned("vit, packed").plan, example_inputs=case.inputs)
    torch.save(module, tmp_path / "module.pt")
    again = torch.load(tmp_path / "module.pt", weights_only=False)
    assert torch.equal(run(again, case.inputs)[0], run(module, case.inputs)[0])


@pytest.mark.parametrize(
    ("plan", "optimizer", "says"),
    [
        (None, None, "the plan: got None, expected a Plan"),
        ("planned", 0.1, "optimizer: got float, expected a torch.optim.Optimizer"),
        ("planned", torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1), "optimizer: it has no parameter of this"),
    ],
)
def test_what_is_neither_a_plan_nor_the_optimizer_of_the_module_is_named(plan: Any, optimizer: Any, says: str) -> None:
    module = MODULES["plain"].make()
    before = state(module)
    with pytest.raises(PruneError, match=says):
        apply_plan(module, plan and planned("plain").plan, optimizer)
    unchanged(module, before)
