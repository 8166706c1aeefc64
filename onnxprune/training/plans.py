# SPDX-License-Identifier: Apache-2.0
"""A plan applied to the PyTorch module that the model was exported from, in place."""

from __future__ import annotations

import linecache
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils import _pytree as pytree

from onnxprune.analysis.analyse import analyse
from onnxprune.errors import OptionError, PlanError, PruneError, did_you_mean, first_line
from onnxprune.ir.facts import read_graph
from onnxprune.ir.files import load
from onnxprune.rewrite.cut import cut
from onnxprune.rewrite.plan import Kept, Plan, check_size, dropped_by
from onnxprune.training.attributes import attributes_of, head_sizes, keep_scale, old_head_size, own_modules, scale_of
from onnxprune.training.changes import Changes
from onnxprune.training.export import EXPORTERS, Example, difference, example_of, exported, run_exported
from onnxprune.training.layers import LayerCut, sizes_of, sliced
from onnxprune.training.modules import evaluating, outputs_of, unwrapped
from onnxprune.training.names import NORMALISATIONS, SCALE, SHIFT, named_tensors

VALUE = re.compile(r"(^|/)Constant(_[0-9]+)?_output_0$|^val_[0-9]+$")
"""Names that PyTorch's exporters give to constants and to what they compute."""
TOLERANCE, COARSE = 1e-4, 2e-2
"""Largest difference, relative to the largest output, between the outputs of the cut module and those of the module whose
dropped slices are zero; the second for half precision."""

M = TypeVar("M", bound=nn.Module)


def apply_plan(
    module: M, plan: Plan | str | Path, optimizer: Optimizer | None = None, *, example_inputs: Example | None = None
) -> M:
    """Cut a module in place according to a plan that was made for its export.

    Parameters and buffers are sliced, with their moments in the optimizer. Sizes that layers store follow: channels, features,
    groups, numbers and sizes of heads. Where attention scales by the size of a head, the module keeps the scale that it was
    trained with. Parameters stay the same objects.

    Args:
        module: the module, with the names that the export had (`onnxprune.training.export`).
        plan: a plan, or the path of one.
        optimizer: the one that goes on training the module; its moments are sliced too.
        example_inputs: a tensor, or one for each argument of `forward`. With them, the result is compared with the module whose
            dropped slices are zero; without, what `forward` does with sizes is not known.

    Returns:
        The module.

    Raises:
        PlanError: the plan does not fit the module, or the module cannot compute what the cut computes; it is unchanged then.
        OptionError: the optimizer is not that of the module.
    """
    plan = Plan.of(plan)
    inner = unwrapped(module)
    _check_optimizer(inner, optimizer)
    inputs = None if example_inputs is None else example_of(inner, example_inputs)
    _check_fits(inner, plan, runs=inputs is not None)
    if not plan.kept:
        return module
    reference = None if inputs is None else _reference(inner, plan, inputs)
    heads = {} if inputs is None else _heads_of(inner, inputs)
    changes = Changes()
    with changes.undone_on_error():
        _cut(inner, plan, optimizer, changes)
        if inputs is not None:
            _keep_scales(inner, inputs, heads, changes)
            _check_follows(inner, inputs, reference, plan.policy.allow_renormalising)
    return module


def _check_optimizer(module: nn.Module, optimizer: Any) -> None:
    """Check that an optimizer trains the module.

    Raises:
        OptionError: it is not an optimizer, or that of another module.
    """
    if optimizer is None:
        return
    if not hasattr(optimizer, "param_groups") or not hasattr(optimizer, "state"):
        raise OptionError(f"optimizer: got {type(optimizer).__name__}, expected a torch.optim.Optimizer")
    own = {id(p) for p in module.parameters()}
    if not any(id(p) in own for group in optimizer.param_groups for p in group["params"]):
        raise OptionError(f"optimizer: it has no parameter of this {type(module).__name__}; is it that of another module?")


def _check_fits(module: nn.Module, plan: Plan, runs: bool) -> None:
    """Check that the module has what the plan cuts.

    Args:
        runs: whether the result will be run; that tells more about values that `forward` states.

    Raises:
        PlanError: it does not.
    """
    if plan.removed:
        raise PlanError(
            f"the plan removes residual branches, such as what is added to '{plan.removed[0][0]}', which no slicing of a "
            "module can do; train the ONNX file (--recover distill), or make a plan without --depth"
        )
    if plan.constant:
        raise PlanError(
            f"the plan removes channels that are always the same, such as some of '{next(iter(plan.constant))}', and other "
            "layers make up for them, which no slicing of a module can do; make a plan with --recover none"
        )
    tensors, layers = named_tensors(module), dict(module.named_modules())
    for name, axes in plan.kept.items():
        tensor = tensors.get(name)
        if tensor is None and (is_constant(name, layers) or (runs and _is_value(name))):
            continue
        if tensor is None:
            raise PlanError(f"the plan cuts '{name}', which {_why_missing(name, plan, tensors, module)}")
        for axis, positions in axes.items():
            if axis >= tensor.ndim:
                got = f"keeps position {positions[-1]} on axis {axis} of '{name}'"
                raise PlanError(f"the plan {got}, whose shape is {list(tensor.shape)}: is it for another model?")
            check_size(plan, name, axis, tensor.shape[axis])


def is_constant(name: str, layers: Mapping[str, nn.Module]) -> bool:
    """Whether a name stands for the ones or zeros of a normalisation without weights."""
    layer, _, attribute = name.rpartition(".")
    return attribute in (SCALE, SHIFT) and isinstance(layers.get(layer), NORMALISATIONS)


def _is_value(name: str) -> bool:
    """Whether the exporters name so what is neither a parameter nor a buffer."""
    return VALUE.search(name) is not None


def _why_missing(name: str, plan: Plan, tensors: Mapping[str, Tensor], module: nn.Module) -> str:
    kind = type(module).__name__
    if name in plan.folded:
        return f"{kind} computes from other weights (normalised, masked or parametrized); exclude it (--exclude '{name}')"
    if not tensors.keys() & plan.kept.keys():
        return (
            f"{kind} does not have, nor any other name of the plan; export with onnxprune.training.export, and plan that file"
        )
    if _is_value(name):
        return f"is a value that forward of {kind} computes or states, not a parameter or buffer; register it as a buffer"
    return f"{kind} does not have; {did_you_mean(name, tensors)}is the plan for another model?"


def _cut(module: nn.Module, plan: Plan, optimizer: Optimizer | None, changes: Changes) -> None:
    """Slice all tensors, and set the attributes that follow."""
    tensors = named_tensors(module)
    cuts = dict(_layer_cuts(module, plan))
    attributes = [(cut.layer, sizes_of(cut)) for cut in cuts.values()]
    for name, own in own_modules(module):
        parts = [cuts[n] for n in (name, *(f"{name}.{c}" if name else c for c, _ in own.named_children())) if n in cuts]
        attributes.append((own, attributes_of(own, parts)))
    for tensor, axes in {id(tensors[n]): (tensors[n], axes) for n, axes in plan.kept.items() if n in tensors}.values():
        _slice_state(tensor, axes, optimizer, changes)
        changes.fill(tensor, sliced(tensor, axes))
    for layer, values in attributes:
        if (size := old_head_size(layer, values)) is not None:
            keep_scale(layer, scale_of(layer, size), changes.set)
        for attribute, value in values.items():
            changes.set(layer, attribute, value)


def _heads_of(module: nn.Module, inputs: Sequence[Tensor]) -> dict[str, int]:
    """The sizes of heads by which attention scales (`head_sizes`); none if the module cannot run."""
    with evaluating(module):
        try:
            return head_sizes(module, inputs)
        except Exception:  # a later check says what is wrong
            return {}


def _keep_scales(module: nn.Module, inputs: Sequence[Tensor], before: Mapping[str, int], changes: Changes) -> None:
    """Let attention keep its scale where its heads became smaller."""
    modules = dict(module.named_modules())
    for name, size in _heads_of(module, inputs).items():
        if name in before and size != before[name]:
            keep_scale(modules[name], scale_of(modules[name], before[name]), changes.set)


def _slice_state(tensor: Tensor, axes: Mapping[int, Sequence[int]], optimizer: Optimizer | None, changes: Changes) -> None:
    """Slice what an optimizer remembers of a parameter (momentum, moments)."""
    state = optimizer.state.get(tensor, {}) if optimizer is not None else {}
    for key, value in list(state.items()):
        if isinstance(value, Tensor) and value.shape == tensor.shape and value.ndim:
            changes.put(state, key, sliced(value, axes))
        elif (isinstance(value, Tensor) and value.ndim) or isinstance(value, list | tuple):
            kind = type(optimizer).__name__
            raise PlanError(
                f"optimizer: {kind} keeps '{key}' of another shape than its parameter; make a new {kind} after the cut"
            )


def _layer_cuts(module: nn.Module, plan: Plan) -> Iterator[tuple[str, LayerCut]]:
    """What happens to each layer; a shared tensor is cut in all layers that have it."""
    tensors = named_tensors(module)
    by_tensor = {id(tensors[name]): axes for name, axes in plan.kept.items() if name in tensors}
    for name, layer in module.named_modules(remove_duplicate=False):
        own = {**layer._parameters, **layer._buffers}
        kept = {n: by_tensor[id(t)] for n, t in own.items() if t is not None and id(t) in by_tensor}
        kept |= {n: plan.kept[f"{name}.{n}"] for n in (SCALE, SHIFT) if f"{name}.{n}" in plan.kept}
        if kept:
            yield name, LayerCut(name, layer, kept, plan.policy.allow_renormalising)


def _reference(module: nn.Module, plan: Plan, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """What the cut has to compute on these inputs."""
    if plan.policy.allow_renormalising:
        return _cut_outputs(module, plan, inputs)
    return _masked_outputs(module, plan.kept, inputs)


def _cut_outputs(module: nn.Module, plan: Plan, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """The outputs of the ONNX cut.

    Raises:
        PlanError: the plan does not fit the module's export.
    """
    refused: list[PruneError] = []
    for exporter in EXPORTERS:
        try:
            model = load(exported(module, inputs, exporter=exporter, dynamic_batch=False)).model
            coupled = analyse(read_graph(model), plan.policy).coupled
            return run_exported(cut(coupled, dropped_by(coupled, plan)), inputs)
        except PruneError as e:
            refused.append(e)
    raise PlanError(f"the plan cannot be checked on {type(module).__name__}: {refused[0].message}") from refused[0]


def _masked_outputs(module: nn.Module, kept: Kept, inputs: Sequence[Tensor]) -> list[Tensor]:
    """The outputs of the module whose dropped slices are zero: what the cut has to compute."""
    tensors = named_tensors(module)
    backups = {name: tensors[name].detach().clone() for name in kept if name in tensors}
    try:
        for name in backups:
            for axis, positions in kept[name].items():
                dropped = sorted(set(range(tensors[name].shape[axis])) - set(positions))
                tensors[name].data.index_fill_(axis, torch.tensor(dropped, device=tensors[name].device), 0)
        with evaluating(module):
            return outputs_of(module, inputs)
    finally:
        for name, backup in backups.items():
            tensors[name].data.copy_(backup)


def _check_follows(
    module: nn.Module, inputs: Sequence[Tensor], reference: Sequence[Tensor] | None, renormalising: bool
) -> None:
    """Run the cut module, and compare it with what the cut has to compute.

    Raises:
        PlanError: it cannot run, or computes something else.
    """
    kind = type(module).__name__
    with evaluating(module), torch.no_grad():
        try:
            found = [y for y in pytree.tree_leaves(module(*inputs)) if isinstance(y, Tensor)]
        except Exception as e:  # whatever the user's code raises
            advice = (
                "let forward take sizes from tensors or layers; parts of a chunk or split must stay equal: exclude the weights "
                "before it (--exclude), or try --scope local"
            )
            raise PlanError(f"{kind} cannot follow the cut at {line_of(e)}: {first_line(e)}; {advice}") from e
    if reference is None:
        return
    tolerance = TOLERANCE if all(y.dtype in (torch.float32, torch.float64) for y in reference) else COARSE
    pairs = [(a.float().cpu().numpy(), b.float().cpu().numpy()) for a, b in zip(found, reference, strict=False)]
    worst = max((difference(*pair) for pair in pairs), default=0.0) if len(found) == len(reference) else float("inf")
    if not worst <= tolerance:
        allowed = "" if renormalising else ", or make the plan with --allow-renormalising"
        raise PlanError(
            f"{kind} cannot express the cut: outputs differ by {worst:.1e} of the largest, expected at most {tolerance:.0e}; "
            "forward depends on sizes that changed (a mean or a normalisation over channels, a split by a fixed size, "
            f"1/sqrt of a size); exclude the weights before it (--exclude){allowed}"
        )


def line_of(e: BaseException) -> str:
    """The last line of the user's own code that an error passed through, as `file:line 'text'`."""
    libraries = str(Path(torch.__file__).parent), str(Path(__file__).parents[1])
    found = "an unknown line"
    trace: TracebackType | None = e.__traceback__
    while trace is not None:
        file, line = trace.tb_frame.f_code.co_filename, trace.tb_lineno
        if not file.startswith((*libraries, "<")):
            found = f"{file}:{line} '{linecache.getline(file, line).strip()}'"
        trace = trace.tb_next
    return found
