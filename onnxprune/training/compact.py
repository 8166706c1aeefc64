# SPDX-License-Identifier: Apache-2.0
"""Pruned modules as files: the plan and the weights. The code stays where it is, in the class of the original module."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from onnxprune.errors import PlanError, TrainingError, first_line
from onnxprune.ir.placing import check_folder, written_whole
from onnxprune.rewrite.plan import Plan
from onnxprune.training.attributes import KeepsScale, keep_scale
from onnxprune.training.modules import unwrapped
from onnxprune.training.names import named_tensors
from onnxprune.training.plans import apply_plan, is_constant

FORMAT = "onnxprune-compact/1"
M = TypeVar("M", bound=nn.Module)


def save_compact(module: nn.Module, plan: Plan | str | Path, path: str | Path) -> None:
    """Write a pruned module as a file that `load_compact` reads.

    Args:
        module: the module after `apply_plan`, trained further or not.
        plan: the plan that leads from the original to it, or its path; after several cuts, all of them as one (`Plan.then`).
        path: the file.

    Raises:
        PlanError: the module does not have the sizes that the plan leaves.
        OutputError: the file cannot be written.
    """
    path, module = Path(path), unwrapped(module)
    plan = Plan.of(plan)
    _check_sizes(module, plan)
    check_folder(path)
    state = {name: t.detach().cpu() for name, t in module.state_dict().items()}
    scales = {name: each.attention_scale for name, each in module.named_modules() if isinstance(each, KeepsScale)}
    kind = type(module).__qualname__
    content = {"format": FORMAT, "class": kind, "plan": plan.to_json(), "state": state, "scales": scales}
    with written_whole(path) as [draft]:
        torch.save(content, draft)


def load_compact(original_module: M, path: str | Path) -> M:
    """Turn a module of the original class and sizes into the pruned one that a file holds, in place.

    Args:
        original_module: a fresh instance, as before any cut; its weights do not matter.
        path: a file written by `save_compact`. Loading it runs no code from the file.

    Returns:
        The module.

    Raises:
        TrainingError: the file cannot be read.
        PlanError: it belongs to another module.
    """
    content = _read(Path(path))
    inner = unwrapped(original_module)
    plan, state = Plan.from_json(json.loads(content["plan"])), content["state"]
    if wrong := _mismatch(inner, plan, state):
        stored, kind = content["class"], type(inner).__qualname__
        raise PlanError(
            f"{path}: holds a pruned {stored}, which does not fit the given {kind}: {wrong}; "
            "give a fresh module of the original class and sizes"
        )
    apply_plan(inner, plan)
    _add_biases(inner, state)
    inner.load_state_dict(state)
    for name, scale in content["scales"].items():
        keep_scale(inner.get_submodule(name), scale)
    return original_module


def _mismatch(module: nn.Module, plan: Plan, state: Mapping[str, Tensor]) -> str:
    """What a module lacks to become the one in a file; empty if it fits."""
    own = module.state_dict()
    if missing := [n for n in own if n not in state] + [n for n in state if n not in own and not _may_be_added(n, module)]:
        return f"'{missing[0]}' is only in one of them"
    tensors = named_tensors(module)
    cuts = {id(tensors[name]): axes for name, axes in plan.kept.items() if name in tensors}  # a shared tensor has two names
    for name, tensor in own.items():
        axes = cuts.get(id(tensors.get(name)), {})
        if any(axis >= tensor.ndim or positions[-1] >= tensor.shape[axis] for axis, positions in axes.items()):
            return f"'{name}' has shape {list(tensor.shape)}, too small for the plan"
        shape = [len(axes[k]) if k in axes else size for k, size in enumerate(tensor.shape)]
        if shape != list(state[name].shape):
            return f"'{name}' would have shape {shape}, expected {list(state[name].shape)}"
    return ""


def _may_be_added(name: str, module: nn.Module) -> bool:
    """Whether a name is that of a bias that a layer can have, but does not."""
    layer, _, attribute = name.rpartition(".")
    owner = dict(module.named_modules()).get(layer)
    return attribute == "bias" and owner is not None and getattr(owner, "bias", module) is None


def _add_biases(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give layers without a bias the one that a recovery added."""
    for name in [n for n in state if _may_be_added(n, module)]:
        module.get_submodule(name.rpartition(".")[0]).bias = nn.Parameter(state[name].clone())


def _check_sizes(module: nn.Module, plan: Plan) -> None:
    tensors, layers = named_tensors(module), dict(module.named_modules())
    for name, axes in plan.kept.items():
        for axis, positions in axes.items() if not is_constant(name, layers) else ():
            shape = list(tensors[name].shape) if name in tensors else None
            if shape is None or axis >= len(shape) or shape[axis] != len(positions):
                got = "does not have it" if shape is None else f"has shape {shape}"
                raise PlanError(
                    f"the plan leaves {len(positions)} positions on axis {axis} of '{name}', but the module {got}; "
                    "give the module after apply_plan, and the plan from the original to it"
                )


def _read(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as e:
        raise TrainingError(f"{path}: no such file; check the path") from e
    except Exception as e:  # torch raises many kinds of errors for files that are not its own
        raise TrainingError(f"{path}: cannot be read: {first_line(e)}; expected a file written by save_compact") from e
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        got = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise TrainingError(f"{path}: got format {got!r}, expected '{FORMAT}', a file written by save_compact")
    return content
