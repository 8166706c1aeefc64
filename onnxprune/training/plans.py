# SPDX-License-Identifier: Apache-2.0
"""A plan applied to the PyTorch module that the model was exported from, in place."""

from __future__ import annotations

import contextlib
import linecache
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils import _pytree as pytree

from onnxprune.errors import PlanError, did_you_mean
from onnxprune.rewrite.plan import Plan
from onnxprune.training.export import Example, difference, example_of, named_tensors
from onnxprune.training.layers import (
    LayerCut,
    attributes_of,
    old_head_size,
    own_modules,
    scale_of,
    scaled_class,
    sizes_of,
    sliced,
)
from onnxprune.training.modules import evaluating, first_line, outputs_of, unwrapped

Kept = Mapping[str, Mapping[int, tuple[int, ...]]]
TOLERANCE, COARSE = 1e-4, 2e-2
"""Largest difference, relative to the largest output, between the outputs of the cut module and those of the module whose
dropped slices are zero; the second for half precision."""

M = TypeVar("M", bound=nn.Module)


def apply_plan(
    module: M, plan: Plan | str | Path, optimizer: Optimizer | None = None, *, example_inputs: Example | None = None
) -> M:
    """Cut a module in place according to a plan that was made for its export.

    Parameters and buffers are sliced, with their moments in the optimizer; parameters stay the same objects. Sizes that layers
    store follow: channels, features, groups, numbers and sizes of heads. Where attention scales by the size of a head, the
    module keeps the scale that it was trained with.

    Args:
        module: the module, with the names that the export had (`onnxprune.training.export`).
        plan: a plan, or the path of one.
        optimizer: its moments are sliced too.
        example_inputs: a tensor, or one for each argument of `forward`. With them, the result is compared with the module whose
            dropped slices are zero; without, what `forward` does with sizes is not known.

    Returns:
        The module.

    Raises:
        PlanError: the plan does not fit the module, or the module cannot compute what the cut computes; it is unchanged then.
    """
    plan = plan if isinstance(plan, Plan) else Plan.load(plan)
    inner = unwrapped(module)
    _check_fits(inner, plan)
    if not plan.kept:
        return module
    renormalising = plan.policy.allow_renormalising
    inputs = None if example_inputs is None else example_of(inner, example_inputs)
    reference = None if inputs is None or renormalising else _masked_outputs(inner, plan.kept, inputs)
    changes = _Changes()
    with changes.undone_on_error():
        _cut(inner, plan, optimizer, changes)
        if inputs is not None:
            _check_follows(inner, inputs, reference)
    return module


class _Changes:
    """Changes that can be undone."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def set(self, owner: Any, name: str, value: Any) -> None:
        """Set an attribute."""
        old = getattr(owner, name, None)
        new = name not in vars(owner) and name != "__class__"
        self._undo.append(lambda: delattr(owner, name) if new else setattr(owner, name, old))
        setattr(owner, name, value)

    def put(self, owner: dict[Any, Any], key: Any, value: Any) -> None:
        """Replace a value in a dictionary."""
        old = owner[key]
        self._undo.append(lambda: owner.__setitem__(key, old))
        owner[key] = value

    def fill(self, tensor: Tensor, data: Tensor) -> None:
        """Give a tensor other contents, also of another shape; it stays the same object."""
        old, grad = tensor.data, tensor.grad

        def undo() -> None:
            tensor.data, tensor.grad = old, grad

        self._undo.append(undo)
        tensor.grad = None
        tensor.data = data

    @contextlib.contextmanager
    def undone_on_error(self) -> Iterator[None]:
        """Undo everything, last change first, if an error is raised."""
        try:
            yield
        except BaseException:
            for undo in reversed(self._undo):
                undo()
            raise


def _check_fits(module: nn.Module, plan: Plan) -> None:
    """Check that the module has what the plan cuts.

    Raises:
        PlanError: it does not.
    """
    tensors = named_tensors(module)
    for name, axes in plan.kept.items():
        tensor = tensors.get(name)
        if tensor is None:
            raise PlanError(f"the plan cuts '{name}', which {_why_missing(name, plan, tensors, module)}")
        for axis, positions in axes.items():
            if axis >= tensor.ndim or positions[-1] >= tensor.shape[axis]:
                got = f"keeps position {positions[-1]} on axis {axis} of '{name}'"
                raise PlanError(f"the plan {got}, whose shape is {list(tensor.shape)}: is it for another model?")


def _why_missing(name: str, plan: Plan, tensors: Mapping[str, Tensor], module: nn.Module) -> str:
    kind = type(module).__name__
    if name in plan.folded:
        return f"the graph computes from other weights of {kind}; remove parametrizations before the export"
    if not tensors.keys() & plan.kept.keys():
        return (
            f"{kind} does not have, nor any other name of the plan; export with onnxprune.training.export, and plan that file"
        )
    if "Constant" in name or name.startswith("val_"):
        return f"is a value that forward of {kind} computes or states, not a parameter or buffer; register it as a buffer"
    return f"{kind} does not have; {did_you_mean(name, tensors)}is the plan for another model?"


def _cut(module: nn.Module, plan: Plan, optimizer: Optimizer | None, changes: _Changes) -> None:
    """Slice all tensors, and set the attributes that follow."""
    tensors = named_tensors(module)
    shared = {id(tensors[name]): plan.kept[name] for name in plan.kept}
    cuts = dict(_layer_cuts(module, shared, plan.policy.allow_renormalising))
    attributes = [(cut.layer, sizes_of(cut)) for cut in cuts.values()]
    for name, own in own_modules(module):
        parts = [cuts[n] for n in (name, *(f"{name}.{c}" if name else c for c, _ in own.named_children())) if n in cuts]
        attributes.append((own, attributes_of(own, parts)))
    for tensor, axes in {id(tensors[n]): (tensors[n], axes) for n, axes in plan.kept.items()}.values():
        _slice_state(tensor, axes, optimizer, changes)
        changes.fill(tensor, sliced(tensor, axes))
    for layer, values in attributes:
        if (size := old_head_size(layer, values)) is not None:
            scale = scale_of(layer, size)
            changes.set(layer, "__class__", scaled_class(layer))
            changes.set(layer, "attention_scale", scale)
        for attribute, value in values.items():
            changes.set(layer, attribute, value)


def _slice_state(tensor: Tensor, axes: Mapping[int, Sequence[int]], optimizer: Optimizer | None, changes: _Changes) -> None:
    """Slice what an optimizer remembers of a parameter (momentum, moments)."""
    state = optimizer.state.get(tensor, {}) if optimizer is not None else {}
    for key, value in list(state.items()):
        if isinstance(value, Tensor) and value.shape == tensor.shape and value.ndim:
            changes.put(state, key, sliced(value, axes))


def _layer_cuts(
    module: nn.Module, shared: Mapping[int, Mapping[int, tuple[int, ...]]], renormalising: bool
) -> Iterator[tuple[str, LayerCut]]:
    """What happens to each layer; a shared tensor is cut in all layers that have it."""
    for name, layer in module.named_modules(remove_duplicate=False):
        own = {**layer._parameters, **layer._buffers}
        kept = {n: shared[id(t)] for n, t in own.items() if t is not None and id(t) in shared}
        if kept:
            yield name, LayerCut(name, layer, kept, renormalising)


def _masked_outputs(module: nn.Module, kept: Kept, inputs: Sequence[Tensor]) -> list[Tensor]:
    """The outputs of the module whose dropped slices are zero: what the cut has to compute."""
    tensors = named_tensors(module)
    backups = {name: tensors[name].detach().clone() for name in kept}
    try:
        for name, axes in kept.items():
            for axis, positions in axes.items():
                dropped = sorted(set(range(tensors[name].shape[axis])) - set(positions))
                tensors[name].data.index_fill_(axis, torch.tensor(dropped, device=tensors[name].device), 0)
        with evaluating(module):
            return outputs_of(module, inputs)
    finally:
        for name, backup in backups.items():
            tensors[name].data.copy_(backup)


def _check_follows(module: nn.Module, inputs: Sequence[Tensor], reference: Sequence[Tensor] | None) -> None:
    """Run the cut module, and compare it with what the cut has to compute.

    Raises:
        PlanError: it cannot run, or computes something else.
    """
    kind = type(module).__name__
    with evaluating(module), torch.no_grad():
        try:
            found = [y for y in pytree.tree_leaves(module(*inputs)) if isinstance(y, Tensor)]
        except Exception as e:  # whatever the user's code raises
            advice = "let forward take sizes from tensors or layers, or exclude the weights before it (--exclude)"
            raise PlanError(f"{kind} cannot follow the cut at {line_of(e)}: {first_line(e)}; {advice}") from e
    if reference is None:
        return
    tolerance = TOLERANCE if all(y.dtype in (torch.float32, torch.float64) for y in reference) else COARSE
    worst = max((difference(a.float().cpu().numpy(), b.float().cpu().numpy()) for a, b in zip(found, reference, strict=True)))
    if not worst <= tolerance:
        raise PlanError(
            f"{kind} cannot express the cut: outputs differ by {worst:.1e} of the largest, expected at most {tolerance:.0e}; "
            "forward depends on sizes that changed (a mean or a normalisation over channels, a split by a fixed size, "
            "1/sqrt of a size); exclude the weights before it (--exclude), or make the plan with --allow-renormalising"
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
